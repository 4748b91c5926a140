//! The main job against its floor, in one run: one 1280x720@30 stream of 2.5 Mbit/s, ten detections a second.
//!
//!     cargo bench --bench main_job [-- --seconds 60]
//!
//! The floor is what nobody can do without: ffmpeg decoding the same clip at the same pace to nothing on one thread,
//! and the bare interpreter invoked ten times a second on one thread. Printed are processor time and its ratio to the
//! floor, the way from a picture's last byte to an MQTT subscriber, and peak memory. It judges by ratio only.
//!
//! Spotter and the parts of its floor take turns in four rounds: the speed of a shared machine drifts within a minute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use edgefirst_tflite::{Delegate, Interpreter, Library, Model};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const CLIP: &str = "demo/clip.mp4";
const MODEL: &str = "models/yolov4-tiny-416.tflite";
const RATE_HZ: f64 = 10.0;
const ROUNDS: u64 = 4;
/// Pipelines fill and caches warm before anything counts.
const WARM_UP: Duration = Duration::from_secs(5);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let given = args.iter().position(|a| a == "--seconds").and_then(|at| args.get(at + 1));
    let seconds: u64 = given.map_or(60, |s| s.parse().expect("--seconds takes a whole number"));
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).expect("the repository is there");
    let library = format!("runtime/lib/{}/libtensorflowlite_c.so", std::env::consts::ARCH);
    for part in [CLIP, MODEL, &library] {
        if !Path::new(part).exists() {
            return println!("SKIPPED: no {part}; run ./setup.sh");
        }
    }
    println!(
        "main_job: {seconds} s of spotter, and as long of each part of its floor, in {ROUNDS} rounds"
    );
    let turn = (seconds / ROUNDS).max(1);
    let (mut rounds, mut decode, mut infer, mut invoke) = (Vec::new(), 0.0, 0.0, Vec::new());
    for round in 1..=ROUNDS {
        let service = spotter(turn);
        let decoding = ffmpeg_decode(turn);
        let (inferring, times) = bare_interpreter(Path::new(&library), turn);
        let ratio = service.cpu / (decoding + inferring);
        println!(
            "round {round}: spotter {:.4}, decoding {decoding:.4}, interpreter {inferring:.4} cores: {ratio:.3} x",
            service.cpu
        );
        rounds.push(service);
        decode += decoding / ROUNDS as f64;
        infer += inferring / ROUNDS as f64;
        invoke.extend(times);
    }
    report(&joined(rounds), decode, (infer, invoke));
}

struct Service {
    /// Processor seconds a second.
    cpu: f64,
    peak_mib: f64,
    detections_per_s: f64,
    /// Milliseconds, one entry a message.
    decode: Vec<f64>,
    infer: Vec<f64>,
    total: Vec<f64>,
    arrival_to_subscriber: Vec<f64>,
}

/// All rounds as one: means, all messages, the highest peak.
fn joined(rounds: Vec<Service>) -> Service {
    let n = rounds.len() as f64;
    let mean = |of: fn(&Service) -> f64| rounds.iter().map(of).sum::<f64>() / n;
    let all = |of: fn(&Service) -> &Vec<f64>| rounds.iter().flat_map(of).copied().collect();
    Service {
        cpu: mean(|s| s.cpu),
        peak_mib: rounds.iter().map(|s| s.peak_mib).fold(0.0, f64::max),
        detections_per_s: mean(|s| s.detections_per_s),
        decode: all(|s| &s.decode),
        infer: all(|s| &s.infer),
        total: all(|s| &s.total),
        arrival_to_subscriber: all(|s| &s.arrival_to_subscriber),
    }
}

/// A child that does not outlive the bench.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("bound").port()
}

fn spotter(seconds: u64) -> Service {
    let (rtmp, websocket, mqtt) = (free_port(), free_port(), free_port());
    let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("main_job");
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let spotter = Reaped(
        Command::new(env!("CARGO_BIN_EXE_spotter"))
            .args(["run", "--log", "warn"])
            .env("SPOTTER__NODE__NAME", "bench")
            .env("SPOTTER__NODE__STATE_DIR", &state)
            .env("SPOTTER__INGEST__LISTEN", listen(rtmp))
            .env("SPOTTER__WEBSOCKET__LISTEN", listen(websocket))
            .env("SPOTTER__MQTT__LISTEN", listen(mqtt))
            .env("SPOTTER__WEB__LISTEN", listen(0))
            .env("SPOTTER__DETECT__THREADS", "1")
            .env("SPOTTER__DETECT__MODEL", "yolov4-tiny-416")
            // Measured is what was asked for, not what a busy machine makes of it.
            .env("SPOTTER__DETECT__ADAPT", "off")
            .spawn()
            .expect("cargo built spotter"),
    );
    let until = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", mqtt)).is_err() {
        assert!(Instant::now() < until, "spotter did not start");
        std::thread::sleep(Duration::from_millis(100));
    }
    let _publisher = Reaped(
        Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-v",
                "error",
                "-re",
                "-stream_loop",
                "-1",
                "-i",
                CLIP,
                "-c",
                "copy",
                "-f",
                "flv",
            ])
            .arg(format!("rtmp://127.0.0.1:{rtmp}/live/stream"))
            .stderr(Stdio::null())
            .spawn()
            .expect("ffmpeg is installed; run ./setup.sh"),
    );
    let mut options = MqttOptions::new("main-job", "127.0.0.1", mqtt);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = Client::new(options, 16);
    client
        .subscribe("spotter/bench/stream/detections", QoS::AtMostOnce)
        .expect("room in the queue");

    let mut s = Service {
        cpu: 0.0,
        peak_mib: 0.0,
        detections_per_s: 0.0,
        decode: vec![],
        infer: vec![],
        total: vec![],
        arrival_to_subscriber: vec![],
    };
    let pid = spotter.0.id();
    let mut began: Option<(Instant, f64)> = None;
    let mut first: Option<Instant> = None;
    for event in connection.iter() {
        let now = SystemTime::now();
        let Ok(Event::Incoming(Packet::Publish(message))) = event else { continue };
        let at = *first.get_or_insert_with(Instant::now);
        if at.elapsed() < WARM_UP {
            continue;
        }
        let (start, cpu_at_start) =
            *began.get_or_insert_with(|| (Instant::now(), cpu_seconds(pid)));
        if start.elapsed() >= Duration::from_secs(seconds) {
            let wall = start.elapsed().as_secs_f64();
            s.cpu = (cpu_seconds(pid) - cpu_at_start) / wall;
            s.detections_per_s = s.total.len() as f64 / wall;
            break;
        }
        let m: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
        let ms = |key: &str| m["latency_ms"][key].as_f64().expect("a number");
        s.decode.push(ms("decode"));
        s.infer.push(ms("infer"));
        s.total.push(ms("total"));
        let captured: jiff::Timestamp =
            m["captured_at"].as_str().expect("a text").parse().expect("RFC 3339");
        let late = now.duration_since(SystemTime::from(captured)).unwrap_or_default();
        s.arrival_to_subscriber.push(late.as_secs_f64() * 1000.0);
    }
    s.peak_mib = peak_mib(pid);
    s
}

