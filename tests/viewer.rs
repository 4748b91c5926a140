//! The viewer's page in a real Chromium: a person who opens it sees moving animals with boxes, and can use it.
//!
//! SPOTTER_VIEWER_SHOTS=docs/images keeps the screenshots that the documentation shows.
#![cfg(all(feature = "gst", feature = "tflite"))]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::line::Line;
use support::readers::judge;
use support::{Reaped, Service, clip, emulated, missing_parts, on_path, root, skip};

/// The clip's photographs change this often.
const PHOTO_MS: i64 = 5000;
/// The clip's length: it is published again and again.
const ROUND_MS: i64 = clip::PHOTOS.len() as i64 * PHOTO_MS;
/// Each round of ffmpeg's loop is a little longer than the pictures, as the sound is; and a busy browser leaves frames out.
const DRIFT_MS: i64 = 600;
/// How long a part of the browser's test may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// What the browser's test may ask for.
const ORDERS: [&str; 4] = ["restart ", "hold ", "lose ", "publish "];
const KEPT: [&str; 4] = ["viewer", "viewer-phone", "no-stream", "visits"];

fn absent() -> Option<String> {
    if emulated() {
        return Some("the browser's part is the same whatever spotter runs on".to_owned());
    }
    if !on_path("node") || !on_path("chromium") || !on_path("ffmpeg") {
        return Some("no node, chromium or ffmpeg; run ./setup.sh --test".to_owned());
    }
    if !root().join("tests/viewer/node_modules/playwright-core").exists() {
        return Some("no tests/viewer/node_modules; run ./setup.sh --test".to_owned());
    }
    missing_parts()
}

fn publish(service: &Service, file: &str, stream: &str) -> Reaped {
    publish_as(service, file, stream, &[])
}

fn publish_as(service: &Service, file: &str, stream: &str, how: &[&str]) -> Reaped {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.current_dir(root()).stdout(Stdio::null());
    ffmpeg.args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", file]);
    Reaped::start(ffmpeg.args(how).args(["-c", "copy", "-f", "flv", &service.url(stream)]))
}

/// Runs one part of tests/viewer/run.mjs to its end.
fn browse(service: &Service, out: &Path, part: &str) {
    let status = browser(service, service.web, out, part, Stdio::inherit()).wait(PATIENCE);
    assert!(
        status.is_some_and(|s| s.success()),
        "{part}: {status:?}, see above\n{}",
        service.log()
    );
}

/// Starts such a part at `port`, spotter's own or a line to it.
fn browser(service: &Service, port: u16, out: &Path, part: &str, stdout: Stdio) -> Reaped {
    let token = std::fs::read_to_string(service.dir.path().join("state/tokens.toml")).unwrap();
    let token = token.lines().find_map(|l| l.strip_prefix("secret = \"")?.strip_suffix('"'));
    browser_with(token.unwrap(), port, out, part, stdout)
}

fn browser_with(token: &str, port: u16, out: &Path, part: &str, stdout: Stdio) -> Reaped {
    let url = format!("http://127.0.0.1:{port}");
    let mut node = Command::new("node");
    node.current_dir(root()).arg("tests/viewer/run.mjs").arg(url).arg(out).arg(part);
    Reaped::start(node.arg(token).stdout(stdout))
}

