//! What a service manager hears of spotter by sd_notify(3), on a real socket: ready, status, signs of life, stopping.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use support::{Reaped, free_port, spotter};
use tokio_tungstenite::tungstenite;

/// The manager's end of the socket, and the spotter it started.
struct Managed {
    socket: UnixDatagram,
    process: Reaped,
    websocket: u16,
    web: u16,
    #[allow(dead_code)] // what is in it is needed to the end, whoever looks
    dir: tempfile::TempDir,
}

const FAKES: &str = "decode.backend = \"fake\"\ndetect.backend = \"fake\"\n";
const WATCHDOG: Duration = Duration::from_millis(1600);

impl Managed {
    fn start(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let [rtmp, websocket, mqtt, web] = [(); 4].map(|()| free_port());
        let config = dir.path().join("spotter.toml");
        let text = format!(
            "node.state_dir = {:?}\ningest.listen = \"127.0.0.1:{rtmp}\"\nwebsocket.listen = \"127.0.0.1:{websocket}\"\n\
             mqtt.listen = \"127.0.0.1:{mqtt}\"\nweb.listen = \"127.0.0.1:{web}\"\n{extra}",
            dir.path().join("state")
        );
        std::fs::write(&config, text).unwrap();
        let mut command = spotter();
        let log = File::create(dir.path().join("log")).unwrap();
        command.arg("run").arg("--config").arg(&config).stderr(log);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let process = Reaped::start(command.env_remove("WATCHDOG_PID"));
        Self { socket, process, websocket, web, dir }
    }

    /// The lines of the next message, if one comes in time.
    fn next(&self, within: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 4096];
        let read = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).lines().map(str::to_owned).collect())
    }

    /// Reads on until a line begins with `start`; what was heard up to there.
    fn until(&self, start: &str) -> Vec<String> {
        let patience = Duration::from_secs(if support::emulated() { 180 } else { 60 });
        let (end, mut heard) = (Instant::now() + patience, Vec::new());
        while let Some(lines) = self.next(end.saturating_duration_since(Instant::now())) {
            let found = lines.iter().any(|l| l.starts_with(start));
            heard.extend(lines);
            if found {
                return heard;
            }
        }
        panic!("no {start} in {patience:?}, only {heard:?}");
    }

    /// Signs of life that come in the time given.
    fn beats(&self, within: Duration) -> usize {
        let (end, mut beats) = (Instant::now() + within, 0);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(lines) = (!left.is_zero()).then(|| self.next(left)).flatten() else {
                return beats;
            };
            beats += lines.iter().filter(|l| *l == "WATCHDOG=1").count();
        }
    }

    /// The answer to `GET /readyz`, head and body.
    fn readyz(&self) -> String {
        let mut to = TcpStream::connect(("127.0.0.1", self.web)).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        to.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        to.read_to_string(&mut said).unwrap();
        said
    }
}

#[test]
fn ready_alive_while_idle_and_stopping_are_told() {
    let mut managed = Managed::start(FAKES);
    let before = managed.until("READY=1");
    let status = before.iter().find(|l| l.starts_with("STATUS=")).unwrap();
    assert!(status.contains("waiting for a stream at rtmp://127.0.0.1:"), "{status}");
    let said = managed.readyz();
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"ready\":true"), "{said}");
    // Nothing to do for longer than the watchdog waits: that is no reason to be restarted.
    assert!(managed.beats(WATCHDOG * 2) >= 4);
    managed.process.terminate();
    managed.until("STOPPING=1");
    assert!(managed.process.wait(Duration::from_secs(20)).is_some_and(|s| s.success()));
}

#[test]
fn a_detector_that_hangs_is_no_sign_of_life() {
    let managed = Managed::start(&format!("{FAKES}detect.model = \"hang\"\n"));
    managed.until("READY=1");
    assert!(managed.beats(WATCHDOG) >= 2);
    let stream = TcpStream::connect(("127.0.0.1", managed.websocket)).unwrap();
    let (mut websocket, _) = tungstenite::client("ws://127.0.0.1/", stream).unwrap();
    let picture = include_bytes!("../src/detect/self-test.jpg");
    websocket.send(tungstenite::Message::Binary(picture.as_slice().into())).unwrap();
    let heard = managed.until("STATUS=");
    assert!(heard.iter().any(|l| l.contains("the detector hangs")), "{heard:?}");
    assert_eq!(managed.beats(WATCHDOG * 2), 0, "the service manager would not restart it");
    let said = managed.readyz();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("the detector hangs"), "{said}");
}

#[cfg(feature = "tflite")]
#[test]
fn every_model_finds_the_cat_before_it_is_ready() {
    if let Some(why) = support::missing_parts() {
        return support::skip(&why);
    }
    for model in ["yolov4-tiny-416", "picodet-s-416", "picodet-s-320"] {
        // Dogs only, and only the surest ones: what the owner wants to know does not touch the self-test.
        let extra =
            "decode.backend = \"fake\"\n[detect]\nanimals = [\"dog\"]\nmin_confidence = 0.99\n";
        let managed = Managed::start(&format!("{extra}model = \"{model}\"\n"));
        managed.until("READY=1");
    }
}

#[cfg(feature = "tflite")]
#[test]
fn a_model_that_does_not_see_the_cat_never_gets_ready() {
    if let Some(why) = support::missing_parts() {
        return support::skip(&why);
    }
    // The right model under the labels of another: it sees, and misnames.
    let dir = tempfile::tempdir().unwrap();
    let models = support::root().join("models");
    let labels = std::fs::read_to_string(models.join("coco.txt")).unwrap();
    let turned: Vec<_> = labels.lines().skip(1).chain(labels.lines().take(1)).collect();
    std::fs::write(dir.path().join("coco.txt"), turned.join("\n")).unwrap();
    for file in ["yolov4-tiny-416.toml", "yolov4-tiny-416.tflite"] {
        std::fs::copy(models.join(file), dir.path().join(file)).unwrap();
    }
    let mut managed = Managed::start(&format!(
        "[detect]\nmodel_dir = {:?}\nmodel = \"yolov4-tiny-416\"\n",
        dir.path()
    ));
    let patience = Duration::from_secs(if support::emulated() { 180 } else { 60 });
    let ended = managed.process.wait(patience).unwrap();
    assert_eq!(ended.code(), Some(78));
    assert_eq!(managed.next(Duration::from_millis(10)), None);
    let log = std::fs::read_to_string(managed.dir.path().join("log")).unwrap();
    assert!(log.contains("finds no cat in spotter's self-test picture"), "{log}");
}
