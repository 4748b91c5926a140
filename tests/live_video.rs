//! Live video with real parts: ffmpeg publishes, WebSocket viewers and players read, and ffprobe judges what they got.

#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Reaped, Service, new_ffmpeg, on_path, root, skip};
use tokio_tungstenite::tungstenite::{Error, Message};

/// No decoder, no model: this is about coded video only.
const LIGHT: &str = "decode.backend = \"fake\"\ndetect.backend = \"fake\"\n\
    ingest.reconnect_grace_s = 3\nweb.stall_timeout_s = 1\n";

fn ready() -> bool {
    let missing = ["ffmpeg", "ffprobe"].into_iter().find(|p| !on_path(p));
    if let Some(program) = missing {
        skip(&format!("no {program}; run ./setup.sh --test"));
    }
    missing.is_none()
}

/// Encodes some seconds of a test picture and a tone.
fn encode(ffmpeg: &Path, file: &Path, seconds: u32, size: &str, codecs: &str) {
    let picture = format!("testsrc2=size={size}:rate=25:duration={seconds}");
    let tone = format!("sine=frequency=440:duration={seconds}");
    let made = Command::new(ffmpeg)
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &picture])
        .args(["-f", "lavfi", "-i", &tone])
        .args(codecs.split(' '))
        .arg(file)
        .status();
    assert!(made.unwrap().success(), "{codecs}");
}

const PLAIN: &str = "-c:v libx264 -preset ultrafast -bf 0 -g 25 -pix_fmt yuv420p -c:a aac";
const B_FRAMES: &str = "-c:v libx264 -preset veryfast -bf 2 -g 50 -pix_fmt yuv420p -c:a aac";
const HEVC_OPUS: &str = "-c:v libx265 -preset ultrafast -x265-params log-level=error:keyint=50 -pix_fmt yuv420p -c:a libopus -ar 48000";
/// Fills the sockets' buffers of a viewer that does not read in a few seconds.
const HEAVY: &str = "-vf noise=alls=80:allf=t -c:v libx264 -preset ultrafast -bf 0 -g 25 -b:v 24M -pix_fmt yuv420p -an";

fn publish(ffmpeg: &Path, file: &Path, url: &str) -> Reaped {
    let mut command = Command::new(ffmpeg);
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(file);
    Reaped::start(command.args(["-c", "copy", "-f", "flv", url]).current_dir(root()))
}

/// What one viewer was sent.
#[derive(Debug, Default)]
struct Seen {
    texts: Vec<Value>,
    /// One file an init segment.
    files: Vec<Vec<u8>>,
}

impl Seen {
    fn of_type(&self, kind: &str) -> Vec<&Value> {
        self.texts.iter().filter(|t| t["type"] == kind).collect()
    }
}

/// Connects as soon as there is the stream, and reads to its end.
async fn view(web: u16, stream: &str) -> Seen {
    let url = format!("ws://127.0.0.1:{web}/live/{stream}");
    let until = Instant::now() + Duration::from_secs(20);
    let mut socket = loop {
        match tokio_tungstenite::connect_async(&url).await {
            Ok((socket, _)) => break socket,
            Err(Error::Http(r)) if r.status() == 404 => {}
            Err(other) => panic!("{stream}: {other}"),
        }
        assert!(Instant::now() < until, "{stream} did not appear");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut seen = Seen::default();
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Text(text) => {
                let text: Value = serde_json::from_str(&text).unwrap();
                if text["type"] == "init" {
                    seen.files.push(Vec::new());
                }
                seen.texts.push(text);
            }
            Message::Binary(data) => seen.files.last_mut().unwrap().extend_from_slice(&data),
            _ => {}
        }
    }
    seen
}

