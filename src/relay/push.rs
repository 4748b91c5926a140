//! The relays the owner asked for: each a task that waits for its stream, pushes it, and tries again with back-off
//! when the target fails. What is said to a target is `link`'s business.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::link;
use super::target::Target;
use crate::config;
use crate::health::Counter;
use crate::media::{Stream, StreamId, Streams};
use crate::supervise::BackOff;

/// A push that lasted so long worked: the next failure is tried again soon.
const HEALTHY: Duration = Duration::from_secs(30);

/// What was counted of one relay.
#[derive(Debug, Default, Serialize)]
pub struct RelayCounters {
    /// Attempts to reach the target, those that led to a publication, and those that failed before or in it.
    pub attempts: Counter,
    pub publications: Counter,
    pub failures: Counter,
    pub units_sent: Counter,
    /// Times the link fell so far behind that it went on at the newest key frame, and the units it lost by that.
    pub lagged: Counter,
    pub units_dropped: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// Nobody publishes the stream now.
    Idle,
    Connecting,
    Live,
    /// The last attempt failed; another one follows.
    Failed,
}

impl RelayState {
    pub const ALL: [Self; 4] = [Self::Idle, Self::Connecting, Self::Live, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Failed => "failed",
        }
    }
}

/// One relay as an onlooker sees it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    pub name: String,
    pub stream: String,
    pub state: RelayState,
    /// Host and port; empty until the URL was read from its file.
    pub target: String,
    /// Why the last attempt failed; absent when it did not.
    pub error: Option<String>,
    pub since: SystemTime,
}

