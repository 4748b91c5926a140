//! What one more RTMP reader costs: spotter beside nginx-rtmp, xiu and node-media-server, one after the other in one run.
//!
//!     cargo bench --bench fanout [-- --readers 60 --seconds 30 --rounds 2]
//!
//! Each server gets the same ffmpeg publisher (the demo clip, 2.5 Mbit/s) and the same readers, which play and throw away.
//! Processor time is the server's with the readers less the same with a first one only, over the readers; memory is its own
//! (Pss), with and without them likewise. A server that is not here is said so: nginx with libnginx-mod-rtmp comes from Debian; xiu by
//! `cargo install xiu` (or $XIU names the program); node-media-server by `npm install node-media-server` in a directory
//! that $NODE_MODULES names (its node_modules), or here. $SPOTTER_BIN measures another build of spotter.
//!
//! Spotter runs with the fake decoder and detector: what is compared is carrying media, which is all the others do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rml_amf0::Amf0Value;
use spotter::ingest::dechunk::{Message, kind, write_message};

const CLIP: &str = "demo/clip.mp4";
/// Buffers fill and caches warm before anything counts.
const WARM_UP: Duration = Duration::from_secs(8);

fn main() {
    let option = |name: &str, default: u64| {
        let args: Vec<String> = std::env::args().collect();
        let given = args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
        given.map_or(default, |s| s.parse().expect("options take whole numbers"))
    };
    let (readers, seconds) = (option("--readers", 60), option("--seconds", 30));
    let rounds = option("--rounds", 2);
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).expect("the repository is there");
    if !Path::new(CLIP).exists() {
        return println!("SKIPPED: no {CLIP}; run ./setup.sh");
    }
    println!("fanout: {readers} readers, {seconds} s with and without them, {rounds} rounds");
    let servers = [Server::spotter(), Server::nginx(), Server::xiu(), Server::node()];
    let mut table: Vec<(&str, Vec<Cost>)> = Vec::new();
    for server in &servers {
        match server {
            Ok(server) => table.push((server.name, Vec::new())),
            Err(absent) => println!("ABSENT: {absent}"),
        }
    }
    for round in 1..=rounds {
        for server in servers.iter().flatten() {
            let cost = measure(server, readers, Duration::from_secs(seconds));
            println!("round {round}: {:<18} {cost}", server.name);
            if let Some((_, costs)) = table.iter_mut().find(|(name, _)| *name == server.name) {
                costs.push(cost);
            }
        }
    }
    report(&table);
}

fn report(table: &[(&str, Vec<Cost>)]) {
    let mean = |costs: &[Cost], of: fn(&Cost) -> f64| {
        costs.iter().map(of).sum::<f64>() / costs.len().max(1) as f64
    };
    let own = &table[0].1;
    println!("\nserver              % of a core a reader   x spotter   KiB a reader   MiB in all");
    for (name, costs) in table {
        let cpu = mean(costs, |c| c.cpu_percent);
        println!(
            "{name:<20} {cpu:>18.4} {:>11.2} {:>14.1} {:>12.1}",
            cpu / mean(own, |c| c.cpu_percent),
            mean(costs, |c| c.kib),
            mean(costs, |c| c.mib),
        );
    }
}

/// What a server's readers cost it.
struct Cost {
    /// Of one core, a reader.
    cpu_percent: f64,
    /// Memory a reader.
    kib: f64,
    /// Memory of the server with all of them.
    mib: f64,
    /// Bits a second that each reader got.
    mbit: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu_percent, kib, mib, mbit } = self;
        write!(
            f,
            "{cpu_percent:.4} % of a core and {kib:.1} KiB a reader, {mib:.1} MiB in all, {mbit:.2} Mbit/s each"
        )
    }
}

fn measure(server: &Server, readers: u64, length: Duration) -> Cost {
    let port = free_port();
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fanout");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory to work in");
    let process = Reaped((server.start)(&dir, port));
    let pid = process.0.id();
    wait_for(port, server.name);
    let url = format!("rtmp://127.0.0.1:{port}/live/stream");
    let publisher =
        ["-nostdin", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", CLIP, "-c", "copy"];
    let _publisher = Reaped(
        Command::new("ffmpeg")
            .args(publisher)
            .args(["-f", "flv", &url])
            .spawn()
            .expect("ffmpeg is installed; run ./setup.sh"),
    );
    std::thread::sleep(WARM_UP);
    // What serving readers at all takes, code above all, is not the next one's cost: the first is there before.
    attach(1, port, &Arc::default());
    std::thread::sleep(WARM_UP);
    let alone = used(pid, length);
    let got = Arc::new(AtomicU64::new(0));
    attach(readers, port, &got);
    std::thread::sleep(WARM_UP);
    let before = got.load(Ordering::Relaxed);
    let together = used(pid, length);
    let bits = (got.load(Ordering::Relaxed) - before) as f64 * 8.0;
    let n = readers as f64;
    Cost {
        cpu_percent: (together.cores - alone.cores) * 100.0 / n,
        kib: (together.memory_kib - alone.memory_kib) / n,
        mib: together.memory_kib / 1024.0,
        mbit: bits / together.took_s / n / 1e6,
    }
}

