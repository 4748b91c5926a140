//! What nobody needs is not decoded, with real parts: ffmpeg publishes, detection is switched off and on, a picture is asked
//! for, and a reader and the recorder, which need no decoding, go on all the while.
#![cfg(feature = "gst")]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::api::*;
use support::{Reaped, Service, on_path, skip};

const SWITCH: &str = "/api/v1/streams/garden/settings";

/// Pictures with B-frames, and a key frame every ten seconds only: a decoder that waited for one would be noticed.
fn publish_long_gops(service: &Service) -> Reaped {
    let x264 = "bframes=2:keyint=250:min-keyint=250:scenecut=0";
    Reaped::start(
        Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-v",
                "error",
                "-re",
                "-f",
                "lavfi",
                "-i",
                "testsrc2=s=640x360:r=25",
            ])
            .args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"])
            .args(["-x264-params", x264, "-f", "flv", &service.url("garden")])
            .stdout(Stdio::null()),
    )
}

fn counter(service: &Service, name: &str) -> u64 {
    let stats = json(service, "/api/v1/stats");
    stats["streams"][0]["counters"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {stats}"))
}

fn resting(service: &Service) -> Option<String> {
    let status = json(service, "/api/v1/status");
    status["decoders"][0]["resting"].as_str().map(str::to_owned)
}

/// A picture of now, and its place on the stream's time line.
fn snapshot_ms(service: &Service) -> u64 {
    let (status, head, jpeg) = ask(service, "GET", "/api/v1/streams/garden/snapshot.jpg", "", "");
    assert_eq!(status, 200, "{}\n{}", String::from_utf8_lossy(&jpeg), service.log());
    let picture = image::load_from_memory(&jpeg).unwrap();
    assert_eq!((picture.width(), picture.height()), (640, 360));
    let pts = head.lines().find_map(|l| l.strip_prefix("x-pts-ms: ")).unwrap();
    pts.trim().parse().unwrap()
}

/// The first detections that were told of after this was called.
fn next_detections(service: &Service) -> Value {
    use std::io::{BufRead, BufReader, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let host = service.web;
    let head = format!("Host: 127.0.0.1:{host}\r\nAccept: text/event-stream");
    write!(socket, "GET /api/v1/live?stream=garden HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    let (status, _, body) =
        ask(service, "PUT", SWITCH, "Content-Type: application/json\r\n", r#"{"detect":true}"#);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let lines = BufReader::new(socket).lines().map(Result::unwrap);
    let mut lines = lines.skip_while(|l| l != "event: detections");
    let data = lines.nth(1).unwrap();
    serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()
}

#[test]
fn what_nobody_needs_is_not_decoded() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let service = Service::start(
        "[detect]\nbackend = \"fake\"\n[record]\nmode = \"continuous\"\nsegment_s = 600.0\n",
    );
    let _publisher = publish_long_gops(&service);
    until(&service, "detection", || frames_detected(&service) > 0);
    assert_eq!((counter(&service, "units_unwanted"), resting(&service)), (0, None));

    let off = r#"{"detect":false}"#;
    if on_path("mosquitto_pub") {
        let port = service.mqtt.to_string();
        let sent = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-t", "spotter/test/garden/detect/set"])
            .args(["-m", "OFF"])
            .status();
        assert!(sent.unwrap().success());
    } else {
        skip("no mosquitto_pub; detection is switched off over HTTP instead");
        ask(&service, "PUT", SWITCH, "Content-Type: application/json\r\n", off);
    }
    until(&service, "rest", || resting(&service).is_some());
    let reason = resting(&service).unwrap();
    assert!(reason.contains("detection is off"), "{reason}");

    // A reader's file, while nothing is decoded.
    let file = service.dir.path().join("read.mp4");
    let mut reader = Reaped::start(
        Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-i", &service.url("garden")])
            .args(["-t", "5", "-c", "copy"])
            .arg(&file),
    );
    std::thread::sleep(Duration::from_millis(1500)); // the statistics are a second old at most
    let (decoded, unwanted) =
        (counter(&service, "frames_decoded"), counter(&service, "units_unwanted"));
    assert!(reader.wait(Duration::from_secs(60)).is_some_and(|s| s.success()));
    until(&service, "units let go", || counter(&service, "units_unwanted") >= unwanted + 50);
    assert_eq!(counter(&service, "frames_decoded"), decoded, "{}", service.log());
    decodes(&file);
    let (seconds, pictures) = probe(&file);
    assert!(seconds > 4.0 && pictures >= 100, "{pictures} pictures in {seconds} s");
    assert_eq!(resting(&service).as_deref(), Some(reason.as_str()));
    let recordings = service.dir.path().join("state/recordings");
    let recorded = || mp4s(&recordings).iter().map(|f| f.metadata().unwrap().len()).sum::<u64>();
    let before = recorded();
    until(&service, "the recording to grow", || recorded() > before);

    // Somebody asks for a picture: it is one of now, the stream is decoded for a few seconds, and no longer.
    let came_ms = counter(&service, "video_units") * 40;
    let first = snapshot_ms(&service);
    assert!(first + 200 >= came_ms, "{first} ms is old: {came_ms} ms had come");
    until(&service, "decoding", || counter(&service, "frames_decoded") > decoded);
    until(&service, "rest again", || resting(&service).is_some());

    let skipped = counter(&service, "units_skipped");
    let detections = next_detections(&service);
    let pts = detections["pts_ms"].as_u64().unwrap();
    assert!(pts > first, "{pts} ms after {first} ms");
    std::thread::sleep(Duration::from_millis(1500));
    // Had it waited for the next key frame, it would have passed units over.
    assert_eq!(counter(&service, "units_skipped"), skipped, "{}", service.log());
    assert!(counter(&service, "frames_caught_up") > 0);
    detection_goes_on(&service);
    assert_eq!(resting(&service), None);
    assert_eq!(counter(&service, "decoder_errors"), 0);
    service.stop();
}