/// All relays.
#[derive(Debug)]
pub struct Relays {
    streams: Arc<Streams>,
    running: Mutex<Vec<Running>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Running {
    relay: Arc<Relay>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// One relay, shared by its task and its onlookers.
#[derive(Debug)]
struct Relay {
    config: config::Relay,
    status: Mutex<RelayStatus>,
    counters: RelayCounters,
    changed: watch::Sender<()>,
}

impl Relays {
    pub fn new(streams: Arc<Streams>) -> Arc<Self> {
        Arc::new(Self { streams, running: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// Starts what is new in `wanted`, ends what is not in it any more, leaves the rest alone.
    pub fn follow(&self, wanted: &[config::Relay]) {
        let mut running = self.running.lock();
        running.retain(|r| {
            let stays = wanted.contains(&r.relay.config);
            if !stays {
                r.stop.cancel();
            }
            stays
        });
        for config in wanted {
            if running.iter().any(|r| r.relay.config == *config) {
                continue;
            }
            let relay = Arc::new(Relay::new(config.clone(), self.changed.clone()));
            let stop = CancellationToken::new();
            let task = run(Arc::clone(&relay), Arc::clone(&self.streams), stop.clone());
            running.push(Running { relay, stop, task: tokio::spawn(task) });
        }
        drop(running);
        self.changed.send_replace(());
    }

    /// Wakes at each change of any relay's state.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn status(&self) -> Vec<RelayStatus> {
        self.running.lock().iter().map(|r| r.relay.status.lock().clone()).collect()
    }

    /// The counters of each relay by its name.
    pub fn counters(&self) -> serde_json::Value {
        let running = self.running.lock();
        let one = |r: &Running| {
            let counters = serde_json::to_value(&r.relay.counters).unwrap_or_default();
            (r.relay.config.name.clone(), counters)
        };
        running.iter().map(one).collect::<serde_json::Map<_, _>>().into()
    }

    /// Ends all; their targets hear it.
    pub async fn finish(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        running.iter().for_each(|r| r.stop.cancel());
        for r in running {
            let _ = r.task.await;
        }
    }
}

impl Relay {
    fn new(config: config::Relay, changed: watch::Sender<()>) -> Self {
        let status = RelayStatus {
            name: config.name.clone(),
            stream: config.stream.clone(),
            state: RelayState::Idle,
            target: Target::parse(&config.url).map(|t| t.to_string()).unwrap_or_default(),
            error: None,
            since: SystemTime::now(),
        };
        Self { config, status: Mutex::new(status), counters: RelayCounters::default(), changed }
    }

    /// `error` is what there is to know of a failure; a relay that works again has none.
    fn becomes(&self, state: RelayState, error: Option<String>) {
        {
            let mut status = self.status.lock();
            if (status.state, &status.error) == (state, &error) {
                return;
            }
            // An attempt under way does not make the last failure unknown.
            if state != RelayState::Connecting {
                status.error = error;
            }
            if status.state != state {
                status.since = SystemTime::now();
            }
            status.state = state;
        }
        self.changed.send_replace(());
    }

    /// The target; a URL in a file is read anew each time, so that a mended one is taken at the next attempt.
    fn target(&self) -> Result<Target, String> {
        let c = &self.config;
        if !c.url.is_empty() {
            return Target::parse(&c.url).map_err(|e| format!("its url {e}"));
        }
        let path = c.url_file.display();
        let text =
            std::fs::read_to_string(&c.url_file).map_err(|e| format!("cannot read {path}: {e}"))?;
        Target::parse(text.trim()).map_err(|e| format!("the URL in {path} {e}"))
    }

    async fn attempt(&self, stream: &Stream, stop: &CancellationToken) -> Result<(), String> {
        self.counters.attempts.inc();
        let target = self.target()?;
        self.status.lock().target = target.to_string();
        self.becomes(RelayState::Connecting, None);
        let ca_file: &Path = &self.config.ca_file;
        let live = || {
            self.counters.publications.inc();
            self.becomes(RelayState::Live, None);
            tracing::info!(relay = self.config.name, %target, "relay is live");
        };
        let pushed = link::push(&target, ca_file, stream, &self.counters, stop, live).await;
        pushed.map_err(|error| target.hide(&format!("{target} {error}")))
    }
}

/// Runs one relay until `stop`.
async fn run(relay: Arc<Relay>, streams: Arc<Streams>, stop: CancellationToken) {
    let Ok(id) = StreamId::new(&relay.config.stream) else { return };
    let mut back_off = BackOff::default();
    let mut seen = streams.watch();
    loop {
        if !streams.get(&id).is_some_and(|stream| stream.is_online()) {
            relay.becomes(RelayState::Idle, None);
        }
        let stream = tokio::select! {
            stream = published(&streams, &mut seen, &id) => stream,
            () = stop.cancelled() => return,
        };
        let began = Instant::now();
        let attempt = std::panic::AssertUnwindSafe(relay.attempt(&stream, &stop)).catch_unwind();
        let attempt = tokio::select! {
            attempt = attempt => attempt.unwrap_or_else(|_| Err("the relay panicked".into())),
            // Given a moment to say goodbye.
            () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => return,
        };
        if stop.is_cancelled() {
            return;
        }
        // A target that ends a silence is not to blame for it.
        let blame = attempt.err().filter(|_| stream.is_online());
        let Some(error) = blame else {
            tracing::info!(relay = relay.config.name, "relay ended with its publisher");
            back_off.reset();
            continue;
        };
        relay.counters.failures.inc();
        if relay.status.lock().state == RelayState::Live && began.elapsed() >= HEALTHY {
            back_off.reset();
        }
        let wait = back_off.next(&mut rand::rng());
        let name = &relay.config.name;
        tracing::warn!(
            relay = name,
            error,
            wait_s = wait.as_secs_f32(),
            "relay failed, trying again"
        );
        relay.becomes(RelayState::Failed, Some(error));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The stream, once it has a publisher.
async fn published(
    streams: &Streams,
    seen: &mut watch::Receiver<Arc<[crate::media::stream::StreamSummary]>>,
    id: &StreamId,
) -> Arc<Stream> {
    loop {
        seen.mark_unchanged();
        if let Some(stream) = streams.get(id)
            && stream.is_online()
        {
            return stream;
        }
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
