//! Brokers as they are, with real parts: mosquitto with small limits, refusals, other doors and a second node of our name, and brokers that
//! are slow, hang up or half-close. Skips, out loud, what needs a program that is not installed.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mqtt.rs"]
mod mqtt_support;
mod support;
#[path = "support/visits.rs"]
mod visits;

pub(crate) use support::skip;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqtt_support::*;
use spotter::media::MediaTime;
use spotter::snapshots::Portrait;
use spotter::wire::LinkState;
use support::free_port;
use visits::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_in_the_house_serves_on_while_the_one_far_away_is_gone() {
    if !have(CLIENTS) {
        return;
    }
    let far = free_port();
    let node = node(|c| {
        c.broker = format!("mqtt://127.0.0.1:{far}");
        c.embedded = true;
    })
    .await;
    node.down_reason().await;
    let mut sub = Subscriber::new(node.port, &[]);
    sub.hears(&format!(" {BASE}/available online")).await;
    node.ctx.events.send(event(0)).unwrap();
    until_event(&mut sub, 0).await;
    assert_eq!(node.ctx.outbox.state().waiting, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_command_is_not_obeyed_for_ever() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let args = move || {
        let topic = format!("{BASE}/cam/detect/set");
        (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            publish(port, &["-t", &topic, "-m", "OFF", "-r"])
        })
    };
    assert!(tokio::task::spawn_blocking(args).await.unwrap());
    let node = node(|c| c.broker = format!("mqtt://127.0.0.1:{port}")).await;
    node.ctx.control.saw([&cam()]);
    node.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    sub.hears(&format!(" {BASE}/cam/detect/state ON")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.ctx.control.of(&cam()).detect);
    node.stop().await;
}

/// A file of so many bytes, and its name.
fn file_of(dir: &std::path::Path, bytes: usize) -> String {
    let file = dir.join(format!("{bytes}"));
    std::fs::write(&file, vec![b'x'; bytes]).unwrap();
    file.display().to_string()
}

