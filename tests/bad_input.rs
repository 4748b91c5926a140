//! Bad input at the whole program's doors: each gets its named error and exit code, and what already runs goes on.
//! The doors' own tests (tests/ingest_*.rs, tests/ws_*.rs, tests/mqtt_*.rs) have the protocols' bad input.

#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::readers::Mosquitto;
use support::{Reaped, Service, on_path, signal, skip, spotter};
#[cfg(feature = "tflite")]
use support::{missing_parts, root};

#[cfg(feature = "tflite")]
fn run_with(config: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spotter.toml");
    let state = format!("node.state_dir = {:?}\n", dir.path().join("state"));
    let doors = "ingest.listen = \"127.0.0.1:0\"\nwebsocket.listen = \"127.0.0.1:0\"\nweb.listen = \"127.0.0.1:0\"\nmqtt.listen = \"127.0.0.1:0\"\n";
    std::fs::write(&file, state + doors + config).unwrap();
    spotter().args(["run", "--config"]).arg(&file).output().unwrap()
}

/// The program ends with `code` and says each of `words`.
#[track_caller]
fn refused(out: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_bad_configuration_names_line_key_value_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "[detect]\nrate_hz = 0.0\n[mqtt]\nbroker = \"http://x\"\n").unwrap();
    let out = spotter().arg("check").arg(&file).output().unwrap();
    refused(
        &out,
        78,
        &["bad.toml:2: detect.rate_hz: 0", "bad.toml:4: mqtt.broker", "mqtt://host:1883"],
    );
    for broker in ["mqtt://me:s3cretpw@host", "mqtt://host:99999", "mqtts://a b", "mqtt://::1"] {
        std::fs::write(&file, format!("[mqtt]\nbroker = \"{broker}\"\n")).unwrap();
        let out = spotter().arg("check").arg(&file).output().unwrap();
        refused(&out, 78, &["bad.toml:2: mqtt.broker"]);
        assert!(!String::from_utf8_lossy(&out.stderr).contains("s3cretpw"));
    }
    std::fs::write(&file, "[detect]\nrate_hz = 5.0\n").unwrap();
    assert!(spotter().arg("check").arg(&file).status().unwrap().success());
    let out = spotter().args(["check", "/nowhere/spotter.toml"]).output().unwrap();
    refused(&out, 78, &["/nowhere/spotter.toml"]);
}

#[test]
#[cfg(feature = "tflite")]
fn a_missing_model_and_library_are_refused_at_start() {
    refused(&run_with("detect.model = \"nosuch\"\n"), 78, &["nosuch", "detect.model"]);
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("lib.so");
    std::fs::write(&fake, b"\x7fELF not really").unwrap();
    // Left to choose, spotter would go on with another runtime, where there is one.
    let out = run_with(&format!("detect.backend = \"tflite\"\ndetect.library = {fake:?}\n"));
    refused(&out, 78, &["lib.so", "setup.sh"]);
}

#[test]
#[cfg(feature = "tflite")]
fn a_corrupt_model_is_refused_at_start() {
    if let Some(why) = missing_parts() {
        return skip(&why);
    }
    let dir = tempfile::tempdir().unwrap();
    for part in ["yolov4-tiny-416.toml", "yolov4-tiny-416.tflite", "coco.txt"] {
        std::fs::copy(root().join("models").join(part), dir.path().join(part)).unwrap();
    }
    let model = dir.path().join("yolov4-tiny-416.tflite");
    let mut bytes = std::fs::read(&model).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&model, bytes).unwrap();
    let out = run_with(&format!(
        "detect.model = \"yolov4-tiny-416\"\ndetect.model_dir = {:?}\n",
        dir.path()
    ));
    refused(&out, 78, &["yolov4-tiny-416.tflite", "sha256"]);
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = spotter()
        .arg("run")
        .env("SPOTTER__NODE__STATE_DIR", dir.path())
        .env("SPOTTER__DETECT__BACKEND", "fake")
        .env("SPOTTER__INGEST__LISTEN", address.to_string())
        .output()
        .unwrap();
    refused(&out, 69, &[&address.to_string(), "ingest.listen"]);
}

