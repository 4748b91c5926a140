//! The cameras of this machine as streams: each `[[source]]` is a thread that finds its camera, takes pictures from it and
//! publishes them like a publisher from elsewhere, so that everything behind the ring works unchanged.
//!
//! `camera` is the seam to what takes pictures (`v4l2`, `fake`), `choose` picks a format (pure), `clock` judges a
//! driver's timestamps (pure), `encode` makes H.264 of what is none, `outlet` makes units of it, `run` is the thread.

#[cfg_attr(not(feature = "v4l2"), allow(dead_code, reason = "the fake fails in fewer ways"))]
mod camera; // trait + open()
#[cfg_attr(not(feature = "v4l2"), allow(dead_code, reason = "the fake has nothing to choose from"))]
mod choose; // what a camera offers and what is wished -> a format (pure)
mod clock; // a driver's timestamps -> when a picture was taken (pure)
mod encode; // pictures -> H.264
mod fake; // files as cameras
mod outlet; // H.264 -> units -> the stream
mod run; // one camera's thread
#[cfg(feature = "v4l2")]
mod v4l2; // Video4Linux

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tokio::sync::watch;

pub use camera::{CameraReport, cameras};
pub use encode::encoders;

use crate::board::BoardKind;
use crate::config;
use crate::health::Counter;
use crate::media::Streams;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    Starting,
    Live,
    /// Not plugged in; taken up when it is.
    Absent,
    /// Another program has it.
    Busy,
    /// The last attempt failed; another one follows.
    Failed,
    /// The privacy pause: the camera is closed.
    Paused,
}

impl SourceState {
    /// Whether somebody should look at it.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Absent | Self::Busy | Self::Failed)
    }
}

/// One source as an onlooker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    pub stream: String,
    pub device: String,
    /// Where it was found.
    pub node: Option<String>,
    pub state: SourceState,
    pub format: Option<String>,
    pub encoder: Option<String>,
    pub error: Option<String>,
    pub since: SystemTime,
}

/// What was counted of one source.
#[derive(Debug, Default, Serialize)]
pub struct SourceCounters {
    pub opened: Counter,
    pub failures: Counter,
    pub pictures: Counter,
    /// Pictures that the driver lost, by its own numbers, and those it marked as damaged.
    pub pictures_lost: Counter,
    pub pictures_damaged: Counter,
    /// Pictures that the encoder was too slow for.
    pub pictures_dropped: Counter,
    pub units_malformed: Counter,
}

/// All sources.
#[derive(Debug)]
pub struct Sources {
    streams: Arc<Streams>,
    board: BoardKind,
    running: Mutex<Vec<Running>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Running {
    source: Arc<Source>,
    thread: JoinHandle<()>,
}

/// One source, shared by its thread and its onlookers.
#[derive(Debug)]
pub(crate) struct Source {
    config: config::Source,
    board: BoardKind,
    status: Mutex<SourceStatus>,
    counters: SourceCounters,
    changed: watch::Sender<()>,
    stop: Stop,
}

/// Asks a thread to end, and wakes it.
#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    fn ask(&self) {
        *self.asked.lock() = true;
        self.bell.notify_all();
    }

    fn is_asked(&self) -> bool {
        *self.asked.lock()
    }

    /// Sleeps; true when it was asked to end.
    fn within(&self, wait: Duration) -> bool {
        let mut asked = self.asked.lock();
        if !*asked {
            self.bell.wait_for(&mut asked, wait);
        }
        *asked
    }
}

impl Sources {
    pub fn new(streams: Arc<Streams>, board: BoardKind) -> Arc<Self> {
        let changed = watch::Sender::new(());
        Arc::new(Self { streams, board, running: Mutex::default(), changed })
    }

    /// Starts what is new in `wanted`, ends what is not in it any more, leaves the rest alone.
    pub fn follow(&self, wanted: &[config::Source]) {
        let mut running = self.running.lock();
        running.retain(|r| {
            let stays = wanted.contains(&r.source.config);
            if !stays {
                // Its successor at the same camera finds it busy for a moment, and tries again.
                r.source.stop.ask();
            }
            stays
        });
        for config in wanted {
            if running.iter().any(|r| r.source.config == *config) {
                continue;
            }
            let source = Arc::new(Source::new(config.clone(), self.board, self.changed.clone()));
            let (mine, streams) = (Arc::clone(&source), Arc::clone(&self.streams));
            let name = format!("cam-{}", config.stream.chars().take(11).collect::<String>());
            match std::thread::Builder::new().name(name).spawn(move || run::run(&mine, &streams)) {
                Ok(thread) => running.push(Running { source, thread }),
                Err(error) => {
                    tracing::error!(stream = config.stream, %error, "no thread for a camera");
                }
            }
        }
        drop(running);
        self.changed.send_replace(());
    }

    /// Wakes at each change of any source's state.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn status(&self) -> Vec<SourceStatus> {
        self.running.lock().iter().map(|r| r.source.status.lock().clone()).collect()
    }

    /// The counters of each source by its stream.
    pub fn counters(&self) -> serde_json::Value {
        let running = self.running.lock();
        let one = |r: &Running| {
            let counters = serde_json::to_value(&r.source.counters).unwrap_or_default();
            (r.source.config.stream.clone(), counters)
        };
        running.iter().map(one).collect::<serde_json::Map<_, _>>().into()
    }

    /// Ends all, and waits at most so long for drivers that hang.
    pub async fn finish(&self, within: Duration) {
        let running = std::mem::take(&mut *self.running.lock());
        running.iter().for_each(|r| r.source.stop.ask());
        let ended = tokio::task::spawn_blocking(move || {
            for r in running {
                if r.thread.join().is_err() {
                    tracing::error!(stream = r.source.config.stream, "a camera's thread panicked");
                }
            }
        });
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("a camera's driver did not end in time and is left behind");
        }
    }
}

impl Source {
    fn new(config: config::Source, board: BoardKind, changed: watch::Sender<()>) -> Self {
        let status = SourceStatus {
            stream: config.stream.clone(),
            device: config.device.clone(),
            node: None,
            state: SourceState::Starting,
            format: None,
            encoder: None,
            error: None,
            since: SystemTime::now(),
        };
        let (counters, stop) = (SourceCounters::default(), Stop::default());
        Self { config, board, status: Mutex::new(status), counters, changed, stop }
    }

    fn tell(&self, edit: impl FnOnce(&mut SourceStatus)) {
        {
            let mut status = self.status.lock();
            let before = status.clone();
            edit(&mut status);
            if *status == before {
                return;
            }
            if status.state != before.state {
                status.since = SystemTime::now();
            }
        }
        self.changed.send_replace(());
    }
}