async fn publish_all(port: u16, args: Vec<String>) {
    let sent = move || publish(port, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(tokio::task::spawn_blocking(sent).await.unwrap());
}

/// Waits until the connection stands and says this of it.
async fn is_up_but(node: &Node, says: &str) -> String {
    let wanted = |state: &LinkState| matches!(state, LinkState::Up { reason: Some(r), .. } if r.contains(says));
    let LinkState::Up { reason, .. } = node.link(wanted).await else { unreachable!() };
    reason.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_we_take_does_not_cut_the_node_off() {
    if !have(BROKER) {
        return;
    }
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
        let state = Arc::new(tempfile::tempdir().unwrap());
        let change = |c: &mut spotter::config::Mqtt| {
            c.broker = format!("mqtt://127.0.0.1:{port}");
            c.version = version;
        };
        let large = file_of(dir.path(), 2_000_000);
        let tell = |more: &[&str], topic: &str| {
            let args = ["-q", "1", "-f", &large, "-t", topic];
            let args = args.iter().chain(more).map(ToString::to_string).collect();
            publish_all(port, args)
        };
        let node = node_in(Arc::clone(&state), change).await;
        node.is_up().await;
        let mut sub = Subscriber::new(port, &[]);
        sub.hears(&format!(" {BASE}/available online")).await;
        send(&node, 0);
        until_event(&mut sub, 0).await;
        tell(&[], &format!("{BASE}/cam/detect/set")).await;
        send(&node, 1);
        until_event(&mut sub, 1).await;
        if version == 4 {
            // It takes a new session to be rid of it.
            let until = Instant::now() + SOON;
            while node.ctx.counters.connects.get() < 2 {
                assert!(Instant::now() < until);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node.is_up().await;
        }
        assert!(matches!(&*node.ctx.link.borrow(), LinkState::Up { reason: None, .. }));
        node.stop().await;

        // Retained it comes again in each session.
        tell(&["-r"], &format!("{BASE}/cam/threshold/set")).await;
        let node = node_in(Arc::clone(&state), change).await;
        node.ctx.control.saw([&cam()]);
        match version {
            4 => {
                let reason = is_up_but(&node, "bytes are retained").await;
                assert!(reason.contains(&format!("{BASE}/+/threshold/set")), "{reason}");
                assert!(reason.contains("mosquitto_pub -r -n"), "{reason}");
            }
            _ => node.is_up().await,
        }
        send(&node, 2);
        until_event(&mut sub, 2).await;
        // The other commands are obeyed.
        sub.hears(&format!(" {BASE}/cam/detect/state ON")).await;
        let off = ["-t", &format!("{BASE}/cam/detect/set"), "-m", "OFF"];
        publish_all(port, off.map(String::from).to_vec()).await;
        sub.hears(&format!(" {BASE}/cam/detect/state OFF")).await;
        waits(&node, 0).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_may_say_ourselves_is_taken_when_it_comes_back() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let node = node(|c| {
        c.broker = format!("mqtt://127.0.0.1:{port}");
        c.max_packet_bytes = 4 << 20;
    })
    .await;
    node.is_up().await;
    let config = "homeassistant/device/spotter-test/config";
    let large = ["-q", "1", "-r", "-t", config, "-f", &file_of(dir.path(), 3_000_000)];
    publish_all(port, large.map(String::from).to_vec()).await;
    let mut sub = Subscriber::new(port, &["-T", config]);
    sub.hears(&format!(" {BASE}/available online")).await;
    send(&node, 0);
    until_event(&mut sub, 0).await;
    assert_eq!(node.ctx.counters.connects.get(), 1);
    node.stop().await;
}

/// The best picture of a dog, of so many bytes.
fn portrait(bytes: usize) -> Arc<Portrait> {
    Arc::new(Portrait {
        id: "v".into(),
        stream: cam(),
        label: "dog".into(),
        score: 0.9,
        pts: MediaTime::ZERO,
        full: Bytes::new(),
        crop: vec![b'J'; bytes].into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_long_messages_gets_the_short_ones() {
    if !have(BROKER) {
        return;
    }
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let little = "allow_anonymous true\nmax_packet_size 20000";
        let _broker = mosquitto(dir.path(), port, little);
        let node = node(|c| {
            c.broker = format!("mqtt://127.0.0.1:{port}");
            c.version = version;
        })
        .await;
        node.is_up().await;
        node.ctx.control.saw([&cam()]);
        node.ctx.snapshots.portraits.send(portrait(30_000)).unwrap();
        let reason = match version {
            // Found out by connections that break, one after the other.
            4 => is_up_but(&node, "soon after a long message").await,
            _ => is_up_but(&node, "the broker takes 20000").await,
        };
        assert!(reason.contains("max_packet"), "{reason}");
        let mut sub = Subscriber::new(port, &[]);
        sub.hears(&format!(" {BASE}/available online")).await;
        sub.hears(&format!(" {BASE}/cam/dog 0")).await;
        send(&node, 0);
        until_event(&mut sub, 0).await;
        node.ctx.snapshots.portraits.send(portrait(9_000)).unwrap();
        sub.hears(&format!("{BASE}/cam/dog/snapshot JJJ")).await;
        waits(&node, 0).await;
        let counters = &node.ctx.counters;
        assert!(counters.dropped_large.get() >= 1);
        if version == 5 {
            assert_eq!(counters.connects.get(), 1);
            // One that could never be delivered makes room for those behind it.
            node.ctx.outbox.push("long".into(), vec![b' '; 20_000].into());
            send(&node, 1);
            until_event(&mut sub, 1).await;
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_refuses_is_said_with_the_remedy() {
    if !have(BROKER) {
        return;
    }
    // It answers a subscription with a refusal; mosquitto's ACL file hears of none.
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut plugins = libraries.map(|e| e.path().join("mosquitto_dynamic_security.so"));
    let Some(plugin) = plugins.find(|p| p.exists()) else {
        return skip("no mosquitto_dynamic_security.so; run ./setup.sh --test");
    };
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let rules = dir.path().join("rules.json");
        let deny = |kind: &str, topic: &str| serde_json::json!({ "acltype": kind, "topic": format!("{BASE}/{topic}"), "allow": false });
        let all = serde_json::json!({
            "defaultACLAccess": {
                "publishClientSend": true, "publishClientReceive": true,
                "subscribe": true, "unsubscribe": true,
            },
            "anonymousGroup": "all", "clients": [],
            "groups": [{ "groupname": "all", "roles": [{ "rolename": "some" }] }],
            "roles": [{ "rolename": "some", "acls": [
                deny("subscribeLiteral", "+/threshold/set"), deny("publishClientSend", "events"),
            ]}],
        });
        std::fs::write(&rules, all.to_string()).unwrap();
        let more = format!(
            "allow_anonymous true\nuser root\nplugin {}\nplugin_opt_config_file {}",
            plugin.display(),
            rules.display()
        );
        let _broker = mosquitto(dir.path(), port, &more);
        let node = node(|c| {
            c.broker = format!("mqtt://127.0.0.1:{port}");
            c.version = version;
        })
        .await;
        let reason = is_up_but(&node, "subscription").await;
        assert!(reason.contains(&format!("{BASE}/+/threshold/set")), "{reason}");
        assert!(reason.contains("ACL"), "{reason}");
        send(&node, 0);
        waits(&node, 0).await;
        let counters = &node.ctx.counters;
        if version == 5 {
            let reason = is_up_but(&node, "refuses what is published").await;
            assert!(reason.contains(&format!("{BASE}/events (NotAuthorized)")), "{reason}");
            assert_eq!((counters.events_refused.get(), counters.events_published.get()), (1, 0));
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_of_one_name_are_noticed_and_the_remedy_is_said() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let url = format!("mqtt://127.0.0.1:{port}");
    let one = node(|c| c.broker.clone_from(&url)).await;
    one.is_up().await;
    let two = node(|c| c.broker.clone_from(&url)).await;
    let said = |state: &LinkState| matches!(state, LinkState::Contested { reason, .. } if reason.contains("node.name"));
    one.link(said).await;
    tokio::join!(one.stop(), two.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_is_not_taken_for_another() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    for version in [4, 5, 5, 4] {
        let change = |c: &mut spotter::config::Mqtt| {
            c.broker = format!("mqtt://127.0.0.1:{port}");
            c.version = version;
        };
        let node = node(change).await;
        node.is_up().await;
        // By then it has heard what the last run left, and itself.
        tokio::time::sleep(Duration::from_millis(700)).await;
        node.is_up().await;
        // Once without a goodbye.
        if version == 5 { node.stop().await } else { node.task.abort() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_5_and_websockets_reach_the_broker_too() {
    if !have(BROKER) {
        return;
    }
    let (dir, port, web) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let more = format!("allow_anonymous true\nlistener {web} 127.0.0.1\nprotocol websockets");
    let _broker = mosquitto(dir.path(), port, &more);
    let five = node(|c| {
        c.broker = format!("mqtt://127.0.0.1:{port}");
        c.version = 5;
    })
    .await;
    five.is_up().await;
    let mut sub = Subscriber::new(port, &["-V", "mqttv5", "-F", "%r %q %t %P"]);
    sub.hears(&format!(" {BASE}/available")).await;
    five.ctx.events.send(event(0)).unwrap();
    sub.hears(&format!("{BASE}/events message_id:000000-abcdef-new")).await;
    five.stop().await;
    for version in [4, 5] {
        let over = node(|c| {
            c.broker = format!("ws://127.0.0.1:{web}/mqtt");
            c.version = version;
        })
        .await;
        over.is_up().await;
        over.ctx.events.send(event(1)).unwrap();
        waits(&over, 0).await;
        over.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_or_hangs_up_is_named() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // CONNACK "server unavailable", and one that closes without a word.
    for (version, answer, said) in [
        (4, &[0x20, 2, 0, 3][..], "refused the connection"),
        (5, &[0x20, 3, 0, 0x88, 0], "refused the connection"),
        (4, &[0x20, 2, 0, 5], "refused the credentials"),
        (5, &[0x20, 3, 0, 0x87, 0], "refused the credentials"),
        (4, &[], "does not answer in MQTT"),
        (5, &[], "does not answer in MQTT"),
    ] {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = node(|c| {
            c.broker = format!("mqtt://{address}");
            c.version = version;
        })
        .await;
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        socket.write_all(answer).await.unwrap();
        drop(socket);
        let reason = node.down_reason().await;
        assert!(reason.contains(said), "{version}: {reason}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_answers_slowly_gets_everything_once_and_holds_nothing_up() {
    if !have(BROKER) {
        return;
    }
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
        let mut sub = reader(port).await;
        let detour = Detour::to(port).await;
        // Each answer takes longer than an event may wait before it is written down.
        *detour.delay.lock().unwrap() = Duration::from_millis(1500);
        let node = node(|c| {
            c.broker = format!("mqtt://127.0.0.1:{}", detour.port);
            c.version = version;
        })
        .await;
        node.is_up().await;
        for n in 0..40 {
            send(&node, n);
            node.detect(n);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_all(&until_event(&mut sub, 39).await, 40);
        waits(&node, 0).await;
        sub.take();
        assert_all(&events_in(&sub.seen), 40);
        let found = sub.seen.iter().filter(|l| l.contains("/cam/detections "));
        assert!(found.count() as u64 + node.ctx.counters.dropped_slow.get() >= 40);
        assert_eq!(detour.connections.load(Ordering::Relaxed), 1, "it is slow, not dead");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_half_closes_is_left_and_come_back_to_with_all_events() {
    if !have(BROKER) {
        return;
    }
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
        let mut sub = reader(port).await;
        let detour = Detour::to(port).await;
        let node = node(|c| {
            c.broker = format!("mqtt://127.0.0.1:{}", detour.port);
            c.version = version;
        })
        .await;
        node.is_up().await;
        (0..10).for_each(|n| send(&node, n));
        until_event(&mut sub, 9).await;
        waits(&node, 0).await;
        detour.half_close.notify_waiters();
        // The way there is still open: what is sent now arrives unanswered, and is sent again.
        (10..20).for_each(|n| send(&node, n));
        let reason = node.down_reason().await;
        assert!(reason.contains("broke"), "{reason}");
        (20..30).for_each(|n| send(&node, n));
        node.is_up().await;
        until_event(&mut sub, 29).await;
        waits(&node, 0).await;
        sub.take();
        let mut got = events_in(&sub.seen);
        got.sort_by_key(|(n, _)| *n);
        got.dedup();
        assert_all(&got, 30);
        assert!(detour.connections.load(Ordering::Relaxed) >= 2);
        node.stop().await;
    }
}
