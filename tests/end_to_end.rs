//! The main job with real parts: real publishers send the demo clip, mosquitto_sub and a WebSocket client see its animals.
//!
//! With SPOTTER_BIN set to the arm64 binary (board/run-arm64.sh) the same tests run under QEMU, slower and with fewer publishers.
#![cfg(all(feature = "gst", feature = "tflite"))]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::readers::{Mosquitto, Socket, judge};
use support::{
    Reaped, Service, arch, clip, emulated, missing_parts, new_ffmpeg, on_path, root, skip, spotter,
};

/// A program that publishes the demo clip once, in real time.
struct Publisher {
    stream: &'static str,
    command: fn(&str) -> Option<Command>,
}

const PUBLISHERS: [Publisher; 4] = [
    Publisher { stream: "ffmpeg", command: ffmpeg },
    Publisher { stream: "ffmpeg9-hevc", command: ffmpeg9_hevc },
    Publisher { stream: "rtmp2sink", command: |url| gst_launch("rtmp2sink", url) },
    Publisher { stream: "librtmp", command: |url| gst_launch("rtmpsink", url) },
];

fn ffmpeg(url: &str) -> Option<Command> {
    // Under emulation the clip goes at a fifth of its speed, so that pictures are not passed over by the second.
    let pace: &[&str] = if emulated() { &["-readrate", "0.2"] } else { &["-re"] };
    let mut c = Command::new("ffmpeg");
    c.args(["-nostdin", "-v", "error"]).args(pace).args([
        "-i",
        "demo/clip.mp4",
        "-c",
        "copy",
        "-f",
        "flv",
        url,
    ]);
    on_path("ffmpeg").then_some(c)
}

/// ffmpeg 9, which comes with the Python package imageio-ffmpeg, publishes HEVC in enhanced RTMP.
fn ffmpeg9_hevc(url: &str) -> Option<Command> {
    let mut c = Command::new(new_ffmpeg()?);
    c.args(["-nostdin", "-v", "error", "-re", "-i", "demo/clip.mp4", "-vf", "scale=640:360"]);
    c.args([
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=error:bframes=0:keyint=60",
    ]);
    c.args(["-b:v", "1500k", "-c:a", "copy", "-f", "flv", url]);
    Some(c)
}

fn gst_launch(sink: &str, url: &str) -> Option<Command> {
    let mut c = Command::new("gst-launch-1.0");
    c.args(
        "-q filesrc location=demo/clip.mp4 ! qtdemux name=d flvmux name=m streamable=true"
            .split(' '),
    );
    c.args(["!", sink, &format!("location={url}"), "sync=true"]);
    c.args("d.video_0 ! queue ! h264parse ! m. d.audio_0 ! queue ! aacparse ! m.".split(' '));
    c.stdout(Stdio::null());
    on_path("gst-launch-1.0").then_some(c)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_publisher_is_seen_on_mqtt_and_websocket() {
    if let Some(why) = missing_parts() {
        return skip(&why);
    }
    let rate = if emulated() { 1.0 } else { 4.0 };
    let service = Service::start(&format!("detect.rate_hz = {rate:?}\n"));
    let mosquitto = Mosquitto::subscribe(service.mqtt, "spotter/#");
    let socket = Socket::live(&service).await;
    let mut running = Vec::new();
    for publisher in &PUBLISHERS {
        if emulated() && publisher.stream != "ffmpeg" {
            continue;
        }
        match (publisher.command)(&service.url(publisher.stream)) {
            Some(mut command) => {
                running.push((publisher.stream, Reaped::start(command.current_dir(root()))))
            }
            None => skip(&format!(
                "publisher {} is not installed; run ./setup.sh --test",
                publisher.stream
            )),
        }
        // Apart in time, so that a mix-up of streams would show as animals in the wrong place.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert!(!running.is_empty());
    let patience = Duration::from_secs(if emulated() { 240 } else { 90 });
    for (stream, process) in &mut running {
        let ended = process.wait(patience);
        assert!(ended.is_some(), "{stream} did not end\n{}", service.log());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (stream, _) in &running {
        for (door, messages) in
            [("MQTT", mosquitto.detections(stream)), ("WebSocket", socket.detections(stream))]
        {
            let tallies = judge(&messages);
            eprintln!("{stream} on {door}: {} messages, {tallies:?}", messages.len());
            for label in ["dog", "bird", "giraffe", "horse"] {
                let t = tallies.get(label).copied().unwrap_or_default();
                assert!(
                    t.in_place > 0 && t.in_place * 2 >= t.found,
                    "{stream} on {door}: {label} {t:?} of {tallies:?}\n{}",
                    service.log()
                );
            }
        }
    }
    assert_eq!(mosquitto.last("spotter/test/available").as_deref(), Some("online"));
    service.stop();
    let until = Instant::now() + Duration::from_secs(5);
    while mosquitto.last("spotter/test/available").as_deref() != Some("offline")
        && Instant::now() < until
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_photographs_are_named() {
    if let Some(why) = missing_parts() {
        return skip(&why);
    }
    named_by("tflite");
}

/// On arm64 its kernels are others than on x86-64.
#[test]
fn onnx_runtime_names_them_too() {
    let library = format!("runtime/lib/{}/libonnxruntime.so", arch());
    if !root().join(&library).exists() {
        return skip(&format!("no {library}; run ./setup.sh --test"));
    }
    if let Some(why) = missing_parts() {
        return skip(&why);
    }
    named_by("onnx");
}

fn named_by(backend: &str) {
    let files: Vec<_> = clip::PHOTOS.iter().map(|p| format!("demo/photos/{}", p.file)).collect();
    let state = tempfile::tempdir().unwrap();
    let out = spotter()
        .args(["detect", "--json"])
        .args(&files)
        .env("SPOTTER__NODE__STATE_DIR", state.path())
        .env("SPOTTER__DETECT__BACKEND", backend)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), clip::PHOTOS.len());
    for (photo, line) in clip::PHOTOS.iter().zip(&lines) {
        // The first is found by any model worth its name; what stands half hidden behind it need not be.
        for truth in &photo.animals[..1] {
            let same =
                line["detections"].as_array().unwrap().iter().filter(|d| d["label"] == truth.label);
            let best = same.map(|d| {
                let b: Vec<f64> =
                    d["bbox"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                clip::iou([b[0], b[1], b[2], b[3]], truth.bbox)
            });
            let best = best.fold(0.0, f64::max);
            assert!(best >= 0.5, "{}: {} overlaps by {best:.2}: {line}", photo.file, truth.label);
        }
    }
}
