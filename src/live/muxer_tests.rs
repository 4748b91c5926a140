use super::*;
use crate::media::samples::picture;
use crate::media::{Arrival, StreamId, samples};

fn params(width: u32) -> Arc<VideoParams> {
    Arc::new(VideoParams { width, ..samples::params() })
}

fn sound_params() -> Arc<AudioParams> {
    let config = Bytes::from_static(&[0x12, 0x10]);
    Arc::new(AudioParams { codec: AudioCodec::Aac, sample_rate_hz: 44_100, channels: 2, config })
}

fn sound(ms: i64) -> Unit {
    Unit::Audio(AudioUnit {
        stream: StreamId::new("s").unwrap(),
        pts: MediaTime::from_millis(ms),
        data: Bytes::from_static(b"sound"),
        params: sound_params(),
        arrived: Arrival::now(),
    })
}

fn push_all(muxer: &mut Muxer, units: impl IntoIterator<Item = Unit>) -> Vec<Fragment> {
    units.into_iter().flat_map(|unit| muxer.push(unit)).collect()
}

fn starts(fragments: &[Fragment]) -> Vec<i64> {
    fragments.iter().map(|f| f.start.as_millis()).collect()
}

/// A muxer that has heard there is no sound, up to `ms` 300.
fn silent() -> Muxer {
    let mut muxer = Muxer::new(Arc::default());
    let units = (0..4).map(|n| Unit::Video(picture(n * 100, n == 0)));
    assert_eq!(starts(&push_all(&mut muxer, units)), [0, 100, 200, 300]);
    muxer
}

#[test]
fn it_listens_before_it_says_what_the_tracks_are() {
    let mut muxer = Muxer::new(Arc::default());
    assert!(muxer.push(Unit::Video(picture(0, true))).is_empty());
    assert!(muxer.push(Unit::Video(picture(33, false))).is_empty());
    let out = muxer.push(sound(10));
    assert_eq!(starts(&out), [0, 33]);
    assert!(out[0].init.audio.is_some() && Arc::ptr_eq(&out[0].init, &out[1].init));
    let out = silent().push(Unit::Video(picture(400, true)));
    assert!(out[0].init.audio.is_none());
}

#[test]
fn sound_that_comes_late_waits_for_a_key_frame_and_leaves_when_silent() {
    let mut muxer = silent();
    assert!(muxer.push(sound(310)).is_empty());
    let out = push_all(&mut muxer, [Unit::Video(picture(400, false)), sound(410)]);
    assert!(out[0].init.audio.is_none());
    let out = muxer.push(Unit::Video(picture(500, true)));
    assert_eq!(out[0].init.mime, "video/mp4; codecs=\"avc1.64001f,mp4a.40.2\"");
    assert_eq!(out[0].init.id, 500);
    // A player waits for every track it was told of, so one that fell silent goes.
    let out = muxer.push(Unit::Video(picture(2_600, true)));
    assert!(out[0].init.audio.is_none());
}

#[test]
fn sound_rides_with_the_next_picture_and_alone_when_none_comes() {
    let mut muxer = Muxer::new(Arc::default());
    push_all(&mut muxer, [Unit::Video(picture(0, true)), sound(0)]);
    let with = muxer.push(Unit::Video(picture(33, false)));
    assert!(with[0].data.ends_with(b"picturesound"));
    let alone = push_all(&mut muxer, (0..26).map(|n| sound(23 + n * 23)));
    assert_eq!(starts(&alone), [23]);
    assert!(!alone[0].key && alone[0].data.ends_with(b"soundsound"));
}

#[test]
fn broken_pictures_and_changes_between_key_frames_are_left_out() {
    let mut muxer = silent();
    let broken = AccessUnit { intact: false, ..picture(400, false) };
    let changed = AccessUnit { params: params(32), ..picture(700, false) };
    let new = AccessUnit { params: params(32), ..picture(900, true) };
    let units = [
        broken,
        picture(500, false),
        picture(600, true),
        changed,
        picture(800, false),
        new,
        AccessUnit { params: params(32), ..picture(1000, false) },
    ];
    let out = push_all(&mut muxer, units.map(Unit::Video));
    assert_eq!(starts(&out), [600, 900, 1000]);
    assert_eq!(out.iter().map(|f| f.init.video.width).collect::<Vec<_>>(), [16, 32, 32]);
    assert_eq!(muxer.counters.pictures_left_out.get(), 4);
}

#[test]
fn after_a_loss_it_goes_on_with_a_key_frame() {
    let mut muxer = silent();
    muxer.skip();
    let units = [picture(400, false), picture(500, true)];
    assert_eq!(starts(&push_all(&mut muxer, units.map(Unit::Video))), [500]);
}

#[test]
fn opus_packets_tell_how_long_they_last() {
    let ms = |packet: &[u8]| opus_duration(packet).as_micros();
    assert_eq!(ms(&[0x78]), 20_000); // hybrid, fullband, 20 ms
    assert_eq!(ms(&[0xF9]), 40_000); // CELT, 20 ms, two frames
    assert_eq!(ms(&[0x1B, 63]), 120_000); // SILK, 60 ms, 63 frames: not believed
    assert_eq!(ms(&[]), 0);
}
