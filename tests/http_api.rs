//! Port 8080's API with real parts: a stream of the demo clip, an OpenAPI validator, schemathesis and promtool against it.
#![cfg(all(feature = "gst", feature = "tflite"))]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Reaped, Service, missing_parts, root, skip};

/// One HTTP/1.1 exchange; the status and the body. `head` are further header lines.
fn get(service: &Service, path: &str, head: &str) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let host = format!("Host: 127.0.0.1:{}", service.web);
    write!(socket, "GET {path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n{head}\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let status = std::str::from_utf8(&answer[..end]).unwrap().split(' ').nth(1);
    (status.unwrap().parse().unwrap(), answer.split_off(end))
}

fn json(service: &Service, path: &str) -> Value {
    let (status, body) = get(service, path, "");
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// Publishes the clip in a loop until dropped.
fn publish(service: &Service, stream: &str) -> Reaped {
    Reaped::start(
        Command::new("ffmpeg")
            .current_dir(root())
            .args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"])
            .args(["-c", "copy", "-f", "flv", &service.url(stream)])
            .stdout(Stdio::null()),
    )
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_live_stream_is_described_pictured_and_counted() {
    if let Some(missing) = missing_parts() {
        return skip(&missing);
    }
    // A relay whose target is not there, and a camera that is not: both have names that no metric's name may have in it.
    let service = Service::start(
        "[[relay]]\nname = \"my-cloud\"\nstream = \"garden\"\nurl = \"rtmp://127.0.0.1:9/live/x\"\n\
         [[source]]\nstream = \"my-cam\"\ndevice = \"/dev/no-such-camera\"\n",
    );
    let _publisher = publish(&service, "garden");
    let stream = || json(&service, "/api/v1/streams")["streams"][0].clone();
    until("animals of the stream", || stream()["animals_total"].as_u64() > Some(0));
    let seen = stream();
    assert_eq!((&seen["stream"], &seen["status"]), (&"garden".into(), &"online".into()));
    assert_eq!((&seen["video"]["width"], &seen["video"]["height"]), (&1280.into(), &720.into()));

    // Without boxes, with boxes, and several in a row.
    for boxes in [0, 1] {
        let path = format!("/api/v1/streams/garden/snapshot.jpg?boxes={boxes}");
        let mut jpeg = Vec::new();
        // A busy machine may have none in time, and says so.
        until("a picture", || {
            let (status, body) = get(&service, &path, "");
            assert!(matches!(status, 200 | 404), "{}", String::from_utf8_lossy(&body));
            jpeg = body;
            status == 200
        });
        let picture = image::load_from_memory(&jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()), (1280, 720));
    }
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    let host = format!("Host: 127.0.0.1:{}", service.web);
    write!(socket, "GET /api/v1/streams/garden/mjpeg HTTP/1.1\r\n{host}\r\n\r\n").unwrap();
    let (mut seen, mut chunk) = (Vec::new(), [0; 65536]);
    until("three pictures in a row", || {
        let n = socket.read(&mut chunk).unwrap();
        seen.extend_from_slice(&chunk[..n]);
        seen.windows(9).filter(|w| w == b"--picture").count() >= 3
    });
    drop(socket);

    // The event stream says what MQTT says.
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    write!(socket, "GET /api/v1/live?stream=garden HTTP/1.1\r\n{host}\r\n\r\n").unwrap();
    let mut text = String::new();
    until("every kind of event", || {
        let n = socket.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
        ["stream", "status", "stats", "detections"]
            .iter()
            .all(|kind| text.contains(&format!("event: {kind}\ndata: {{")))
    });

    let (status, metrics) = get(&service, "/metrics", "");
    let metrics = String::from_utf8(metrics).unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("spotter_stream_online{stream=\"garden\"} 1"), "{metrics}");
    let tried = "spotter_relay_state{relay=\"my-cloud\",stream=\"garden\",state=\"idle\"} 0";
    assert!(metrics.contains(tried), "{metrics}");
    assert!(metrics.contains("spotter_source_failures_total{stream=\"my-cam\"} 1"), "{metrics}");
    let unsaid: Vec<_> = metrics.lines().filter(|line| line.contains("Counted: ")).collect();
    assert!(unsaid.is_empty(), "src/web/metrics.help does not say what these count: {unsaid:?}");
    promtool(&metrics);
    assert_eq!(json(&service, "/readyz")["ready"], true);
    schemathesis(&service);
}

