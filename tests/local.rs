//! What hangs on the machine, in the running service: the privacy pause by API, MQTT and button, cameras made of files,
//! pins made of files. Real kernel lines and cameras are tried by the image's boot test.
#![cfg(feature = "gst")]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Reaped, Service, missing_parts, on_path, root, skip, spotter};

const FAKES: &str =
    "decode.backend = \"fake\"\ndetect.backend = \"fake\"\ningest.reconnect_grace_s = 2\n";

fn ask(service: &Service, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (host, len) = (service.web, body.len());
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn get(service: &Service, path: &str) -> Value {
    ask(service, "GET", path, "").1
}

#[track_caller]
fn until(service: &Service, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(180);
    while !holds() {
        let status = get(service, "/api/v1/status");
        assert!(Instant::now() < end, "waited too long for: {what}\n{status}\n{}", service.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn streams(service: &Service) -> Vec<String> {
    let all = get(service, "/api/v1/streams");
    let named = |s: &Value| s["stream"].as_str().unwrap().to_owned();
    all["streams"].as_array().into_iter().flatten().map(named).collect()
}

fn source(service: &Service) -> Value {
    get(service, "/api/v1/status")["sources"][0].clone()
}

fn publish(service: &Service) -> Reaped {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null());
    ffmpeg.args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"]);
    Reaped::start(ffmpeg.args(["-c", "copy", "-f", "flv", &service.url("glasses")]))
}

fn mqtt_state(service: &Service) -> String {
    let topic = "spotter/test/pause/state";
    let port = service.mqtt.to_string();
    let out = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-C", "1", "-W", "10"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn a_pause_sends_everyone_away_and_is_told_everywhere() {
    if !on_path("ffmpeg") || !on_path("mosquitto_sub") || !root().join("demo/clip.mp4").exists() {
        return skip("no ffmpeg, mosquitto_sub or demo/clip.mp4; run ./setup.sh --test");
    }
    let service = Service::start_with(|dir| {
        std::fs::create_dir(dir.join("chip")).unwrap();
        std::fs::write(dir.join("chip/3"), "1").unwrap();
        let chip = dir.join("chip").display().to_string();
        format!(
            "{FAKES}record.mode = \"continuous\"\nrecord.keep_free_bytes = 0\n[gpio]\nbackend = \"fake\"\nboard_file = \"\"\n\
             [gpio.led]\nchip = {chip:?}\nline = 17\n[gpio.button]\nchip = {chip:?}\nline = 3\nlong_press_s = 1\n\
             [[gpio.output]]\nname = \"bell\"\nchip = {chip:?}\nline = 4\nlabels = [\"dog\"]\n\
             [[gpio.output]]\nname = \"lost\"\nchip = \"/nowhere\"\nline = 1\n"
        )
    });
    let wire = |line: &str| {
        std::fs::read_to_string(service.dir.path().join("chip").join(line)).unwrap_or_default()
    };
    let mut ffmpeg = publish(&service);
    until(&service, "the stream", || streams(&service) == ["glasses"]);
    // The fake detector sees a dog in every picture: the bell follows it. A pin that is not there is said and harms nobody.
    until(&service, "the bell", || wire("4") == "1");
    let pins = get(&service, "/api/v1/status")["pins"].clone();
    assert!(pins[3]["error"].as_str().unwrap().contains("there is no chip /nowhere"), "{pins}");
    assert!(pins[0]["error"].is_null() && pins[1]["error"].is_null(), "{pins}");
    assert_eq!(mqtt_state(&service), "OFF");

    let (status, answer) = ask(&service, "PUT", "/api/v1/pause", r#"{"paused":true}"#);
    assert_eq!((status, &answer["paused"], &answer["by"]), (200, &true.into(), &"http".into()));
    // At once, grace time or not.
    assert!(streams(&service).is_empty());
    assert!(ffmpeg.wait(Duration::from_secs(30)).is_some(), "the publisher was not sent away");
    until(&service, "the bell's end", || wire("4") == "0");
    until(&service, "the status", || !get(&service, "/api/v1/status")["pause"].is_null());
    assert_eq!(mqtt_state(&service), "ON");
    let mut refused = publish(&service);
    let ended = refused.wait(Duration::from_secs(30)).expect("a publisher was let in");
    assert!(!ended.success() && streams(&service).is_empty());
    assert!(service.log().contains("spotter is paused for privacy"), "{}", service.log());
    // The end of what was recorded is the pause's beginning.
    let files =
        |dir: &Path| walk(dir).into_iter().map(|p| p.metadata().unwrap().len()).sum::<u64>();
    let recordings = service.dir.path().join("state/recordings");
    std::thread::sleep(Duration::from_secs(2));
    let recorded = files(&recordings);
    std::thread::sleep(Duration::from_secs(2));
    assert!(recorded > 0 && files(&recordings) == recorded);

    let port = service.mqtt.to_string();
    let mut say = Command::new("mosquitto_pub");
    say.args(["-h", "127.0.0.1", "-p", &port, "-t", "spotter/test/pause/set", "-m", "OFF"]);
    assert!(say.status().unwrap().success());
    until(&service, "the end by MQTT", || get(&service, "/api/v1/pause")["paused"] == false);
    let _again = publish(&service);
    until(&service, "the stream again", || streams(&service) == ["glasses"]);

    // The button does the same, and held for long it makes a new owner token.
    let button = service.dir.path().join("chip/3");
    std::fs::write(&button, "0").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&button, "1").unwrap();
    until(&service, "a pause by the button", || get(&service, "/api/v1/pause")["by"] == "button");
    let tokens = service.dir.path().join("state/tokens.toml");
    let before = std::fs::read_to_string(&tokens).unwrap();
    std::fs::write(&button, "0").unwrap();
    until(&service, "a new token", || std::fs::read_to_string(&tokens).unwrap() != before);
    std::fs::write(&button, "1").unwrap();
    until(&service, "the new token's URL", || {
        service.log().contains("new owner token, shown once")
    });
    // A long press ends no pause.
    assert_eq!(get(&service, "/api/v1/pause")["paused"], true);

    let (status, _) = ask(&service, "PUT", "/api/v1/pause", r#"{"paused":1}"#);
    assert_eq!(status, 400);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[test]
fn a_pause_outlives_a_crash() {
    let service = Service::start(FAKES);
    ask(&service, "PUT", "/api/v1/pause", r#"{"paused":true}"#);
    let Service { mut process, dir, config, web, rtmp, websocket, mqtt, .. } = service;
    support::signal(process.0.id(), "KILL");
    process.wait(Duration::from_secs(10));
    let mut again =
        Reaped::start(spotter().args(["run", "--config"]).arg(&config).stderr(Stdio::null()));
    let end = Instant::now() + Duration::from_secs(60);
    let up = |p: &u16| TcpStream::connect(("127.0.0.1", *p)).is_ok();
    while ![rtmp, websocket, mqtt, web].iter().all(up) {
        assert!(Instant::now() < end && again.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(dir.path().join("state/pause.json").exists());
    let mut socket = TcpStream::connect(("127.0.0.1", web)).unwrap();
    write!(
        socket,
        "GET /api/v1/pause HTTP/1.1\r\nHost: 127.0.0.1:{web}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"paused\":true"), "{answer}");
}

#[test]
fn a_camera_is_a_stream_like_any_other_and_may_be_unplugged() {
    if !on_path("ffprobe") || !root().join("demo/photos/dog.jpg").exists() {
        return skip("no ffprobe or demo/photos; run ./setup.sh --test");
    }
    let photo = root().join("demo/photos/dog.jpg");
    let camera = |dir: &Path| dir.join("camera.jpg");
    let service = Service::start_with(|dir| {
        format!(
            "decode.backend = \"gst\"\ndetect.backend = \"fake\"\n[[source]]\nstream = \"porch\"\nbackend = \"fake\"\n\
             device = {:?}\nwidth = 640\nheight = 360\nrate_hz = 15\n",
            camera(dir)
        )
    });
    until(&service, "that it is absent", || source(&service)["state"] == "absent");
    let error = source(&service)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("plug it in"), "{error}");
    std::fs::copy(&photo, camera(service.dir.path())).unwrap();
    until(&service, "that it is live", || source(&service)["state"] == "live");
    until(&service, "detections", || {
        get(&service, "/api/v1/stats")["streams"][0]["counters"]["frames_detected"].as_u64()
            > Some(20)
    });
    let live = source(&service);
    assert_eq!(live["format"], "YUYV 640x360 at 15/s");
    assert!(live["encoder"].is_string() && live["error"].is_null(), "{live}");
    // A reader gets H.264 of that size at that rate.
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0"])
        .arg(service.url("porch"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&probed.stdout).trim(), "h264,640,360", "{}", service.log());

    // Unplugged: the stream waits for it as for any publisher; plugged in again it goes on.
    std::fs::remove_file(camera(service.dir.path())).unwrap();
    until(&service, "that it is unplugged", || source(&service)["state"] == "absent");
    std::fs::copy(&photo, camera(service.dir.path())).unwrap();
    until(&service, "that it is back", || source(&service)["state"] == "live");
    assert_eq!(streams(&service), ["porch"]);

    // A pause closes it; a changed configuration ends it, a wrong one is said and ends nothing.
    ask(&service, "PUT", "/api/v1/pause", r#"{"paused":true}"#);
    until(&service, "that it is paused", || source(&service)["state"] == "paused");
    assert!(streams(&service).is_empty());
    ask(&service, "PUT", "/api/v1/pause", r#"{"paused":false}"#);
    until(&service, "that it goes on", || source(&service)["state"] == "live");
    let text = std::fs::read_to_string(&service.config).unwrap();
    std::fs::write(
        &service.config,
        text.replace("rate_hz = 15", "rate_hz = 5\nformat = \"mjpeg\""),
    )
    .unwrap();
    until(&service, "the new format", || source(&service)["format"] == "MJPG 640x360 at 5/s");
    std::fs::write(&service.config, text.replace("rate_hz = 15", "format = \"h264\"")).unwrap();
    until(&service, "that it cannot", || source(&service)["state"] == "failed");
    assert!(source(&service)["error"].as_str().unwrap().contains("does not give H264"));
    std::fs::write(&service.config, text.split("[[source]]").next().unwrap()).unwrap();
    until(&service, "that it is gone", || source(&service).is_null());
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

/// The dog's photograph as a camera of its own, small and slow: many run at once.
fn still(dir: &Path, format: &str) -> String {
    let photo = dir.join(format!("{format}.jpg"));
    std::fs::copy(root().join("demo/photos/dog.jpg"), &photo).unwrap();
    let encoder = if format == "nv12" { "openh264enc" } else { "x264enc" };
    format!(
        "[[source]]\nstream = \"{format}\"\nbackend = \"fake\"\ndevice = {photo:?}\nformat = \"{format}\"\n\
         width = 480\nheight = 360\nrate_hz = 3\nencoder = [\"{encoder}\"]\n"
    )
}

#[test]
fn a_camera_that_gives_h264_is_passed_on_as_it_is_and_animals_are_found() {
    if !on_path("ffmpeg") {
        return skip("no ffmpeg; run ./setup.sh --test");
    }
    if let Some(why) = missing_parts() {
        return skip(&why);
    }
    let service = Service::start_with(|dir| {
        let file = dir.join("camera.h264");
        let cut = Command::new("ffmpeg")
            .current_dir(root())
            .args([
                "-nostdin",
                "-v",
                "error",
                "-i",
                "demo/clip.mp4",
                "-an",
                "-c",
                "copy",
                "-bsf",
                "h264_mp4toannexb",
            ])
            .arg(&file)
            .status();
        assert!(cut.unwrap().success());
        format!(
            // However slow the machine is, three sightings make a dog.
            "[events]\nwithin_s = 60\nlost_after_s = 60\n[[source]]\nstream = \"csi\"\nbackend = \"fake\"\ndevice = {file:?}\nrate_hz = 24\n"
        ) + &["mjpeg", "yuyv", "uyvy", "nv12", "i420"].map(|format| still(dir, format)).concat()
    });
    let found = |stream: &str| {
        let all = get(&service, "/api/v1/stats");
        let streams = all["streams"].as_array().cloned().unwrap_or_default();
        let mine = streams.into_iter().find(|s| s["stream"] == stream).unwrap_or_default();
        (mine["counters"]["animals"].as_u64(), mine["counters"]["gaps"].as_u64())
    };
    until(&service, "animals from H.264", || found("csi").0 > Some(1));
    // And through each format, our own encoders and a decoder again: the real dog.
    for format in ["mjpeg", "yuyv", "uyvy", "nv12", "i420"] {
        until(&service, format, || found(format).0 > Some(0));
        assert_eq!(found(format).1, Some(0));
        let visits = || get(&service, &format!("/api/v1/events?stream={format}&limit=9"));
        let named = |v: &Value| v.to_string().contains("\"dog\"");
        until(&service, format, || named(&visits()));
    }
    assert_eq!(found("csi").1, Some(0));
    let status = get(&service, "/api/v1/status");
    assert!(status["sources"][0]["encoder"].is_null(), "{status}");
}

/// A chip that the kernel simulates (gpio-sim, Linux 5.17): two lines whose other end is in our hands.
struct SimChip {
    config: std::path::PathBuf,
    lines: std::path::PathBuf,
}

impl SimChip {
    fn new() -> Result<Self, String> {
        let _ = Command::new("modprobe").arg("gpio-sim").stderr(Stdio::null()).status();
        let root = Path::new("/sys/kernel/config/gpio-sim");
        if !root.is_dir() {
            return Err("this kernel has no gpio-sim in /sys/kernel/config".into());
        }
        let config = root.join(format!("spotter-{}", std::process::id()));
        let make = || -> std::io::Result<Self> {
            for (line, name) in [(1, "SIM-LED"), (3, "SIM-BUTTON")] {
                let line = config.join(format!("bank0/line{line}"));
                std::fs::create_dir_all(&line)?;
                std::fs::write(line.join("name"), name)?;
            }
            std::fs::write(config.join("bank0/num_lines"), "8")?;
            std::fs::write(config.join("live"), "1")?;
            let read = |file: &str| std::fs::read_to_string(config.join(file));
            let (device, chip) = (read("dev_name")?, read("bank0/chip_name")?);
            let lines = Path::new("/sys/devices/platform").join(device.trim()).join(chip.trim());
            Ok(Self { config: config.clone(), lines })
        };
        make().map_err(|e| format!("gpio-sim cannot be set up (it takes root): {e}"))
    }

    fn pull(&self, line: u32, pull: &str) {
        std::fs::write(self.lines.join(format!("sim_gpio{line}/pull")), pull).unwrap();
    }

    fn value(&self, line: u32) -> String {
        let file = self.lines.join(format!("sim_gpio{line}/value"));
        std::fs::read_to_string(file).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for SimChip {
    fn drop(&mut self) {
        let _ = std::fs::write(self.config.join("live"), "0");
        for dir in ["bank0/line1", "bank0/line3", "bank0", ""] {
            let _ = std::fs::remove_dir(self.config.join(dir));
        }
    }
}

#[test]
fn lines_of_the_kernel_are_driven() {
    let chip = match SimChip::new() {
        Ok(chip) => chip,
        Err(why) => return skip(&why),
    };
    chip.pull(3, "pull-up");
    let service = Service::start(&format!(
        "{FAKES}[gpio]\nboard_file = \"\"\n[gpio.led]\nline = \"SIM-LED\"\n\
         [gpio.button]\nline = \"SIM-BUTTON\"\npull = \"none\"\n"
    ));
    let pins = || get(&service, "/api/v1/status")["pins"].clone();
    until(&service, "both lines", || {
        pins()[0]["found"].is_string() && pins()[1]["found"].is_string()
    });
    let mut seen = std::collections::BTreeSet::new();
    until(&service, "the lamp on and off", || {
        seen.insert(chip.value(1));
        seen.len() == 2
    });
    chip.pull(3, "pull-down");
    std::thread::sleep(Duration::from_millis(300));
    chip.pull(3, "pull-up");
    until(&service, "the pause", || get(&service, "/api/v1/pause")["by"] == "button");
}

/// Any virtual camera of the kernel's `vivid`; a real one is left alone.
fn vivid() -> Option<String> {
    let _ = Command::new("modprobe")
        .args(["vivid", "n_devs=1", "node_types=0x1"])
        .stderr(Stdio::null())
        .status();
    let class = std::fs::read_dir("/sys/class/video4linux").ok()?.flatten().map(|e| e.path());
    let name = |path: &Path| std::fs::read_to_string(path.join("name")).unwrap_or_default();
    let mut mine = class.filter(|p| name(p).starts_with("vivid") && name(p).contains("vid-cap"));
    mine.next().map(|path| name(&path).trim().to_owned())
}

#[test]
fn a_camera_of_the_kernel_is_a_stream() {
    let Some(name) = vivid() else {
        return skip("this kernel has no vivid, its virtual camera");
    };
    let service = Service::start(&format!(
        "detect.backend = \"fake\"\n[[source]]\nstream = \"vivid\"\ndevice = {name:?}\nwidth = 640\nheight = 360\nrate_hz = 10\n"
    ));
    for format in ["auto", "yuyv", "uyvy", "nv12", "i420"] {
        let text = std::fs::read_to_string(&service.config).unwrap();
        let base = text.split("format =").next().unwrap();
        std::fs::write(&service.config, format!("{base}format = \"{format}\"\n")).unwrap();
        let detected = || {
            let all = get(&service, "/api/v1/stats");
            all["streams"][0]["counters"]["frames_detected"].as_u64().unwrap_or(0)
        };
        until(&service, format, || source(&service)["state"] == "live");
        let before = detected();
        until(&service, format, || detected() > before + 10);
    }
}
