//! Publishing by SRT with a real libsrt: ffmpeg's pictures reach detection and players by RTMP, and whoever may not or sends
//! nonsense is turned away without touching anyone else.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::api::{ask, counted, json, until};
use support::ports::free_udp_port;
use support::{Reaped, Service, new_ffmpeg, on_path, skip, spotter};

const FAKES: &str = "[detect]\nbackend = \"fake\"\n[decode]\nbackend = \"fake\"\n";
const PASSPHRASE: &str = "correct-horse-battery";

/// An ffmpeg that speaks SRT: the newest there is.
fn ffmpeg() -> Option<PathBuf> {
    let speaks = |program: &PathBuf| {
        let asked = Command::new(program).args(["-hide_banner", "-protocols"]).output();
        asked.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l.trim() == "srt"))
    };
    let old = on_path("ffmpeg").then(|| PathBuf::from("ffmpeg"));
    [new_ffmpeg(), old].into_iter().flatten().find(speaks)
}

struct Door {
    service: Service,
    ffmpeg: PathBuf,
    port: u16,
}

impl Door {
    /// `None`, said out loud, where this cannot be tried.
    fn open(extra: &str) -> Option<Self> {
        let Some(ffmpeg) = ffmpeg() else {
            skip("no ffmpeg that speaks SRT; run ./setup.sh --test");
            return None;
        };
        let port = free_udp_port();
        let srt = format!(
            "ingest.srt.enabled = true\ningest.srt.listen = \"127.0.0.1:{port}\"\n\
             ingest.srt.passphrase = \"{PASSPHRASE}\"\ningest.idle_timeout_s = 3\n{extra}"
        );
        Some(Self { service: Service::start(&(srt + FAKES)), ffmpeg, port })
    }

    fn url(&self, stream_id: &str) -> String {
        let port = self.port;
        format!("srt://127.0.0.1:{port}?passphrase={PASSPHRASE}&streamid={stream_id}")
    }

