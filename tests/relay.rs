//! Relays to real servers and to bad ones: another spotter, nginx-rtmp, a TLS server, one that refuses, one that stalls.

#![allow(clippy::unwrap_used, reason = "test code, outside of test functions")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::Value;
use spotter::ingest::amf::AmfLimits;
use spotter::ingest::dechunk::{Dechunker, Limits, write_message};
use spotter::ingest::protocol::{CHUNK_SIZE, Protocol, Step};
use support::{Reaped, Service, free_port, on_path, root, skip};

const FAKES: &str = "decode.backend = \"fake\"\ndetect.backend = \"fake\"\n";
const NGINX_MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

fn ready() -> bool {
    let ready = on_path("ffmpeg") && root().join("demo/clip.mp4").exists();
    if !ready {
        skip("no ffmpeg or no demo/clip.mp4; run ./setup.sh --test");
    }
    ready
}

fn publish(service: &Service) -> Reaped {
    let args = ["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"];
    let url = service.url("cam");
    let args = args.into_iter().chain(["-c", "copy", "-f", "flv", &url]);
    Reaped::start(Command::new("ffmpeg").args(args).current_dir(root()))
}

fn relay(name: &str, url: &str) -> String {
    format!("[[relay]]\nname = {name:?}\nstream = \"cam\"\nurl = {url:?}\n")
}

/// The status as the HTTP API shows it.
fn status(service: &Service) -> Value {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket
        .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap_or_default()
}

