use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::media::unit::{AudioCodec, AudioParams, VideoCodec, VideoParams};

/// Boxes that hold boxes, and how many bytes of their own come before those.
const CONTAINERS: [(&[u8; 4], usize); 15] = [
    (b"moov", 0),
    (b"trak", 0),
    (b"mdia", 0),
    (b"minf", 0),
    (b"dinf", 0),
    (b"stbl", 0),
    (b"mvex", 0),
    (b"moof", 0),
    (b"traf", 0),
    (b"dref", 8),
    (b"stsd", 8),
    (b"avc1", 78),
    (b"hvc1", 78),
    (b"mp4a", 28),
    (b"Opus", 28),
];

/// Every box, depth first, as its path and its content. Panics where sizes do not add up.
fn walk(data: &[u8], path: &str, found: &mut Vec<(String, Vec<u8>)>) {
    let mut rest = data;
    while !rest.is_empty() {
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let kind: [u8; 4] = rest[4..8].try_into().unwrap();
        let body = &rest[8..size];
        let path = format!("{path}/{}", String::from_utf8_lossy(&kind));
        found.push((path.clone(), body.to_vec()));
        if let Some((_, own)) = CONTAINERS.iter().find(|(k, _)| **k == kind) {
            walk(&body[*own..], &path, found);
        }
        rest = &rest[size..];
    }
}

fn boxes(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    walk(data, "", &mut found);
    found
}

fn video(codec: VideoCodec, record: &[u8]) -> VideoParams {
    let record = Bytes::copy_from_slice(record);
    VideoParams { codec, width: 1280, height: 720, record, nal_length_size: 4 }
}

fn aac() -> AudioParams {
    let config = Bytes::from_static(&[0x12, 0x10]);
    AudioParams { codec: AudioCodec::Aac, sample_rate_hz: 44_100, channels: 2, config }
}

fn opus() -> AudioParams {
    let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
    let config = Bytes::from_static(head);
    AudioParams { codec: AudioCodec::Opus, sample_rate_hz: 48_000, channels: 2, config }
}

#[test]
fn codec_strings() {
    let avc = video(VideoCodec::H264, &[1, 0x64, 0, 0x1F, 0xFF]);
    assert_eq!(codecs::mime(&avc, Some(&aac())), "video/mp4; codecs=\"avc1.64001f,mp4a.40.2\"");
    assert_eq!(codecs::list(&avc, Some(&opus())), "avc1.64001f,opus");
    // The example of ISO/IEC 14496-15 E.3: Main profile, level 3.1, progressive frames only.
    let hevc = [1, 1, 0x60, 0, 0, 0, 0xB0, 0, 0, 0, 0, 0, 93];
    assert_eq!(codecs::video_string(&video(VideoCodec::H265, &hevc)), "hvc1.1.6.L93.b0");
    let high = [1, 0x62, 0x20, 0, 0, 0, 0x90, 0, 1, 0, 0, 0, 120];
    assert_eq!(codecs::video_string(&video(VideoCodec::H265, &high)), "hvc1.A2.4.H120.90.0.1");
    // A record that ingest would refuse must not panic here.
    assert_eq!(codecs::video_string(&video(VideoCodec::H265, &[1])), "hvc1.1.6.L93");
}

#[test]
fn the_init_segment_has_the_records_as_published() {
    let record = [1, 0x64, 0, 0x1F, 0xFF, 0xE0, 0];
    let all = boxes(&init_segment(&video(VideoCodec::H264, &record), Some(&aac())));
    let stsd = "/moov/trak/mdia/minf/stbl/stsd";
    let body = |path: &str| all.iter().find(|(p, _)| p == path).map(|(_, b)| b.clone()).unwrap();
    assert_eq!(body(&format!("{stsd}/avc1/avcC")), record);
    let esds = body(&format!("{stsd}/mp4a/esds"));
    assert!(esds.windows(7).any(|w| w == [5, 0x80, 0x80, 0x80, 2, 0x12, 0x10]), "{esds:02x?}");
    assert_eq!(all.iter().filter(|(p, _)| p == "/moov/mvex/trex").count(), 2);
    let all = boxes(&init_segment(&video(VideoCodec::H265, &record), Some(&opus())));
    let dops = &all.iter().find(|(p, _)| p.ends_with("/Opus/dOps")).unwrap().1;
    assert_eq!(dops[..], [0, 2, 0x01, 0x38, 0, 0, 0xBB, 0x80, 0, 0, 0]);
}

