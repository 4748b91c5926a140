//! What is remembered, with real parts: ffmpeg publishes the demo clip, the API tells of visits, ffprobe reads what was
//! recorded; and what becomes of it when disk or database fail.
#![cfg(feature = "gst")]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::api::*;
use support::mount::Mount;
use support::readers::Mosquitto;
use support::{Service, on_path, skip};

#[test]
fn a_visit_leaves_pictures_and_a_clip() {
    if let Some(why) = missing().map(str::to_owned).or_else(support::missing_parts) {
        return skip(&why);
    }
    let service = Service::start(
        "[detect]\nrate_hz = 5.0\n[events]\nlost_after_s = 1.0\n[record]\nbefore_s = 2.0\nafter_s = 1.0\n",
    );
    until(&service, "storage", || storage(&service)["state"] == "ok");
    let idle = counted(&service, "storage", "bytes_written");
    let _publisher = publish(&service, "garden");
    until(&service, "frames", || frames_detected(&service) > 0);

    // A file plays while it is written.
    let recordings = service.dir.path().join("state/recordings");
    until(&service, "a file", || {
        mp4s(&recordings).first().is_some_and(|f| f.metadata().unwrap().len() > 300_000)
    });
    assert_eq!(idle, 0, "bytes were written before anything came");
    probe(&mp4s(&recordings)[0]);

    let over = || {
        let list = json(&service, "/api/v1/events?stream=garden");
        let events = list["events"].as_array().unwrap().clone();
        events.into_iter().find(|e| e["end_time"].is_number() && e["has_snapshot"] == true)
    };
    until(&service, "a visit that is over", || over().is_some());
    let event = over().unwrap();
    let id = event["id"].as_str().unwrap();
    assert_eq!((&event["camera"], &event["has_clip"]), (&"garden".into(), &true.into()));
    let one = json(&service, &format!("/api/v1/events/{id}"));
    assert_eq!((&one["id"], &one["protected"]), (&event["id"], &false.into()));
    for (url, whole) in [("snapshot_url", true), ("crop_url", false)] {
        let (status, jpeg) = get(&service, event[url].as_str().unwrap());
        assert_eq!(status, 200);
        let picture = image::load_from_memory(&jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()) == (1280, 720), whole);
    }

    // The clip: whole, playable, and in parts.
    let url = event["clip_url"].as_str().unwrap();
    std::thread::sleep(Duration::from_secs(3)); // its last second is written
    let (status, head, clip) = ask(&service, "GET", url, "", "");
    assert_eq!(status, 200, "{head}");
    let file = service.dir.path().join("clip.mp4");
    std::fs::write(&file, &clip).unwrap();
    let (seconds, _) = probe(&file);
    let visit = event["end_time"].as_f64().unwrap() - event["start_time"].as_f64().unwrap();
    assert!(seconds > visit, "{seconds} s of a visit of {visit} s");
    decodes(&file);
    let (status, head, part) = ask(&service, "GET", url, "Range: bytes=1000-50999\r\n", "");
    assert_eq!((status, part.len()), (206, 50_000), "{head}");
    assert!(head.contains(&format!("content-range: bytes 1000-50999/{}", clip.len())), "{head}");
    assert_eq!(part, clip[1000..51_000]);
    assert_eq!(ask(&service, "GET", url, "Range: bytes=999999999-\r\n", "").0, 416);

    // Any time of the stream.
    let list = json(&service, "/api/v1/recordings?stream=garden");
    let (begin, end) = {
        let all = list["recordings"].as_array().unwrap();
        (all[0]["start_time"].as_f64().unwrap(), all[all.len() - 1]["end_time"].as_f64().unwrap())
    };
    let path = format!("/api/v1/recordings/garden.mp4?after={}&before={}", begin + 1.0, end - 1.0);
    let (status, export) = get(&service, &path);
    assert_eq!(status, 200);
    std::fs::write(&file, &export).unwrap();
    assert!(probe(&file).0 > end - begin - 5.0);
    decodes(&file);

    // Kept, let go, deleted; each by its name.
    let protected = format!("/api/v1/events/{id}/protected");
    let (status, _, _) = ask(&service, "PUT", &protected, "", "{\"protected\":true}");
    assert_eq!(status, 200);
    assert_eq!(json(&service, &format!("/api/v1/events/{id}"))["protected"], true);
    let code = |method: &str, path: &str, body: &str| {
        let (status, _, body) = ask(&service, method, path, "", body);
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    for (method, path, status, name) in [
        ("PUT", protected.as_str(), 400, "bad_body"),
        ("GET", "/api/v1/events/..%2F..%2Fetc", 404, "no_event"),
        ("GET", "/api/v1/events/1.2-x/snapshot.jpg", 404, "no_event"),
        ("GET", "/api/v1/events?limit=0", 400, "bad_query"),
        ("GET", "/api/v1/events?cursor=x", 400, "bad_cursor"),
        ("GET", "/api/v1/events?stream=a/b", 400, "bad_stream_name"),
        ("GET", "/api/v1/events?after=nan", 400, "bad_query"),
        ("GET", "/api/v1/events?before=-inf", 400, "bad_query"),
        ("GET", "/api/v1/events?after=soon", 400, "bad_query"),
        ("GET", "/api/v1/events?lable=dog", 400, "bad_query"),
        ("GET", "/api/v1/recordings?before=NaN", 400, "bad_query"),
        ("GET", "/api/v1/recordings?from=1", 400, "bad_query"),
        ("GET", "/api/v1/recordings/garden.mp4?after=1&before=2&crop=1", 400, "bad_query"),
        ("GET", "/api/v1/recordings/..%2Fx.mp4?after=1&before=2", 400, "bad_stream_name"),
        ("GET", "/api/v1/recordings/garden.mp4?after=1&before=2", 404, "no_recording"),
        ("GET", "/api/v1/recordings/garden.mp4?after=2&before=1", 400, "bad_query"),
        ("GET", "/api/v1/recordings/garden.mp4?after=0&before=1e300", 400, "bad_query"),
    ] {
        assert_eq!(code(method, path, "no"), (status, name.to_owned()), "{path}");
    }
    // A refusal names the key and what there is; a token may always be there.
    let (_, said) = get(&service, "/api/v1/events?lable=dog");
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("`lable`") && said.contains("`label`"), "{said}");
    let both = format!("/api/v1/events?token=x&label={}&limit=1", event["label"].as_str().unwrap());
    assert_eq!(json(&service, &both)["events"][0]["id"], event["id"]);
    let one = format!("/api/v1/events/{id}");
    assert_eq!(ask(&service, "DELETE", &one, "", "").0, 204);
    assert_eq!(code("GET", &one, ""), (404, "no_event".to_owned()));
    assert_eq!(code("DELETE", &one, ""), (404, "no_event".to_owned()));
    service.stop();
}

