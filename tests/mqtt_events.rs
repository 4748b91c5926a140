//! Events over MQTT with real parts: mosquitto stopped and started, spotter killed, commands, Home Assistant's words.
//! Skips, out loud, what needs a program that is not installed.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mqtt.rs"]
mod mqtt_support;
mod support;

pub(crate) use support::skip;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mqtt_support::*;
use serde_json::Value;
use spotter::control::Setting;
use spotter::detect::BBox;
use spotter::media::stream::Takeover;
use spotter::media::{MediaTime, StreamId};
use spotter::mqtt::outbox::{Limits, Outbox};
use spotter::snapshots::Portrait;
use spotter::track::{Best, Event, EventKind, Moment, Visit};
use spotter::wire::LinkState;
use support::free_port;

const BASE: &str = "spotter/spotter-test";

fn cam() -> StreamId {
    StreamId::new("cam").unwrap()
}

/// The `n`th visit's first message, `n` seconds after a moment long ago.
fn event(n: u64) -> Arc<Event> {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + n);
    let at = Moment { media: MediaTime::from_millis(n as i64 * 1000), wall };
    let bbox = BBox { x1: 1.0, y1: 2.0, x2: 3.0, y2: 4.0 };
    let visit = Arc::new(Visit {
        id: format!("{n:06}-abcdef").into(),
        stream: cam(),
        track_id: n,
        label: "dog".into(),
        score: 0.9,
        top_score: 0.9,
        start: at,
        seen: at,
        end: None,
        width: 16,
        height: 16,
        bbox,
        best: Best { at, seq: n, score: 0.9, bbox },
        current_zones: vec![],
        entered_zones: vec![],
    });
    Arc::new(Event { kind: EventKind::New, before: Arc::clone(&visit), after: visit })
}

fn send(node: &Node, n: u64) {
    node.ctx.events.send(event(n)).unwrap();
}

/// The events among what a subscriber saw: number and start time.
fn events_in(seen: &[String]) -> Vec<(u64, f64)> {
    let of = |line: &String| {
        let json: Value = serde_json::from_str(line.split_once("/events ")?.1).ok()?;
        assert_eq!(json["message_id"], format!("{}-new", json["after"]["id"].as_str()?));
        let number = json["after"]["id"].as_str()?.split('-').next()?.parse().ok()?;
        Some((number, json["after"]["start_time"].as_f64()?))
    };
    seen.iter().filter_map(of).collect()
}