fn sample(us: i64, composition: i64, len: usize, key: bool) -> Sample {
    let (dts, pts) = (MediaTime::from_micros(us), MediaTime::from_micros(us + composition));
    let data = Bytes::from(vec![len as u8; len]);
    Sample { dts, pts, duration: Duration::from_micros(33_333), key, data }
}

#[test]
fn a_fragment_tells_the_streams_own_time() {
    let far = 9_007_199_254_740_993; // beyond what a double can count
    let pictures = [sample(far, 66_000, 3, true), sample(far + 33_333, -5, 2, false)];
    let sounds = [sample(7, 0, 4, true)];
    let data = fragment(9, &[(Track::Video, &pictures), (Track::Audio, &sounds)]);
    let all = boxes(&data);
    let bodies = |path: &str| -> Vec<_> {
        all.iter().filter(|(p, _)| p == path).map(|(_, b)| b.as_slice()).collect()
    };
    assert_eq!(bodies("/moof/mfhd"), [[0, 0, 0, 0, 0, 0, 0, 9]]);
    let tfdt = bodies("/moof/traf/tfdt");
    assert_eq!((&tfdt[0][4..], &tfdt[1][4..]), (&far.to_be_bytes()[..], &7i64.to_be_bytes()[..]));
    let trun = bodies("/moof/traf/trun");
    let word = |run: &[u8], n: usize| i32::from_be_bytes(run[n * 4..n * 4 + 4].try_into().unwrap());
    assert_eq!(
        (0..11).map(|n| word(trun[0], n)).collect::<Vec<_>>()[3..],
        [33_333, 3, 0x0200_0000, 66_000, 33_333, 2, 0x0101_0000, -5]
    );
    // Each run's offset points at its own bytes.
    let at = |run: &[u8]| word(run, 2) as usize;
    assert_eq!(data[at(trun[0])..][..5], [3, 3, 3, 2, 2]);
    assert_eq!(data[at(trun[1])..][..4], [4; 4]);
}

#[test]
fn a_track_without_samples_is_left_out() {
    let sounds = [sample(7, 0, 4, true)];
    let all = boxes(&fragment(1, &[(Track::Video, &[]), (Track::Audio, &sounds)]));
    assert_eq!(all.iter().filter(|(p, _)| p == "/moof/traf").count(), 1);
}

proptest! {
    #[test]
    fn boxes_nest_exactly_and_sizes_add_up(
        sequence: u32,
        pictures in prop::collection::vec((any::<i64>(), any::<i32>(), 0usize..300, any::<bool>()), 0..6),
        sounds in prop::collection::vec((any::<i64>(), 0usize..300), 0..6),
    ) {
        let pictures: Vec<_> = pictures
            .into_iter()
            .map(|(us, offset, len, key)| sample(us / 2, i64::from(offset), len, key))
            .collect();
        let sounds: Vec<_> = sounds.into_iter().map(|(us, len)| sample(us / 2, 0, len, true)).collect();
        let data = fragment(sequence, &[(Track::Video, &pictures), (Track::Audio, &sounds)]);
        let all = boxes(&data);
        let payload: usize = pictures.iter().chain(&sounds).map(|s| s.data.len()).sum();
        let (last, mdat) = all.last().unwrap();
        prop_assert_eq!(last, "/mdat");
        prop_assert_eq!(mdat.len(), payload);
    }

    #[test]
    fn any_record_makes_boxes_that_nest(
        record in prop::collection::vec(any::<u8>(), 0..300),
        config in prop::collection::vec(any::<u8>(), 0..300),
        side: u32,
        hevc: bool,
        is_opus: bool,
    ) {
        let mut v = video(if hevc { VideoCodec::H265 } else { VideoCodec::H264 }, &record);
        v.width = side;
        let mut a = if is_opus { opus() } else { aac() };
        a.config = config.into();
        let all = boxes(&init_segment(&v, Some(&a)));
        prop_assert_eq!(&all[0].0, "/ftyp");
        prop_assert!(codecs::mime(&v, Some(&a)).is_ascii());
    }
}