/// Asked for in the moment that MQTT tells of them, as an automation does.
#[test]
fn who_is_told_of_a_visit_finds_it_with_its_picture_and_its_clip() {
    if let Some(why) = missing() {
        return skip(why);
    }
    if !on_path("mosquitto_sub") {
        return skip("no mosquitto_sub; run ./setup.sh --test");
    }
    let service = Service::start(&format!("{FAKE}[record]\nmode = \"continuous\"\n"));
    until(&service, "storage", || storage(&service)["state"] == "ok");
    let mqtt = Mosquitto::subscribe(service.mqtt, "spotter/test/events");
    let visitors = ["garden", "barn", "gate"].map(|name| Visitor::come(service.url(name)));
    let service = &service;
    let pictures = AtomicUsize::new(0);
    let look_up = |message: Value, heard: Instant| {
        let visit = &message["after"];
        let (kind, id) = (&message["type"], visit["id"].as_str().unwrap());
        let path = format!("/api/v1/events/{id}");
        let (status, body) = get(service, &path);
        assert_eq!(status, 200, "{kind} of {id}");
        let found: Value = serde_json::from_slice(&body).unwrap();
        assert!(kind != "end" || found["end_time"].is_number(), "{kind}: {found}");
        let list = json(service, "/api/v1/events");
        let list = list["events"].as_array().unwrap();
        let listed = list.iter().find(|e| e["id"] == id).unwrap();
        assert!(kind != "end" || listed["end_time"].is_number(), "{kind}: {listed}");
        // Where the encoder had to let pictures go, the visit's end says so.
        let promised = |what: &str| visit[what] == true;
        assert!(promised("has_clip") && (promised("has_snapshot") || kind == "end"), "{visit}");
        for (end, what) in [
            ("snapshot.jpg", "has_snapshot"),
            ("snapshot.jpg?crop=1", "has_snapshot"),
            ("clip.mp4", "has_clip"),
        ] {
            if !promised(what) {
                continue;
            }
            let (status, _) = get(service, &format!("{path}/{end}"));
            // It is waited for; a machine too busy to make it within that time is no fault of the answer.
            let late = heard.elapsed() > Duration::from_secs(3);
            assert!(status == 200 || late, "{kind}: {end} of {id}: {status}");
            pictures.fetch_add(usize::from(status == 200), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let (mut seen, mut over, begun) = (0, 0, Instant::now());
        while over < 9 {
            assert!(begun.elapsed() < Duration::from_secs(90), "{over} visits are over");
            for (_, payload) in mqtt.messages().drain(seen..) {
                seen += 1;
                let message: Value = serde_json::from_str(&payload).unwrap();
                over += usize::from(message["type"] == "end");
                if message["type"] != "update" {
                    let (look_up, heard) = (&look_up, Instant::now());
                    scope.spawn(move || look_up(message, heard));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    drop(visitors);
    assert!(pictures.into_inner() > 0);
    // What nobody was told of is not waited for.
    assert_eq!(get(service, "/api/v1/events/1795439400.000000-abcdef/snapshot.jpg").0, 404);
}

#[test]
fn a_crash_costs_the_last_second() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let continuous = "[record]\nmode = \"continuous\"\nsegment_s = 2.0\n";
    let mut service = Service::start(&format!("{FAKE}{continuous}"));
    let recordings = service.dir.path().join("state/recordings");
    let mut files = 0;
    for round in 0..3u64 {
        let publisher = publish(&service, "garden");
        let open = |e: &Value| e["end_time"].is_null();
        until(&service, "a visit", || {
            json(&service, "/api/v1/events")["events"].as_array().unwrap().iter().any(open)
        });
        until(&service, "files", || mp4s(&recordings).len() >= files + 2);
        std::thread::sleep(Duration::from_millis(370 * round));
        let closed = json(&service, "/api/v1/recordings")["recordings"].as_array().unwrap().clone();
        crash(&mut service);
        drop(publisher);
        let events = json(&service, "/api/v1/events")["events"].as_array().unwrap().clone();
        assert_eq!(events.len() as u64, round + 1);
        assert!(!events.iter().any(open), "{events:?}");
        let kept = json(&service, "/api/v1/recordings")["recordings"].as_array().unwrap().clone();
        for before in closed.iter().filter(|s| s["open"] == false) {
            assert!(
                kept.iter()
                    .any(|s| s["start_time"] == before["start_time"]
                        && s["bytes"] == before["bytes"])
            );
        }
        let all = mp4s(&recordings);
        assert_eq!(kept.len(), all.len(), "{kept:?} {all:?}");
        assert!(kept.iter().all(|s| s["open"] == false));
        for file in &all {
            probe(file);
        }
        files = all.len();
    }
    // Over the crashes, as one file.
    let kept = json(&service, "/api/v1/recordings")["recordings"].as_array().unwrap().clone();
    let (first, last) = (&kept[0]["start_time"], &kept[kept.len() - 1]["end_time"]);
    let (status, export) =
        get(&service, &format!("/api/v1/recordings/garden.mp4?after={first}&before={last}"));
    assert_eq!(status, 200);
    let file = service.dir.path().join("export.mp4");
    std::fs::write(&file, export).unwrap();
    let pieces: usize = mp4s(&recordings).iter().map(|f| probe(f).1).sum();
    assert_eq!(probe(&file).1, pieces);
    decodes(&file);
    service.stop();
}

#[test]
fn the_oldest_go_when_there_is_more_than_the_owner_wants() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let record = "[record]\nmode = \"continuous\"\nsegment_s = 2.0\nkeep_bytes = 1500000\n";
    let service = Service::start(&format!("{FAKE}{record}"));
    let _publisher = publish(&service, "garden");
    until(&service, "retention", || counted(&service, "storage", "segments_deleted") > 0);
    let kept = json(&service, "/api/v1/recordings")["recordings"].as_array().unwrap().clone();
    let files = mp4s(&service.dir.path().join("state/recordings"));
    assert!(!kept.is_empty() && files.len() <= kept.len() + 1, "{kept:?} {files:?}");
    // At most what is recorded until the next look comes on top.
    let bytes: u64 = files.iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(bytes < 6_000_000, "{bytes}");
    detection_goes_on(&service);
    service.stop();
}

#[test]
fn a_full_disk_stops_recording_and_nothing_else() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let Some(disk) = Mount::tmpfs("size=8m") else { return skip("cannot mount a tmpfs: not root") };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 7 << 20]).unwrap();
    let record = format!(
        "[record]\nmode = \"continuous\"\nsegment_s = 600.0\nkeep_free_bytes = 0\ndir = {:?}\n",
        disk.path()
    );
    let service = Service::start(&format!("{FAKE}{record}"));
    let _publisher = publish(&service, "garden");
    until(&service, "a full disk", || storage(&service)["state"] == "full");
    assert!(storage(&service)["message"].as_str().unwrap().contains("make room"));
    detection_goes_on(&service);
    // What was written before plays, and the API still answers.
    probe(&mp4s(disk.path())[0]);
    assert_eq!(get(&service, "/api/v1/events").0, 200);
    std::fs::remove_file(ballast).unwrap();
    until(&service, "room again", || storage(&service)["state"] == "ok");
    until(&service, "another file", || mp4s(disk.path()).len() >= 2);
    service.stop();
    for file in mp4s(disk.path()) {
        probe(&file);
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_said_and_tried_again() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let Some(disk) = Mount::tmpfs("size=8m,ro") else {
        return skip("cannot mount a tmpfs: not root");
    };
    let record =
        format!("[record]\nmode = \"continuous\"\nkeep_free_bytes = 0\ndir = {:?}\n", disk.path());
    let service = Service::start(&format!("{FAKE}{record}"));
    let _publisher = publish(&service, "garden");
    until(&service, "word of it", || storage(&service)["state"] == "read_only");
    detection_goes_on(&service);
    disk.remount("rw");
    until(&service, "a file", || !mp4s(disk.path()).is_empty());
    assert_eq!(storage(&service)["state"], "ok");
    service.stop();
}

#[test]
fn a_damaged_database_is_set_aside_and_a_newer_one_left_alone() {
    let state = |dir: &Path| {
        let state = dir.join("state");
        std::fs::create_dir_all(&state).unwrap();
        state
    };
    let service = Service::start_with(|dir| {
        std::fs::write(state(dir).join("spotter.db"), [0x5A; 9000]).unwrap();
        FAKE.to_owned()
    });
    until(&service, "storage", || storage(&service)["state"] == "ok");
    assert_eq!(json(&service, "/api/v1/events")["events"], serde_json::json!([]));
    let names: Vec<_> = std::fs::read_dir(service.dir.path().join("state"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|n| n.starts_with("spotter.db.corrupt-")), "{names:?}");
    assert!(service.log().contains("set aside"), "{}", service.log());
    service.stop();

    let mut newer = b"SQLite format 3\0".to_vec();
    newer.resize(4096, 0);
    newer[60..64].copy_from_slice(&99u32.to_be_bytes());
    let service = Service::start_with(|dir| {
        std::fs::write(state(dir).join("spotter.db"), &newer).unwrap();
        FAKE.to_owned()
    });
    until(&service, "a refusal", || storage(&service)["state"] == "failed");
    assert!(storage(&service)["message"].as_str().unwrap().contains("newer"));
    assert_eq!(get(&service, "/api/v1/events").0, 503);
    if missing().is_none() {
        let _publisher = publish(&service, "garden");
        detection_goes_on(&service);
    }
    assert_eq!(std::fs::read(service.dir.path().join("state/spotter.db")).unwrap(), newer);
    service.stop();
}

#[test]
fn a_database_damaged_in_its_middle_is_begun_anew_with_all_that_is_recorded() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let record = "[record]\nmode = \"continuous\"\nsegment_s = 2.0\n";
    let mut service = Service::start(&format!("{FAKE}{record}"));
    let publisher = publish(&service, "garden");
    let recorded = |service: &Service| {
        json(service, "/api/v1/recordings")["recordings"].as_array().unwrap().clone()
    };
    until(&service, "files", || recorded(&service).len() >= 3);
    service.process.terminate();
    assert!(service.process.wait(Duration::from_secs(30)).unwrap().success());
    drop(publisher);
    // A card that lost some blocks: header and schema are sound, all else is not.
    let state = service.dir.path().join("state");
    let path = state.join("spotter.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192..].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    let files = mp4s(&state.join("recordings"));

    start_again(&mut service);
    until(&service, "storage", || storage(&service)["state"] == "ok");
    let aside =
        |name: &std::ffi::OsString| name.to_string_lossy().starts_with("spotter.db.corrupt-");
    let names: Vec<_> =
        std::fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
    let aside: Vec<_> = names.iter().filter(|n| aside(n)).collect();
    assert_eq!(std::fs::read(state.join(aside[0])).unwrap(), bytes);
    assert_eq!(mp4s(&state.join("recordings")), files);
    let all = recorded(&service);
    assert_eq!(all.len(), files.len());
    let (first, last) = (&all[0]["start_time"], &all[all.len() - 1]["end_time"]);
    let path = format!("/api/v1/recordings/garden.mp4?after={first}&before={last}");
    let export = service.dir.path().join("export.mp4");
    std::fs::write(&export, get(&service, &path).1).unwrap();
    decodes(&export);
    service.stop();
}
