//! Publishing over WebRTC with real parts: ffmpeg publishes by WHIP, spotter finds pictures and sound in it and players read them
//! back by RTMP; whoever may not, or never comes, is refused and touches nobody.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::api::{ask, counted, json, until};
use support::{Reaped, Service, new_ffmpeg, skip, spotter};

const FAKES: &str = "[detect]\nbackend = \"fake\"\n[decode]\nbackend = \"fake\"\n";

/// An ffmpeg that speaks WHIP.
fn ffmpeg() -> Option<PathBuf> {
    let speaks = |program: &PathBuf| {
        let asked = Command::new(program).args(["-hide_banner", "-muxers"]).output();
        asked.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(" whip "))
    };
    let found = new_ffmpeg().filter(speaks);
    if found.is_none() {
        skip("no ffmpeg that speaks WHIP; run ./setup.sh --test");
    }
    found
}

fn publish(ffmpeg: &PathBuf, url: &str, token: Option<&str>) -> Reaped {
    let mut ffmpeg = Command::new(ffmpeg);
    ffmpeg.args(["-nostdin", "-v", "error", "-re"]);
    ffmpeg.args(["-f", "lavfi", "-i", "testsrc=size=320x240:rate=15"]);
    ffmpeg.args(["-f", "lavfi", "-i", "sine=440:sample_rate=48000"]);
    ffmpeg.args(["-c:v", "libx264", "-profile:v", "baseline", "-preset", "ultrafast"]);
    ffmpeg.args(["-tune", "zerolatency", "-pix_fmt", "yuv420p", "-g", "15"]);
    ffmpeg.args(["-c:a", "libopus", "-ac", "2", "-f", "whip"]);
    if let Some(token) = token {
        ffmpeg.args(["-authorization", token]);
    }
    Reaped::start(ffmpeg.arg(url).stdout(Stdio::null()).stderr(Stdio::null()))
}

fn stream(service: &Service, name: &str) -> Option<Value> {
    let stats = json(service, "/api/v1/stats");
    stats["streams"].as_array().unwrap().iter().find(|s| s["stream"] == name).cloned()
}

#[track_caller]
fn searched(service: &Service, name: &str) {
    let before = |s: Option<Value>| s.and_then(|s| s["counters"]["frames_detected"].as_u64());
    let begin = before(stream(service, name)).unwrap_or(0);
    until(service, "frames searched", || before(stream(service, name)) > Some(begin + 5));
}

fn post(service: &Service, path: &str, head: &str, body: &str) -> (u16, String, Value) {
    let head = format!("Content-Type: application/sdp\r\n{head}");
    let (status, head, body) = ask(service, "POST", path, &head, body);
    (status, head, serde_json::from_slice(&body).unwrap_or_default())
}

/// What a browser that sends would offer: its offer to receive, turned round.
fn offer() -> String {
    include_str!("data/whep/chromium.sdp").replace("a=recvonly", "a=sendonly")
}

#[test]
fn pictures_and_sound_by_whip_go_the_way_of_all() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let service = Service::start(FAKES);
    let json_head = "Content-Type: application/json\r\n";
    let (status, _, made) =
        ask(&service, "POST", "/api/v1/publishers", json_head, r#"{"stream":"anna"}"#);
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(status, 201, "{made}");
    let url = made["whip_url"].as_str().unwrap();
    let (whip, token) = url.split_once("?token=").unwrap();
    assert_eq!(whip, format!("http://127.0.0.1:{}/whip/anna", service.web));

    let first = publish(&ffmpeg, whip, Some(token));
    searched(&service, "anna");
    until(&service, "the link's numbers", || {
        json(&service, "/api/v1/publishers/anna")["link"]["fps"].as_f64() > Some(5.0)
    });
    let seen = stream(&service, "anna").unwrap();
    assert!(seen["counters"]["audio_units"].as_u64() > Some(10), "{seen}");
    assert_eq!(counted(&service, "ingest", "units_malformed"), 0);
    let rtmp = service.url("anna");
    // Only the newer one plays Opus by RTMP.
    let mut player = Command::new(&ffmpeg);
    player.args(["-nostdin", "-hide_banner", "-t", "1", "-i", &rtmp, "-f", "null", "-"]);
    let played = String::from_utf8_lossy(&player.output().unwrap().stderr).into_owned();
    for part in ["h264", "320x240", "opus"] {
        assert!(played.contains(part), "{part}: {played}");
    }

    // The URL alone carries the token, for publishers that know no bearer; it takes its own stream over.
    let again = publish(&ffmpeg, url, None);
    until(&service, "taken over", || {
        json(&service, "/api/v1/publishers/anna")["link"]["reconnects"] == 1
    });
    searched(&service, "anna");
    drop(first);
    let (gone, _, _) = ask(&service, "DELETE", "/api/v1/publishers/anna", "", "");
    assert_eq!(gone, 204);
    until(&service, "sent away", || {
        let streams = json(&service, "/api/v1/streams");
        let mut streams = streams["streams"].as_array().unwrap().iter();
        streams.any(|s| s["stream"] == "anna" && s["status"] == "waiting")
    });
    drop(again);
    assert!(!service.log().contains(token));
    until(&service, "both are told", || counted(&service, "ingest", "displaced") == 2);
    service.stop();
}

