//! What happens to a box in the field: the power goes at any moment, the disk fills up or fails, the clock is wrong until
//! there is a network. The real program, recording ffmpeg's stream; nothing that was acknowledged may be lost.
#![cfg(feature = "gst")]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mqtt.rs"]
mod mqtt_support;
mod support;

pub(crate) use support::skip;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mqtt_support::{BROKER, Subscriber, have, lasting, mosquitto, reader};
use serde_json::Value;
use support::api::*;
use support::mount::Mount;
use support::readers::{Mosquitto, Socket};
use support::{Service, free_port, root, spotter};

/// What the API told, asked again and again until the moment of the kill.
#[derive(Debug, Default, Clone)]
struct Seen {
    events: BTreeSet<String>,
    /// Closed files: stream and beginning, and how many bytes.
    closed: BTreeMap<String, u64>,
}

impl Seen {
    fn now(service: &Service) -> Option<Self> {
        let asked = |path: &str| {
            let answer = Command::new("curl")
                .args(["-sf", "-m", "5"])
                .arg(format!("http://127.0.0.1:{}{path}", service.web))
                .output();
            serde_json::from_slice::<Value>(&answer.ok()?.stdout).ok()
        };
        let mut seen = Self::default();
        let mut page = asked("/api/v1/events?limit=500")?;
        loop {
            for event in page["events"].as_array()? {
                seen.events.insert(event["id"].as_str()?.to_owned());
            }
            let Some(next) = page["next"].as_str() else { break };
            page = asked(&format!("/api/v1/events?limit=500&cursor={next}"))?;
        }
        for file in asked("/api/v1/recordings?limit=10000")?["recordings"].as_array()? {
            if file["open"] == false {
                let name = format!("{} {}", file["stream"], file["start_time"]);
                seen.closed.insert(name, file["bytes"].as_u64()?);
            }
        }
        Some(seen)
    }
}

/// `new` and `end` by the id of their visit, as a subscriber has them.
fn told(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.iter().filter(|l| l.contains("/events ")) {
        let message: Value = serde_json::from_str(line.split_once("/events ").unwrap().1)
            .unwrap_or_else(|e| panic!("half a message: {e}: {line}"));
        let id = message["after"]["id"].as_str().unwrap().to_owned();
        all.entry(id).or_default().push(message["type"].as_str().unwrap().to_owned());
    }
    all
}

