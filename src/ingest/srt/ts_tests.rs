use proptest::prelude::*;

use super::*;
use crate::ingest::testing::{GLASSES, tags};
use crate::media::nal::{from_annex_b, split};

/// What ffmpeg made of `GLASSES`.
const STREAM: &[u8] = include_bytes!("../../../tests/data/ingest/glasses.ts");
const MAX: usize = 1 << 20;

fn demux(data: &[u8]) -> (Vec<Pes>, Tally) {
    let mut demuxer = Demuxer::new(MAX);
    let done = data.chunks(7 * PACKET_BYTES).flat_map(|d| demuxer.push(d)).collect();
    (done, demuxer.take_tally())
}

fn pictures(done: &[Pes]) -> Vec<(Time, Vec<u8>)> {
    let picture = |pes: &Pes| match pes {
        Pes::Video { time, data, .. } => Some((*time, data.to_vec())),
        Pes::Audio { .. } => None,
    };
    done.iter().filter_map(picture).collect()
}

fn pictures_only(unit: &[u8]) -> Vec<Vec<u8>> {
    let nals = split(unit, 4).map(|nal| nal.unwrap().to_vec());
    nals.filter(|nal| !matches!(nal[0] & 0x1F, 7..=9)).collect()
}

#[test]
fn pictures_and_sound_are_those_that_went_in() {
    let (done, tally) = demux(STREAM);
    let packets = (STREAM.len() / PACKET_BYTES) as u64;
    assert_eq!(tally, Tally { packets, ..Tally::default() });
    let pictures = pictures(&done);
    let went_in: Vec<_> = tags(GLASSES).into_iter().filter(|t| t.is_picture()).collect();
    // The last one ends where the next would begin.
    assert_eq!(pictures.len(), went_in.len() - 1);
    for ((time, data), tag) in pictures.iter().zip(&went_in) {
        // The muxer put in a delimiter and, at key frames, the parameter sets.
        assert_eq!(pictures_only(&from_annex_b(data)), pictures_only(&tag.body()));
        assert_eq!(
            (time.dts - pictures[0].0.dts) / 90,
            i64::from(tag.timestamp_ms - went_in[0].timestamp_ms)
        );
        assert_eq!(time.pts, time.dts);
    }
    let mut adts = Adts::default();
    let mut frames = Vec::new();
    for pes in &done {
        if let Pes::Audio { data, .. } = pes {
            let (some, skipped) = adts.push(data);
            assert_eq!(skipped, 0);
            frames.extend(some);
        }
    }
    let sounds: Vec<_> =
        tags(GLASSES).into_iter().filter(|t| t.kind == 8 && t.payload[1] == 1).collect();
    assert!(frames.len() + 8 > sounds.len() && frames.len() > 80, "{}", frames.len());
    for (frame, sound) in frames.iter().zip(&sounds) {
        assert_eq!(frame.data, sound.payload.slice(2..));
        // AAC-LC, 44.1 kHz, one channel.
        assert_eq!(frame.config[..], [0x12, 0x08]);
    }
}

#[test]
fn a_picture_that_misses_a_packet_is_given_up_and_no_other() {
    let whole = pictures(&demux(STREAM).0);
    let packets: Vec<_> = STREAM.chunks(PACKET_BYTES).collect();
    let video = |p: &[u8]| p[1] & 0x1F == 1 && p[2] == 0 && p[1] & 0x40 == 0;
    let missing = packets.iter().skip(100).position(|p| video(p)).unwrap() + 100;
    let kept = packets.iter().enumerate().filter(|(n, _)| *n != missing);
    let (done, tally) = demux(&kept.flat_map(|(_, p)| p.to_vec()).collect::<Vec<_>>());
    assert!(tally.pictures_lost >= 1, "{tally:?}");
    let left = pictures(&done);
    assert!(left.len() + 2 >= whole.len() && left.iter().all(|p| whole.contains(p)));
    // The same packet twice is one.
    let twice: Vec<_> =
        packets.iter().flat_map(|p| if video(p) { [*p, p].concat() } else { p.to_vec() }).collect();
    assert_eq!(pictures(&demux(&twice).0), whole);
}

#[test]
fn what_is_no_transport_stream_is_counted() {
    let (done, tally) = demux(&[b'x'; 10 * PACKET_BYTES]);
    assert!(done.is_empty());
    assert_eq!(tally.malformed, 10);
    let mut cut = Demuxer::new(MAX);
    assert!(cut.push(&STREAM[..100]).is_empty());
    assert_eq!(cut.take_tally(), Tally { malformed: 1, ..Tally::default() });
    // A picture longer than allowed is given up.
    let mut small = Demuxer::new(1000);
    assert!(small.push(STREAM).iter().all(|pes| match pes {
        Pes::Video { data, .. } | Pes::Audio { data, .. } => data.len() <= 1000,
    }));
    assert!(small.take_tally().pictures_lost > 0);
}

#[test]
fn times_go_on_over_the_wrap() {
    let mut clock = Clock::default();
    let wrap = 1_u64 << TIME_BITS;
    let first = clock.time(Some((wrap - 90, wrap - 180))).unwrap();
    assert_eq!(first.pts - first.dts, 90);
    let second = clock.time(Some((90, 0))).unwrap();
    assert_eq!((second.dts - first.dts, second.pts - second.dts), (180, 90));
    assert_eq!(clock.time(None), None);
}

#[test]
fn frames_of_sound_go_on_in_the_next_packet() {
    // 48 kHz, two channels, AAC-LC, 7 + 3 bytes.
    let frame = |body: [u8; 3]| {
        let mut frame = vec![0xFF, 0xF1, 0x4C, 0x80, 10 >> 3, (10 & 7) << 5, 0xFC];
        frame.extend(body);
        frame
    };
    let all = [frame([1, 2, 3]), frame([4, 5, 6]), frame([7, 8, 9])].concat();
    let mut adts = Adts::default();
    let (frames, skipped) = adts.push(&all[..25]);
    assert_eq!((frames.len(), skipped, frames[1].after_ms), (2, 0, 21));
    assert_eq!(frames[0].config[..], [0x11, 0x90]);
    let (rest, _) = adts.push(&all[25..]);
    assert_eq!((rest.len(), &rest[0].data[..]), (1, &[7, 8, 9][..]));
    let (none, skipped) = adts.push(b"this is no sound at all");
    assert!(none.is_empty() && skipped > 10);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut demuxer = Demuxer::new(4096);
        demuxer.push(&data);
        Adts::default().push(&data);
    }

    #[test]
    fn a_damaged_stream_is_taken(
        damage in prop::collection::vec((0usize..STREAM.len(), any::<u8>()), 1..60),
        max in 200usize..20_000,
    ) {
        let mut data = STREAM.to_vec();
        for (at, with) in damage {
            data[at] = with;
        }
        let mut demuxer = Demuxer::new(max);
        let mut adts = Adts::default();
        for message in data.chunks(1316) {
            for pes in demuxer.push(message) {
                match pes {
                    Pes::Video { data, .. } => prop_assert!(data.len() <= max),
                    Pes::Audio { data, .. } => drop(adts.push(&data)),
                }
            }
        }
        prop_assert!(adts.rest.len() < 16 << 10);
    }
}