#[test]
fn whoever_may_not_or_never_comes_touches_nobody() {
    let Some(ffmpeg) = ffmpeg() else { return };
    let service = Service::start(&format!("ingest.max_streams = 3\n{FAKES}"));
    let mut good = publish(&ffmpeg, &format!("http://127.0.0.1:{}/whip/good", service.web), None);
    searched(&service, "good");

    let mut command = spotter();
    command.args(["token", "add", "other", "--rights", "publish", "--stream", "other"]);
    let added = command.arg("--config").arg(&service.config).output().unwrap();
    let text = String::from_utf8_lossy(&added.stdout).into_owned();
    let other = text.split_whitespace().find(|w| w.len() >= 24 && !w.contains('/')).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let code = |(status, _, body): (u16, String, Value)| {
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let elsewhere = "Via: proxy\r\n";
    let his = format!("{elsewhere}Authorization: Bearer {other}\r\n");
    let bad = format!("{elsewhere}Authorization: Bearer nonsense\r\n");
    let only_receives = include_str!("data/whep/chromium.sdp");
    for (path, head, body, status, expected) in [
        ("/whip/mine", elsewhere, offer(), 401, "no_token"),
        ("/whip/mine", &bad, offer(), 401, "bad_token"),
        ("/whip/mine", &his, offer(), 403, "not_allowed"),
        ("/whip/a%2Fb", "", offer(), 400, "bad_stream_name"),
        ("/whip/good", "", offer(), 409, "taken"),
        ("/whip/mine", "", "v=0\r\nnonsense".into(), 400, "bad_sdp"),
        ("/whip/mine", "", only_receives.into(), 406, "codec"),
        ("/whip/mine", "", offer().replace("H264/90000", "H263/90000"), 406, "codec"),
    ] {
        let got = code(post(&service, path, head, &body));
        assert_eq!(got, (status, expected.to_owned()), "{path} {head}");
    }

    // Three who never come have no stream, but the places are gone; they are given back.
    let mut sessions = Vec::new();
    let full = loop {
        let (status, head, body) = post(&service, "/whip/mine", "", &offer());
        if status != 201 {
            break (status, body["error"]["code"].as_str().unwrap_or_default().to_owned());
        }
        let location = head.lines().find_map(|l| l.strip_prefix("location: ")).unwrap();
        sessions.push(location.trim().to_owned());
    };
    assert_eq!((full, sessions.len()), ((503, "busy".into()), 2));
    assert!(stream(&service, "mine").is_none());
    // Names in addresses keep their case, which the helper's heads do not: ended by waiting.
    until(&service, "they are given up", || counted(&service, "webrtc", "ice_timeouts") == 2);

    let fragment = "Content-Type: application/trickle-ice-sdpfrag\r\n";
    for (method, head) in [("PATCH", fragment), ("DELETE", "")] {
        let (status, _, _) = ask(&service, method, "/whip/good/nosuchsession", head, "");
        assert_eq!(status, 404, "{method}");
    }
    assert!(good.0.try_wait().unwrap().is_none(), "{}", service.log());
    searched(&service, "good");
    service.stop();
}
