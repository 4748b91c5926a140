//! Real decoders on real streams: what comes out, in which order, and what happens when a decoder fails.
#![cfg(feature = "gst")]

mod decode_clips;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use decode_clips::{Rig, clip, later, make, sorted_pts, units};
use spotter::decode::file::{FileError, each_picture};
use spotter::decode::{Colour, Fit, Matrix, PixelFormat, Range};
use spotter::media::AccessUnit;

const H264: &[&str] = &["-c:v", "libx264", "-profile:v", "main", "-pix_fmt", "yuv420p", "-bf", "0"];
const H264_B: &[&str] =
    &["-c:v", "libx264", "-profile:v", "main", "-pix_fmt", "yuv420p", "-bf", "3"];
const HEVC: &[&str] =
    &["-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error"];
const SOFTWARE: &[&str] = &["avdec_h264", "avdec_h265"];

/// A key frame every ten pictures.
fn short_gops() -> Vec<AccessUnit> {
    clip(&[H264, &["-g", "10"]].concat())
}

/// At a publisher's own pace: what comes all at once may be left out in part.
async fn push_in_turn(rig: &Rig, units: &[AccessUnit]) {
    for unit in units {
        rig.push(std::slice::from_ref(unit));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All pictures come out once, in order, whole and of the right size.
async fn all_come_out(units: Vec<AccessUnit>, size: (u32, u32), element: &str) {
    let rig = Rig::start(SOFTWARE);
    push_in_turn(&rig, &units).await;
    let stream = rig.stream.clone();
    let (shown, state) = rig.end().await;
    assert_eq!(shown.iter().map(|s| s.pts).collect::<Vec<_>>(), sorted_pts(&units));
    assert!(shown.iter().enumerate().all(|(n, s)| s.seq == n as u64));
    assert!(shown.iter().all(|s| s.size == size && s.whole && s.format == PixelFormat::I420));
    assert_eq!(state.element.as_deref(), Some(element));
    assert!(state.refusals.is_empty(), "{state:?}");
    assert_eq!(stream.counters.frames_decoded.get(), units.len() as u64);
    assert_eq!(stream.counters.units_skipped.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_without_b_frames() {
    all_come_out(clip(H264), (160, 120), "avdec_h264").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_with_b_frames() {
    let units = clip(H264_B);
    assert!(units.windows(2).any(|w| w[0].pts > w[1].pts), "the clip has B-frames");
    all_come_out(units, (160, 120), "avdec_h264").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hevc() {
    all_come_out(clip(HEVC), (160, 120), "avdec_h265").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_is_cropped_from_whole_macroblocks() {
    let file = make("testsrc=s=214x122:r=25:d=1", H264);
    all_come_out(units(file.path()), (214, 122), "avdec_h264").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_picture_comes_at_once_when_none_is_reordered() {
    let mut rig = Rig::start(SOFTWARE);
    let units = clip(H264);
    rig.push(&units[..1]);
    rig.until(|s| s.element.is_some()).await;
    for n in 1..=10 {
        // One in, one out: a decoder that holds a picture back would never let the last one come.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while rig.shown.lock().len() < n {
            assert!(std::time::Instant::now() < until, "picture {n} is held back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.push(&units[n..=n]);
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_and_their_meaning_come_through() {
    let tagged = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"];
    let full = ["-vf", "scale=out_color_matrix=bt709:out_range=full", "-color_range", "pc"];
    let file = make("color=red:s=64x64:r=25:d=0.4", &[H264, &tagged, &full].concat());
    let rig = Rig::start(SOFTWARE);
    push_in_turn(&rig, &units(file.path())).await;
    let (shown, _) = rig.end().await;
    assert_eq!(shown[0].colour, Colour { matrix: Matrix::Bt709, range: Range::Full });
    // ITU-T H.273 with Kr = 0.2126, Kb = 0.0722, full range: Y 54, Cb 99, Cr 255.
    for (mean, expected) in shown[0].means.into_iter().zip([54u8, 99, 255]) {
        assert!(mean.abs_diff(expected) <= 3, "{:?}", shown[0].means);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_bit_is_converted_by_the_next_in_the_board_s_list() {
    let options = ["-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-g", "250"];
    let units = clip(&options);
    let rig = Rig::start(&[]);
    rig.push(&units);
    let (shown, state) = rig.end().await;
    assert_eq!(state.element.as_deref(), Some("avdec_h264 ! videoconvert"), "{state:?}");
    assert_eq!(shown.len(), units.len());
    assert!(state.refusals.iter().any(|r| r.starts_with("avdec_h264: ")), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_changes_its_size() {
    let small = clip(H264_B);
    let large = units(make("testsrc=s=320x240:r=25:d=1", H264_B).path());
    let large = later(large, Duration::from_secs(2));
    let rig = Rig::start(SOFTWARE);
    push_in_turn(&rig, &small).await;
    push_in_turn(&rig, &large).await;
    let (shown, state) = rig.end().await;
    let pts: Vec<_> = shown.iter().map(|s| s.pts).collect();
    assert_eq!(pts, [sorted_pts(&small), sorted_pts(&large)].concat());
    assert_eq!(shown.iter().filter(|s| s.size == (320, 240)).count(), large.len());
    assert_eq!((state.width, state.height), (320, 240));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_changes_its_codec() {
    let first = clip(H264);
    let then = later(clip(HEVC), Duration::from_secs(2));
    let rig = Rig::start(SOFTWARE);
    push_in_turn(&rig, &first).await;
    push_in_turn(&rig, &then).await;
    let (shown, state) = rig.end().await;
    assert_eq!(shown.len(), first.len() + then.len());
    assert_eq!((state.element.as_deref(), state.codec), (Some("avdec_h265"), Some("H.265")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_in_the_middle_costs_at_most_its_gop() {
    for rubbish in [
        Bytes::from_static(&[0xff; 400]),
        Bytes::from_static(b"\x00\x00\x00\x05hello"),
        Bytes::from_static(&[0]),
        Bytes::new(),
    ] {
        let mut units = short_gops();
        units[14].data = rubbish.clone();
        let rig = Rig::start(SOFTWARE);
        rig.push(&units);
        let stream = rig.stream.clone();
        let (shown, state) = rig.end().await;
        let came = |n: usize| shown.iter().any(|s| s.pts == units[n].pts);
        assert!((0..14).chain(20..units.len()).all(came), "{rubbish:?}");
        assert_eq!(state.element.as_deref(), Some("avdec_h264"));
        assert_eq!(stream.counters.decoder_errors.get(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_behind_a_parser_shows_all_and_survives_rubbish() {
    let mut units = short_gops();
    let rig = Rig::start(&["openh264dec"]);
    rig.push(&units);
    let (shown, _) = rig.end().await;
    assert_eq!(shown.iter().map(|s| s.pts).collect::<Vec<_>>(), sorted_pts(&units));

    units[14].data = Bytes::from_static(&[0xff; 400]);
    let rig = Rig::start(&["openh264dec", "avdec_h264"]);
    rig.push(&units);
    let (shown, state) = rig.end().await;
    let came = |n: usize| shown.iter().any(|s| s.pts == units[n].pts);
    let lost: Vec<_> = (0..units.len()).filter(|n| !came(*n)).collect();
    // openh264 gives up the picture before a damaged one with it.
    assert!(lost.iter().all(|n| (13..20).contains(n)), "lost {lost:?}: {state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_held_back_are_not_decoded() {
    let mut units = short_gops();
    for unit in &mut units[15..20] {
        unit.intact = false;
    }
    let rig = Rig::start(SOFTWARE);
    rig.push(&units);
    let (shown, _) = rig.end().await;
    assert_eq!(shown.len(), units.len() - 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_is_not_there_is_refused_by_name() {
    let units = clip(H264);
    let rig = Rig::start(&["nosuchdec", "v4l2h264dec", "avdec_h264"]);
    rig.push(&units);
    let (shown, state) = rig.end().await;
    assert_eq!(shown.len(), units.len());
    assert_eq!(state.element.as_deref(), Some("avdec_h264"));
    assert!(state.refusals[0].starts_with("nosuchdec: "), "{state:?}");
    assert!(state.refusals[1].contains("it comes with gstreamer1.0-plugins-good"), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_fails_is_replaced_and_no_picture_is_lost_or_shown_twice() {
    let units = clip(H264);
    let rig = Rig::start(&["identity error-after=12 ! avdec_h264", "avdec_h264"]);
    rig.push(&units);
    let stream = rig.stream.clone();
    let (shown, state) = rig.end().await;
    assert_eq!(shown.iter().map(|s| s.pts).collect::<Vec<_>>(), sorted_pts(&units));
    assert_eq!(state.element.as_deref(), Some("avdec_h264"));
    assert!(state.refusals[0].starts_with("identity error-after=12"), "{state:?}");
    assert_eq!(stream.counters.decoder_errors.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_gives_nothing_is_replaced() {
    let units = clip(H264);
    let mut rig = Rig::start(&["identity drop-probability=1 ! avdec_h264", "openh264dec"]);
    for unit in &units[..45] {
        rig.push(std::slice::from_ref(unit));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let state = rig.until(|s| s.element.as_deref() == Some("openh264dec")).await;
    assert!(state.refusals[0].contains("gives no picture"), "{state:?}");
    rig.push(&units[45..]);
    let (shown, _) = rig.end().await;
    assert_eq!(shown.len(), units.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lives_on_when_every_decoder_fails_and_is_tried_again() {
    let units = short_gops();
    let mut rig = Rig::start(&["identity error-after=3 ! avdec_h264"]);
    rig.push(&units[..10]);
    let state = rig.until(|s| s.error.is_some()).await;
    assert_eq!(state.element, None);
    assert!(state.error.unwrap().contains("no decoder for H.264 works"));
    // The retry comes with the first key frame after the wait; one frame is not enough for it to fail again.
    for gop in 1..100 {
        let again = later(units[..1].to_vec(), Duration::from_secs(gop));
        rig.push(&again);
        tokio::time::sleep(Duration::from_millis(100)).await;
        if rig.state.borrow().element.is_some() {
            break;
        }
    }
    let state = rig.until(|s| s.element.is_some()).await;
    assert_eq!(state.error, None);
    let stream = rig.stream.clone();
    rig.end().await;
    assert!(stream.counters.units_skipped.get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn decoding_rests_while_nobody_looks_and_goes_on_from_the_key_frame_before() {
    for options in [H264_B, HEVC] {
        let mut units = clip(&[options, &["-g", "20"]].concat());
        let then = later(units.clone(), Duration::from_secs(2));
        units.extend(then);
        let mut rig = Rig::start(SOFTWARE);
        push_in_turn(&rig, &units[..30]).await;
        rig.wanted.store(false, Ordering::SeqCst);
        push_in_turn(&rig, &units[30..65]).await;
        rig.until(|s| s.resting).await;
        let before = rig.shown.lock().len();
        rig.wanted.store(true, Ordering::SeqCst);
        push_in_turn(&rig, &units[65..]).await;
        rig.until(|s| !s.resting).await;
        let counters = Arc::clone(&rig.stream);
        let (shown, state) = rig.end().await;
        assert!(before <= 30, "{before} pictures of the first 30 units");
        // Each picture that came since the wish is there, though its key frame was older.
        let since = sorted_pts(&units[65..]);
        let shown: Vec<_> = shown[before..].iter().map(|s| s.pts).collect();
        assert!(shown.ends_with(&since), "{since:?} of {shown:?}");
        let c = &counters.counters;
        assert!(c.units_unwanted.get() >= 34, "{}", c.units_unwanted.get());
        assert!(c.frames_caught_up.get() > 0 && c.units_skipped.get() == 0);
        assert_eq!((c.decoder_errors.get(), state.refusals.len()), (0, 0), "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_behind_is_given_every_picture_that_another_needs() {
    for (options, slow) in [
        (H264_B, "identity sleep-time=30000 ! avdec_h264"),
        (HEVC, "identity sleep-time=30000 ! avdec_h265"),
    ] {
        let units = clip(options);
        let rig = Rig::start(&[slow]);
        rig.push(&units);
        let stream = Arc::clone(&rig.stream);
        let (shown, state) = rig.end().await;
        let left_out = stream.counters.units_unreferenced.get() as usize;
        assert!(left_out > 0, "{state:?}");
        // None of the others was broken by it, which the decoder would tell by letting it go.
        assert_eq!(shown.len(), units.len() - left_out);
        assert_eq!(stream.counters.units_skipped.get() + stream.counters.decoder_errors.get(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_made_small_on_its_way_keeps_the_published_one_behind_it() {
    let fit: Fit = Arc::new(|(w, h)| (w / 4, h / 4));
    // Ten bits: the small picture is converted with the scaling, the published one when somebody looks.
    let ten_bit = ["-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-bf", "2"];
    for options in [H264_B, HEVC, &ten_bit] {
        let units = clip(options);
        let rig = Rig::start_fit(SOFTWARE, Some(Arc::clone(&fit)));
        push_in_turn(&rig, &units).await;
        let (shown, state) = rig.end().await;
        assert!(state.element.as_deref().unwrap().ends_with(" + videoconvertscale"), "{state:?}");
        assert_eq!(shown.iter().map(|s| s.pts).collect::<Vec<_>>(), sorted_pts(&units));
        for s in &shown {
            assert_eq!((s.size, s.published, s.whole), ((80, 60), (160, 120), true));
            let (small, large) = (i32::from(s.means[0]), i32::from(s.published_mean.unwrap()));
            assert!((small - large).abs() <= 2, "{small} is another picture than {large}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaler_that_has_nothing_to_do_is_not_there() {
    let units = clip(H264);
    for (order, fit) in [
        (SOFTWARE, Some(Arc::new(|size| size) as Fit)),
        (SOFTWARE, None),
        (&["openh264dec"], Some(Arc::new(|_| (4000_u32, 4000_u32)) as Fit)),
    ] {
        let rig = Rig::start_fit(order, fit);
        push_in_turn(&rig, &units).await;
        let (shown, state) = rig.end().await;
        assert_eq!(state.element.as_deref(), Some(order[0]), "{state:?}");
        assert!(shown.iter().all(|s| s.size == (160, 120) && s.published == s.size));
    }
}

#[test]
fn a_file_s_pictures_one_after_another() {
    let file = make("testsrc=s=214x122:r=25:d=2", H264_B);
    let mut times = Vec::new();
    let seen = each_picture(file.path(), |pts, picture| {
        let view = picture.view();
        assert!(view.is_whole() && (view.width, view.height) == (214, 122));
        times.push(pts.as_millis());
        ControlFlow::Continue(())
    });
    assert_eq!(seen, Ok(50));
    assert_eq!(times, (0..50).map(|n| n * 40).collect::<Vec<_>>());

    let mut left = 3;
    let stopped = each_picture(file.path(), |_, _| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped, Ok(3));
}

#[test]
fn a_file_that_is_no_video_is_named() {
    let missing = each_picture(Path::new("no/such.mp4"), |_, _| ControlFlow::Continue(()));
    assert!(matches!(missing, Err(FileError::Unreadable { .. })), "{missing:?}");
    let directory = each_picture(Path::new("."), |_, _| ControlFlow::Continue(()));
    assert!(matches!(directory, Err(FileError::Unreadable { .. })), "{directory:?}");
    let text = tempfile::NamedTempFile::new().unwrap();
    for content in ["", "this is no video, whatever its name may promise\n"] {
        std::fs::write(text.path(), content).unwrap();
        let refused = each_picture(text.path(), |_, _| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(FileError::NotPlayable { .. })), "{refused:?}");
    }
}
