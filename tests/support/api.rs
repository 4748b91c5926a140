//! The HTTP API as the tests ask it, a publisher of the demo clip, and ffprobe's judgement of what was recorded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Reaped, Service, on_path, root, spotter};

/// One HTTP exchange: status, head, body.
pub fn ask(
    service: &Service,
    method: &str,
    path: &str,
    head: &str,
    body: &str,
) -> (u16, String, Vec<u8>) {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (host, len) = (service.web, body.len());
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{host}\r\nConnection: close\r\nContent-Length: {len}\r\n{head}\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer.split_off(end))
}

pub fn get(service: &Service, path: &str) -> (u16, Vec<u8>) {
    let (status, _, body) = ask(service, "GET", path, "", "");
    (status, body)
}

pub fn json(service: &Service, path: &str) -> Value {
    for _ in 0..50 {
        let (status, body) = get(service, path);
        let body: Value = serde_json::from_slice(&body).unwrap();
        let waits = body["error"]["message"].as_str().is_some_and(|m| m.contains("starting"));
        if body["error"]["code"] != "starting" && !waits {
            assert_eq!(status, 200, "{path}: {body}");
            return body;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{path} is never ready\n{}", service.log());
}

pub fn publish(service: &Service, stream: &str) -> Reaped {
    Reaped::start(
        Command::new("ffmpeg")
            .current_dir(root())
            .args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"])
            .args(["-c", "copy", "-f", "flv", &service.url(stream)])
            .stdout(Stdio::null()),
    )
}

/// A visit of some seconds after the other: a publisher that comes and goes until it is told to stop.
pub struct Visitor {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Visitor {
    pub fn come(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut ffmpeg = Reaped::start(
                    Command::new("ffmpeg")
                        .current_dir(root())
                        .args(["-nostdin", "-v", "quiet", "-re", "-i", "demo/clip.mp4", "-t", "3"])
                        .args(["-c", "copy", "-f", "flv", &url])
                        .stdout(Stdio::null()),
                );
                while !stopped.load(Ordering::Relaxed) && ffmpeg.0.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                std::thread::sleep(Duration::from_millis(1200));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

#[track_caller]
pub fn until(service: &Service, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < end, "waited too long for: {what}\n{}", service.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn storage(service: &Service) -> Value {
    json(service, "/api/v1/status")["storage"].clone()
}

pub fn counted(service: &Service, group: &str, name: &str) -> u64 {
    json(service, "/api/v1/stats")["counters"][group][name].as_u64().unwrap()
}

pub fn frames_detected(service: &Service) -> u64 {
    let stats = json(service, "/api/v1/stats");
    stats["streams"][0]["counters"]["frames_detected"].as_u64().unwrap_or(0)
}

pub fn detection_goes_on(service: &Service) {
    let before = frames_detected(service);
    until(service, "detection", || frames_detected(service) > before);
}

pub fn missing() -> Option<&'static str> {
    if !on_path("ffmpeg") || !on_path("ffprobe") {
        return Some("no ffmpeg; run ./setup.sh --test");
    }
    (!root().join("demo/clip.mp4").exists()).then_some("no demo/clip.mp4; run ./setup.sh --test")
}

/// What ffprobe makes of a file: seconds from the first picture to the last, and pictures. It must begin with a key frame.
pub fn probe(file: &Path) -> (f64, usize) {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_entries", "packet=pts_time,flags"])
        .args(["-of", "csv=p=0"])
        .arg(file)
        .output()
        .unwrap();
    let (said, text) = (String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    assert!(out.status.success() && said.is_empty(), "{}: {said}", file.display());
    let mut times = Vec::new();
    for line in text.lines() {
        let (time, flags) = line.split_once(',').unwrap();
        assert!(!times.is_empty() || flags.starts_with('K'), "begins without a key frame: {line}");
        times.push(time.parse::<f64>().unwrap());
    }
    assert!(!times.is_empty(), "{} is empty", file.display());
    (times[times.len() - 1] - times[0], times.len())
}

/// Whether every picture of a file can be decoded.
pub fn decodes(file: &Path) {
    let out = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-xerror", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{}: {said}", file.display());
}

pub fn mp4s(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(mp4s(&path));
        } else if path.extension().is_some_and(|e| e == "mp4") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Sees a dog in every picture; a visit is over soon after the pictures end.
pub const FAKE: &str =
    "[detect]\nbackend = \"fake\"\n[decode]\nbackend = \"fake\"\n[events]\nlost_after_s = 1.0\n";

/// Ends the service as a loss of power would, and starts it again on what is left.
pub fn crash(service: &mut Service) {
    kill(service);
    start_again(service);
    until(service, "storage", || storage(service)["state"] == "ok");
}

/// Ends the service as a loss of power would.
pub fn kill(service: &mut Service) {
    service.process.0.kill().unwrap();
    service.process.0.wait().unwrap();
}

/// Starts the service anew on what the last one left.
pub fn start_again(service: &mut Service) {
    service.process = Reaped::start(
        spotter().args(["run", "--config"]).arg(&service.config).stderr(Stdio::null()),
    );
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", service.web)).is_err() {
        assert!(Instant::now() < end, "it does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
}
