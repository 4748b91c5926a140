//! A delegate that never returns: given up in time, its thread left behind and counted, never more than a few; and what the
//! whole service makes of it. By itself, because what hangs here hangs until the process ends.

#![allow(clippy::unwrap_used)]
#![cfg(feature = "tflite")]

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use delegate::{Bench, red};
use spotter::decode::Picture;
use spotter::detect::{AcceleratorUse, Limits, Paths, open, threads_left_behind};
use tokio_tungstenite::tungstenite;

#[test]
fn what_hangs_is_left_behind_and_there_is_a_bound() {
    let bench = match Bench::new() {
        Ok(bench) => bench,
        Err(why) => return support::skip(&why),
    };
    // Long waits between tries, so that each opening here is one try.
    let limits = Limits {
        open: Duration::from_secs(2),
        retry: Duration::from_secs(600),
        ..Limits::default()
    };
    let paths = Paths { limits, ..Paths::new("/nonexistent") };

    // At the first picture: opening runs it once and tests it once.
    let mut detector = open(&bench.settings(&[("hang_at", "3")]), &paths).unwrap();
    assert_eq!((detector.info().backend.as_str(), threads_left_behind()), ("tflite-delegate", 0));
    let began = Instant::now();
    assert_eq!(detector.detect(&red().view()).unwrap().len(), 1, "the CPU takes over");
    assert!(began.elapsed() >= limits.run);
    let state = detector.info().accelerators[0].clone();
    assert_eq!(state.state, AcceleratorUse::Dropped);
    let reason = state.reason.unwrap();
    assert!(reason.contains("within 2.0 s") && reason.contains("cable"), "{reason}");
    assert_eq!(threads_left_behind(), 1);
    assert_eq!(detector.detect(&red().view()).unwrap().len(), 1);

    // While it is being opened.
    let mut other = open(&bench.settings(&[("hang_in", "create")]), &paths).unwrap();
    assert_eq!(other.detect(&red().view()).unwrap().len(), 1);
    assert!(other.info().refusals[0].contains("of being opened"), "{:?}", other.info());
    assert_eq!(threads_left_behind(), 2);

    // When it should let go: whoever closes the detector waits no longer than for a picture.
    let held = open(&bench.settings(&[("hang_in", "destroy")]), &paths).unwrap();
    assert_eq!(held.info().backend, "tflite-delegate");
    let began = Instant::now();
    drop(held);
    assert!(began.elapsed() >= limits.run);
    assert_eq!(threads_left_behind(), 3);

    // No more of them, even of one that would work.
    let mut enough = open(&bench.settings(&[]), &paths).unwrap();
    assert_eq!(enough.info().backend, "tflite-xnnpack");
    assert!(enough.info().refusals[0].contains("3 threads hang"), "{:?}", enough.info());
    assert_eq!(enough.detect(&red().view()).unwrap().len(), 1);
    assert_eq!(threads_left_behind(), 3);
}

/// The same in the service, with the default model: pictures go on being answered, the status says what happened and what to
/// do, the accelerator is taken up again when it works, and the service ends in good order although a thread of it hangs.
#[test]
fn the_service_outlives_a_delegate_that_hangs() {
    let bench = match Bench::new() {
        Ok(bench) => bench,
        Err(why) => return support::skip(&why),
    };
    if let Some(why) = support::missing_parts() {
        return support::skip(&why);
    }
    if support::emulated() {
        return support::skip(
            "the test delegate is built for this machine, not for the emulated one",
        );
    }
    let broken = bench.place("broken");
    fs::write(&broken, "").unwrap();
    // Opening runs it once and tests it once, the start tests it once more: it hangs at the first picture.
    let service = support::Service::start(&format!(
        "[detect.delegate]\npath = {:?}\noptions = {{ hang_at = \"4\", only_while = {broken:?} }}\n",
        bench.delegate
    ));
    let status = || support::api::json(&service, "/api/v1/status");
    let accelerator = || status()["detector"]["accelerators"][0].clone();
    assert_eq!(accelerator()["state"], "in_use", "{}", status());

    let stream = TcpStream::connect(("127.0.0.1", service.websocket)).unwrap();
    let (mut websocket, _) = tungstenite::client("ws://127.0.0.1/", stream).unwrap();
    let mut ask = || -> serde_json::Value {
        let picture = include_bytes!("../src/detect/self-test.jpg");
        websocket.send(tungstenite::Message::Binary(picture.as_slice().into())).unwrap();
        serde_json::from_str(websocket.read().unwrap().to_text().unwrap()).unwrap()
    };
    let mut a_cat = || {
        let answer = ask();
        let found = answer["data"]["detections"].as_array().unwrap();
        assert!(found.iter().any(|d| d["class_name"] == "cat"), "{answer}");
    };
    a_cat();
    let patience = Instant::now() + Duration::from_secs(60);
    let until = |state: &str, a_cat: &mut dyn FnMut()| {
        while accelerator()["state"] != state {
            assert!(Instant::now() < patience, "{}\n{}", status(), service.log());
            a_cat();
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    until("dropped", &mut a_cat);
    let now = status();
    let detector = &now["detector"];
    assert_eq!(detector["backend"], "tflite-xnnpack", "{now}");
    let told = detector["refusals"][0].as_str().unwrap();
    for part in ["did not answer within 2.0 s", "cable", "test 1.2.3", "TensorFlow Lite 2."] {
        assert!(told.contains(part), "{told}");
    }
    // Statistics are taken every few seconds.
    let left = || {
        support::api::json(&service, "/api/v1/stats")["counters"]["detector"]["threads_left_behind"]
            .clone()
    };
    while left() != 1 {
        assert!(Instant::now() < patience, "{}", service.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    // Plugged in again.
    fs::remove_file(&broken).unwrap();
    until("in_use", &mut a_cat);
    a_cat();
    assert_eq!(status()["detector"]["backend"], "tflite-delegate");
    service.stop();
}
