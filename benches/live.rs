//! Live video: how long after it was published a picture is on screen, beside the demo's way; and what viewers cost.
//!
//!     cargo bench --bench live [-- --seconds 30]
//!     SPOTTER_BIN=target/release/spotter cargo bench --profile dev --bench live     # builds less
//!
//! A clip with a clock burned in is published in real time. Chromium's page (WHEP, then MSE), PyAV with OpenCV, and ffplay
//! show it, and each tells when it showed which picture. It needs .venv with scripts/requirements-test.txt and
//! scripts/requirements-bench.txt, `npm ci` in tests/viewer, Chromium, ffplay and Xvfb; what is absent is said.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

const PYTHON: &str = ".venv/bin/python";
const VIEWERS: usize = 50;
/// Players fill their buffers before anything counts.
const WARM_UP_S: f64 = 5.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let given = args.iter().position(|a| a == "--seconds").and_then(|at| args.get(at + 1));
    let seconds: u64 = given.map_or(30, |s| s.parse().expect("--seconds takes a whole number"));
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).expect("the repository is there");
    if !Path::new(PYTHON).exists() {
        return println!("SKIPPED: no {PYTHON}; run ./setup.sh --test");
    }
    let clip = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clock.mp4");
    let made = Command::new(PYTHON)
        .args(["benches/live/clock.py"])
        .arg(&clip)
        .arg((seconds + 30).to_string())
        .status();
    assert!(made.expect("python starts").success(), "the clock clip could not be made");
    println!("live: a clip of 640x360 at 30 pictures a second, {seconds} s each way");
    let way = |name: &str, reader: &dyn Fn(&Spotter) -> Command| {
        let spotter = Spotter::start();
        let publisher = Printing::start(
            Command::new(PYTHON).args(["benches/live/publish.py"]).arg(&clip).arg(spotter.rtmp()),
        );
        std::thread::sleep(Duration::from_secs(3));
        let reader = Printing::start(&mut reader(&spotter));
        std::thread::sleep(Duration::from_secs_f64(seconds as f64 + WARM_UP_S));
        report(name, &publisher.end(), &reader.end());
    };
    let seconds = (seconds as f64 + WARM_UP_S).to_string();
    for transport in ["whep", "mse"] {
        way(transport, &|spotter| {
            let mut page = Command::new("node");
            let url = format!("http://127.0.0.1:{}/?transport={transport}", spotter.web);
            page.args(["benches/live/page.mjs", &url, &seconds]);
            page
        });
    }
    for peer in ["peer_pyav.py", "peer_ffplay.py"] {
        way(peer, &|spotter| {
            let mut window = Command::new("xvfb-run");
            window.args(["-a", "-s", "-screen 0 640x360x24", PYTHON]);
            window.args([&format!("benches/live/{peer}"), &spotter.rtmp(), &seconds]);
            window
        });
    }
    viewers(&clip);
}

/// Numbers and wall clocks, as the scripts print them; the first of each number counts.
type Times = HashMap<u64, f64>;

fn report(way: &str, published: &Times, shown: &Times) {
    let begin = shown.values().copied().fold(f64::INFINITY, f64::min) + WARM_UP_S;
    let mut late: Vec<f64> = shown
        .iter()
        .filter(|(_, at)| **at >= begin)
        .filter_map(|(n, at)| Some((at - published.get(n)?) * 1000.0))
        .collect();
    if late.len() < 30 {
        return println!("{way:16} SKIPPED: {} pictures came; see the messages above", late.len());
    }
    late.sort_by(f64::total_cmp);
    let at = |p: f64| late[((p * late.len() as f64).ceil() as usize).clamp(1, late.len()) - 1];
    println!(
        "{way:16} p50 {:7.1} ms   p95 {:7.1} ms   p99 {:7.1} ms   of {} pictures",
        at(0.50),
        at(0.95),
        at(0.99),
        late.len()
    );
}