/// Starts a server that works in a directory and listens on a port.
type Start = Box<dyn Fn(&Path, u16) -> Child>;

/// A server that can be started.
struct Server {
    name: &'static str,
    start: Start,
}

impl Server {
    fn spotter() -> Result<Self, String> {
        let start = |dir: &Path, port: u16| {
            let built = env!("CARGO_BIN_EXE_spotter").to_owned();
            Command::new(std::env::var("SPOTTER_BIN").unwrap_or(built))
                .args(["run", "--log", "warn"])
                .env("SPOTTER__NODE__STATE_DIR", dir.join("state"))
                .env("SPOTTER__INGEST__LISTEN", format!("127.0.0.1:{port}"))
                .env("SPOTTER__INGEST__MAX_READERS", "10000")
                .env("SPOTTER__INGEST__MAX_READERS_PER_ADDRESS", "10000")
                .env("SPOTTER__INGEST__MAX_CONNECTIONS", "10000")
                .env("SPOTTER__INGEST__MAX_CONNECTIONS_PER_ADDRESS", "10000")
                .env("SPOTTER__WEBSOCKET__ENABLED", "false")
                .env("SPOTTER__MQTT__ENABLED", "false")
                .env("SPOTTER__WEB__ENABLED", "false")
                .env("SPOTTER__DECODE__BACKEND", "fake")
                .env("SPOTTER__DETECT__BACKEND", "fake")
                // The fake sees a dog in everything, which would be remembered and recorded.
                .env("SPOTTER__DETECT__ANIMALS", "[\"cat\"]")
                .env("SPOTTER__RECORD__MODE", "off")
                .spawn()
                .expect("cargo built spotter")
        };
        Ok(Self { name: "spotter", start: Box::new(start) })
    }

    fn nginx() -> Result<Self, String> {
        let program = found(&["/usr/sbin/nginx", "nginx"]);
        let program = program.ok_or("nginx: apt-get install libnginx-mod-rtmp nginx-light")?;
        let module = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
        if !Path::new(module).exists() {
            return Err("nginx without its RTMP module: apt-get install libnginx-mod-rtmp".into());
        }
        let start = move |dir: &Path, port: u16| {
            // One process, so that its time and memory are all there is.
            let text = format!(
                "load_module {module};\ndaemon off;\nmaster_process off;\npid {0}/nginx.pid;\n\
                 error_log {0}/error.log;\nevents {{ worker_connections 1024; }}\n\
                 rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n",
                dir.display()
            );
            std::fs::write(dir.join("nginx.conf"), text).expect("a writable directory");
            Command::new(&program)
                .arg("-p")
                .arg(dir)
                .arg("-c")
                .arg(dir.join("nginx.conf"))
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx starts")
        };
        Ok(Self { name: "nginx-rtmp", start: Box::new(start) })
    }

