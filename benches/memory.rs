//! What remembering costs: the list and new visits with a million of them in the database, processor time of continuous
//! recording, and memory over a day of recording and retention on simulated time.
//!
//!     cargo bench --bench memory [-- --only day|million|recording --seconds 30 --rounds 4 --events 1000000]
//!
//! All of it goes through the real store, recorder and program. The million is made by them too, over ten days of one
//! recorded stream. Processor time is the program's with a stream recorded less the same without, in turns of one run.
//! $BENCH_DIR names a directory on the disk that is to be measured; left out, it is the build's own.

#[path = "../tests/support/simulation.rs"]
mod simulation;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use simulation::{BEGIN, Camera, Simulation};
use spotter::config::{Config, RecordMode};
use spotter::store::{Cursor, Query};

const CLIP: &str = "demo/clip.mp4";
const MB: f64 = 1024.0 * 1024.0;

fn main() {
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).expect("the repository is there");
    let args: Vec<String> = std::env::args().collect();
    let given = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| {
        given(name).map_or(default, |s| s.parse().expect("options take whole numbers"))
    };
    let only = given("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("threads");
    if wanted("day") {
        runtime.block_on(day(number("--hours", 24)));
    }
    if wanted("million") {
        runtime.block_on(million(number("--events", 1_000_000)));
    }
    if wanted("recording") {
        recording(Duration::from_secs(number("--seconds", 30)), number("--rounds", 4));
    }
}

/// An empty directory to work in.
fn directory(name: &str) -> PathBuf {
    let base =
        std::env::var_os("BENCH_DIR").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let dir = base.join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory to work in");
    dir
}

fn config(keep_bytes: u64) -> Config {
    let mut config = Config::default();
    config.record.mode = RecordMode::Continuous;
    config.record.segment_s = 60.0;
    (config.record.keep_days, config.record.keep_bytes) = (0, keep_bytes);
    config.record.keep_free_bytes = 0;
    config
}

/// A day of a stream of 2.5 Mbit/s, of which two gigabytes are kept, with a visit in five minutes.
async fn day(hours: u64) {
    let camera = Camera { interval_ms: 40, group: 25, picture_bytes: 12_500 };
    let dir = directory("memory-day");
    let mut sim = Simulation::start(&dir, config(2 << 30), camera).await;
    println!("memory over {hours} hours of recording 2.5 Mbit/s and keeping 2 GiB:");
    let (began, mut pss) = (Instant::now(), Vec::new());
    for hour in 1..=hours {
        for _ in 0..12 {
            sim.film(60_000).await;
            let visit = sim.arrive("garden", "dog");
            sim.portray(&visit, 60_000);
            sim.film(30_000).await;
            sim.leave(&visit);
            sim.film(210_000).await;
        }
        pss.push(pss_kib(std::process::id()) / 1024.0);
        let used = sim.store.state().borrow().used_bytes as f64 / MB;
        println!("  hour {hour:2}: {:.2} MiB, {used:.0} MiB kept", pss[pss.len() - 1]);
    }
    let counted = sim.store.counted();
    println!(
        "  {} fragments, {} dropped, {} files deleted, {} visits; {:.0} s of real time",
        counted.fragments.get(),
        counted.fragments_dropped.get(),
        counted.segments_deleted.get(),
        counted.events.get() / 2,
        began.elapsed().as_secs_f64()
    );
    // Caches fill in the first hours.
    let settled = &pss[pss.len().min(4).saturating_sub(1)..];
    let grown = slope(settled) * (settled.len().saturating_sub(1)) as f64;
    println!(
        "  grown by {grown:+.2} MiB from hour 4 to {hours}; bound 1.00: {}",
        verdict(grown, 1.0)
    );
    sim.finish().await;
    let _ = std::fs::remove_dir_all(dir);
}

/// Least squares, a step.
fn slope(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let spread = |x: usize| x as f64 - mean_x;
    let top: f64 = values.iter().enumerate().map(|(x, y)| spread(x) * (y - mean_y)).sum();
    let bottom: f64 = (0..values.len()).map(|x| spread(x) * spread(x)).sum();
    if bottom > 0.0 { top / bottom } else { 0.0 }
}

const STREAMS: [&str; 4] = ["garden", "garden", "barn", "gate"];
/// The last one is rare: one in a thousand.
const LABELS: [&str; 5] = ["dog", "cat", "bird", "horse", "bear"];

