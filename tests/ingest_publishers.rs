//! Real publishers against the front door: ffmpeg, old and new, GStreamer's rtmp2sink, and rtmpsink, which is librtmp,
//! the glasses' own family. A program that is not installed is skipped, and said so.

#![allow(clippy::unwrap_used, reason = "test code, outside of test functions")]

mod ingest_support;
#[path = "support/skip.rs"]
mod skip;

use std::process::{Command, Output, Stdio};

use ingest_support::*;
use skip::skip;
use spotter::media::ring::Read;
use spotter::media::{StreamId, StreamStatus, VideoCodec};

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ingest/glasses.flv");

/// Runs a program to its end; `None` when it is not installed.
async fn program(name: &str, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null());
    match within(tokio::task::spawn_blocking(move || command.output())).await.unwrap() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("{name} cannot be run here: {error}"));
            None
        }
    }
}

async fn ffmpeg(url: &str) -> Option<Output> {
    let args = ["-v", "warning", "-i", CLIP, "-c", "copy", "-f", "flv", url];
    program("ffmpeg", &args).await
}

async fn gst(sink: &str, location: &str) -> Option<Output> {
    let source = "-q videotestsrc num-buffers=45 ! video/x-raw,width=322,height=180,framerate=15/1 ! \
        x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! h264parse ! \
        flvmux name=mux streamable=true \
        audiotestsrc num-buffers=130 ! audio/x-raw,rate=44100,channels=1 ! avenc_aac ! aacparse ! \
        mux. mux. !";
    let mut args: Vec<_> = source.split_whitespace().collect();
    let location = format!("location={location}");
    args.extend([sink, &location]);
    program("gst-launch-1.0", &args).await
}

/// Counts (video, audio, keys) of what a stream holds, all of it intact.
async fn held(server: &Server, name: &str) -> (usize, usize, usize) {
    server.until_status(name, StreamStatus::Waiting).await;
    let stream = server.streams.get(&StreamId::new(name).unwrap()).unwrap();
    let counters = &stream.counters;
    assert_eq!(counters.gaps.get() + counters.units_held.get(), 0);
    let (video, audio) = (counters.video_units.get(), counters.audio_units.get());
    let mut cursor = stream.ring.cursor();
    server.streams.close_all();
    let mut keys = 0;
    while let Some(read) = cursor.next().await {
        keys += usize::from(matches!(read, Read::Unit(u) if u.is_key()));
    }
    (video as usize, audio as usize, keys)
}

#[tokio::test]
async fn ffmpeg_publishes() {
    let server = Server::closed().await;
    let Some(output) = ffmpeg(&server.url("live/dog?token=good")).await else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let (video, audio, keys) = held(&server, "dog").await;
    assert_eq!((video, keys), (PICTURES, 1), "{said}");
    assert!(audio > 100, "{audio}");
    server.stop().await;
}

#[tokio::test]
async fn ffmpeg_with_the_token_in_the_application() {
    let server = Server::closed().await;
    let Some(output) = ffmpeg(&server.url("live?token=good/dog")).await else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(held(&server, "dog").await.0, PICTURES);
    server.stop().await;
}

#[tokio::test]
async fn ffmpeg_is_told_why_it_was_refused() {
    let server = Server::closed().await;
    for (path, text) in [
        ("live/dog", "Unauthorized: no token"),
        ("live/dog?token=bad", "Unauthorized: unknown or revoked token"),
        ("live/a/b?token=good", "stream name \"a/b\" is not allowed"),
        ("other/dog?token=good", "no application \"other\" here"),
    ] {
        let Some(output) = ffmpeg(&server.url(path)).await else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(text), "{path}: {said}");
    }
    server.stop().await;
}

async fn gst_publishes(sink: &str, options: &str) {
    let server = Server::closed().await;
    let location = format!("{}{options}", server.url("live/gst?token=good"));
    let Some(output) = gst(sink, &location).await else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (video, audio, _) = held(&server, "gst").await;
    assert_eq!(video, 45);
    assert!(audio > 50, "{audio}");
    server.stop().await;
}

#[tokio::test]
async fn gstreamer_rtmp2sink_publishes() {
    gst_publishes("rtmp2sink", "").await;
}

/// The options of the glasses, which this element takes behind the URL.
#[tokio::test]
async fn librtmp_publishes() {
    gst_publishes("rtmpsink", " live=1 flashver=FMLE/3.0").await;
}

/// An ffmpeg that speaks enhanced RTMP: $SPOTTER_TEST_FFMPEG, or the one that ./setup.sh --test puts into .venv.
async fn new_ffmpeg() -> Option<String> {
    if let Ok(path) = std::env::var("SPOTTER_TEST_FFMPEG") {
        return Some(path);
    }
    let find = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe(), end='')";
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let output = program(python, &["-c", find]).await?;
    if !output.status.success() {
        skip("neither $SPOTTER_TEST_FFMPEG nor imageio-ffmpeg in .venv; run ./setup.sh --test");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn enhanced_rtmp_carries_h265_and_opus() {
    let server = Server::closed().await;
    let Some(ffmpeg) = new_ffmpeg().await else { return };
    let url = server.url("live/hevc?token=good");
    let args = "-v warning -f lavfi -i testsrc2=size=426x240:rate=15 -f lavfi -i sine=sample_rate=48000 -t 3 \
        -c:v libx265 -preset ultrafast -x265-params keyint=15:log-level=none -c:a libopus -f flv";
    let args: Vec<_> = args.split_whitespace().chain([&*url]).collect();
    let Some(output) = program(&ffmpeg, &args).await else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    server.until_status("hevc", StreamStatus::Waiting).await;
    let stream = server.streams.get(&StreamId::new("hevc").unwrap()).unwrap();
    let params = stream.summary().params.unwrap();
    assert_eq!((params.codec, params.width, params.height), (VideoCodec::H265, 426, 240));
    assert_eq!(server.counters.audio_dropped.get(), 0);
    let (video, audio, _) = held(&server, "hevc").await;
    assert_eq!(video, 45, "{said}");
    assert!(audio > 100, "{audio}");
    server.stop().await;
}
