//! A node's exit to MQTT without the rest of it, mosquitto's programs around it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use spotter::auth::Guard;
use spotter::config;
use spotter::control::Control;
use spotter::detect::{BBox, Detection, Detections, Timings};
use spotter::media::stream::StreamLimits;
use spotter::media::{MediaTime, StreamId, Streams};
use spotter::mqtt;
use spotter::pause::{AfterReboot, Pause};
use spotter::snapshots::Snapshots;
use spotter::store::clock::{Clock, Signs, micros};
use spotter::track::Counts;
use spotter::wire::{
    Addresses, Capacity, ConfigState, Encoded, Kept, LinkState, Load, NodeStats, NodeStatus,
    Storage, StorageState,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const SOON: Duration = Duration::from_secs(20);

/// Whether `programs` are there; says so when not.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|p| {
            let dirs = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
            !dirs.split(':').any(|d| Path::new(d).join(p).exists())
        })
        .collect();
    if !missing.is_empty() {
        crate::skip(&format!("{missing:?} not installed; run ./setup.sh --test"));
    }
    missing.is_empty()
}

/// One node's exit to MQTT, running.
pub struct Node {
    pub dir: Arc<tempfile::TempDir>,
    pub ctx: mqtt::Context,
    pub counts: watch::Sender<BTreeMap<StreamId, Counts>>,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), mqtt::MqttError>>,
    /// The embedded broker's door.
    pub port: u16,
}

/// A clock that somebody set.
pub fn right_clock() -> Clock {
    let us = micros(SystemTime::now());
    Clock::new(Instant::now(), us, Signs { kernel: Some(true), timesyncd: true })
}

pub async fn node(change: impl FnOnce(&mut config::Mqtt)) -> Node {
    node_in(Arc::new(tempfile::tempdir().unwrap()), change).await
}

/// A node that has `dir` as its state directory, as an earlier one had.
pub async fn node_in(dir: Arc<tempfile::TempDir>, change: impl FnOnce(&mut config::Mqtt)) -> Node {
    let (guard, _) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
    let mut config = config::Mqtt {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        stats_interval_s: 1,
        ..config::Mqtt::default()
    };
    change(&mut config);
    let limits =
        StreamLimits { max_streams: 4, gop_budget_bytes: 1000, grace: Duration::from_secs(30) };
    let status = NodeStatus {
        attached: Default::default(),
        version: "0.1.0".into(),
        board: "test".into(),
        decoders: vec![],
        detector: None,
        detector_error: None,
        pace: Default::default(),
        relays: vec![],
        addresses: Addresses::default(),
        mqtt: LinkState::Disabled,
        capacity: Capacity { max_streams: 4, streams: 0, detections_per_s: None },
        storage: Storage {
            state: StorageState::Off,
            message: None,
            free_bytes: 0,
            used_bytes: 0,
            written_today_bytes: 0,
        },
        config: ConfigState { file: String::new(), error: None },
    };
    let stats = || NodeStats {
        uptime_s: 1,
        load: Load::default(),
        pace: Default::default(),
        streams: vec![],
        counters: Default::default(),
    };
    let counters = Arc::<mqtt::Counters>::default();
    let outbox = mqtt::open_outbox(&config, dir.path(), &counters);
    let mut settings = config::Config::default();
    settings.detect.animals = vec!["cat".into(), "dog".into()];
    let mut boxed = config::Config::default();
    boxed.machine.run_dir = dir.path().join("run");
    boxed.update.url = dir.path().join("news.json").display().to_string();
    let counts = watch::Sender::default();
    let streams = Streams::new(limits);
    let pause = Pause::open(dir.path(), Arc::clone(&streams), AfterReboot::Ends);
    let ctx = mqtt::Context {
        node: "spotter-test".into(),
        config,
        guard: Arc::new(guard),
        detections: broadcast::channel(16).0,
        events: broadcast::channel(256).0,
        counts: counts.subscribe(),
        snapshots: Snapshots::start().unwrap(),
        control: Control::open(dir.path(), settings),
        kept: Arc::new(|_| Kept::default()),
        clock: watch::channel(right_clock()).1,
        outbox,
        streams,
        pause,
        update: spotter::update::Desk::new(dir.path(), &boxed),
        status: watch::channel(Some(Arc::new(status))).1,
        stats: Arc::new(stats),
        counters,
        embedded_counters: Arc::default(),
        broker_counters: Arc::default(),
        link: Arc::new(watch::channel(LinkState::Disabled).0),
    };
    let shutdown = CancellationToken::new();
    tokio::spawn(Arc::clone(&ctx.update).run(shutdown.clone()));
    let public = mqtt::listen(&ctx.config).await.unwrap();
    let port = public.as_ref().map_or(0, |l| l.plain.local_addr().unwrap().port());
    let task = tokio::spawn(mqtt::run(ctx.clone(), public.map(Arc::new), shutdown.clone()));
    Node { dir, ctx, counts, shutdown, task, port }
}

impl Node {
    pub async fn is_up(&self) {
        self.link(|state| matches!(state, LinkState::Up { .. })).await;
    }

    pub async fn link(&self, wanted: impl FnMut(&LinkState) -> bool) -> LinkState {
        let mut link = self.ctx.link.subscribe();
        let state = timeout(SOON, link.wait_for(wanted)).await;
        state.unwrap_or_else(|_| panic!("link is {:?}", self.ctx.link.borrow())).unwrap().clone()
    }

    pub async fn down_reason(&self) -> String {
        match self.link(|state| matches!(state, LinkState::Down { .. })).await {
            LinkState::Down { reason, .. } => reason,
            _ => unreachable!(),
        }
    }