#[test]
fn an_unreachable_broker_does_not_stop_detection() {
    if !on_path("ffmpeg") {
        return skip("no ffmpeg; run ./setup.sh");
    }
    let port = support::free_port();
    let dir = tempfile::tempdir().unwrap();
    let (rtmp, websocket) = (support::free_port(), support::free_port());
    let mut service = Reaped::start(
        spotter()
            .args(["run", "--log", "info"])
            .env("SPOTTER__NODE__STATE_DIR", dir.path())
            .env("SPOTTER__DETECT__BACKEND", "fake")
            .env("SPOTTER__INGEST__LISTEN", format!("127.0.0.1:{rtmp}"))
            .env("SPOTTER__WEBSOCKET__LISTEN", format!("127.0.0.1:{websocket}"))
            .env("SPOTTER__WEB__LISTEN", "127.0.0.1:0")
            .env("SPOTTER__MQTT__BROKER", format!("mqtt://127.0.0.1:{port}")),
    );
    let until = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", websocket)).is_err() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
    let _publisher = test_pattern(&format!("rtmp://127.0.0.1:{rtmp}/live/a"));
    let mut socket = websocket_to(&format!("ws://127.0.0.1:{websocket}/live?stream=a"));
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < until, "no detections");
        if next_text(&mut socket).contains("\"detections\"") {
            break;
        }
    }
    service.terminate();
    assert!(service.wait(Duration::from_secs(30)).unwrap().success());
}

#[test]
fn a_changed_configuration_is_taken_and_a_bad_one_changes_nothing() {
    if !on_path("mosquitto_sub") {
        return skip("no mosquitto_sub; run ./setup.sh");
    }
    let service = Service::start("detect.backend = \"fake\"\n");
    let mosquitto = Mosquitto::subscribe(service.mqtt, "spotter/test/status");
    // Each state is awaited before the next change: a retained message only tells the newest.
    let wait_for_status = |text: &str| {
        let until = Instant::now() + Duration::from_secs(30);
        while !mosquitto.last("spotter/test/status").is_some_and(|s| s.contains(text)) {
            assert!(Instant::now() < until, "no {text}: {:?}", mosquitto.messages());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for_status("\"error\":null");
    let good = std::fs::read_to_string(&service.config).unwrap();
    let pid = service.process.0.id();
    std::fs::write(&service.config, format!("{good}detect.rate = 3\n")).unwrap();
    signal(pid, "HUP");
    wait_for_status("unknown field");
    assert!(service.log().contains("the old one stays in force"), "{}", service.log());
    std::fs::write(&service.config, format!("{good}detect.rate_hz = 3.0\n")).unwrap();
    signal(pid, "HUP");
    wait_for_status("\"error\":null");
    assert!(service.log().contains("configuration changed"), "{}", service.log());
    service.stop();
}

#[test]
fn one_publisher_killed_in_the_middle_comes_back_as_the_same_stream_and_others_go_on() {
    if !on_path("ffmpeg") || !on_path("mosquitto_sub") {
        return skip("no ffmpeg or mosquitto_sub; run ./setup.sh");
    }
    let service = Service::start("detect.backend = \"fake\"\n");
    let mosquitto = Mosquitto::subscribe(service.mqtt, "spotter/test/#");
    let _other = test_pattern(&service.url("b"));
    let count = |stream: &str| mosquitto.detections(stream).len();
    let wait = |stream: &str, more: usize| {
        let (from, until) = (count(stream), Instant::now() + Duration::from_secs(60));
        while count(stream) < from + more {
            assert!(Instant::now() < until, "{stream} stands still\n{}", service.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let first = test_pattern(&service.url("a"));
    wait("a", 10);
    drop(first); // killed: mid-frame as often as not
    let _second = test_pattern(&service.url("a"));
    wait("a", 10);
    wait("b", 5);
    let pts: Vec<i64> =
        mosquitto.detections("a").iter().map(|m| m["pts_ms"].as_i64().unwrap()).collect();
    assert!(pts.is_sorted_by(|a, b| a < b), "time went back: {pts:?}");
    let offline =
        mosquitto.messages().iter().any(|(t, p)| t.ends_with("/a/status") && p == "offline");
    assert!(!offline, "the stream was given up within the grace time");
    service.stop();
}

/// ffmpeg publishing a small test pattern for a minute, with an IDR a second.
fn test_pattern(url: &str) -> Reaped {
    let args = "-nostdin -v error -re -f lavfi -i testsrc=size=320x240:rate=15 -t 60 -c:v libx264 -preset ultrafast \
                -tune zerolatency -g 15 -f flv";
    Reaped::start(Command::new("ffmpeg").args(args.split_whitespace()).arg(url))
}

type Socket = tokio_tungstenite::tungstenite::WebSocket<std::net::TcpStream>;

fn websocket_to(url: &str) -> Socket {
    let address = url.trim_start_matches("ws://").split('/').next().unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    tokio_tungstenite::tungstenite::client(url, stream).unwrap().0
}

fn next_text(socket: &mut Socket) -> String {
    socket.read().unwrap().to_text().unwrap_or_default().to_owned()
}
