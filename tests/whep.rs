//! Live video over WebRTC with real parts: ffmpeg publishes, aiortc watches by WHEP and decodes.
#![cfg(feature = "gst")]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Reaped, Service, on_path, root, skip};

const OFFER: &str = include_str!("data/whep/chromium.sdp");
const SOON: Duration = Duration::from_secs(20);

fn missing() -> Option<String> {
    if !on_path("ffmpeg") {
        return Some("no ffmpeg; run ./setup.sh --test".into());
    }
    let has = |what: &str| {
        let python = root().join(".venv/bin/python");
        Command::new(python).args(["-c", what]).status().is_ok_and(|s| s.success())
    };
    let clip = root().join("demo/clip.mp4").exists();
    (!clip || !has("import aiortc")).then(|| "no clip or no aiortc; run ./setup.sh --test".into())
}

fn service(web: &str) -> Service {
    Service::start(&format!("detect.backend = \"fake\"\n{web}"))
}

/// Publishes the demo clip in real time, over and over, as it is or with other arguments.
fn publish(url: &str, codec: &[&str]) -> Reaped {
    let mut c = Command::new("ffmpeg");
    c.args(["-nostdin", "-v", "error", "-stream_loop", "-1", "-re", "-i", "demo/clip.mp4"]);
    c.args(codec).args(["-c:a", "copy", "-f", "flv", url]).current_dir(root());
    Reaped::start(&mut c)
}

/// A GOP a second, so that nobody waits long.
const PLAIN: [&str; 14] = [
    "-vf",
    "scale=640:360",
    "-c:v",
    "libx264",
    "-profile:v",
    "baseline",
    "-bf",
    "0",
    "-g",
    "30",
    "-preset",
    "ultrafast",
    "-pix_fmt",
    "yuv420p",
];
const B_FRAMES: [&str; 10] =
    ["-vf", "scale=320:180", "-c:v", "libx264", "-bf", "2", "-g", "30", "-preset", "veryfast"];