#[test]
fn bad_requests_are_refused_by_name() {
    let service = Service::start("[detect]\nbackend = \"fake\"\n");
    let code = |path: &str, head: &str| {
        let (status, body) = get(&service, path, head);
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    for (path, status, name) in [
        ("/api/v1/streams/nothere", 404, "no_stream"),
        ("/api/v1/streams/nothere/snapshot.jpg", 404, "no_stream"),
        ("/api/v1/streams/nothere/mjpeg", 404, "no_stream"),
        ("/api/v1/streams/a%2Fb", 400, "bad_stream_name"),
        ("/api/v1/streams/%ff", 400, "bad_path"),
        ("/api/v1/streams/x/mjpeg?fps=many", 400, "bad_query"),
        ("/api/v1/streams/x/mjpeg?fps=1e9", 400, "bad_query"),
        ("/api/v1/live?stream=a/b", 400, "bad_stream_name"),
        ("/api/v1/publish?stream=../x", 400, "bad_stream_name"),
        ("/../../etc/passwd", 404, "no_such_path"),
        ("/%2e%2e/%2e%2e/etc/passwd", 404, "no_such_path"),
    ] {
        assert_eq!(code(path, ""), (status, name.to_owned()), "{path}");
    }
    // Through a proxy, or from another site's page, loopback is nobody.
    for head in ["X-Forwarded-For: 192.0.2.1\r\n", "Origin: http://evil.example\r\n"] {
        for path in ["/api/v1/status", "/api/v1/streams", "/metrics", "/api/v1/publish"] {
            assert_eq!(code(path, head), (401, "no_token".to_owned()), "{path} {head}");
        }
        assert_eq!(get(&service, "/healthz", head).0, 200);
    }
    assert_eq!(
        json(&service, "/api/v1/me")["may"],
        serde_json::json!(["publish", "read", "admin"])
    );
    assert_eq!(code("/api/v1/me", "Via: proxy\r\n"), (401, "no_token".to_owned()));
    let bearer = "Via: proxy\r\nAuthorization: Bearer wrong\r\n";
    assert_eq!(code("/api/v1/status", bearer), (401, "bad_token".to_owned()));
    // A body that stops half-way, of somebody unknown, and one that is too long.
    let port = service.web;
    let half = move |path: &str, length: usize| {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let host = format!("Host: 127.0.0.1:{port}\r\nX-Forwarded-For: 192.0.2.1");
        let kind = "Content-Type: application/json";
        let head =
            format!("POST {path} HTTP/1.1\r\n{host}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let _ = socket.write_all(&vec![b' '; length - 1]);
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let halves = ["/whep/x", "/whip/x", "/api/v1/publishers"];
    let answers = halves.map(|path| std::thread::spawn(move || half(path, 1000)));
    for answer in answers {
        let answer = answer.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("cut_short"), "{answer}");
    }
    let answer = half("/api/v1/publishers", 1 << 20);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // A head without end, a method that is not there, and a request that is none.
    assert_eq!(get(&service, "/", &format!("X: {}\r\n", "y".repeat(40_000))).0, 431);
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(json(&service, "/readyz")["ready"], true);
}

fn promtool(metrics: &str) {
    let promtool = root().join("runtime/bin/promtool");
    if !promtool.exists() {
        return skip("no runtime/bin/promtool; run ./setup.sh --test");
    }
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut check = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let told = check.wait_with_output().unwrap();
    let words = [told.stdout, told.stderr].concat();
    assert!(told.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}

/// The document is valid, and no request made from it gets a 5xx or an answer the document does not know.
fn schemathesis(service: &Service) {
    let bin = root().join(".venv/bin");
    if !bin.join("schemathesis").exists() {
        return skip("no schemathesis in .venv; run ./setup.sh --test");
    }
    let document = service.dir.path().join("openapi.json");
    std::fs::write(&document, get(service, "/api/v1/openapi.json", "").1).unwrap();
    let valid = Command::new(bin.join("openapi-spec-validator")).arg(&document).output().unwrap();
    assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stdout));
    let url = format!("http://127.0.0.1:{}/api/v1/openapi.json", service.web);
    let mut run = Command::new(bin.join("schemathesis"));
    run.current_dir(service.dir.path()).args(["run", &url, "--no-color", "--max-examples", "10"]);
    // What never ends cannot be read to its end; offers of WebRTC it cannot write (tests/whep.rs and tests/whip.rs do).
    run.args(["--exclude-path-regex", "^/(live|flv|whep|whip)/|(/live|/mjpeg)$", "--seed", "1"]);
    run.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"]);
    let ran = run.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}
