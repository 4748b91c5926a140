//! Publish URLs by the API with a real spotter and ffmpeg: made for one stream, described, and taken back at once.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::api::ask;
use support::{Reaped, Service, on_path, skip, spotter};

const PATIENCE: Duration = Duration::from_secs(30);
const FAKES: &str = "[detect]\nbackend = \"fake\"\n[decode]\nbackend = \"fake\"\n";

/// One exchange with JSON both ways.
fn json(service: &Service, method: &str, path: &str, body: &str) -> (u16, Value) {
    let head = "Content-Type: application/json\r\n";
    let (status, _, body) = ask(service, method, path, head, body);
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn make(service: &Service, body: &str) -> (u16, Value) {
    json(service, "POST", "/api/v1/publishers", body)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn publish(url: &str) -> Reaped {
    let picture = "testsrc=size=320x240:rate=15";
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg
        .args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", picture, "-c:v", "libx264"]);
    ffmpeg.args([
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-g",
        "15",
        "-pix_fmt",
        "yuv420p",
    ]);
    Reaped::start(ffmpeg.args(["-f", "flv", url]).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[test]
fn a_publish_url_is_made_described_and_taken_back() {
    if !on_path("ffmpeg") {
        return skip("no ffmpeg; run ./setup.sh --test");
    }
    let service = Service::start(FAKES);
    let (status, made) = make(&service, r#"{"stream":"anna","id":"app-anna"}"#);
    assert_eq!(status, 201, "{made}");
    let url = made["url"].as_str().unwrap();
    let rtmp = format!("rtmp://127.0.0.1:{}/live/anna?token=", service.rtmp);
    assert!(url.starts_with(&rtmp) && url.len() > rtmp.len() + 20, "{url}");
    assert_eq!(made["advice"]["width"], 1280);

    let one = || json(&service, "GET", "/api/v1/publishers/app-anna", "").1;
    assert_eq!((&one()["status"], &one()["link"]), (&"offline".into(), &Value::Null));
    let mut hers = publish(url);
    until("the link's numbers", || one()["link"]["fps"].as_f64() > Some(10.0));
    let seen = one();
    assert_eq!((&seen["status"], &seen["stream"]), (&"online".into(), &"anna".into()));
    let (bitrate, jitter) = (&seen["link"]["bitrate_bps"], &seen["link"]["jitter_ms"]);
    assert!(bitrate.as_u64() > Some(10_000) && jitter.as_f64() < Some(200.0), "{seen}");
    assert_eq!((&seen["link"]["gaps"], &seen["link"]["reconnects"]), (&0.into(), &0.into()));
    // The same in the statistics, for MQTT and the page.
    let (_, stats) = json(&service, "GET", "/api/v1/stats", "");
    assert_eq!(stats["streams"][0]["advice"]["fps"], 15, "{stats}");

    // It comes back: counted, and no longer refused by the connection of before.
    let again = publish(url);
    until("the first is displaced", || hers.0.try_wait().unwrap().is_some());
    until("it is counted", || one()["link"]["reconnects"] == 1);
    hers = again;

    // Others are not touched when one is taken back.
    let (_, other) = make(&service, r#"{"stream":"ben"}"#);
    let mut his = publish(other["url"].as_str().unwrap());
    until("both are there", || {
        json(&service, "GET", "/api/v1/publishers/ben", "").1["status"] == "online"
    });
    let (status, _) = json(&service, "DELETE", "/api/v1/publishers/app-anna", "");
    assert_eq!(status, 204);
    until("she is sent away", || hers.0.try_wait().unwrap().is_some());
    assert!(his.0.try_wait().unwrap().is_none());
    let (_, list) = json(&service, "GET", "/api/v1/publishers", "");
    assert_eq!(list["publishers"].as_array().unwrap().len(), 1, "{list}");
    for url in [url, other["url"].as_str().unwrap()] {
        let secret = url.split_once("token=").unwrap().1;
        assert!(!service.log().contains(secret) && !list.to_string().contains(secret));
    }
    service.stop();
}

#[test]
fn what_the_command_line_takes_back_ends_a_present_publisher() {
    if !on_path("ffmpeg") {
        return skip("no ffmpeg; run ./setup.sh --test");
    }
    let service = Service::start(FAKES);
    let token = |args: &[&str]| {
        let mut command = spotter();
        command.arg("token").args(args).arg("--config").arg(&service.config);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let tokens = std::fs::read_to_string(service.config.with_file_name("state/tokens.toml"));
    let tokens: toml::Table = tokens.unwrap().parse().unwrap();
    let owners = tokens["token"][0]["secret"].as_str().unwrap();
    let added = token(&["add", "ben", "--rights", "publish"]);
    let bens = added.trim();
    // Before that it would be let in from this machine all the same, and without the token.
    until("the token is known", || service.log().contains("tokens read again"));
    let url = |stream: &str, token: &str| {
        format!("rtmp://127.0.0.1:{}/live/{stream}?token={token}", service.rtmp)
    };
    let (mut ben, mut owner) = (publish(&url("ben", bens)), publish(&url("house", owners)));
    let online = |stream: &str| {
        let (_, streams) = json(&service, "GET", "/api/v1/streams", "");
        let all = streams["streams"].as_array().cloned().unwrap_or_default();
        all.iter().any(|s| s["stream"] == stream && s["status"] == "online")
    };
    until("both are there", || online("ben") && online("house"));

    token(&["revoke", "ben"]);
    until("ben is sent away", || ben.0.try_wait().unwrap().is_some());
    assert!(owner.0.try_wait().unwrap().is_none() && online("house"));
    token(&["renew"]);
    until("so is who has the owner's old token", || owner.0.try_wait().unwrap().is_some());
    service.stop();
}

#[test]
fn what_is_no_publisher_is_not_listed_made_or_taken_back() {
    let service = Service::start(FAKES);
    let token = |args: &[&str]| {
        let mut command = spotter();
        command.arg("token").args(args).arg("--config").arg(&service.config);
        assert!(command.output().unwrap().status.success());
    };
    token(&["add", "reader", "--rights", "read", "--stream", "a"]);
    token(&["add", "camera", "--rights", "publish"]);
    token(&["add", "door", "--rights", "publish", "--stream", "door"]);
    // One of the command line's is the same thing.
    until("the token file is read again", || {
        let (_, list) = json(&service, "GET", "/api/v1/publishers", "");
        list["publishers"].as_array().unwrap().len() == 1
    });
    let code = |(status, body): (u16, Value)| {
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    for (body, expected) in [
        (r#"{"stream":"a","id":"reader"}"#, (409, "name_taken")),
        (r#"{"stream":"door"}"#, (409, "name_taken")),
        (r#"{"stream":"a","id":"owner"}"#, (409, "name_taken")),
        (r#"{"stream":"a/b"}"#, (400, "bad_stream_name")),
        (r#"{"stream":"a","id":"x y"}"#, (400, "bad_name")),
        (r#"{"stream":"a","takeover":true}"#, (400, "bad_body")),
        (r#"{"id":"a"}"#, (400, "bad_body")),
        ("{", (400, "bad_body")),
    ] {
        assert_eq!(code(make(&service, body)), (expected.0, expected.1.to_owned()), "{body}");
    }
    for id in ["reader", "camera", "owner", "nothere", "a%2Fb", "%ff"] {
        let path = format!("/api/v1/publishers/{id}");
        let expected = if id == "%ff" { (400, "bad_path") } else { (404, "no_publisher") };
        let expected = (expected.0, expected.1.to_owned());
        assert_eq!(code(json(&service, "DELETE", &path, "")), expected, "{id}");
        assert_eq!(code(json(&service, "GET", &path, "")), expected, "{id}");
    }
    // Through a proxy nobody may, with a publisher's own token neither.
    let (_, made) = make(&service, r#"{"stream":"anna"}"#);
    let secret = made["url"].as_str().unwrap().split_once("token=").unwrap().1;
    for (head, expected) in [
        ("Via: proxy\r\n".to_owned(), 401),
        (format!("Via: proxy\r\nAuthorization: Bearer {secret}\r\n"), 403),
    ] {
        for (method, path) in [
            ("GET", "/api/v1/publishers"),
            ("POST", "/api/v1/publishers"),
            ("GET", "/api/v1/publishers/anna"),
            ("DELETE", "/api/v1/publishers/anna"),
        ] {
            let head = format!("{head}Content-Type: application/json\r\n");
            let (status, _, _) = ask(&service, method, path, &head, r#"{"stream":"b"}"#);
            assert_eq!(status, expected, "{method} {path}");
        }
    }
    // There is an end to them.
    let mut made = 2;
    while make(&service, &format!(r#"{{"stream":"s{made}"}}"#)).0 == 201 {
        made += 1;
        assert!(made <= 256);
    }
    assert_eq!(made, 256);
    assert_eq!(code(make(&service, r#"{"stream":"more"}"#)), (409, "too_many".to_owned()));
    service.stop();
}