/// Waits until the relay `name` is as wanted, and gives what the status says of it.
fn until(service: &Service, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let by = Instant::now() + Duration::from_secs(40);
    loop {
        let status = status(service);
        let relays = status["relays"].as_array().cloned().unwrap_or_default();
        let found = relays.into_iter().find(|r| r["name"] == name).unwrap_or_default();
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < by, "{found}\n{}", service.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Video and audio packets that ffprobe reads at `url`; enough of them for a server that waits for the next key frame.
fn packets(url: &str) -> (usize, usize) {
    let args =
        ["20", "ffprobe", "-v", "error", "-show_entries", "packet=codec_type", "-of", "csv=p=0"];
    let mut command = Command::new("timeout");
    command.args(args).args(["-read_intervals", "%+#240", url]).stdin(Stdio::null());
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let count = |kind| said.lines().filter(|l| l.starts_with(kind)).count();
    (count("video"), count("audio"))
}

#[test]
fn to_another_spotter_and_to_nginx_until_the_stream_ends() {
    if !ready() {
        return;
    }
    let other = Service::start(FAKES);
    let nginx_port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let nginx = Path::new(NGINX_MODULE).exists().then(|| nginx(dir.path(), nginx_port));
    let service = Service::start(&format!(
        "ingest.reconnect_grace_s = 1\n{FAKES}{}{}",
        relay("other", &format!("{}?token=hush", other.url("copy"))),
        relay("nginx", &format!("rtmp://127.0.0.1:{nginx_port}/live/copy?s=hush")),
    ));
    until(&service, "other", |r| r["state"] == "idle" && r["error"].is_null());
    let publisher = publish(&service);
    let shown = until(&service, "other", |r| r["state"] == "live");
    assert_eq!(shown["target"], format!("127.0.0.1:{}", other.rtmp));
    let (video, audio) = packets(&other.url("copy"));
    assert!(video > 10 && audio > 10, "{video} {audio}");
    match nginx {
        Some(_) => {
            until(&service, "nginx", |r| r["state"] == "live");
            let (video, audio) = packets(&format!("rtmp://127.0.0.1:{nginx_port}/live/copy"));
            assert!(video > 10 && audio > 10, "{video} {audio}");
        }
        None => skip("no nginx with its RTMP module; run ./setup.sh --test"),
    }
    drop(publisher);
    until(&service, "other", |r| r["state"] == "idle");
    let shown = format!("{}{}", status(&service), service.log());
    assert!(!shown.contains("hush"), "a relay's secret shows: {shown}");
    service.stop();
    other.stop();
}

#[test]
fn a_publisher_that_stays_away_is_no_failure_of_the_target() {
    if !ready() {
        return;
    }
    // The target gives up the silence before our stream ends, as another spotter with its defaults would.
    let other = Service::start(&format!("ingest.idle_timeout_s = 3\n{FAKES}"));
    let patient = Service::start(FAKES);
    let service = Service::start(&format!(
        "ingest.reconnect_grace_s = 120\n{FAKES}{}{}",
        relay("hasty", &other.url("copy")),
        relay("patient", &patient.url("copy")),
    ));
    let publisher = publish(&service);
    let both = |state: &str| {
        for name in ["hasty", "patient"] {
            until(&service, name, |r| r["state"] == state && r["error"].is_null());
        }
    };
    both("live");
    drop(publisher);
    both("idle");
    let _publisher = publish(&service);
    both("live");
    let failed = service.log().lines().filter(|line| line.contains("relay failed")).count();
    assert_eq!(failed, 0, "{}", service.log());
    service.stop();
}

/// nginx of our own: its configuration, its directory, no service of the system.
fn nginx(dir: &Path, port: u16) -> Reaped {
    let text = format!(
        "load_module {NGINX_MODULE};\ndaemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/log;\n\
         events {{}}\nrtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).stderr(Stdio::null());
    Reaped::start(&mut command)
}

#[test]
fn bad_targets_are_noticed_and_tried_again() {
    if !ready() {
        return;
    }
    let (stalls, silent) = (free_port(), free_port());
    let closed = free_port();
    let listener = TcpListener::bind(("127.0.0.1", stalls)).unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(accept_then_stall));
    // Takes connections into its backlog and never says a word.
    let _silent = TcpListener::bind(("127.0.0.1", silent)).unwrap();
    let other = Service::start(FAKES);
    let service = Service::start(&format!(
        "{FAKES}{}{}{}{}",
        relay("stalls", &format!("rtmp://127.0.0.1:{stalls}/live/hush")),
        relay("silent", &format!("rtmp://127.0.0.1:{silent}/live/hush")),
        relay("closed", &format!("rtmp://127.0.0.1:{closed}/live/hush")),
        relay("refuses", &format!("rtmp://127.0.0.1:{}/vod/hush", other.rtmp)),
    ));
    let _publisher = publish(&service);
    let failed = |name: &str, word: &str| {
        let tells = |r: &Value| r["error"].as_str().is_some_and(|e| e.contains(word));
        until(&service, name, tells);
    };
    failed("refuses", "no application");
    failed("closed", "cannot be reached");
    failed("silent", "did not begin");
    failed("stalls", "took nothing");
    // It is tried again, and begins.
    until(&service, "stalls", |r| r["state"] == "live");
    let shown = format!("{}{}", status(&service), service.log());
    assert!(!shown.contains("hush"), "a relay's secret shows: {shown}");
    service.stop();
}

/// A server that lets us publish and then reads no more.
fn accept_then_stall(mut socket: TcpStream) {
    let mut hello = [0; 1537];
    socket.read_exact(&mut hello).unwrap();
    let answer = [&hello[..1], &[0; 1536], &hello[1..]].concat();
    socket.write_all(&answer).unwrap();
    socket.read_exact(&mut hello[1..]).unwrap();
    let limits = AmfLimits { max_depth: 16, max_string_bytes: 1 << 14 };
    let (mut protocol, greeting) = Protocol::new(limits).unwrap();
    let limits =
        Limits { max_message_bytes: 1 << 16, max_chunk_streams: 9, max_partial_bytes: 1 << 17 };
    let (mut dechunker, mut input) = (Dechunker::new(limits), BytesMut::new());
    let mut answers = greeting;
    loop {
        let mut chunks = Vec::new();
        answers.iter().for_each(|m| write_message(&mut chunks, 3, m, CHUNK_SIZE));
        socket.write_all(&chunks).unwrap();
        answers.clear();
        let mut some = [0; 512];
        let n = socket.read(&mut some).unwrap();
        if n == 0 {
            return;
        }
        input.extend_from_slice(&some[..n]);
        while let Some(message) = dechunker.next(&mut input).unwrap() {
            for step in protocol.handle(&message).unwrap() {
                match step {
                    Step::Send(answer) => answers.push(answer),
                    Step::Publish(request) => {
                        let mut chunks = Vec::new();
                        answers.extend(protocol.accept(&request).unwrap());
                        answers.iter().for_each(|m| write_message(&mut chunks, 3, m, CHUNK_SIZE));
                        socket.write_all(&chunks).unwrap();
                        // Open and unread for as long as the test runs.
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_secs(600));
                            drop(socket);
                        });
                        return;
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn over_tls_with_a_certificate_of_our_own_and_from_a_file() {
    if !ready() {
        return;
    }
    if !on_path("openssl") {
        return skip("no openssl to make a certificate with");
    }
    let other = Service::start(FAKES);
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = free_port();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(tls_before(port, other.rtmp, cert.clone(), key));
    let file = dir.path().join("url");
    std::fs::write(&file, format!("rtmps://127.0.0.1:{port}/live/copy?token=hush\n")).unwrap();
    let service = Service::start(&format!(
        "{FAKES}[[relay]]\nname = \"own\"\nstream = \"cam\"\nurl_file = {file:?}\nca_file = {cert:?}\n{}",
        relay("strange", &format!("rtmps://127.0.0.1:{port}/live/hush"))
    ));
    let _publisher = publish(&service);
    until(&service, "own", |r| r["state"] == "live");
    let (video, audio) = packets(&other.url("copy"));
    assert!(video > 10 && audio > 10, "{video} {audio}");
    // Without the certificate the same server is not believed.
    let tells = |r: &Value| {
        r["error"].as_str().is_some_and(|e| e.contains("TLS failed") || e.contains("certificates"))
    };
    until(&service, "strange", tells);
    assert!(!service.log().contains("hush"));
    service.stop();
}

/// Ends TLS on `port` and hands the bytes on to `to`.
async fn tls_before(port: u16, to: u16, cert: std::path::PathBuf, key: std::path::PathBuf) {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = rustls::crypto::ring::default_provider();
    let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut secured) = acceptor.accept(socket).await else { return };
            let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut secured, &mut plain).await;
        });
    }
}