/// The aiortc viewer, and the lines it printed.
struct Viewer {
    process: Reaped,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Viewer {
    fn watch(service: &Service, stream: &str, more: &[&str]) -> Self {
        let url = format!("http://127.0.0.1:{}/whep/{stream}", service.web);
        let mut c = Command::new(root().join(".venv/bin/python"));
        c.args(["tests/whep_client.py", &url]).args(more).current_dir(root());
        let mut process = Reaped::start(c.stdout(Stdio::piped()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let out = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in out.map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { process, lines }
    }

    fn pictures(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|l| l.get("rtp").is_some()).cloned().collect()
    }
}

#[track_caller]
fn wait_for<T>(what: &str, service: &Service, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come\n{}", service.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Status and JSON or text of one HTTP request.
fn http(
    service: &Service,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> (u16, Value, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default(), head.to_owned())
}

fn offer(service: &Service, stream: &str, sdp: &str) -> (u16, Value, String) {
    http(service, "POST", &format!("/whep/{stream}"), "application/sdp", sdp)
}

/// Waits until the stream can be watched or is refused for what it is.
fn first_answer(service: &Service, stream: &str) -> (u16, Value, String) {
    wait_for("an answer", service, || {
        Some(offer(service, stream, OFFER)).filter(|a| !matches!(a.0, 404 | 409))
    })
}

fn location(head: &str) -> String {
    let line = head.lines().find_map(|l| l.strip_prefix("location: ")).unwrap();
    line.to_owned()
}

#[test]
fn a_viewer_sees_pictures_and_stays_over_a_reconnect() {
    if let Some(why) = missing() {
        return skip(&why);
    }
    let service = service("");
    let first = publish(&service.url("cam"), &PLAIN);
    first_answer(&service, "cam");
    let mut viewer = Viewer::watch(&service, "cam", &["--frames", "150", "--delete"]);
    wait_for("60 pictures", &service, || (viewer.pictures().len() >= 60).then_some(()));
    drop(first);
    let before = viewer.pictures().len();
    let _second = publish(&service.url("cam"), &PLAIN);
    wait_for("the rest", &service, || (viewer.pictures().len() >= 150).then_some(()));
    let status = viewer.process.wait(SOON);
    let pictures = viewer.pictures();
    assert!(status.is_some_and(|s| s.success()), "{status:?}\n{}", service.log());
    assert!(pictures.iter().all(|p| p["width"] == 640 && p["height"] == 360));
    let varied = pictures.iter().filter(|p| p["spread"].as_f64().unwrap() > 20.0).count();
    assert!(varied > 100, "{varied} of {} pictures show something", pictures.len());
    // RTP's time is the stream's: 90 ticks a millisecond from the stream's first unit, and never back.
    let times: Vec<_> = pictures.iter().map(|p| p["rtp"].as_i64().unwrap()).collect();
    assert!(times.iter().all(|t| t % 90 == 0), "{times:?}");
    assert!(times[0] < 60 * 90_000, "{times:?}");
    let steps: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps.iter().all(|s| *s > 0), "{steps:?}");
    let small = steps[..before - 1].iter().filter(|s| (32 * 90..=35 * 90).contains(*s)).count();
    assert!(small * 10 >= (before - 1) * 9, "{steps:?}");
    // The hole of the reconnect is the real time that passed.
    assert!(steps.iter().all(|s| *s < 15 * 90_000), "{steps:?}");
    let lines = viewer.lines.lock().unwrap();
    assert_eq!(lines.last().unwrap()["deleted"], 200, "{:?}", lines.last());
    drop(lines);
    service.stop();
}

#[test]
fn what_cannot_be_sent_is_refused_by_name() {
    if let Some(why) = missing() {
        return skip(&why);
    }
    let service = service("web.max_webrtc = 2\n");
    let code = |answer: &(u16, Value, String)| (answer.0, answer.1["error"]["code"].clone());
    assert_eq!(code(&offer(&service, "nobody", OFFER)), (404, "no_stream".into()));
    assert_eq!(code(&offer(&service, "no%2Fsuch", OFFER)), (400, "bad_stream_name".into()));
    assert_eq!(code(&offer(&service, "..%2f..%2fetc", OFFER)), (400, "bad_stream_name".into()));
    let _plain = publish(&service.url("plain"), &PLAIN);
    let _frames = publish(&service.url("bframes"), &B_FRAMES);
    let refused = wait_for("the refusal of B-frames", &service, || {
        Some(offer(&service, "bframes", OFFER)).filter(|a| a.0 == 406)
    });
    assert_eq!(code(&refused), (406, "b_frames".into()));
    // Two places: what was let in by now, B-frames not yet seen, leaves or waits for its end.
    let first = wait_for("a place", &service, || {
        Some(offer(&service, "plain", OFFER)).filter(|a| a.0 == 201)
    });
    for nonsense in ["", "v=0", "\u{1F980}", &OFFER[..900], &OFFER.replace("a=ice-ufrag", "a=x")] {
        let answer = offer(&service, "plain", nonsense);
        assert!(matches!(code(&answer).0, 400 | 503), "{nonsense:.60}: {answer:?}");
    }
    let path = location(&first.2);
    let frag = "application/trickle-ice-sdpfrag";
    let own = OFFER.lines().find(|l| l.starts_with("a=ice-ufrag")).unwrap();
    let candidate = "a=candidate:1 1 udp 1 198.51.100.1 9 typ host\r\n";
    let patch = |path: &str, kind: &str, body: &str| http(&service, "PATCH", path, kind, body).0;
    assert!(path.starts_with("/whep/plain/"), "{path}");
    assert_eq!(patch(&path, frag, &format!("{own}\r\n{candidate}")), 204);
    assert_eq!(patch(&path, frag, "a=ice-ufrag:other\r\n"), 422);
    assert_eq!(patch(&path, "text/plain", candidate), 415);
    assert_eq!(patch("/whep/plain/nobody", frag, candidate), 404);
    assert_eq!(patch(&path.replace("plain", "bframes"), frag, candidate), 404);
    let kind = http(&service, "POST", "/whep/plain", "text/plain", OFFER);
    assert_eq!(code(&kind), (415, "content_type".into()));
    let long = "a=x\r\n".repeat(100_000);
    assert_eq!(code(&offer(&service, "plain", &long)), (413, "too_long".into()));
    let codec = OFFER.replace("H264/90000", "H263/90000");
    let busy = wait_for("a full house", &service, || {
        Some(offer(&service, "plain", OFFER)).filter(|a| a.0 == 503)
    });
    assert_eq!(code(&busy), (503, "busy".into()));
    // Nobody of these completes ICE: after ten seconds the places are free again.
    wait_for("the end of those who never came", &service, || {
        (service.log().matches("no connection came about in time").count() >= 2).then_some(())
    });
    assert_eq!(code(&offer(&service, "plain", &codec)), (406, "codec".into()));
    assert_eq!(code(&offer(&service, "plain", "v=0")), (400, "bad_sdp".into()));
    let again = offer(&service, "plain", OFFER);
    assert_eq!(again.0, 201, "{again:?}");
    service.stop();
}
