//! Events over MQTT with real parts: mosquitto stopped and started, spotter killed, commands, Home Assistant's words.
//! Skips, out loud, what needs a program that is not installed.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mqtt.rs"]
mod mqtt_support;
mod support;
#[path = "support/visits.rs"]
mod visits;

pub(crate) use support::skip;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mqtt_support::*;
use serde_json::Value;
use spotter::control::Setting;
use spotter::media::stream::Takeover;
use spotter::media::{MediaTime, StreamId};
use spotter::mqtt::outbox::{Limits, Outbox};
use spotter::snapshots::Portrait;
use support::free_port;
use visits::*;

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