/// Video packets of a file as (pts, dts) in ms, and that it decodes without a complaint.
fn packets(file: &Path) -> Vec<(i64, i64)> {
    let decoded = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&decoded.stderr);
    assert!(decoded.status.success() && complaints.is_empty(), "{file:?}: {complaints}");
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-of", "json", "-show_entries"])
        .arg("packet=pts_time,dts_time")
        .arg(file)
        .output()
        .unwrap();
    let read: Value = serde_json::from_slice(&out.stdout).unwrap();
    let ms = |v: &Value| (v.as_str().unwrap().parse::<f64>().unwrap() * 1000.0).round() as i64;
    let all = read["packets"].as_array().unwrap().iter();
    all.map(|p| (ms(&p["pts_time"]), ms(&p["dts_time"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_get_every_frame_at_its_time() {
    if !ready() {
        return;
    }
    let service = Service::start(LIGHT);
    let dir = tempfile::tempdir().unwrap();
    let old = PathBuf::from("ffmpeg");
    let mut variants = vec![
        ("plain", old.clone(), PLAIN, "avc1.42c0", ",mp4a.40.2"),
        ("bframes", old, B_FRAMES, "avc1.64", ",mp4a.40.2"),
    ];
    match new_ffmpeg() {
        Some(new) => variants.push(("hevc", new, HEVC_OPUS, "hvc1.1.6.L", ",opus")),
        None => skip("no ffmpeg in .venv for enhanced RTMP; run ./setup.sh --test"),
    }
    let mut running = Vec::new();
    for (name, ffmpeg, codecs, video, audio) in variants {
        let file = dir.path().join(format!("{name}.mp4"));
        encode(&ffmpeg, &file, 5, "320x180", codecs);
        let publisher = publish(&ffmpeg, &file, &service.url(name));
        running.push((name, file, video, audio, publisher, tokio::spawn(view(service.web, name))));
    }
    if root().join("demo/clip.mp4").exists() {
        let clip = dir.path().join("clip.mp4");
        let mut cut = Command::new("ffmpeg");
        cut.args(["-nostdin", "-v", "error", "-i", "demo/clip.mp4", "-t", "5", "-c", "copy"]);
        assert!(cut.arg(&clip).current_dir(root()).status().unwrap().success());
        let publisher = publish(Path::new("ffmpeg"), &clip, &service.url("clip"));
        let viewer = tokio::spawn(view(service.web, "clip"));
        running.push(("clip", clip, "avc1.4d", ",mp4a.40.2", publisher, viewer));
    }
    for (name, source, video, audio, _publisher, viewer) in running {
        let seen = viewer.await.unwrap();
        let texts = format!("{name}: {:?}", seen.texts);
        let inits = seen.of_type("init");
        let mime = inits[0]["mime"].as_str().unwrap();
        assert!(mime.starts_with(&format!("video/mp4; codecs=\"{video}")), "{texts}");
        assert!(mime.ends_with(&format!("{audio}\"")), "{texts}");
        assert_eq!((inits.len(), seen.files.len()), (1, 1), "{texts}");
        assert_eq!(seen.of_type("lagged").len(), 0, "{texts}");
        let last: Vec<_> = seen.texts.iter().rev().take(2).map(|t| &t["type"]).collect();
        assert_eq!(last, ["ended", "waiting"], "{texts}");
        let file = dir.path().join(format!("{name}-seen.mp4"));
        std::fs::write(&file, &seen.files[0]).unwrap();
        let (sent, got) = (packets(&source), packets(&file));
        assert_eq!(got.len(), sent.len(), "{name}");
        // FLV carries whole milliseconds, and a stream's own time begins at 0.
        let shift = sent[0].0 - got[0].0;
        for (sent, got) in sent.iter().zip(&got) {
            assert!((sent.0 - got.0 - shift).abs() <= 1, "{name}: {got:?} for {sent:?}");
        }
        if name == "bframes" {
            assert!(got.iter().any(|(pts, dts)| pts - dts > 30), "{got:?}");
        }
    }
    service.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_stays_over_a_reconnect_with_other_parameters() {
    if !ready() {
        return;
    }
    let service = Service::start(LIGHT);
    let dir = tempfile::tempdir().unwrap();
    let files = ["320x180", "640x360"].map(|size| {
        let file = dir.path().join(format!("{size}.mp4"));
        encode(Path::new("ffmpeg"), &file, 2, size, PLAIN);
        file
    });
    let viewer = tokio::spawn(view(service.web, "change"));
    for file in &files {
        let mut publisher = publish(Path::new("ffmpeg"), file, &service.url("change"));
        assert!(publisher.wait(Duration::from_secs(30)).is_some());
    }
    let seen = viewer.await.unwrap();
    let kinds: Vec<_> = seen.texts.iter().map(|t| t["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["init", "waiting", "init", "waiting", "ended"], "{:?}", seen.texts);
    let mut last = -1;
    for (n, data) in seen.files.iter().enumerate() {
        let file = dir.path().join(format!("{n}.mp4"));
        std::fs::write(&file, data).unwrap();
        let got = packets(&file);
        assert_eq!(got.len(), 50);
        assert!(got[0].0 > last, "time went back from {last} to {}", got[0].0);
        last = got[49].0;
    }
    service.stop();
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends one request and leaves the socket open.
fn request(web: u16, path: &str, headers: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Or the kernel would read for those that do not.
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, web)).into()).unwrap();
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

/// Status and body of one request.
fn fetch(web: u16, path: &str, headers: &str) -> (u16, Vec<u8>) {
    let mut socket = request(web, path, &format!("{headers}Connection: close\r\n"));
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer[head + 4..].to_vec())
}

fn text(web: u16, path: &str) -> String {
    let (status, body) = fetch(web, path, "");
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn until_there(service: &Service, stream: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while fetch(service.web, &format!("/live/{stream}"), "").0 == 404 {
        assert!(Instant::now() < until, "{stream} did not appear\n{}", service.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Viewers that never read.
const SILENT: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn viewers_that_do_not_read_or_leave_disturb_nobody() {
    if !ready() {
        return;
    }
    let many =
        format!("web.max_connections = 2000\nweb.max_connections_per_address = 2000\n{LIGHT}");
    let service = Service::start(&many);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heavy.mp4");
    encode(Path::new("ffmpeg"), &file, 6, "640x360", HEAVY);
    let publisher = publish(Path::new("ffmpeg"), &file, &service.url("heavy"));
    let good = tokio::spawn(view(service.web, "heavy"));
    until_there(&service, "heavy");
    // Some never read a byte, some leave in the middle of a fragment.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut silent: Vec<_> =
        (0..SILENT).map(|_| request(service.web, "/live/heavy", UPGRADE)).collect();
    for _ in 0..20 {
        let mut leaver = request(service.web, "/live/heavy", UPGRADE);
        leaver.read_exact(&mut [0; 3000]).unwrap();
    }
    let seen = good.await.unwrap();
    drop(publisher);
    assert_eq!(seen.of_type("lagged").len(), 0, "{:?}", seen.texts);
    let copy = dir.path().join("seen.mp4");
    std::fs::write(&copy, &seen.files[0]).unwrap();
    assert_eq!(packets(&copy).len(), 150);
    let log = service.log();
    assert_eq!(log.matches("end=Stalled").count(), silent.len(), "{log}");
    for socket in &mut silent {
        let mut rest = Vec::new();
        // A reset is as good an end as any.
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.len() < seen.files[0].len() / 2, "{} bytes", rest.len());
    }
    service.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn players_read_hls_and_wait_for_what_is_to_come() {
    if !ready() {
        return;
    }
    let service = Service::start(LIGHT);
    let web = service.web;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hls.mp4");
    encode(Path::new("ffmpeg"), &file, 25, "320x180", B_FRAMES);
    let publisher = publish(Path::new("ffmpeg"), &file, &service.url("hls"));
    until_there(&service, "hls");
    // The first viewer of a stream with a past begins at its newest key frame, not at the oldest there is.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut late = request(web, "/live/hls", UPGRADE);
    let mut first = [0; 2000];
    late.read_exact(&mut first).unwrap();
    assert!(!String::from_utf8_lossy(&first).contains("lagged"));
    drop(late);
    let index = text(web, "/hls/hls/index.m3u8");
    assert!(index.contains("RESOLUTION=320x180") && index.ends_with("\nmedia.m3u8\n"), "{index}");

    let url = format!("http://127.0.0.1:{web}/hls/hls/index.m3u8");
    let mut players = vec![(
        "ffmpeg",
        Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-xerror", "-i", &url])
            .args(["-t", "4", "-f", "null", "-"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )];
    match on_path("mpv") {
        true => players.push((
            "mpv",
            Command::new("mpv")
                .args([
                    "--no-config",
                    "--vo=null",
                    "--ao=null",
                    "--length=4",
                    "--msg-level=all=warn",
                ])
                .arg(&url)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )),
        false => skip("no mpv; run ./setup.sh --test"),
    }

    // The announced part is waited for, and stands in the playlist that is waited for.
    let media = text(web, "/hls/hls/media.m3u8");
    let hint = media.lines().last().unwrap().to_owned();
    let name = hint.rsplit('"').nth(1).unwrap().to_owned();
    let (number, part) = name[5..name.len() - 4].split_once('-').unwrap();
    let (status, announced) = fetch(web, &format!("/hls/hls/{name}"), "");
    assert_eq!(status, 200, "{name}");
    assert!(!announced.is_empty());
    let next = text(web, &format!("/hls/hls/media.m3u8?_HLS_msn={number}&_HLS_part={part}"));
    assert!(next.contains("#EXT-X-PART:DURATION=0.4") && next.contains(&name), "{next}");
    let next = text(web, &format!("/hls/hls/media.m3u8?_HLS_msn={number}"));
    assert!(next.contains(&format!("seg-{number}.m4s")), "{next}");
    // Init, and a segment as one file.
    let init = next.lines().find(|l| l.starts_with("#EXT-X-MAP")).unwrap();
    let init = init.rsplit('"').nth(1).unwrap();
    let mut whole = fetch(web, &format!("/hls/hls/{init}"), "").1;
    whole.extend(fetch(web, &format!("/hls/hls/seg-{number}.m4s"), "").1);
    let copy = dir.path().join("segment.mp4");
    std::fs::write(&copy, whole).unwrap();
    assert_eq!(packets(&copy).len(), 50);

    for (path, expected) in [
        ("/hls/hls/media.m3u8?_HLS_msn=99999", 400),
        ("/hls/hls/media.m3u8?_HLS_part=1", 400),
        ("/hls/hls/media.m3u8?_HLS_msn=-1", 400),
        ("/hls/hls/seg-99999.m4s", 404),
        ("/hls/hls/part-99999-0.m4s", 404),
        ("/hls/hls/init-1.mp4", 404),
        ("/hls/hls/..%2F..%2Findex.m3u8", 404),
        ("/hls/nosuch/index.m3u8", 404),
        ("/hls/no%20name/index.m3u8", 400),
        ("/live/hls", 426),
        ("/live/nosuch", 404),
    ] {
        let (status, body) = fetch(web, path, "");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, expected, "{path}: {body}");
        assert!(body["error"]["code"].is_string(), "{path}: {body}");
    }
    let (status, body) = fetch(web, "/live/nosuch", UPGRADE);
    assert_eq!((status, body.is_empty()), (404, false));

    for (name, player) in players {
        let out = tokio::task::spawn_blocking(|| player.wait_with_output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{name}: {} {said}", out.status);
    }
    drop(publisher);
    service.stop();
}