async fn million(events: u64) {
    let camera = Camera { interval_ms: 2000, group: 1, picture_bytes: 200 };
    // It is made where flushing costs nothing, and measured on the disk.
    let made_in = in_memory("memory-million").unwrap_or_else(|| directory("memory-making"));
    let mut sim = Simulation::start(&made_in, config(0), camera).await;
    let minutes = 10 * 24 * 60;
    let (began, mut made) = (Instant::now(), 0);
    for minute in 1..=minutes {
        while made < events * minute / minutes {
            let label = if made % 1000 == 999 { 4 } else { (made % 7 % 4) as usize };
            let visit = sim.arrive(STREAMS[(made % 4) as usize], LABELS[label]);
            sim.wait(3);
            sim.leave(&visit);
            made += 1;
        }
        // A file a minute, of which some seconds are enough: what is measured is the index.
        sim.film(6000).await;
        sim.wait(54_000);
    }
    let took = began.elapsed().as_secs_f64();
    println!("\n{made} visits and {minutes} recorded files, made in {took:.0} s");
    assert_eq!(sim.store.counted().events_dropped.get(), 0, "the database holds less");
    let passed = sim.passed();
    sim.finish().await;

    let dir = directory("memory-million");
    let database = dir.join("spotter.db");
    std::fs::copy(made_in.join("spotter.db"), &database).expect("room on the disk");
    // Else the first flush of the store would carry all of it.
    let flushed = std::fs::File::open(&database).and_then(|f| f.sync_all());
    flushed.expect("a disk that takes it");
    let mut config = config(0);
    config.record.dir = made_in.join("recordings");
    let begun = Instant::now();
    let mut sim = Simulation::start(&dir, config, camera).await;
    println!("  the store opens in {:.2} s", begun.elapsed().as_secs_f64());
    sim.wait(u64::try_from(passed.as_millis()).expect("days"));
    list(&sim, made).await;
    insert(&mut sim).await;
    println!(
        "  the database has {:.0} MiB, this process {:.1} MiB of memory",
        database.metadata().map_or(0, |m| m.len()) as f64 / MB,
        pss_kib(std::process::id()) / 1024.0
    );
    sim.finish().await;
    over_http(&dir, &made_in.join("recordings"), made);
    for dir in [dir, made_in] {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// An empty directory in memory, where there is such a thing.
fn in_memory(name: &str) -> Option<PathBuf> {
    let dir =
        Path::new("/dev/shm").join(format!("spotter-bench-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir)
}

/// From an event's sending to its row's commit: what a listener waits for who looks it up at once.
async fn insert(sim: &mut Simulation) {
    let mut times = Times::new("a new visit, until it is committed", std::process::id());
    for _ in 0..ROUNDS * A_ROUND {
        // Events that come apart; ten a second and more are written together.
        sim.wait(150);
        let before = sim.store.counted().commits.get();
        let begun = times.start();
        sim.arrive("garden", "dog");
        while sim.store.counted().commits.get() == before {
            std::thread::sleep(Duration::from_micros(20));
        }
        times.stop(begun);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.say();
}

/// What is asked, by name: as the API takes it and as the store does.
fn questions(made: u64) -> Vec<(&'static str, String, Query)> {
    let all = Query { limit: 50, ..Query::default() };
    let of = |s: &str| Some(s.to_owned());
    let day = |n: i64| (BEGIN as i64 + n * 86_400) * 1_000_000;
    let seconds = |n: i64| day(n) / 1_000_000;
    // Begins in the middle, as if one had turned ten thousand pages.
    let cursor = |seq: u64| {
        let start = day(10 * seq as i64 / made.max(1) as i64) + 1;
        let bytes = [start.to_be_bytes(), (seq as i64).to_be_bytes()].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let deep = cursor(made / 2);
    vec![
        ("the newest", String::new(), all.clone()),
        ("the newest 500", "limit=500".into(), Query { limit: 500, ..all.clone() }),
        ("one stream", "stream=barn".into(), Query { stream: of("barn"), ..all.clone() }),
        ("one label", "label=cat".into(), Query { label: of("cat"), ..all.clone() }),
        ("a rare label", "label=bear".into(), Query { label: of("bear"), ..all.clone() }),
        (
            "a rare label in one stream",
            "stream=gate&label=bear".into(),
            Query { stream: of("gate"), label: of("bear"), ..all.clone() },
        ),
        (
            "a label never seen in one stream",
            "stream=barn&label=bear".into(),
            Query { stream: of("barn"), label: of("bear"), ..all.clone() },
        ),
        (
            "a day long ago",
            format!("after={}&before={}", seconds(3), seconds(4)),
            Query { after_us: Some(day(3)), before_us: Some(day(4)), ..all.clone() },
        ),
        (
            "half-way down",
            format!("cursor={deep}"),
            Query { cursor: Cursor::parse(&deep), ..all.clone() },
        ),
        (
            "half-way down one stream's label",
            format!("stream=garden&label=dog&cursor={deep}"),
            Query { stream: of("garden"), label: of("dog"), cursor: Cursor::parse(&deep), ..all },
        ),
    ]
}

async fn list(sim: &Simulation, made: u64) {
    println!("  a page of the list, by the store:");
    for (name, _, query) in questions(made) {
        let mut times = Times::new(name, std::process::id());
        let mut query = query;
        // On from page to page, and from the beginning again.
        let first = query.cursor;
        for _ in 0..ROUNDS * A_ROUND {
            let begun = times.start();
            let page = sim.store.events(query.clone()).await.expect("a database");
            times.stop(begun);
            query.cursor = page.next.or(first);
        }
        times.say();
    }
}

/// The same by the real program's API.
fn over_http(dir: &Path, recordings: &Path, made: u64) {
    let port = free_port();
    let begun = Instant::now();
    let process = spotter(dir, recordings, port, free_port(), 0);
    let ready = || get(port, "/api/v1/events?limit=1").contains("\"events\"");
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the program does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("  the program starts and lists after {:.1} s", begun.elapsed().as_secs_f64());
    println!("  a page of the list, by the API:");
    for (name, asked, _) in questions(made) {
        let mut times = Times::new(name, process.0.id());
        for _ in 0..ROUNDS * A_ROUND {
            let begun = times.start();
            let answer = get(port, &format!("/api/v1/events?{asked}"));
            times.stop(begun);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        times.say();
    }
}

/// Times of one question, in rounds: on a machine that others use too, the quietest round is nearest to the truth.
struct Times {
    name: &'static str,
    /// Whose processor time is told beside.
    pid: u32,
    all: Vec<f64>,
    busy: Vec<f64>,
}

const ROUNDS: usize = 5;
const A_ROUND: usize = 100;

impl Times {
    fn new(name: &'static str, pid: u32) -> Self {
        Self { name, pid, all: Vec::new(), busy: Vec::new() }
    }

    fn start(&self) -> (Instant, u64) {
        let busy = busy_ns(self.pid);
        (Instant::now(), busy)
    }

    fn stop(&mut self, (begun, busy): (Instant, u64)) {
        self.all.push(begun.elapsed().as_secs_f64() * 1000.0);
        self.busy.push(busy_ns(self.pid).saturating_sub(busy) as f64 / 1e6);
    }

    fn say(self) {
        let at = |times: &[f64], part: f64| {
            let mut times = times.to_vec();
            times.sort_by(f64::total_cmp);
            times[((times.len() as f64 * part) as usize).min(times.len() - 1)]
        };
        let rounds = self.all.chunks(A_ROUND).map(|round| at(round, 0.95));
        let quietest = rounds.fold(f64::INFINITY, f64::min);
        println!(
            "    {:<36} median {:6.2} ms, p95 {quietest:6.2} ms (all rounds {:6.2}, processor time {:6.2}); bound 5.00: {}",
            self.name,
            at(&self.all, 0.5),
            at(&self.all, 0.95),
            at(&self.busy, 0.95),
            verdict(quietest, 5.0)
        );
    }
}

/// What all threads of a process took of processors (proc(5), schedstat).
fn busy_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks.filter_map(of).sum()
}

fn verdict(value: f64, bound: f64) -> &'static str {
    if value <= bound { "kept" } else { "MISSED" }
}

/// What recording one stream adds to the program's processor time.
fn recording(length: Duration, rounds: u64) {
    if !Path::new(CLIP).exists() {
        return println!("SKIPPED: no {CLIP}; run ./setup.sh");
    }
    let dir = directory("memory-recording");
    let (web, rtmp) = (free_port(), free_port());
    let process = spotter(&dir, &dir.join("recordings"), web, rtmp, 2 << 30);
    let pid = process.0.id();
    for port in [web, rtmp] {
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the program does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let publisher =
        ["-nostdin", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", CLIP, "-c", "copy"];
    let _publisher = Reaped(
        Command::new("ffmpeg")
            .args(publisher)
            .args(["-f", "flv", &format!("rtmp://127.0.0.1:{rtmp}/live/stream")])
            .spawn()
            .expect("ffmpeg is installed; run ./setup.sh"),
    );
    std::thread::sleep(Duration::from_secs(5));
    println!(
        "\nprocessor time of recording one stream of 2.5 Mbit/s, {rounds} rounds of {length:?} each way:"
    );
    let switch = |mode: &str| {
        let body = format!("{{\"recordings\":\"{mode}\"}}");
        let answer = request(web, "PUT", "/api/v1/streams/stream/settings", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        std::thread::sleep(Duration::from_secs(2));
    };
    let written = || -> f64 {
        let stats = get(web, "/api/v1/stats");
        let body = stats.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let stats: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        stats["counters"]["storage"]["bytes_written"].as_f64().unwrap_or(0.0)
    };
    let mut added = Vec::new();
    for round in 1..=rounds {
        switch("off");
        let without = cores(pid, length);
        switch("continuous");
        let bytes = written();
        let with = cores(pid, length);
        let mbit = (written() - bytes) * 8.0 / length.as_secs_f64() / 1e6;
        added.push((with - without) * 100.0);
        println!(
            "  round {round}: {:.2} % of a core without, {:.2} % with; {mbit:.2} Mbit/s written",
            without * 100.0,
            with * 100.0
        );
    }
    let mean = added.iter().sum::<f64>() / added.len().max(1) as f64;
    println!("  recording adds {mean:.2} % of a core; bound 3.00: {}", verdict(mean, 3.0));
    drop(process);
    let _ = std::fs::remove_dir_all(dir);
}

/// The program without decoder, detector and the exits that are not measured.
fn spotter(state: &Path, recordings: &Path, web: u16, rtmp: u16, keep_bytes: u64) -> Reaped {
    let child = Command::new(env!("CARGO_BIN_EXE_spotter"))
        .args(["run", "--log", "error"])
        .env("SPOTTER__NODE__STATE_DIR", state)
        .env("SPOTTER__INGEST__LISTEN", format!("127.0.0.1:{rtmp}"))
        .env("SPOTTER__WEB__LISTEN", format!("127.0.0.1:{web}"))
        .env("SPOTTER__WEBSOCKET__ENABLED", "false")
        .env("SPOTTER__MQTT__ENABLED", "false")
        .env("SPOTTER__DECODE__BACKEND", "fake")
        .env("SPOTTER__DETECT__BACKEND", "fake")
        .env("SPOTTER__RECORD__KEEP_DAYS", "0")
        .env("SPOTTER__RECORD__KEEP_BYTES", keep_bytes.to_string())
        .env("SPOTTER__RECORD__DIR", recordings)
        .stderr(std::process::Stdio::null())
        .spawn();
    Reaped(child.expect("cargo built spotter"))
}

fn get(port: u16, path: &str) -> String {
    request(port, "GET", path, "")
}

fn request(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut answer = Vec::new();
    let exchange = || -> std::io::Result<()> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
        );
        socket.write_all(head.as_bytes())?;
        socket.read_to_end(&mut answer).map(drop)
    };
    // Where nobody listens yet the answer is empty.
    let _ = { exchange }();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Processor time over a while, in cores.
fn cores(pid: u32, length: Duration) -> f64 {
    let (begun, before) = (Instant::now(), cpu_s(pid));
    std::thread::sleep(length);
    (cpu_s(pid) - before) / begun.elapsed().as_secs_f64()
}

/// User and system time in seconds (proc(5), stat fields 14 and 15, in ticks of 1/100 s on Linux).
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program lives");
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
    let ticks = |at: usize| -> f64 {
        let field = fields.split_whitespace().nth(at);
        field.and_then(|f| f.parse().ok()).expect("numbers")
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// Proportional set size.
fn pss_kib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
    let line = text.lines().find(|l| l.starts_with("Pss:")).expect("a Pss line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("bound").port()
}

/// A child that does not outlive the bench.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
