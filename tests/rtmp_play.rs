//! Real players on RTMP and HTTP-FLV: they start at once on a key frame, stay attached over a publisher's reconnect, and
//! hear why when there is nothing to play. A program that is not installed is skipped, and said so.

#![allow(clippy::unwrap_used, reason = "test code, outside of test functions")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::{Reaped, Service, new_ffmpeg, on_path, root, skip};

/// Carrying media needs neither decoder nor model.
const FAKES: &str = "decode.backend = \"fake\"\ndetect.backend = \"fake\"\n";

fn publish(url: &str) -> Reaped {
    let args = ["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"];
    let args = args.into_iter().chain(["-c", "copy", "-f", "flv", url]);
    Reaped::start(Command::new("ffmpeg").args(args).current_dir(root()))
}

/// A service with the demo clip published to it; `None` when there is nothing to publish or to publish with.
fn live() -> Option<(Service, Reaped)> {
    if !on_path("ffmpeg") || !root().join("demo/clip.mp4").exists() {
        skip("no ffmpeg or no demo/clip.mp4; run ./setup.sh --test");
        return None;
    }
    let service = Service::start(FAKES);
    let publisher = publish(&service.url("cam"));
    // Long enough that a player which waited for the next key frame would be noticed.
    std::thread::sleep(Duration::from_secs(3));
    Some((service, publisher))
}

/// Runs a program to its end or for so long; `None` when it is not installed.
fn run(program: &str, args: &[&str], at_most_s: u32) -> Option<Output> {
    if !Path::new(program).exists() && !on_path(program) {
        skip(&format!("no {program}; run ./setup.sh --test"));
        return None;
    }
    let mut command = Command::new("timeout");
    command.args(["-s", "INT", "-k", "5", &at_most_s.to_string(), program]).args(args);
    Some(command.current_dir(root()).stdin(Stdio::null()).output().unwrap())
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

const PACKETS: [&str; 6] =
    ["-v", "error", "-show_entries", "packet=codec_type,dts_time,flags", "-of", "csv=p=0"];

/// Kind, seconds and whether it is a key, of each packet.
fn packets(said: &str) -> Vec<(String, f64, bool)> {
    let lines = said.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let (kind, dts) = (fields.next()?, fields.next()?.parse().ok()?);
        Some((kind.to_owned(), dts, fields.next()?.starts_with('K')))
    });
    lines.collect()
}

#[test]
fn a_stream_without_sound_promises_none() {
    let Some((service, publisher)) = live() else { return };
    drop(publisher);
    let url = service.url("mute");
    let args = ["-nostdin", "-v", "error", "-re", "-i", "demo/clip.mp4", "-an"];
    let args = args.into_iter().chain(["-c", "copy", "-f", "flv", &url]);
    let _publisher = Reaped::start(Command::new("ffmpeg").args(args).current_dir(root()));
    std::thread::sleep(Duration::from_secs(2));
    // A player that is promised sound waits for it, longer than it is given here.
    for url in [url.clone(), format!("http://127.0.0.1:{}/flv/mute", service.web)] {
        let mut args = PACKETS.to_vec();
        args.extend(["-read_intervals", "%+#30", &url]);
        let Some(output) = run("ffprobe", &args, 20) else { continue };
        let packets = packets(&text(&output));
        assert!(packets.len() > 10 && packets.iter().all(|p| p.0 == "video"), "{}", text(&output));
    }
    service.stop();
}