/// User and system time of a process in seconds (proc(5), stat fields 14 and 15, in ticks of 1/100 s on Linux).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("spotter runs");
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|f| f.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / 100.0
}

fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("spotter runs");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// Processor seconds a second of ffmpeg decoding the clip at its own pace to nothing, on one thread.
fn ffmpeg_decode(seconds: u64) -> f64 {
    let out = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-hide_banner",
            "-benchmark",
            "-threads",
            "1",
            "-re",
            "-stream_loop",
            "-1",
            "-i",
            CLIP,
        ])
        .args(["-an", "-t", &seconds.to_string(), "-f", "null", "-"])
        .output()
        .expect("ffmpeg is installed; run ./setup.sh");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let line =
        text.lines().rev().find(|l| l.starts_with("bench: utime=")).expect("-benchmark prints it");
    let value = |key: &str| -> f64 {
        let rest = &line[line.find(key).expect("named") + key.len()..];
        rest.split('s').next().and_then(|v| v.parse().ok()).expect("seconds")
    };
    (value("utime=") + value("stime=")) / seconds as f64
}

/// Processor seconds a second of the interpreter alone, and its times in milliseconds.
fn bare_interpreter(library: &Path, seconds: u64) -> (f64, Vec<f64>) {
    let library = Library::from_path(library).expect("the runtime library loads");
    let model = Model::from_file(&library, MODEL).expect("the model loads");
    let xnnpack = Delegate::xnnpack(&library, 1).expect("the library has XNNPACK");
    let builder = Interpreter::builder(&library).expect("an interpreter");
    let mut interpreter =
        builder.num_threads(1).delegate(xnnpack).build(&model).expect("the model fits");
    interpreter.invoke().expect("the model runs");
    let (began, cpu_at_start) = (Instant::now(), thread_seconds());
    let mut times = Vec::new();
    for n in 0..(seconds as f64 * RATE_HZ) as u32 {
        let due = began + Duration::from_secs_f64(f64::from(n) / RATE_HZ);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let started = Instant::now();
        interpreter.invoke().expect("the model runs");
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    ((thread_seconds() - cpu_at_start) / began.elapsed().as_secs_f64(), times)
}

/// Processor time of this thread (the first field of schedstat, in nanoseconds).
fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") / 1e9
}

fn percentile(values: &[f64], p: f64) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let rank = (p * v.len() as f64).ceil() as usize;
    v.get(rank.clamp(1, v.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn report(s: &Service, decode: f64, (infer, invoke): (f64, Vec<f64>)) {
    let floor = decode + infer;
    let rows = BTreeMap::from([
        ("1 decode, in spotter", &s.decode),
        ("2 detection, in spotter", &s.infer),
        ("3 total, in spotter", &s.total),
        ("4 last byte to subscriber", &s.arrival_to_subscriber),
        ("5 bare interpreter", &invoke),
    ]);
    println!("\n{:<28} {:>8} {:>8} {:>8}", "ms", "p50", "p95", "p99");
    for (name, v) in rows {
        let p = |q| percentile(v, q);
        println!("{:<28} {:>8.1} {:>8.1} {:>8.1}", &name[2..], p(0.50), p(0.95), p(0.99));
    }
    let allowed = percentile(&s.decode, 0.95) + percentile(&s.infer, 0.95) + 10.0;
    let p95 = percentile(&s.arrival_to_subscriber, 0.95);
    println!("\ndetections a second          {:.2}", s.detections_per_s);
    println!("CPU of spotter               {:.4} cores", s.cpu);
    println!("CPU of ffmpeg's decoding     {decode:.4} cores");
    println!("CPU of the bare interpreter  {infer:.4} cores");
    let verdict = |holds: bool| if holds { "holds" } else { "DOES NOT HOLD" };
    let ratio = s.cpu / floor;
    println!(
        "\nCPU against the floor        {ratio:.3} x   at most 1.08: {}",
        verdict(ratio <= 1.08)
    );
    println!(
        "last byte to MQTT, p95       {p95:.1} ms   at most decode + detection + 10 = {allowed:.1}: {}",
        verdict(p95 <= allowed)
    );
    println!(
        "peak memory                  {:.1} MiB   at most 100 MB: {}",
        s.peak_mib,
        verdict(s.peak_mib * 1.048_576 <= 100.0)
    );
}