    fn publish(&self, url: &str, codec: &[&str]) -> Reaped {
        let mut ffmpeg = Command::new(&self.ffmpeg);
        ffmpeg.args(["-nostdin", "-v", "error", "-re"]);
        ffmpeg.args(["-f", "lavfi", "-i", "testsrc=size=320x240:rate=15"]);
        ffmpeg.args(["-f", "lavfi", "-i", "sine=440:sample_rate=44100"]);
        ffmpeg.args(codec).args(["-pix_fmt", "yuv420p", "-g", "15", "-f", "mpegts", url]);
        Reaped::start(ffmpeg.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn count(&self, group: &str, name: &str) -> u64 {
        counted(&self.service, group, name)
    }

    fn stream(&self, name: &str) -> Option<Value> {
        let stats = json(&self.service, "/api/v1/stats");
        stats["streams"].as_array().unwrap().iter().find(|s| s["stream"] == name).cloned()
    }

    /// A refusal under its own name, within a few seconds, and the caller is gone.
    #[track_caller]
    fn refused(&self, group: &str, name: &str, mut caller: Reaped) {
        let what = format!("{group}.{name}");
        until(&self.service, &what, || self.count(group, name) > 0);
        assert!(caller.wait(Duration::from_secs(15)).is_some(), "{what}: the caller stays");
    }
}

const H264: &[&str] =
    &["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-c:a", "aac"];
const H265: &[&str] = &[
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-tune",
    "zerolatency",
    "-x265-params",
    "log-level=none:pools=1",
    "-an",
];

#[test]
fn pictures_by_srt_go_the_way_of_all_pictures() {
    let Some(door) = Door::open("") else { return };
    let head = "Content-Type: application/json\r\n";
    let body = r#"{"stream":"anna"}"#;
    let (status, _, made) = ask(&door.service, "POST", "/api/v1/publishers", head, body);
    assert_eq!(status, 201);
    let made: Value = serde_json::from_slice(&made).unwrap();
    let url = made["srt_url"].as_str().unwrap();
    let begin = format!("srt://127.0.0.1:{}?streamid=publish:live/anna?token=", door.port);
    assert!(url.starts_with(&begin), "{url}");

    let mut anna = door.publish(url, H264);
    let mut ben = door.publish(&door.url("%23!::r=live/ben,m=publish"), H265);
    for name in ["anna", "ben"] {
        until(&door.service, "frames searched", || {
            door.stream(name).is_some_and(|s| s["counters"]["frames_detected"].as_u64() > Some(5))
        });
    }
    let anna_now = || json(&door.service, "/api/v1/publishers/anna");
    until(&door.service, "the link's numbers", || anna_now()["link"]["fps"].as_f64() > Some(5.0));
    assert_eq!(anna_now()["status"], "online");
    let addresses = &json(&door.service, "/api/v1/status")["addresses"];
    assert_eq!(addresses["srt"], format!("127.0.0.1:{}", door.port));

    for (name, codec) in [("anna", "h264"), ("ben", "hevc")] {
        let probe = Command::new(if name == "ben" { "ffmpeg" } else { "ffprobe" });
        let mut probe = if name == "ben" { Command::new(&door.ffmpeg) } else { probe };
        let rtmp = door.service.url(name);
        if name == "ben" {
            // Only the newer one plays H.265 by RTMP, and it comes without ffprobe.
            probe.args(["-nostdin", "-hide_banner", "-t", "1", "-i", &rtmp, "-f", "null", "-"]);
        } else {
            probe.args(["-v", "error", "-show_streams", &rtmp]);
        }
        let seen = probe.output().unwrap();
        let seen = String::from_utf8_lossy(&[seen.stdout, seen.stderr].concat()).into_owned();
        assert!(seen.contains(codec) && seen.contains("320"), "{name}: {seen}");
        assert_eq!(seen.contains("aac"), name == "anna", "{seen}");
    }
    assert_eq!(
        (door.count("ingest", "units_malformed"), door.count("srt", "pictures_lost")),
        (0, 0)
    );

    // Taken back: sent away at once. One that vanishes leaves the stream waiting.
    let (gone, _, _) = ask(&door.service, "DELETE", "/api/v1/publishers/anna", "", "");
    assert_eq!(gone, 204);
    assert!(anna.wait(Duration::from_secs(15)).is_some(), "{}", door.service.log());
    ben.0.kill().unwrap();
    until(&door.service, "ben is missed", || {
        let streams = json(&door.service, "/api/v1/streams");
        let mut streams = streams["streams"].as_array().unwrap().iter();
        streams.any(|s| s["stream"] == "ben" && s["status"] == "waiting")
    });
    let log = door.service.log();
    for secret in [PASSPHRASE, url.split_once("token=").unwrap().1.split('&').next().unwrap()] {
        assert!(!log.contains(secret), "{log}");
    }
    door.service.stop();
}

#[test]
fn whoever_may_not_publish_is_turned_away_and_the_others_go_on() {
    let Some(door) = Door::open("ingest.max_connections = 4\n") else { return };
    let mut good = door.publish(&door.url("publish:live/good"), H264);
    until(&door.service, "a picture", || door.stream("good").is_some());

    let wrong = door.url("publish:live/a").replace(PASSPHRASE, "another-passphrase");
    let wrong = door.publish(&wrong, H264);
    door.refused("ingest", "refused_name", door.publish(&door.url("publish:nowhere/a"), H264));
    door.refused("srt", "refused_stream_id", door.publish(&door.url("read:live/a"), H264));
    let none = format!("srt://127.0.0.1:{}?passphrase={PASSPHRASE}", door.port);
    let none = door.publish(&none, H264);
    door.refused("ingest", "refused_taken", door.publish(&door.url("publish:live/good"), H264));
    until(&door.service, "two stream ids", || door.count("srt", "refused_stream_id") == 2);
    drop(none);
    door.refused("srt", "handshakes_failed", wrong);

    // Nonsense, and a transport stream without a picture.
    let send = |input: &[&str], output: &[&str], stream: &str| {
        let mut ffmpeg = Command::new(&door.ffmpeg);
        ffmpeg.args(["-nostdin", "-v", "error", "-re"]).args(input).args(output);
        ffmpeg.arg(door.url(stream)).stdout(Stdio::null()).stderr(Stdio::null());
        Reaped::start(&mut ffmpeg)
    };
    let noise = ["-f", "u8", "-ar", "400000", "-i", "/dev/urandom"];
    let nonsense = send(&noise, &["-f", "u8"], "publish:live/noise");
    let sound = ["-f", "lavfi", "-i", "sine=440"];
    let blind = send(&sound, &["-c:a", "aac", "-f", "mpegts"], "publish:live/blind");
    door.refused("srt", "no_transport_stream", nonsense);
    door.refused("srt", "idle_timeouts", blind);
    assert!(door.service.log().contains("no MPEG transport stream"));

    assert!(good.0.try_wait().unwrap().is_none(), "{}", door.service.log());
    let frames = || door.stream("good").unwrap()["counters"]["frames_detected"].as_u64();
    let before = frames();
    until(&door.service, "the good one goes on", || frames() > before);
    assert_eq!(door.count("ingest", "connection_panics"), 0);
    door.service.stop();
}

#[test]
fn a_taken_port_is_told_at_the_start() {
    let Some(door) = Door::open("") else { return };
    let config = door.service.dir.path().join("second.toml");
    let text = std::fs::read_to_string(&door.service.config).unwrap();
    let other = |line: &str| !line.contains("listen") || line.contains("srt");
    let text: String = text.lines().filter(|l| other(l)).flat_map(|l| [l, "\n"]).collect();
    let closed = "ingest.listen = \"127.0.0.1:0\"\nwebsocket.enabled = false\nmqtt.enabled = false\n\
                  web.enabled = false\n";
    std::fs::write(&config, format!("{closed}{text}")).unwrap();
    let output = spotter().args(["run", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cannot listen for SRT on UDP"), "{said}");
    door.service.stop();
}