    pub fn detect(&self, seq: u64) {
        self.detect_many(seq, 1);
    }

    pub fn detect_many(&self, seq: u64, n: usize) {
        let dog = Detection {
            class_id: 16,
            label: "dog".into(),
            confidence: 0.9,
            bbox: BBox { x1: 1.0, y1: 2.0, x2: 3.0, y2: 4.0 },
            track_id: None,
        };
        let found = Detections {
            stream: StreamId::new("cam").unwrap(),
            seq,
            pts: MediaTime::ZERO,
            captured: SystemTime::now(),
            width: 16,
            height: 16,
            model: "m".into(),
            timings: Timings::default(),
            items: vec![dog; n].into(),
        };
        let message = Encoded::new(Arc::clone(&self.ctx.node), Arc::new(found));
        self.ctx.detections.send(message).unwrap();
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.expect("stops in time").unwrap().unwrap();
    }
}

/// A program that is ended with its owner.
pub struct Running(pub Child);

impl Running {
    /// Ends it in good order and waits for that.
    pub fn terminate(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// mosquitto_sub, printing `retained qos topic payload`.
pub struct Subscriber {
    _child: Running,
    pub lines: Receiver<String>,
    pub seen: Vec<String>,
}

impl Subscriber {
    pub fn new(port: u16, more: &[&str]) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "#"])
            .args(["-F", "%r %q %t %p"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            // Pictures are among the messages.
            let lines = out.split(b'\n').map_while(Result::ok);
            for line in lines.map(|l| String::from_utf8_lossy(&l).into_owned()) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Self { _child: Running(child), lines, seen: Vec::new() }
    }

    /// Puts what came into `seen`.
    pub fn take(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// Waits for a line that says so, whether it was retained or came just now.
    pub async fn hears(&mut self, said: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            self.take();
            if let Some(line) = self.seen.iter().find(|l| l.contains(said)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "no {said:?} among {:#?}", self.seen);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for a line that begins so; what came before it stays in `seen`.
    pub async fn sees(&mut self, start: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            while let Ok(line) = self.lines.try_recv() {
                self.seen.push(line.clone());
                if line.starts_with(start) {
                    return line;
                }
            }
            assert!(Instant::now() < until, "no {start:?} among {:#?}", self.seen);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What makes a broker keep sessions and a log.
pub fn lasting(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "user root\nallow_anonymous true\npersistence true\npersistence_location {dir}/\n\
         log_type all\nlog_dest file {dir}/broker.log"
    )
}

/// A subscriber with a session, which comes back by itself.
pub const LASTING: [&str; 5] = ["-c", "-i", "reader", "-V", "mqttv311"];

/// Such a one at a broker that was just started.
pub async fn reader(port: u16) -> Subscriber {
    let until = Instant::now() + SOON;
    while !published(port, &["-t", "ready", "-m", "yes", "-r"]).await {
        assert!(Instant::now() < until, "the broker does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut sub = Subscriber::new(port, &LASTING);
    sub.hears(" ready yes").await;
    sub
}

/// A way to a broker that can be slow, and can lose its way back.
pub struct Detour {
    pub port: u16,
    /// From the broker to the client everything takes so long.
    pub delay: Arc<Mutex<Duration>>,
    /// Ends the way back of every connection; the way there stays open.
    pub half_close: Arc<tokio::sync::Notify>,
    pub connections: Arc<AtomicUsize>,
}

impl Detour {
    pub async fn to(broker: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let detour = Self {
            port: listener.local_addr().unwrap().port(),
            delay: Arc::default(),
            half_close: Arc::default(),
            connections: Arc::default(),
        };
        let (delay, half_close) = (Arc::clone(&detour.delay), Arc::clone(&detour.half_close));
        let connections = Arc::clone(&detour.connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await else {
                    continue;
                };
                let (mut from_client, to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_client, &mut to_server).await },
                );
                let (delay, half_close) = (Arc::clone(&delay), Arc::clone(&half_close));
                tokio::spawn(back(from_server, to_client, delay, half_close));
            }
        });
        detour
    }
}

async fn back(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Arc<Mutex<Duration>>,
    half_close: Arc<tokio::sync::Notify>,
) {
    let mut bytes = [0; 4096];
    loop {
        let n = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or(0),
            () = half_close.notified() => 0,
        };
        if n == 0 {
            break;
        }
        let wait = *delay.lock().unwrap();
        tokio::time::sleep(wait).await;
        if to.write_all(&bytes[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    // What the broker still says is lost; its socket stays open for the other way.
    while matches!(from.read(&mut bytes).await, Ok(1..)) {}
}

pub fn publish(port: u16, args: &[&str]) -> bool {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(args)
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

pub async fn published(port: u16, args: &'static [&'static str]) -> bool {
    tokio::task::spawn_blocking(move || publish(port, args)).await.unwrap()
}

/// mosquitto as somebody else's broker.
pub fn mosquitto(dir: &Path, port: u16, more: &str) -> Running {
    let conf = dir.join("mosquitto.conf");
    std::fs::write(&conf, format!("listener {port} 127.0.0.1\n{more}\n")).unwrap();
    let program = ["/usr/sbin/mosquitto", "mosquitto"]
        .into_iter()
        .find(|p| Path::new(p).exists() || !p.starts_with('/'));
    let child = Command::new(program.unwrap())
        .arg("-c")
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

pub const CLIENTS: &[&str] = &["mosquitto_sub", "mosquitto_pub"];
pub const BROKER: &[&str] = &["mosquitto", "mosquitto_sub", "mosquitto_pub"];
