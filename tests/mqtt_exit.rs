//! The exit to MQTT against mosquitto's clients and mosquitto's broker. Skips, out loud, what needs a program that
//! is not installed.
#![allow(clippy::unwrap_used)]

#[path = "support/ports.rs"]
mod ports;
#[path = "support/skip.rs"]
mod skip;
#[path = "support/mqtt.rs"]
mod support;

pub(crate) use skip::skip;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ports::free_port;
use spotter::config;
use spotter::media::StreamId;
use spotter::media::stream::Takeover;
use spotter::mqtt;
use spotter::wire::LinkState;
use support::*;
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_serves_mosquitto_s_clients() {
    if !have(CLIENTS) {
        return;
    }
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let node = node(|_| {}).await;
        node.is_up().await;
        let mut sub = Subscriber::new(node.port, &["-V", version]);
        sub.hears("1 spotter/spotter-test/available online").await;
        let status = sub.hears("1 spotter/spotter-test/status ").await;
        assert!(status.contains("\"board\":\"test\""), "{status}");
        let publication =
            node.ctx.streams.claim(&StreamId::new("cam").unwrap(), Takeover::Refused).unwrap();
        sub.sees("0 1 spotter/spotter-test/cam/status online").await;
        node.detect(7);
        let found = sub.sees("0 0 spotter/spotter-test/cam/detections ").await;
        assert!(found.contains("\"label\":\"dog\"") && found.contains("\"frame\":7"), "{found}");
        sub.sees("0 0 spotter/spotter-test/stats ").await;

        for qos in ["0", "1", "2"] {
            let port = node.port;
            let args = move || publish(port, &["-t", "x/y", "-m", "hi", "-q", qos, "-r"]);
            assert!(tokio::task::spawn_blocking(args).await.unwrap());
            let got = if qos == "0" { "0 0 x/y hi" } else { "0 1 x/y hi" };
            sub.sees(got).await;
        }
        let mut late = Subscriber::new(node.port, &["-V", version, "-i", "late/+#client"]);
        late.sees("1 1 x/y hi").await;

        drop(publication);
        node.ctx.streams.close_all();
        sub.sees("0 1 spotter/spotter-test/cam/status offline").await;
        node.stop().await;
        sub.sees("0 1 spotter/spotter-test/available offline").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_s_will_and_its_lasting_session_are_kept() {
    if !have(CLIENTS) {
        return;
    }
    let node = node(|_| {}).await;
    node.is_up().await;
    let mut sub = Subscriber::new(node.port, &[]);
    sub.hears("1 spotter/spotter-test/available online").await;
    let will = ["--will-topic", "w", "--will-payload", "dead", "--will-qos", "1", "--will-retain"];
    let mut dying = Subscriber::new(node.port, &will);
    dying.hears("1 spotter/spotter-test/available online").await;
    drop(dying);
    sub.sees("0 1 w dead").await;

    let lasting = ["-i", "lasting", "-c", "-V", "mqttv311"];
    let mut first = Subscriber::new(node.port, &lasting);
    first.sees("1 1 w dead").await;
    drop(first);
    assert!(published(node.port, &["-t", "e", "-m", "while away", "-q", "1"]).await);
    Subscriber::new(node.port, &lasting).sees("0 1 e while away").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_hurt_the_broker() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = node(|c| c.max_packet_bytes = 10_000).await;
    node.is_up().await;
    let connect = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04";
    let mut seed = 0x2545_f491_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for round in 0..150_u32 {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.unwrap();
        let mut bytes = Vec::new();
        if round % 3 != 0 {
            bytes.extend(connect);
            bytes.extend(format!("f{:03}", round % 7).bytes());
        }
        for _ in 0..random() % 5 {
            let len = random() % 60;
            bytes.extend([(random() % 256) as u8, len as u8]);
            bytes.extend((0..len).map(|_| (random() % 256) as u8));
        }
        let _ = socket.write_all(&bytes).await;
        let _ = timeout(Duration::from_millis(5), socket.read(&mut [0; 512])).await;
    }
    // The client ids rumqttd dies of, and a length of 256 MB.
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.unwrap();
    socket.write_all(connect).await.unwrap();
    socket.write_all(b"big!\x30\xff\xff\xff\x7f").await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    assert!(node.ctx.broker_counters.malformed.get() > 0);
    assert!(matches!(*node.ctx.link.borrow(), LinkState::Up { .. }));
    if have(CLIENTS) {
        Subscriber::new(node.port, &[]).hears("1 spotter/spotter-test/available online").await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_takes_so_many_clients_and_no_more() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = node(|c| c.max_connections = 2).await;
    node.is_up().await;
    let mut open = Vec::new();
    for id in [b'a', b'b'] {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.unwrap();
        socket.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01").await.unwrap();
        socket.write_all(&[id]).await.unwrap();
        let mut ack = [0; 4];
        socket.read_exact(&mut ack).await.unwrap();
        assert_eq!(ack, [0x20, 2, 0, 0]);
        open.push(socket);
    }
    let mut third = TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.unwrap();
    let closed = timeout(SOON, third.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!(node.ctx.broker_counters.refused_busy.get(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_is_told_everything_again() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let node = node(|c| c.broker = format!("mqtt://127.0.0.1:{port}")).await;
    let reason = node.down_reason().await;
    assert!(reason.contains("nothing listens at 127.0.0.1"), "{reason}");
    node.detect(1);

    let broker = mosquitto(dir.path(), port, "allow_anonymous true");
    node.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    sub.hears("1 spotter/spotter-test/available online").await;
    let _publication =
        node.ctx.streams.claim(&StreamId::new("cam").unwrap(), Takeover::Refused).unwrap();
    sub.sees("0 1 spotter/spotter-test/cam/status online").await;
    drop((broker, sub));
    node.down_reason().await;

    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    node.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    sub.hears("1 spotter/spotter-test/available online").await;
    // Nothing of the time without a broker was kept.
    node.detect(2);
    assert!(sub.sees("0 0 spotter/spotter-test/cam/detections").await.contains("\"frame\":2"));
    // Retained, or as they are said: the subscription may be there before the node has said all.
    assert!(sub.seen.iter().any(|l| l.contains(" 1 spotter/spotter-test/cam/status online")));
    assert!(sub.seen.iter().any(|l| l.contains(" 1 spotter/spotter-test/status {")));
    assert_eq!(node.ctx.counters.dropped_offline.get(), 1);
    node.stop().await;
    sub.sees("0 1 spotter/spotter-test/cam/status offline").await;
    sub.sees("0 1 spotter/spotter-test/available offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_nothing_holds_nobody_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = node(|c| c.broker = format!("mqtt://{address}")).await;
    let (mut socket, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
    socket.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    node.is_up().await;
    // Each message is about 100 kB, and nobody reads.
    let flood = async {
        for seq in 0.. {
            node.detect_many(seq, 800);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = flood => {}
        reason = node.down_reason() => assert!(reason.contains("does not answer"), "{reason}"),
    }
    assert!(node.ctx.counters.dropped_slow.get() > 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_is_offline_and_its_streams_are_set_right_later() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let url = format!("mqtt://127.0.0.1:{port}");
    let dying = node(|c| c.broker.clone_from(&url)).await;
    dying.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    sub.hears("1 spotter/spotter-test/available online").await;
    let _publication =
        dying.ctx.streams.claim(&StreamId::new("cam").unwrap(), Takeover::Refused).unwrap();
    sub.sees("0 1 spotter/spotter-test/cam/status online").await;
    // Its socket closes without a word, as when the process is killed.
    dying.task.abort();
    sub.sees("0 1 spotter/spotter-test/available offline").await;

    let next = node(|c| c.broker.clone_from(&url)).await;
    sub.sees("0 1 spotter/spotter-test/available online").await;
    sub.sees("0 1 spotter/spotter-test/cam/status offline").await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_broker_is_said() {
    let bad = node(|c| c.broker = "http://x".into()).await;
    assert!(bad.down_reason().await.contains("mqtt://host:1883"));
    bad.stop().await;
    let off = node(|c| c.enabled = false).await;
    timeout(SOON, off.task).await.unwrap().unwrap().unwrap();

    if !have(&["mosquitto", "mosquitto_passwd"]) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let passwords = dir.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c", passwords.to_str().unwrap(), "me", "right"])
        .status();
    assert!(made.unwrap().success());
    std::fs::write(dir.path().join("secret"), "wrong\n").unwrap();
    let more = format!("allow_anonymous false\npassword_file {}", passwords.display());
    // mosquitto gives up root's rights, and must still read its file.
    let more = format!("user root\n{more}");
    let _broker = mosquitto(dir.path(), port, &more);
    let node = node(|c| {
        c.broker = format!("mqtt://127.0.0.1:{port}");
        c.username = "me".into();
        c.password_file = dir.path().join("secret");
    })
    .await;
    let refused = |state: &LinkState| matches!(state, LinkState::Down { reason, .. } if reason.contains("refused the credentials"));
    let state = node.link(refused).await;
    assert!(!format!("{state:?}").contains("wrong"));
    // A mended file is taken at the next attempt.
    std::fs::write(dir.path().join("secret"), "right\n").unwrap();
    node.is_up().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_client_certificate_works_and_a_stranger_s_does_not() {
    if !have(&["mosquitto", "openssl"]) {
        return;
    }
    let (dir, port, web) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let (plain, web_plain) = (free_port(), free_port());
    let d = dir.path();
    let openssl = |args: &str| {
        let status = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(d)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "openssl {args}");
    };
    let mut ext = std::fs::File::create(d.join("ext")).unwrap();
    ext.write_all(b"subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new} -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"));
    openssl(&format!("req -x509 {new} -days 2 -subj /CN=other -keyout other.key -out other.pem"));
    for name in ["server", "client"] {
        openssl(&format!("req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ));
    }
    let path = |name: &str| d.join(name);
    let certificates = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        path("ca.pem").display(),
        path("server.pem").display(),
        path("server.key").display()
    );
    let more = format!(
        "{certificates}\nlistener {web} 127.0.0.1\nprotocol websockets\n{certificates}\n\
         listener {plain} 127.0.0.1\nlistener {web_plain} 127.0.0.1\nprotocol websockets\n\
         user root\nallow_anonymous true"
    );
    let _broker = mosquitto(d, port, &more);
    let doors = [format!("mqtts://127.0.0.1:{port}"), format!("wss://127.0.0.1:{web}/mqtt")];
    let with = |version: u8, broker: &str, ca: &str, client: &str| {
        let broker = broker.to_owned();
        let (ca, cert, key) =
            (path(ca), path(&format!("{client}.pem")), path(&format!("{client}.key")));
        move |c: &mut config::Mqtt| {
            (c.version, c.broker, c.ca_file) = (version, broker, ca);
            if cert.file_stem() != Some("none".as_ref()) {
                (c.client_cert_file, c.client_key_file) = (cert, key);
            }
        }
    };
    for version in [4, 5] {
        for door in &doors {
            let good = node(with(version, door, "ca.pem", "client")).await;
            good.is_up().await;
            // It carries an event, and the broker's word that it has it.
            good.ctx.outbox.push("a".into(), "{}".into());
            let until = Instant::now() + SOON;
            while good.ctx.counters.events_published.get() == 0 {
                assert!(Instant::now() < until, "{version} {door}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            good.stop().await;
            let bad = node(with(version, door, "other.pem", "client")).await;
            let reason = bad.down_reason().await;
            assert!(reason.contains("TLS with 127.0.0.1"), "{version} {door}: {reason}");
            bad.stop().await;
            // Without a certificate of its own, or with a stranger's, the broker wants nothing of it.
            for client in ["none", "other"] {
                let bad = node(with(version, door, "ca.pem", client)).await;
                let reason = bad.down_reason().await;
                assert!(reason.contains("127.0.0.1"), "{version} {door} {client}: {reason}");
                assert!(reason.contains("mqtt.client_cert_file"), "{version} {door}: {reason}");
                bad.stop().await;
            }
        }
        // Plain MQTT at the doors of others.
        for door in [port, web] {
            let bad = node(|c| {
                (c.version, c.broker) = (version, format!("mqtt://127.0.0.1:{door}"));
            })
            .await;
            let reason = bad.down_reason().await;
            assert!(reason.contains("mqtts://"), "{version} {door}: {reason}");
            bad.stop().await;
        }
        for (door, says) in [(plain, "does not answer in TLS"), (web_plain, "mqtts://")] {
            let (scheme, tls) =
                if door == plain { ("mqtts", "ca.pem") } else { ("mqtt", "ca.pem") };
            let broker = format!("{scheme}://127.0.0.1:{door}");
            let bad = node(with(version, &broker, tls, "none")).await;
            let reason = bad.down_reason().await;
            assert!(reason.contains(says), "{version} {broker}: {reason}");
            bad.stop().await;
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen: SocketAddr = taken.local_addr().unwrap();
    let error = mqtt::listen(&config::Mqtt { listen, ..config::Mqtt::default() }).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains(&listen.to_string()) && text.contains("mqtt.listen"), "{text}");
}