fn is_whole_jpeg(file: &Path) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.starts_with(&[0xFF, 0xD8]) && bytes.ends_with(&[0xFF, 0xD9])
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files_below(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// $SPOTTER_KILLS: how often, for a longer run by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_that_was_told_and_no_closed_file() {
    if let Some(why) = missing() {
        return skip(why);
    }
    if !have(BROKER) || !have(&["curl"]) {
        return;
    }
    let kills: usize =
        std::env::var("SPOTTER_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), port, &lasting(dir.path()));
    let mut service = Service::start(&format!(
        "mqtt.broker = \"mqtt://127.0.0.1:{port}\"\nmqtt.embedded = true\n{FAKE}[record]\nmode = \"continuous\"\nsegment_s = 2.0\n"
    ));
    let mut sub = reader(port).await;
    sub.hears("spotter/test/available online").await;
    let visitors = ["garden", "barn", "gate"].map(|name| Visitor::come(service.url(name)));
    let state = service.dir.path().join("state");
    let recordings = state.join("recordings");
    let mut probed: BTreeSet<PathBuf> = BTreeSet::new();
    for round in 0..kills {
        let mut seen = Seen::default();
        let (begun, enough) =
            (Instant::now(), Duration::from_millis(rand::random_range(3500..8000)));
        // What the subscriber had some seconds before, and what the API told until the last moment.
        let mut told_then = BTreeMap::new();
        while begun.elapsed() < enough || seen.events.is_empty() || seen.closed.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(90), "round {round}: {seen:?}");
            if begun.elapsed() + Duration::from_secs(2) < enough {
                sub.take();
                told_then = told(&sub.seen);
            }
            if let Some(now) = Seen::now(&service) {
                seen = now;
            }
            std::thread::sleep(Duration::from_millis(rand::random_range(0..60)));
        }
        kill(&mut service);
        let killed = SystemTime::now();
        start_again(&mut service);
        until(&service, "storage", || storage(&service)["state"] == "ok");

        let kept = Seen::now(&service).unwrap();
        let lost: Vec<_> = seen.events.difference(&kept.events).collect();
        assert!(lost.is_empty(), "round {round}: the API told of {lost:?}");
        let lost: Vec<_> = told_then.keys().filter(|id| !kept.events.contains(*id)).collect();
        assert!(lost.is_empty(), "round {round}: the broker was told of {lost:?}");
        for (file, bytes) in &seen.closed {
            assert_eq!(kept.closed.get(file), Some(bytes), "round {round}: {file}");
        }
        // Nothing half: the database was not damaged, what was recorded plays, pictures are whole.
        let names: Vec<_> =
            std::fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!names.iter().any(|n| n.to_string_lossy().contains(".corrupt")), "{names:?}");
        let old = |f: &PathBuf| f.metadata().unwrap().modified().unwrap() < killed;
        for file in mp4s(&recordings).into_iter().filter(old) {
            if probed.insert(file.clone()) {
                probe(&file);
            }
        }
        let events =
            json(&service, "/api/v1/events?limit=500")["events"].as_array().unwrap().clone();
        for event in &events {
            let id = event["id"].as_str().unwrap();
            if !seen.events.contains(id) {
                continue;
            }
            if event["has_snapshot"] == true {
                let url = event["snapshot_url"].as_str().unwrap();
                let (status, jpeg) = get(&service, url);
                assert!(status == 200 && jpeg.ends_with(&[0xFF, 0xD9]), "{url}: {status}");
            }
        }
    }
    // The subscriber heard of every visit, in order: first that it came, at last that it went.
    drop(visitors);
    until(&service, "the last visits' end", || {
        let all = json(&service, "/api/v1/events?limit=500")["events"].as_array().unwrap().clone();
        all.iter().all(|e| e["end_time"].is_number())
    });
    let all = Seen::now(&service).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        sub.take();
        let heard = told(&sub.seen);
        // What was confirmed in the very moment of a kill can be in the database alone, or at the broker alone.
        let unheard = all.events.iter().filter(|id| !heard.contains_key(*id)).count();
        let halves: Vec<_> = heard
            .iter()
            .filter(|(_, kinds)| kinds[0] != "new" || kinds[kinds.len() - 1] != "end")
            .collect();
        if unheard + halves.len() <= kills {
            break;
        }
        assert!(Instant::now() < end, "{unheard} were never told, these in half: {halves:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    let files = mp4s(&recordings);
    files.iter().filter(|f| !probed.contains(*f)).for_each(|f| {
        probe(f);
    });
    let pictures = files_below(&state.join("events"));
    assert!(pictures.iter().all(|f| is_whole_jpeg(f)), "{pictures:?}");
    println!(
        "{kills} kills: {} visits, {} files, {} pictures, nothing lost or half",
        all.events.len(),
        files.len(),
        pictures.len()
    );
}

/// A service whose state directory is a small file system of its own.
fn on_disk(disk: &Mount, broker: u16) -> Service {
    Service::start_with(|dir| {
        std::os::unix::fs::symlink(disk.path(), dir.join("state")).unwrap();
        format!(
            "mqtt.broker = \"mqtt://127.0.0.1:{broker}\"\nmqtt.embedded = true\n{FAKE}\
             [record]\nmode = \"continuous\"\nsegment_s = 600.0\nkeep_free_bytes = 0\n"
        )
    })
}

fn outbox(service: &Service) -> Value {
    json(service, "/api/v1/stats")["counters"]["outbox"].clone()
}

/// Detections still come by MQTT and by WebSocket.
async fn both_exits_go_on(service: &Service, mqtt: &Mosquitto, socket: &Socket) {
    let counts = || (mqtt.detections("garden").len(), socket.detections("garden").len());
    let before = counts();
    until(service, "detections by both exits", || {
        let now = counts();
        now.0 > before.0 + 3 && now.1 > before.1 + 3
    });
}

fn tokens(state: &Path) -> Vec<u8> {
    std::fs::read(state.join("tokens.toml")).unwrap()
}

/// A subscriber of a broker that is gone for now.
async fn left_by_its_broker(dir: &Path, port: u16) -> Subscriber {
    let broker = mosquitto(dir, port, &lasting(dir));
    let sub = reader(port).await;
    // It writes down who subscribed.
    broker.terminate();
    sub
}