/// Waits until the subscriber has event `last`, and answers all it has.
async fn until_event(sub: &mut Subscriber, last: u64) -> Vec<(u64, f64)> {
    let until = Instant::now() + SOON;
    loop {
        sub.take();
        let events = events_in(&sub.seen);
        if events.iter().any(|(n, _)| *n == last) {
            return events;
        }
        assert!(Instant::now() < until, "no event {last} among {events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn assert_all(events: &[(u64, f64)], n: u64) {
    let expected: Vec<_> = (0..n).map(|n| (n, (1_700_000_000 + n) as f64)).collect();
    assert_eq!(events, expected);
}

async fn waits(node: &Node, n: usize) {
    let until = Instant::now() + SOON;
    while node.ctx.outbox.state().waiting != n {
        assert!(Instant::now() < until, "{:?}", node.ctx.outbox.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the broker has the subscriber's answer to every message that wants one. Until then it would rightly send
/// them again, whatever we do.
async fn reader_has_answered(dir: &std::path::Path) {
    let until = Instant::now() + SOON;
    loop {
        let log = std::fs::read_to_string(dir.join("broker.log")).unwrap_or_default();
        let sent = |l: &&str| l.contains("Sending PUBLISH to reader") && l.contains(", q1,");
        let answered = |l: &&str| l.contains("Received PUBACK from reader");
        let counts = (log.lines().filter(sent).count(), log.lines().filter(answered).count());
        if counts.0 > 0 && counts.0 == counts.1 {
            return;
        }
        assert!(Instant::now() < until, "sent and answered: {counts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_a_broker_that_is_away_and_come_once_in_order_with_their_own_times() {
    if !have(BROKER) {
        return;
    }
    for version in [4, 5] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let node = node(|c| {
            c.broker = format!("mqtt://127.0.0.1:{port}");
            c.version = version;
        })
        .await;
        let broker = mosquitto(dir.path(), port, &lasting(dir.path()));
        node.is_up().await;
        let mut sub = Subscriber::new(port, &LASTING);
        sub.hears(&format!(" {BASE}/available online")).await;
        (0..5).for_each(|n| send(&node, n));
        until_event(&mut sub, 4).await;
        waits(&node, 0).await;
        assert_eq!(node.ctx.counters.events_published.get(), 5);
        assert_eq!(node.ctx.outbox.state().on_disk, 0);
        reader_has_answered(dir.path()).await;

        // mosquitto writes down who subscribed when it is ended in good order.
        broker.terminate();
        node.down_reason().await;
        (5..30).for_each(|n| send(&node, n));
        waits(&node, 25).await;
        let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
        node.is_up().await;
        assert_all(&until_event(&mut sub, 29).await, 30);
        waits(&node, 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        sub.take();
        assert_all(&events_in(&sub.seen), 30);
        assert_eq!(node.ctx.counters.events_published.get(), 30);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_event_is_accounted_for_while_the_broker_comes_and_goes() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let node = node(|c| c.broker = format!("mqtt://127.0.0.1:{port}")).await;
    let broker = mosquitto(dir.path(), port, &lasting(dir.path()));
    node.is_up().await;
    let mut sub = Subscriber::new(port, &LASTING);
    sub.hears(&format!(" {BASE}/available online")).await;
    const ALL: u64 = 500;
    let events = node.ctx.events.clone();
    let load = tokio::spawn(async move {
        for n in 0..ALL {
            events.send(event(n)).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    broker.terminate();
    node.down_reason().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
    load.await.unwrap();
    let got = until_event(&mut sub, ALL - 1).await;
    // What was under way when the connection broke may come again, as QoS 1 says; its message_id tells.
    let mut firsts = Vec::new();
    for event in &got {
        if !firsts.contains(event) {
            firsts.push(*event);
        }
    }
    assert_all(&firsts, ALL);
    assert!(got.len() - firsts.len() <= 20, "{} came again", got.len() - firsts.len());
    waits(&node, 0).await;
    assert_eq!(node.ctx.counters.events_dropped.get() + node.ctx.counters.events_missed.get(), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_outlives_the_process_and_the_oldest_makes_room() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let state = Arc::new(tempfile::tempdir().unwrap());
    let change = |c: &mut spotter::config::Mqtt| {
        c.broker = format!("mqtt://127.0.0.1:{port}");
        c.outbox_events = 20;
    };
    let first = node_in(Arc::clone(&state), change).await;
    first.down_reason().await;
    (0..25).for_each(|n| send(&first, n));
    waits(&first, 20).await;
    assert_eq!(first.ctx.counters.events_dropped.get(), 5);
    first.stop().await;

    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut sub = Subscriber::new(port, &[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = node_in(state, change).await;
    second.is_up().await;
    second.ctx.events.send(event(25)).unwrap();
    let events = until_event(&mut sub, 25).await;
    assert_eq!(events.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (5..=25).collect::<Vec<_>>());
    second.stop().await;
}

#[test]
fn what_waits_is_found_on_a_full_disk_and_a_new_file_begins_when_there_is_room() {
    let Some(disk) = support::mount::Mount::tmpfs("size=256k") else {
        return skip("cannot mount a tmpfs: not root");
    };
    let limits = Limits { events: 100, bytes: 100_000 };
    let open = |file| Outbox::open(&disk.path().join(file), limits, Arc::default());
    let outbox = open("outbox.db");
    (0..6).for_each(|n| outbox.push(format!("{n}").into(), Bytes::from_static(b"{}")));
    outbox.write(Duration::ZERO);
    assert_eq!(outbox.state().on_disk, 6);
    drop(outbox);
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    let (old, new) = (open("outbox.db"), open("new.db"));
    new.push("7".into(), Bytes::from_static(b"{}"));
    for outbox in [&old, &new] {
        outbox.write(Duration::ZERO);
    }
    assert_eq!((old.state().waiting, old.state().on_disk), (6, 6));
    assert_eq!((new.state().on_disk, new.state().disk_failing), (0, 1));
    std::fs::remove_file(ballast).unwrap();
    old.acknowledged(0);
    for outbox in [&old, &new] {
        outbox.write(Duration::ZERO);
    }
    assert_eq!((new.state().on_disk, new.state().disk_failing), (1, 0));
    drop(old);
    assert_eq!(open("outbox.db").state().waiting, 5);
    let names = std::fs::read_dir(disk.path()).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.filter(|n| n.to_string_lossy().contains("aside")).count(), 0);
}

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
async fn counts_pictures_and_switches_are_retained_and_commands_obeyed() {
    if !have(CLIENTS) {
        return;
    }
    let node = node(|_| {}).await;
    node.is_up().await;
    let _publication = node.ctx.streams.claim(&cam(), Takeover::Refused).unwrap();
    node.ctx.control.saw([&cam()]);
    let mut sub = Subscriber::new(node.port, &[]);
    sub.hears(&format!(" {BASE}/cam/detect/state ON")).await;
    let mut now = std::collections::BTreeMap::new();
    now.insert(cam(), [("dog".into(), 2)].into());
    node.counts.send(now).unwrap();
    sub.sees(&format!("0 1 {BASE}/cam/dog 2")).await;
    node.counts.send_modify(|all| all.clear());
    sub.sees(&format!("0 1 {BASE}/cam/dog 0")).await;
    let portrait = Portrait {
        id: "v".into(),
        stream: cam(),
        label: "dog".into(),
        score: 0.9,
        pts: MediaTime::ZERO,
        full: Bytes::new(),
        crop: Bytes::from_static(b"JPEG"),
    };
    node.ctx.snapshots.portraits.send(Arc::new(portrait)).unwrap();
    sub.sees(&format!("0 1 {BASE}/cam/dog/snapshot JPEG")).await;

    let tell = |topic: &'static str, payload: &'static str| {
        let port = node.port;
        async move {
            let topic = format!("{BASE}/{topic}");
            let args = move || publish(port, &["-t", &topic, "-m", payload, "-q", "1"]);
            assert!(tokio::task::spawn_blocking(args).await.unwrap());
        }
    };
    tell("cam/detect/set", "OFF").await;
    sub.sees(&format!("0 1 {BASE}/cam/detect/state OFF")).await;
    assert!(!node.ctx.control.settings().borrow().stream["cam"].detect);
    tell("cam/recordings/set", "continuous").await;
    sub.sees(&format!("0 1 {BASE}/cam/recordings/mode continuous")).await;
    assert!(sub.seen.contains(&format!("0 1 {BASE}/cam/recordings/state ON")));
    tell("cam/threshold/set", "0.65").await;
    sub.sees(&format!("0 1 {BASE}/cam/threshold/state 0.65")).await;
    // Nonsense changes nothing, and the state is said again for whoever shows it.
    for (topic, payload) in [
        ("cam/threshold/set", "hot"),
        ("cam/detect/set", "perhaps"),
        ("cam/recordings/set", ""),
        ("cam/threshold/set", "7"),
        ("nowhere/detect/set", "ON"),
    ] {
        sub.seen.clear();
        tell(topic, payload).await;
        if topic.starts_with("cam") {
            sub.sees(&format!("0 1 {BASE}/cam/threshold/state 0.65")).await;
        }
    }
    let until = Instant::now() + SOON;
    while node.ctx.counters.bad_commands.get() != 5 {
        assert!(Instant::now() < until, "{}", node.ctx.counters.bad_commands.get());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!node.ctx.control.of(&cam()).detect);

    // Switched by somebody else, by the page say.
    node.ctx.control.set(&cam(), Setting::Detect(true)).unwrap();
    sub.sees(&format!("0 1 {BASE}/cam/detect/state ON")).await;
    let mut late = Subscriber::new(node.port, &[]);
    late.sees(&format!("1 1 {BASE}/cam/threshold/state 0.65")).await;
    assert!(late.seen.iter().any(|l| l == &format!("1 1 {BASE}/cam/dog/snapshot JPEG")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_quick_commands_the_last_one_counts() {
    if !have(CLIENTS) {
        return;
    }
    let node = node(|_| {}).await;
    node.is_up().await;
    node.ctx.control.saw([&cam()]);
    let mut sub = Subscriber::new(node.port, &[]);
    sub.hears(&format!(" {BASE}/cam/threshold/state 0.")).await;
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &node.port.to_string(), "-q", "1", "-l"])
        .args(["-t", &format!("{BASE}/cam/threshold/set")])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..=300 {
        std::io::Write::write_all(&mut stdin, format!("0.{:03}\n", 300 + n).as_bytes()).unwrap();
    }
    drop(stdin);
    sub.sees(&format!("0 1 {BASE}/cam/threshold/state 0.6")).await;
    assert!(child.wait().unwrap().success());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(node.ctx.control.of(&cam()).threshold, 0.6);
    let counters = &node.ctx.counters;
    assert_eq!(counters.commands.get() + counters.commands_dropped.get(), 301);
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
async fn a_node_that_home_assistant_is_not_to_know_any_longer_leaves_it() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let at = |c: &mut spotter::config::Mqtt| c.broker = format!("mqtt://127.0.0.1:{port}");
    let config = "homeassistant/device/spotter-test/config";
    let node_then = node(at).await;
    node_then.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    sub.hears(&format!("{config} {{")).await;
    node_then.stop().await;
    let node = node(|c| {
        at(c);
        c.home_assistant = false;
    })
    .await;
    while !sub.sees(&format!("0 1 {config} ")).await.ends_with("config ") {}
    let mut late = Subscriber::new(port, &[]);
    late.hears(&format!(" {BASE}/update ")).await;
    assert!(!late.seen.iter().any(|l| l.contains(config)));
    node.stop().await;
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
async fn home_assistant_is_told_again_at_its_birth_and_of_streams_that_go() {
    if !have(BROKER) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    let state = Arc::new(tempfile::tempdir().unwrap());
    let first =
        node_in(Arc::clone(&state), |c| c.broker = format!("mqtt://127.0.0.1:{port}")).await;
    first.ctx.control.saw([&cam(), &StreamId::new("barn").unwrap()]);
    first.is_up().await;
    let mut sub = Subscriber::new(port, &[]);
    let config = "homeassistant/device/spotter-test/config ";
    let entities = |line: &str| -> Value {
        let message = line.split_once("/config ").unwrap().1;
        serde_json::from_str::<Value>(message).unwrap()["cmps"].clone()
    };
    let all = entities(&sub.hears(&format!(" {config}")).await);
    sub.hears(&format!(" {BASE}/update ")).await;
    assert_eq!(all["cam_dog"]["p"], "binary_sensor");
    sub.hears(&format!(" {BASE}/cam/dog 0")).await;
    sub.seen.clear();
    let born = ["-t", "homeassistant/status", "-m", "online"];
    assert!(tokio::task::spawn_blocking(move || publish(port, &born)).await.unwrap());
    assert_eq!(entities(&sub.sees(&format!("0 1 {config}")).await), all);

    sub.seen.clear();
    first.ctx.control.forget(&StreamId::new("barn").unwrap()).unwrap();
    let going = entities(&sub.sees(&format!("0 1 {config}")).await);
    assert_eq!(going["barn_detect"], serde_json::json!({ "p": "switch" }));
    let gone = entities(&sub.sees(&format!("0 1 {config}")).await);
    assert!(gone.get("barn_detect").is_none() && gone.get("cam_detect").is_some());
    assert!(sub.seen.iter().any(|l| l == &format!("0 1 {BASE}/barn/dog ")));
    first.stop().await;

    // Forgotten while nobody ran: the next run finds out by what the broker retains.
    std::fs::remove_file(state.path().join("overrides.json")).unwrap();
    sub.seen.clear();
    let second = node_in(state, |c| c.broker = format!("mqtt://127.0.0.1:{port}")).await;
    second.is_up().await;
    let is_going = |line: &String| {
        line.contains(config)
            && entities(line)["cam_dog"] == serde_json::json!({ "p": "binary_sensor" })
    };
    let until = Instant::now() + SOON;
    while !sub.seen.iter().any(is_going) {
        assert!(Instant::now() < until, "{:#?}", sub.seen);
        tokio::time::sleep(Duration::from_millis(20)).await;
        sub.take();
    }
    second.stop().await;
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

#[cfg(feature = "gst")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_time_without_a_broker_survive_the_kill_of_spotter() {
    if !have(BROKER) || !have(&["ffmpeg", "curl"]) {
        return;
    }
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let extra = format!(
        "mqtt.broker = \"mqtt://127.0.0.1:{port}\"\nmqtt.embedded = true\n\
         decode.backend = \"fake\"\ndetect.backend = \"fake\"\n"
    );
    let service = support::Service::start(&extra);
    let began = SystemTime::now();
    let mut publisher = Command::new("ffmpeg");
    publisher
        .args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=10"])
        .args(["-t", "60", "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-f", "flv"])
        .arg(service.url("cam"));
    let publisher = support::Reaped::start(&mut publisher);
    let stats = || {
        let url = format!("http://127.0.0.1:{}/api/v1/stats", service.web);
        let out = Command::new("curl").args(["-s", &url]).output().unwrap().stdout;
        serde_json::from_slice::<Value>(&out).unwrap_or_default()
    };
    let until = Instant::now() + Duration::from_secs(40);
    while stats()["counters"]["outbox"]["on_disk"].as_u64().unwrap_or(0) == 0 {
        assert!(Instant::now() < until, "{}\n{}", stats()["counters"], service.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    support::signal(service.process.0.id(), "KILL");
    drop(publisher);
    let killed = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let _broker = mosquitto(dir.path(), port, "allow_anonymous true");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut sub = Subscriber::new(port, &[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = support::Reaped::start(
        support::spotter().args(["run", "--log", "warn", "--config"]).arg(&service.config),
    );
    let line = sub.sees("0 1 spotter/test/events ").await;
    let told: Value = serde_json::from_str(line.split_once("/events ").unwrap().1).unwrap();
    assert_eq!(told["type"], "new");
    let unix = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let start = told["after"]["start_time"].as_f64().unwrap();
    assert!(start >= unix(began) && start <= unix(killed), "{start}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    sub.take();
    let same = sub.seen.iter().filter(|l| l.contains(told["message_id"].as_str().unwrap()));
    assert_eq!(same.count(), 1);
    drop(again);
}

/// Waits for a word on updates that is not known yet: installed and latest version, whether one is under way, and how far.
async fn until_update(sub: &mut Subscriber, wanted: [&str; 4]) {
    let until = Instant::now() + SOON;
    loop {
        sub.take();
        let said = sub.seen.drain(..).filter_map(|line| {
            let json = line.split_once(&format!(" {BASE}/update "))?.1.to_owned();
            let json: Value = serde_json::from_str(&json).ok()?;
            let keys = ["installed_version", "latest_version", "in_progress", "update_percentage"];
            Some(keys.map(|key| json[key].to_string().replace('"', "")))
        });
        let said: Vec<_> = said.collect();
        if said.iter().any(|words| words.each_ref().map(String::as_str) == wanted) {
            return;
        }
        assert!(Instant::now() < until, "{wanted:?} was not said, but {said:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn home_assistant_s_update_entity_is_obeyed() {
    if !have(CLIENTS) {
        return;
    }
    let node = node(|_| {}).await;
    node.is_up().await;
    let mut sub = Subscriber::new(node.port, &[]);
    let version = env!("CARGO_PKG_VERSION");
    until_update(&mut sub, [version, version, "false", "null"]).await;
    let port = node.port;
    let install = |payload: &'static str| async move {
        let args = ["-t", "spotter/spotter-test/update/set", "-m", payload];
        assert!(tokio::task::spawn_blocking(move || publish(port, &args)).await.unwrap());
    };
    // Without slots, and without news, nothing begins; the state is said again.
    sub.take();
    sub.seen.clear();
    install("install").await;
    until_update(&mut sub, [version, version, "false", "null"]).await;

    let dir = node.dir.path();
    std::fs::create_dir(dir.join("run")).unwrap();
    std::fs::write(dir.join("run/system.json"), r#"{"version":"1.0.0","booted":"A"}"#).unwrap();
    until_update(&mut sub, ["1.0.0", "1.0.0", "false", "null"]).await;
    std::fs::write(dir.join("news.json"), r#"{"version":"1.1.0","bundle":"b.raucb"}"#).unwrap();
    std::fs::write(dir.join("b.raucb"), b"a bundle").unwrap();
    node.ctx.update.check();
    until_update(&mut sub, ["1.0.0", "1.1.0", "false", "null"]).await;
    install("now").await;
    install("install").await;
    until_update(&mut sub, ["1.0.0", "1.1.0", "true", "0"]).await;
    let until = Instant::now() + SOON;
    let request = loop {
        if let Ok(text) = std::fs::read(dir.join("update/request.json")) {
            break serde_json::from_slice::<Value>(&text).unwrap();
        }
        assert!(Instant::now() < until, "no request was left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(request["allow_downgrade"], false);
    assert_eq!(std::fs::read(dir.join("update/bundle.raucb")).unwrap(), b"a bundle");

    // As root's part says it.
    let told = |step: &str, percent: u8| {
        let id = request["id"].as_str().unwrap();
        let json = format!(
            "{{\"id\":\"{id}\",\"step\":\"{step}\",\"percent\":{percent},\"message\":\"\",\"version\":\"1.1.0\"}}"
        );
        std::fs::write(dir.join("run/progress.json"), json).unwrap();
    };
    told("installing", 60);
    until_update(&mut sub, ["1.0.0", "1.1.0", "true", "60"]).await;
    told("failed", 0);
    until_update(&mut sub, ["1.0.0", "1.1.0", "false", "null"]).await;
    node.stop().await;
}
