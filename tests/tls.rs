//! Doors with TLS, with real parts: ffmpeg and mosquitto's clients, and a certificate of openssl's; who speaks no TLS there is turned away.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::api::{ask, counted, json, until};
use support::{Reaped, Service, free_port, new_ffmpeg, on_path, skip, spotter};

const FAKES: &str = "[detect]\nbackend = \"fake\"\n[decode]\nbackend = \"fake\"\n";

/// An ffmpeg that speaks RTMPS.
fn ffmpeg() -> Option<PathBuf> {
    let speaks = |program: &PathBuf| {
        let asked = Command::new(program).args(["-hide_banner", "-protocols"]).output();
        asked.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("rtmps"))
    };
    let old = on_path("ffmpeg").then(|| PathBuf::from("ffmpeg"));
    let found = [new_ffmpeg(), old].into_iter().flatten().find(speaks);
    let found = found.filter(|_| on_path("openssl"));
    if found.is_none() {
        skip("no openssl, or no ffmpeg that speaks RTMPS; run ./setup.sh --test");
    }
    found
}

fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
    (certificate, key)
}

#[test]
fn a_stream_is_published_and_read_by_tls() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let port = free_port();
    let service = Service::start_with(|dir| {
        let (certificate, key) = certificate(dir, "own");
        format!(
            "ingest.handshake_timeout_s = 2\ningest.tls = {{ listen = \"127.0.0.1:{port}\", \
             certificate = {certificate:?}, key = {key:?} }}\n{FAKES}"
        )
    });
    let head = "Content-Type: application/json\r\n";
    let body = r#"{"stream":"anna"}"#;
    let (_, _, made) = ask(&service, "POST", "/api/v1/publishers", head, body);
    let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
    let url = made["rtmps_url"].as_str().unwrap();
    assert!(url.starts_with(&format!("rtmps://127.0.0.1:{port}/live/anna?token=")), "{url}");

    // It trusts nobody unknown, as it should.
    let trusted = service.dir.path().join("own.pem");
    let mut publisher = Command::new(&ffmpeg);
    publisher.env("SSL_CERT_FILE", &trusted);
    publisher.args(["-nostdin", "-v", "error", "-re", "-f", "lavfi"]);
    publisher.args(["-i", "testsrc=size=320x240:rate=15", "-c:v", "libx264", "-g", "15"]);
    publisher.args(["-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "flv", url]);
    let mut anna = Reaped::start(publisher.stdout(Stdio::null()));
    until(&service, "frames searched", || {
        let stats = json(&service, "/api/v1/stats");
        stats["streams"][0]["counters"]["frames_detected"].as_u64() > Some(5)
    });
    let mut player = Command::new(&ffmpeg);
    player.env("SSL_CERT_FILE", &trusted);
    let read = format!("rtmps://127.0.0.1:{port}/live/anna");
    player.args(["-nostdin", "-hide_banner", "-t", "1", "-i", &read, "-f", "null", "-"]);
    let played = String::from_utf8_lossy(&player.output().unwrap().stderr).into_owned();
    assert!(played.contains("320x240"), "{played}");

    // One who speaks plain RTMP, and one who says nothing.
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(&[3; 1537]).unwrap();
    let silent = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    until(&service, "both are turned away", || counted(&service, "ingest", "tls_failed") == 2);
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    drop(silent);
    assert!(anna.0.try_wait().unwrap().is_none(), "{}", service.log());
    service.stop();
}

/// A service whose embedded broker has a door with TLS, that door's port, and whom to trust there.
fn secured_broker(more: &str) -> (Service, u16, PathBuf) {
    let port = free_port();
    let service = Service::start_with(|dir| {
        let (certificate, key) = certificate(dir, "own");
        let listen = format!("listen = \"127.0.0.1:{port}\"");
        let files = format!("certificate = {certificate:?}, key = {key:?}");
        format!("{more}mqtt.tls = {{ {listen}, {files} }}\n{FAKES}")
    });
    let trusted = service.dir.path().join("own.pem");
    (service, port, trusted)
}

#[test]
fn the_embedded_broker_is_reached_by_tls() {
    if !on_path("mosquitto_sub") || !on_path("openssl") {
        return skip("no mosquitto_sub or openssl; run ./setup.sh --test");
    }
    let (service, port, trusted) = secured_broker("mqtt.stats_interval_s = 1\n");
    let listen = |port: u16, args: &[&str]| {
        let mut client = Command::new("mosquitto_sub");
        client.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-W", "30"]).args(args);
        client.output().unwrap()
    };
    let ca = trusted.to_str().unwrap();
    for version in ["mqttv311", "mqttv5"] {
        // All that is retained, and a statistic or two after it.
        let tls = ["--cafile", ca, "-V", version, "-t", "spotter/test/#", "-C", "8", "-v"];
        let heard = listen(port, &tls);
        let heard = String::from_utf8_lossy(&heard.stdout).into_owned();
        assert!(heard.contains("spotter/test/available online"), "{heard}");
        assert!(heard.contains("spotter/test/stats {"), "{heard}");
        assert!(heard.contains(&format!("\"mqtts\":\"127.0.0.1:{port}\"")), "{heard}");
    }

    // One who does not trust us, one who speaks plain MQTT, and at the other door one who speaks TLS.
    let other = certificate(service.dir.path(), "other").0;
    let topic = ["-t", "spotter/test/available", "-C", "1"];
    let refused = |port, more: &[&str]| {
        let refused = listen(port, &[&topic, more].concat());
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{refused:?}\n{}",
            service.log()
        );
    };
    refused(port, &["--cafile", other.to_str().unwrap()]);
    refused(port, &[]);
    refused(service.mqtt, &["--cafile", ca]);
    until(&service, "they are counted", || {
        counted(&service, "broker", "tls_failed") >= 2
            && counted(&service, "broker", "malformed") >= 1
    });
    let plain = listen(service.mqtt, &topic);
    assert_eq!(String::from_utf8_lossy(&plain.stdout).trim(), "online");
    service.stop();
}