/// The broker comes back, and its subscriber gets all that waited.
async fn the_outbox_is_unharmed(
    (dir, port): (&Path, u16),
    mut sub: Subscriber,
    service: &Service,
    waiting: &[String],
) {
    let _broker = mosquitto(dir, port, &lasting(dir));
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        sub.take();
        let heard = told(&sub.seen);
        if waiting.iter().all(|id| heard.contains_key(id)) && outbox(service)["waiting"] == 0 {
            return;
        }
        assert!(Instant::now() < end, "{waiting:?} of {heard:?}, {}", outbox(service));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Visits that `garden` and another stream began.
fn ids(service: &Service) -> Vec<String> {
    let all = json(service, "/api/v1/events?limit=500")["events"].as_array().unwrap().clone();
    all.iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_fills_up_stops_the_recording_alone_and_goes_on_when_there_is_room() {
    if let Some(why) = missing() {
        return skip(why);
    }
    if !have(BROKER) {
        return;
    }
    let Some(disk) = Mount::ext4(24) else {
        return skip("cannot mount an ext4: not root, or no loop devices or mkfs.ext4 here");
    };
    let (dir, broker) = (tempfile::tempdir().unwrap(), free_port());
    let sub = left_by_its_broker(dir.path(), broker).await;
    let mut service = on_disk(&disk, broker);
    let before = tokens(disk.path());
    let mqtt = Mosquitto::subscribe(service.mqtt, "spotter/test/#");
    let socket = Socket::live(&service).await;
    let _publisher = publish(&service, "garden");
    until(&service, "an event that waits on disk", || {
        outbox(&service)["on_disk"].as_u64() > Some(0)
    });
    let mut waiting = ids(&service);
    assert_eq!(waiting.len(), 1);

    // All but a megabyte is taken, and the recording takes that.
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; (disk.free() - (1 << 20)) as usize]).unwrap();
    until(&service, "a full disk", || storage(&service)["state"] == "full");
    assert!(storage(&service)["message"].as_str().unwrap().contains("make room"));
    // The status by MQTT says so too.
    until(&service, "word by MQTT", || {
        mqtt.last("spotter/test/status").is_some_and(|s| s.contains("\"state\":\"full\""))
    });
    both_exits_go_on(&service, &mqtt, &socket).await;
    assert_eq!(tokens(disk.path()), before);
    // The API still answers, and an event of this time waits with the others.
    assert_eq!(ids(&service), waiting);
    let second = publish(&service, "barn");
    until(&service, "a second event", || outbox(&service)["waiting"].as_u64() >= Some(2));
    let listed =
        spotter().args(["token", "list", "--config"]).arg(&service.config).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));

    std::fs::remove_file(ballast).unwrap();
    until(&service, "room again", || storage(&service)["state"] == "ok");
    until(&service, "another file", || mp4s(disk.path()).len() >= 2);
    // The visit that began on the full disk is in the list now.
    until(&service, "the second visit", || ids(&service).len() >= 2);
    waiting = ids(&service);
    until(&service, "the outbox on disk", || outbox(&service)["on_disk"].as_u64() >= Some(2));
    drop(second);

    // The power goes and comes back while there is no room at all: what waited still does.
    let there = outbox(&service)["on_disk"].clone();
    kill(&mut service);
    let mut file = std::fs::File::create(disk.path().join("ballast")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    drop(file);
    assert!(disk.free() < 1 << 12, "{}", disk.free());
    start_again(&mut service);
    assert!(outbox(&service)["waiting"].as_u64() >= there.as_u64(), "{}", service.log());
    assert!(!service.log().contains("set aside"), "{}", service.log());
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    until(&service, "room again", || storage(&service)["state"] == "ok");
    until(&service, "an outbox that works", || outbox(&service)["disk_failing"] == 0);

    // The power goes; then everything is there, and the broker gets what waited.
    kill(&mut service);
    start_again(&mut service);
    until(&service, "storage", || storage(&service)["state"] == "ok");
    assert_eq!(tokens(disk.path()), before);
    assert!(waiting.iter().all(|id| ids(&service).contains(id)));
    the_outbox_is_unharmed((dir.path(), broker), sub, &service, &waiting).await;
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    mp4s(disk.path()).iter().for_each(|file| {
        probe(file);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_fails_and_turns_read_only_leaves_detection_running_and_nothing_broken() {
    if let Some(why) = missing() {
        return skip(why);
    }
    if !have(BROKER) {
        return;
    }
    let Some(mut disk) = Mount::ext4(64) else {
        return skip("cannot mount an ext4: not root, or no loop devices or mkfs.ext4 here");
    };
    let (dir, broker) = (tempfile::tempdir().unwrap(), free_port());
    let sub = left_by_its_broker(dir.path(), broker).await;
    let mut service = on_disk(&disk, broker);
    let before = tokens(disk.path());
    let mqtt = Mosquitto::subscribe(service.mqtt, "spotter/test/#");
    let socket = Socket::live(&service).await;
    let publisher = publish(&service, "garden");
    until(&service, "an event that waits on disk", || {
        outbox(&service)["on_disk"].as_u64() > Some(0)
    });
    // Some twelve seconds. Visits are flushed to the disk itself within one or two, recordings within five.
    until(&service, "a file", || {
        mp4s(disk.path()).first().is_some_and(|f| f.metadata().unwrap().len() > 3_500_000)
    });
    let waiting = ids(&service);
    // What the kernel does with a card that answers with errors.
    disk.abort();
    until(&service, "a read-only disk", || storage(&service)["state"] == "read_only");
    assert!(storage(&service)["message"].as_str().unwrap().contains("writable"));
    both_exits_go_on(&service, &mqtt, &socket).await;
    assert_eq!(ids(&service), waiting);
    assert_eq!(tokens(disk.path()), before);

    // Somebody mends the card.
    drop(publisher);
    kill(&mut service);
    disk.mend();
    start_again(&mut service);
    until(&service, "storage", || storage(&service)["state"] == "ok");
    assert_eq!(tokens(disk.path()), before);
    assert_eq!(ids(&service), waiting);
    // Cut off as by a loss of power, the file plays up to what was flushed.
    let before = mp4s(disk.path());
    let (seconds, _) = probe(&before[0]);
    assert!(seconds > 4.0, "{seconds} s are left");
    the_outbox_is_unharmed((dir.path(), broker), sub, &service, &waiting).await;
    let _publisher = publish(&service, "garden");
    until(&service, "another file", || mp4s(disk.path()).len() > before.len());
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    mp4s(disk.path()).iter().for_each(|file| {
        probe(file);
    });
}

/// Writes until nothing more fits.
fn fill(disk: &Mount) -> PathBuf {
    use std::io::Write;
    let path = disk.path().join("ballast");
    let mut ballast = std::fs::File::create(&path).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_card_without_any_room_it_makes_room_if_it_may_and_shows_what_it_has_if_not() {
    if let Some(why) = missing() {
        return skip(why);
    }
    if !have(&["mosquitto_sub"]) {
        return;
    }
    let Some(disk) = Mount::tmpfs("size=12m") else {
        return skip("cannot mount a tmpfs: not root");
    };
    let mut service = Service::start_with(|dir| {
        std::os::unix::fs::symlink(disk.path(), dir.join("state")).unwrap();
        format!(
            "{FAKE}[record]\nmode = \"continuous\"\nsegment_s = 2.0\nkeep_free_bytes = 2000000\n"
        )
    });
    let publisher = publish(&service, "garden");
    until(&service, "files", || mp4s(disk.path()).len() >= 8);
    // Something else fills the card while an animal is there: what waits does not keep the oldest from going.
    let ballast = fill(&disk);
    until(&service, "room that it made", || {
        disk.free() > 1_900_000 && storage(&service)["state"] == "ok"
    });
    until(&service, "a count of it", || counted(&service, "storage", "segments_deleted") > 0);

    // The power goes, and the card is full when it comes back.
    std::fs::remove_file(ballast).unwrap();
    until(&service, "more files", || mp4s(disk.path()).len() >= 8);
    drop(publisher);
    let publisher = publish(&service, "gate");
    let of_gate =
        || json(&service, "/api/v1/events?stream=gate")["events"].as_array().unwrap().len();
    until(&service, "the newest visit", || of_gate() > 0);
    kill(&mut service);
    drop(publisher);
    fill(&disk);
    start_again(&mut service);
    until(&service, "room at the start", || storage(&service)["state"] == "ok");
    assert!(disk.free() > 1_900_000);
    let visits = ids(&service);
    assert!(!visits.is_empty());

    // Where it may not make room, it opens with what it kept back, and without that shows what there is all the same.
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    let config = std::fs::read_to_string(&service.config).unwrap();
    let greedy = config.replace("keep_free_bytes = 2000000", "keep_free_bytes = 0");
    std::fs::write(&service.config, greedy).unwrap();
    let reserve = disk.path().join(".reserve");
    assert!(reserve.exists());
    fill(&disk);
    start_again(&mut service);
    until(&service, "an open database", || storage(&service)["state"] == "ok");
    assert!(!reserve.exists());
    assert_eq!(ids(&service), visits);
    kill(&mut service);
    let ballast = fill(&disk);
    start_again(&mut service);
    until(&service, "a full card", || storage(&service)["state"] == "full");
    assert!(storage(&service)["message"].as_str().unwrap().contains("make room"));
    assert_eq!(ids(&service), visits);
    std::fs::remove_file(ballast).unwrap();
    until(&service, "room", || storage(&service)["state"] == "ok");
    assert_eq!(ids(&service), visits);
    until(&service, "a new reserve", || reserve.exists());

    // A visit that a kill leaves open on a card that then is full is told as over, once there is room.
    let second = publish(&service, "barn");
    until(&service, "a second visit", || ids(&service).len() > visits.len());
    kill(&mut service);
    drop(second);
    std::fs::remove_file(&reserve).unwrap();
    let ballast = fill(&disk);
    start_again(&mut service);
    until(&service, "a full card", || storage(&service)["state"] == "full");
    let mqtt = Mosquitto::subscribe(service.mqtt, "spotter/test/events");
    std::thread::sleep(Duration::from_secs(12));
    std::fs::remove_file(ballast).unwrap();
    until(&service, "room", || storage(&service)["state"] == "ok");
    until(&service, "the visit's end", || {
        mqtt.messages().iter().any(|(_, m)| m.contains("barn") && m.contains("\"type\":\"end\""))
    });

    // A card that takes nothing from the start on shows what it has too.
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    disk.remount("ro");
    start_again(&mut service);
    until(&service, "a read-only card", || storage(&service)["state"] == "read_only");
    assert!(ids(&service).len() > visits.len());
    disk.remount("rw");
    until(&service, "a card that is mended", || storage(&service)["state"] == "ok");
    service.stop();
}

const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// spotter on a board without a clock: it starts ten minutes after 1970 began. Written into `offset`, "+0" sets its
/// clock right; a file `synchronized` in `signs` says that somebody did.
fn without_a_clock(library: &str, offset: &Path, signs: &Path) -> Command {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(offset, format!("-{}", now - 600)).unwrap();
    // systemd-timesyncd's sign, in a /run of its own.
    let script = "mount -t tmpfs none /run && mkdir /run/systemd && ln -s \"$1\" /run/systemd/timesync && shift && exec env \"$@\"";
    let mut command = Command::new("unshare");
    command.current_dir(root()).args(["-m", "sh", "-c", script, "sh"]).arg(signs);
    command.arg(format!("LD_PRELOAD={library}"));
    command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()));
    command.args([
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
    ]);
    command.arg(spotter().get_program());
    command
}

fn may_unshare() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["-m", "sh", "-c", "mount -t tmpfs none /run"]).stderr(Stdio::null());
    probe.status().is_ok_and(|s| s.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_late_is_marked_before_and_mended_after() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let Some(library) = FAKETIME.into_iter().find(|p| Path::new(p).exists()) else {
        return skip("no libfaketime; run ./setup.sh --test");
    };
    if support::emulated() || !may_unshare() {
        return skip("cannot give spotter a clock of its own: not root, or emulated");
    }
    if !have(BROKER) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (offset, signs) = (dir.path().join("offset"), dir.path().join("timesync"));
    std::fs::create_dir(&signs).unwrap();
    // The owner's broker is as far away as the network.
    let broker = free_port();
    let mut sub = left_by_its_broker(dir.path(), broker).await;
    let mut service = Service::start_by(without_a_clock(library, &offset, &signs), |_| {
        format!(
            "mqtt.broker = \"mqtt://127.0.0.1:{broker}\"\nmqtt.embedded = true\n{FAKE}\
             [record]\nmode = \"continuous\"\nsegment_s = 4.0\n"
        )
    });
    let mqtt = Mosquitto::subscribe(service.mqtt, "spotter/test/events");
    let unix = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let began = unix();
    let publisher = publish(&service, "garden");
    let list =
        |what: &str| json(&service, &format!("/api/v1/{what}"))[what].as_array().unwrap().clone();
    until(&service, "a visit and a closed file", || {
        !list("events").is_empty() && list("recordings").iter().any(|r| r["open"] == false)
    });
    let dawn =
        |v: &Value| v["start_time"].as_f64().unwrap() < 100_000.0 && v["time_synced"] == false;
    assert!(list("events").iter().all(dawn) && list("recordings").iter().all(dawn));
    let message: Value = serde_json::from_str(&mqtt.messages()[0].1).unwrap();
    assert_eq!(message["time_synced"], false, "{message}");
    assert!(message["after"]["start_time"].as_f64().unwrap() < 100_000.0);
    until(&service, "an event that waits on disk", || {
        outbox(&service)["on_disk"].as_u64() > Some(0)
    });
    let visit = list("events")[0]["id"].as_str().unwrap().to_owned();

    // The network comes, and with it the time: a jump of more than fifty years.
    std::fs::write(signs.join("synchronized"), "").unwrap();
    std::fs::write(&offset, "+0").unwrap();
    let set = unix();
    let right = |v: &Value| {
        let start = v["start_time"].as_f64().unwrap();
        start > began - 2.0 && start < unix() + 2.0 && v["time_synced"] == true
    };
    until(&service, "mended times", || {
        list("events").iter().all(right) && list("recordings").iter().all(right)
    });
    until(&service, "a count of it", || counted(&service, "storage", "times_mended") == 1);
    // With the network comes the broker: what waited for it has the right times.
    let _broker = mosquitto(dir.path(), broker, &lasting(dir.path()));
    let until_told = Instant::now() + Duration::from_secs(60);
    while told(&sub.seen).is_empty() {
        assert!(Instant::now() < until_told, "{:?}", sub.seen);
        std::thread::sleep(Duration::from_millis(100));
        sub.take();
    }
    for line in sub.seen.iter().filter(|l| l.contains("/events ")) {
        let message: Value = serde_json::from_str(line.split_once("/events ").unwrap().1).unwrap();
        let start = message["after"]["start_time"].as_f64().unwrap();
        assert!(
            start > began - 2.0 && start < unix() && message["time_synced"].is_null(),
            "{line}"
        );
    }
    // Those from before, and what is recorded on: one after the other, without a jump.
    until(&service, "files from after", || {
        list("recordings")
            .iter()
            .any(|r| r["open"] == false && r["start_time"].as_f64() > Some(set + 2.0))
    });
    let all = list("recordings");
    assert!(all.iter().all(right), "{all:?}");
    for pair in all.windows(2) {
        let hole = pair[1]["start_time"].as_f64().unwrap() - pair[0]["end_time"].as_f64().unwrap();
        assert!(hole.abs() < 0.5, "{pair:?}");
    }
    // The visit that was there all the time ends with sound times, and its clip plays.
    drop(publisher);
    let one = || json(&service, &format!("/api/v1/events/{visit}"));
    until(&service, "the visit's end", || one()["end_time"].is_number());
    let (start, end) = (one()["start_time"].as_f64().unwrap(), one()["end_time"].as_f64().unwrap());
    assert!(
        right(&one()) && end > set && end < unix() && end - start < unix() - began,
        "{}",
        one()
    );
    std::thread::sleep(Duration::from_secs(2));
    let file = dir.path().join("clip.mp4");
    std::fs::write(&file, get(&service, one()["clip_url"].as_str().unwrap()).1).unwrap();
    assert!(probe(&file).0 > end - start - 1.0);
    decodes(&file);
    // Nothing of it is taken for more than fifty years old.
    assert_eq!(counted(&service, "storage", "segments_deleted"), 0);
    // Another jump is none of the past's: the clock was right.
    std::fs::write(&offset, "+3600").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(list("recordings").iter().all(right) && right(&one()));

    // And all of it again after the power went.
    kill(&mut service);
    start_again(&mut service);
    until(&service, "storage", || storage(&service)["state"] == "ok");
    assert!(
        json(&service, "/api/v1/recordings")["recordings"].as_array().unwrap().iter().all(right)
    );
    assert!(right(&json(&service, &format!("/api/v1/events/{visit}"))));
    service.stop();
}