/// What 50 viewers of one stream cost over none, in cores.
fn viewers(clip: &Path) {
    let spotter = Spotter::start();
    let _publisher = Printing::start(
        Command::new(PYTHON).args(["benches/live/publish.py"]).arg(clip).arg(spotter.rtmp()),
    );
    std::thread::sleep(Duration::from_secs(3));
    let window = Duration::from_secs(10);
    let alone = spotter.cores(window);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let url = format!("ws://127.0.0.1:{}/live/clock", spotter.web);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            let reads = (0..VIEWERS).map(|_| read_all(&url, stopped.clone()));
            futures_util::future::join_all(reads).await.into_iter().sum::<u64>()
        })
    });
    std::thread::sleep(Duration::from_secs(2));
    let watched = spotter.cores(window);
    stop.send_replace(true);
    let fragments = thread.join().expect("the viewers end");
    println!(
        "{VIEWERS} MSE viewers  {:.3} cores over {alone:.3} without ({fragments} fragments read)",
        watched - alone
    );
}

/// Reads live video until told to stop; how many fragments came.
async fn read_all(url: &str, mut stopped: tokio::sync::watch::Receiver<bool>) -> u64 {
    let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("a viewer is let in");
    let (_, mut messages) = socket.split();
    let mut fragments = 0;
    loop {
        tokio::select! {
            _ = stopped.changed() => return fragments,
            message = messages.next() => match message {
                Some(Ok(m)) => fragments += u64::from(m.is_binary()),
                _ => return fragments,
            },
        }
    }
}

/// A service of its own for each measurement, without detection: it is the picture's way that is measured.
struct Spotter {
    process: Child,
    rtmp: u16,
    web: u16,
    _state: tempfile::TempDir,
}

impl Spotter {
    fn start() -> Self {
        let [rtmp, websocket, mqtt, web] = [(); 4].map(|()| free_port());
        let state = tempfile::tempdir().expect("a temporary directory");
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let process = Command::new(
            std::env::var("SPOTTER_BIN").unwrap_or(env!("CARGO_BIN_EXE_spotter").into()),
        )
        .args(["run", "--log", "error"])
        .env("SPOTTER__NODE__STATE_DIR", state.path())
        .env("SPOTTER__INGEST__LISTEN", listen(rtmp))
        .env("SPOTTER__WEBSOCKET__LISTEN", listen(websocket))
        .env("SPOTTER__MQTT__LISTEN", listen(mqtt))
        .env("SPOTTER__WEB__LISTEN", listen(web))
        .stderr(Stdio::null())
        .spawn()
        .expect("spotter starts");
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", web)).is_err() {
            assert!(Instant::now() < until, "spotter did not open its doors");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { process, rtmp, web, _state: state }
    }

    fn rtmp(&self) -> String {
        format!("rtmp://127.0.0.1:{}/live/clock", self.rtmp)
    }

    /// Processor seconds a second over `window` (proc(5), stat fields 14 and 15, in ticks of 1/100 s).
    fn cores(&self, window: Duration) -> f64 {
        let used = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()));
            let stat = stat.expect("spotter runs");
            let mut fields =
                stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
            let mut ticks = || fields.next().and_then(|f| f.parse::<f64>().ok()).expect("a number");
            (ticks() + ticks()) / 100.0
        };
        let (before, began) = (used(), Instant::now());
        std::thread::sleep(window);
        (used() - before) / began.elapsed().as_secs_f64()
    }
}

impl Drop for Spotter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A script that prints times, read as it goes.
struct Printing {
    process: Child,
    lines: std::thread::JoinHandle<Times>,
}

impl Printing {
    fn start(command: &mut Command) -> Self {
        let mut process = command
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let out = BufReader::new(process.stdout.take().expect("piped"));
        let lines = std::thread::spawn(move || {
            let mut times = Times::new();
            for line in out.lines().map_while(Result::ok) {
                let Some((number, at)) = line.split_once(' ') else { continue };
                if let (Ok(number), Ok(at)) = (number.parse(), at.parse()) {
                    times.entry(number).or_insert(at);
                }
            }
            times
        });
        Self { process, lines }
    }

    /// Ends it and its children by SIGTERM, and gives what it told.
    fn end(mut self) -> Times {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["--", &group]).status();
        let _ = self.process.wait();
        std::mem::replace(&mut self.lines, std::thread::spawn(Times::new))
            .join()
            .unwrap_or_default()
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("bound").port()
}