#[test]
fn a_client_that_never_finishes_gives_its_place_back_and_those_by_tls_are_ended_in_good_order() {
    if !on_path("mosquitto_sub") || !on_path("openssl") {
        return skip("no mosquitto_sub or openssl; run ./setup.sh --test");
    }
    let (service, port, ca) = secured_broker("mqtt.max_connections = 2\n");
    // Who looked whether the door is open has a place too.
    until(&service, "the look is over", || service.log().contains("mqtt client left"));
    // One says nothing, one begins and goes no further; there is no place for a third.
    let mut silent = [(); 2].map(|()| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    silent[1].write_all(&[0x16, 3, 1, 1, 0, 1]).unwrap();
    // It tries again and again, and waits for a first answer for ever.
    let client = |patience_s: &str| {
        let mut client = Command::new("timeout");
        client.args([patience_s, "mosquitto_sub"]);
        client.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-W", "30"]);
        client.arg("--cafile").arg(&ca).args(["-t", "spotter/test/available"]);
        client
    };
    let refused = client("3").args(["-C", "1"]).output().unwrap();
    assert!(
        !refused.status.success() && refused.stdout.is_empty(),
        "{refused:?}\n{}",
        service.log()
    );
    until(&service, "it is counted", || counted(&service, "broker", "refused_busy") >= 1);
    until(&service, "both places back", || counted(&service, "broker", "tls_failed") >= 2);
    let heard = client("30").args(["-C", "1"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard.stdout).trim(), "online");

    // At the end there is one who listens, and one who is not yet through.
    let mut listens = client("30").args(["-C", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(listens.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(line(), "online");
    let _half = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    service.stop();
    assert_eq!(line(), "offline");
    let _ = listens.kill();
    listens.wait().unwrap();
}

#[test]
fn a_certificate_that_is_none_is_told_at_the_start() {
    if !on_path("openssl") {
        return skip("no openssl; run ./setup.sh --test");
    }
    let dir = tempfile::tempdir().unwrap();
    let ((one, key), (_, other)) = (certificate(dir.path(), "a"), certificate(dir.path(), "b"));
    let nonsense = dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let absent = dir.path().join("absent.pem");
    let none = PathBuf::new();
    for (certificate, key, says) in [
        (&one, &other, "do not go together"),
        (&nonsense, &key, "ingest.tls.certificate"),
        (&one, &nonsense, "ingest.tls.key"),
        (&absent, &key, "there is no file"),
        (&one, &none, "name both"),
    ] {
        let config = dir.path().join("spotter.toml");
        let text = format!(
            "node.state_dir = {:?}\nwebsocket.enabled = false\nmqtt.enabled = false\n\
             web.enabled = false\n[ingest]\nlisten = \"127.0.0.1:0\"\n\
             tls = {{ listen = \"127.0.0.1:0\", certificate = {certificate:?}, key = {key:?} }}\n",
            dir.path().join("state")
        );
        std::fs::write(&config, text + FAKES).unwrap();
        let output = spotter().args(["run", "--config"]).arg(&config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{says}: {said}");
    }
}