#[test]
fn every_player_plays() {
    let Some((service, _publisher)) = live() else { return };
    let url = service.url("cam");
    let flv = format!("http://127.0.0.1:{}/flv/cam.flv", service.web);
    for url in [&url, &flv] {
        let mut args = PACKETS.to_vec();
        args.extend(["-read_intervals", "%+#60", url]);
        let Some(output) = run("ffprobe", &args, 20) else { continue };
        let packets = packets(&text(&output));
        let video: Vec<_> = packets.iter().filter(|p| p.0 == "video").collect();
        assert!(video.len() > 10 && packets.len() - video.len() > 10, "{}", text(&output));
        assert!(video[0].2 && video[0].1 < 0.1, "{:?}", video[0]);
        assert!(video.windows(2).all(|w| w[0].1 < w[1].1));
    }
    let decode = ["-v", "error", "-xerror", "-i", &url, "-t", "2", "-f", "null", "-"];
    if let Some(output) = run("ffmpeg", &decode, 20) {
        assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
    }
    let file = service.dir.path().join("dump.flv");
    let file = file.to_str().unwrap();
    if run("rtmpdump", &["-q", "-v", "-r", &url, "-o", file], 3).is_some() {
        let output = run("ffprobe", &[&PACKETS[..], &[file]].concat(), 20).unwrap();
        assert!(packets(&text(&output)).len() > 60, "{}", text(&output));
    }
    let args = ["--no-config", "--vo=null", "--ao=null", "--length=2", &url];
    if let Some(output) = run("mpv", &args, 20) {
        let said = text(&output);
        assert!(output.status.success() && said.contains("VO: [null] 1280x720"), "{said}");
    }
    for source in [format!("rtmp2src location={url}"), format!("rtmpsrc location={url}")] {
        let line = format!("-q {source} num-buffers=150 ! flvdemux name=d d.video ! fakesink");
        let args: Vec<_> = line.split_whitespace().collect();
        if let Some(output) = run("gst-launch-1.0", &args, 20) {
            assert!(output.status.success(), "{source}: {}", text(&output));
        }
    }
    let script = format!(
        "import av\nc = av.open({url:?}, timeout=10)\nfor n, f in enumerate(c.decode(video=0)):\n  \
         if n == 20: print('seen', f.width, f.height); break\n"
    );
    if let Some(output) = run(".venv/bin/python", &["-c", &script], 20) {
        match text(&output).contains("No module named") {
            true => skip("no PyAV; run ./setup.sh --test"),
            false => assert!(text(&output).contains("seen 1280 720"), "{}", text(&output)),
        }
    }
    service.stop();
}

/// H.265 and Opus in enhanced RTMP, read back by a player that speaks it.
#[test]
fn what_enhanced_rtmp_carries_is_played_as_such() {
    let Some(ffmpeg) = new_ffmpeg() else {
        return skip("no ffmpeg in .venv for enhanced RTMP; run ./setup.sh --test");
    };
    let service = Service::start(FAKES);
    let url = service.url("new");
    let mut publisher = Command::new(&ffmpeg);
    publisher.args([
        "-nostdin",
        "-v",
        "error",
        "-re",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=25",
    ]);
    publisher.args(["-re", "-f", "lavfi", "-i", "sine=frequency=440", "-c:v", "libx265"]);
    publisher.args(["-preset", "ultrafast", "-x265-params", "log-level=error:keyint=25:bframes=0"]);
    publisher.args(["-pix_fmt", "yuv420p", "-c:a", "libopus", "-ar", "48000", "-f", "flv", &url]);
    let _publisher = Reaped::start(&mut publisher);
    std::thread::sleep(Duration::from_secs(4));
    let ffmpeg = ffmpeg.to_str().unwrap();
    let args = ["-nostdin", "-v", "info", "-xerror", "-i", &url, "-t", "2", "-f", "null", "-"];
    let said = text(&run(ffmpeg, &args, 20).unwrap());
    let input = said.split("Output #0").next().unwrap();
    assert!(input.contains("Video: hevc") && input.contains("Audio: opus"), "{said}");
    let frames = said.rsplit("frame=").next().and_then(|s| s.split_whitespace().next());
    assert!(frames.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 45), "{said}");
    service.stop();
}

#[test]
fn a_reader_stays_attached_when_the_publisher_comes_back() {
    let Some((service, publisher)) = live() else { return };
    let url = service.url("cam");
    let reader = std::thread::spawn({
        let url = url.clone();
        move || run("ffprobe", &[&PACKETS[..], &["-rw_timeout", "9000000", &url]].concat(), 9)
    });
    std::thread::sleep(Duration::from_secs(3));
    drop(publisher);
    std::thread::sleep(Duration::from_secs(1));
    let _again = publish(&url);
    let output = reader.join().unwrap().unwrap();
    let packets = packets(&text(&output));
    for kind in ["video", "audio"] {
        let times: Vec<_> = packets.iter().filter(|p| p.0 == kind).map(|p| p.1).collect();
        assert!(times.windows(2).all(|w| w[0] <= w[1]), "{kind} went back: {times:?}");
        // The pause is in it, as long as it was.
        let pause = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
        assert!((0.5..5.0).contains(&pause), "{kind}: {pause} of {} packets", times.len());
        assert!(times.last().unwrap() > &4.0, "{kind}: {times:?}");
    }
    service.stop();
}

#[test]
fn there_is_a_clear_word_when_nothing_can_be_played() {
    let service = Service::start(FAKES);
    for (url, word) in [
        (service.url("nobody"), "there is no stream nobody"),
        (service.url("no/name"), "is not allowed"),
    ] {
        let args = ["-v", "error", &url];
        let Some(output) = run("ffprobe", &args, 20) else { return };
        assert!(!output.status.success() && text(&output).contains(word), "{}", text(&output));
    }
    service.stop();
}