/// The boxes that the page drew stand on the animals, and the picture changes when the clip's does.
fn boxes_stand_on_the_animals(out: &Path, transport: &str) {
    let text = std::fs::read(out.join(format!("drawn-{transport}.json"))).unwrap();
    let seen: Value = serde_json::from_slice(&text).unwrap();
    let mut drawn = seen["drawn"].as_array().unwrap().clone();
    let shown: Vec<_> = drawn.iter().filter_map(|f| f["pts_ms"].as_f64()).collect();
    for frame in &mut drawn {
        let pts = frame["pts_ms"].as_f64().unwrap().round() as i64;
        frame["pts_ms"] = pts.rem_euclid(ROUND_MS).into();
    }
    let tallies = judge(&drawn);
    // The same that MQTT and WebSocket must bring.
    for label in ["dog", "bird", "giraffe", "horse"] {
        let t = tallies.get(label).copied().unwrap_or_default();
        assert!(t.in_place > 0 && t.in_place * 2 >= t.found, "{transport}: {label} of {tallies:?}");
    }
    let cuts: Vec<_> = seen["cuts"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(!cuts.is_empty(), "{transport}: the picture never changed to another photograph");
    for cut in cuts {
        // What a busy browser left out before it may have held the change.
        let before = shown.iter().rev().find(|ms| **ms < cut).map_or(0.0, |ms| cut - ms);
        let late = (cut.round() as i64 + DRIFT_MS).rem_euclid(PHOTO_MS) - DRIFT_MS;
        assert!(
            late <= DRIFT_MS + before as i64,
            "{transport}: a photograph came at {cut} ms, {before} ms after the picture before"
        );
    }
}

/// Copies a screenshot with 200 colours: photographs make large PNGs.
fn keep(from: &Path, to: &Path) {
    let colours =
        "split[a][b];[a]palettegen=max_colors=200[p];[b][p]paletteuse=dither=bayer:bayer_scale=4";
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(from).args(["-vf", colours]).arg(to);
    assert!(ffmpeg.status().unwrap().success());
}

#[test]
fn a_person_sees_moving_animals_with_boxes() {
    if let Some(why) = absent() {
        return skip(&why);
    }
    let service = Service::start("");
    let out = service.dir.path().join("viewer");
    browse(&service, &out, "empty");
    let _bframes = publish(&service, "tests/data/ingest/bframes.flv", "bframes");
    let _clip = publish(&service, "demo/clip.mp4", "stream");
    browse(&service, &out, "live");
    for transport in ["mse", "whep"] {
        boxes_stand_on_the_animals(&out, transport);
    }
    if let Some(folder) = std::env::var_os("SPOTTER_VIEWER_SHOTS") {
        for name in KEPT {
            let file = format!("{name}.png");
            keep(&out.join(&file), &root().join(&folder).join(&file));
        }
    }
}

#[test]
fn the_owner_updates_the_box_and_chooses_its_wi_fi_on_the_page() {
    if let Some(why) = absent() {
        return skip(&why);
    }
    let run_dir = tempfile::tempdir().unwrap();
    // As the parts that run as root would have it.
    for (file, json) in [
        (
            "system.json",
            r#"{"version":"1.0.0","compatible":"spotter-test-board","booted":"A","slots":[]}"#,
        ),
        (
            "wifi-scan.json",
            r#"{"networks":[{"name":"far","signal_dbm":-80},{"name":"near","signal_dbm":-40,"secured":true}]}"#,
        ),
    ] {
        std::fs::write(run_dir.path().join(file), json).unwrap();
    }
    let service = Service::start(&format!(
        "[detect]\nbackend = \"fake\"\n[box]\nrun_dir = {:?}\n",
        run_dir.path()
    ));
    let added = support::spotter()
        .args(["token", "add", "anna", "--rights", "read", "--config"])
        .arg(&service.config)
        .output()
        .unwrap();
    let token = String::from_utf8(added.stdout).unwrap();
    let out = service.dir.path().join("viewer");
    let status =
        browser_with(token.trim(), service.web, &out, "box", Stdio::inherit()).wait(PATIENCE);
    assert!(status.is_some_and(|s| s.success()), "{status:?}, see above\n{}", service.log());
    let state = service.dir.path().join("state");
    let chosen = std::fs::read_to_string(state.join("wifi.toml")).unwrap();
    assert!(chosen.contains("barn") && chosen.contains("long enough"), "{chosen}");
    assert!(!service.log().contains("long enough"));
    assert_eq!(std::fs::read(state.join("update/bundle.raucb")).unwrap(), vec![7; 3_000_000]);
    assert!(state.join("update/request.json").exists());
}

#[test]
fn a_page_left_open_is_there_again_when_spotter_is() {
    if let Some(why) = absent() {
        return skip(&why);
    }
    let mut service = Service::start("");
    let mut clip = publish(&service, "demo/clip.mp4", "stream");
    let out = service.dir.path().join("viewer");
    obey(browser(&service, service.web, &out, "away", Stdio::piped()), |order| {
        assert_eq!(order, "restart spotter");
        service.restart(Duration::from_secs(3));
        clip = publish(&service, "demo/clip.mp4", "stream");
    });
    drop(clip);
}

#[test]
fn a_page_whose_network_stood_still_says_what_it_lost_and_goes_on() {
    if let Some(why) = absent() {
        return skip(&why);
    }
    let service = Service::start("detect.backend = \"fake\"\nweb.max_webrtc = 1\n");
    let mut clip = Some(publish(&service, "demo/clip.mp4", "stream"));
    let line = Line::to(service.web);
    let out = service.dir.path().join("viewer");
    obey(browser(&service, line.port, &out, "slow", Stdio::piped()), |order| {
        let (what, how) = order.split_once(' ').unwrap();
        let length = || Duration::from_millis(how.parse().unwrap());
        match what {
            "hold" => line.hold(length()),
            "lose" => line.lose(length()),
            _ => {
                drop(clip.take());
                // spotter believes in the sound that was there for two seconds more.
                std::thread::sleep(Duration::from_millis(2500));
                let silent: &[&str] = if how == "silent" { &["-an"] } else { &[] };
                clip = Some(publish_as(&service, "demo/clip.mp4", "stream", silent));
            }
        }
    });
}

/// Carries out what the browser's test asks for between its words; it must end well.
fn obey(mut node: Reaped, mut carry_out: impl FnMut(&str)) {
    for line in BufReader::new(node.0.stdout.take().unwrap()).lines().map_while(Result::ok) {
        match line.as_str() {
            order if ORDERS.iter().any(|o| order.starts_with(o)) => carry_out(order),
            said => println!("{said}"),
        }
    }
    let status = node.wait(PATIENCE);
    assert!(status.is_some_and(|s| s.success()), "{status:?}, see above");
}