    fn xiu() -> Result<Self, String> {
        let given = std::env::var("XIU").unwrap_or_default();
        let program = found(&[&given, "xiu"]).ok_or("xiu: cargo install xiu, or set XIU")?;
        let program = std::fs::canonicalize(program).expect("it is there");
        let start = move |dir: &Path, port: u16| {
            Command::new(&program)
                .current_dir(dir)
                .args(["-r", &port.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("xiu starts")
        };
        Ok(Self { name: "xiu", start: Box::new(start) })
    }

    fn node() -> Result<Self, String> {
        let node = found(&["node"]).ok_or("node-media-server: Node.js is not installed")?;
        let modules = PathBuf::from(std::env::var("NODE_MODULES").unwrap_or("node_modules".into()));
        let package = modules.join("node-media-server");
        if !package.exists() {
            return Err("node-media-server: npm install it, and set NODE_MODULES".into());
        }
        let package = std::fs::canonicalize(package).expect("it is there");
        let start = move |dir: &Path, port: u16| {
            let text = format!(
                "const Server = require({package:?});\n\
                 const config = {{ logType: 0, bind: '127.0.0.1', rtmp: {{ port: {port}, chunk_size: 60000, gop_cache: true }} }};\n\
                 new Server(config).run();\n"
            );
            let script = dir.join("server.js");
            std::fs::write(&script, text).expect("a writable directory");
            Command::new(&node)
                .current_dir(dir)
                .arg(script)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("node starts")
        };
        Ok(Self { name: "node-media-server", start: Box::new(start) })
    }
}

/// The first of these programs that is there, by its path or on PATH.
fn found(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    names.iter().filter(|name| !name.is_empty()).find_map(|name| match name.contains('/') {
        true => Some(PathBuf::from(name)).filter(|p| p.is_file()),
        false => dirs.iter().map(|dir| dir.join(name)).find(|p| p.is_file()),
    })
}

/// Starts readers that add what they get to `got`.
fn attach(readers: u64, port: u16, got: &Arc<AtomicU64>) {
    for _ in 0..readers {
        let got = Arc::clone(got);
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || read_and_discard(port, &got))
            .expect("a thread");
    }
}

/// Plays the stream and counts its bytes until the server is gone.
fn read_and_discard(port: u16, got: &AtomicU64) {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return };
    if play(&mut socket, port).is_err() {
        return eprintln!("a reader was not served");
    }
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        got.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Handshake, connect, createStream and play, without waiting for answers but the handshake's: every server here
/// numbers its first stream 1.
fn play(socket: &mut TcpStream, port: u16) -> std::io::Result<()> {
    let mut hello = [0; 1537];
    hello[0] = 3;
    socket.write_all(&hello)?;
    let mut theirs = [0; 3073];
    socket.read_exact(&mut theirs)?;
    socket.write_all(&theirs[1..1537])?;
    let text = |s: &str| Amf0Value::Utf8String(s.to_owned());
    let object = [("app", text("live")), ("tcUrl", text(&format!("rtmp://127.0.0.1:{port}/live")))];
    let object = Amf0Value::Object(object.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let window = Message {
        kind: kind::WINDOW_ACK_SIZE,
        stream: 0,
        timestamp_ms: 0,
        payload: 2_500_000u32.to_be_bytes().to_vec().into(),
    };
    let calls = [
        call(0, "connect", 1.0, object, None),
        window,
        call(0, "createStream", 2.0, Amf0Value::Null, None),
        call(1, "play", 3.0, Amf0Value::Null, Some(text("stream"))),
    ];
    for message in calls {
        let mut chunks = Vec::new();
        write_message(&mut chunks, 3, &message, 128);
        socket.write_all(&chunks)?;
        // Some servers answer each call before they look at the next.
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn call(stream: u32, name: &str, id: f64, object: Amf0Value, rest: Option<Amf0Value>) -> Message {
    let mut values = vec![Amf0Value::Utf8String(name.into()), Amf0Value::Number(id), object];
    values.extend(rest);
    let payload = rml_amf0::serialize(&values).expect("short values").into();
    Message { kind: kind::COMMAND_AMF0, stream, timestamp_ms: 0, payload }
}

/// What a process took over a while.
struct Used {
    cores: f64,
    /// The mean: what a server keeps of the stream's past comes and goes by whole GOPs.
    memory_kib: f64,
    took_s: f64,
}

fn used(pid: u32, length: Duration) -> Used {
    let (begun, before) = (Instant::now(), cpu_s(pid));
    let mut memory = Vec::new();
    while begun.elapsed() < length {
        std::thread::sleep(Duration::from_millis(500));
        memory.push(memory_kib(pid));
    }
    let took_s = begun.elapsed().as_secs_f64();
    let memory_kib = memory.iter().sum::<f64>() / memory.len().max(1) as f64;
    Used { cores: (cpu_s(pid) - before) / took_s, memory_kib, took_s }
}

/// User and system time in seconds (proc(5), stat fields 14 and 15, in ticks of 1/100 s on Linux).
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server lives");
    let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
    let ticks = |at: usize| -> f64 {
        let field = fields.split_whitespace().nth(at);
        field.and_then(|f| f.parse().ok()).expect("numbers")
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// Proportional set size.
fn memory_kib(pid: u32) -> f64 {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the server lives");
    let line = text.lines().find(|l| l.starts_with("Pss:")).expect("a Pss line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn wait_for(port: u16, name: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "{name} did not start");
        std::thread::sleep(Duration::from_millis(100));
    }
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
