//! What the node says of itself: the retained status, and the statistics every few seconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::doors::Bound;
use crate::adapt::BoardSigns;
use crate::board::{self, Board};
use crate::decode::DecoderState;
use crate::detect::worker::DetectorState;
use crate::media::{StreamId, Streams};
use crate::relay::RelayStatus;
use crate::wire::{
    Attached, Capacity, ConfigState, DecoderInUse, LinkState, Load, NodeStats, NodeStatus, Pace,
    RelayInUse, Storage, StreamMeter,
};

/// What stays the same in every status.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) board: Board,
    pub(super) bound: Bound,
    pub(super) max_streams: usize,
}

/// How everything around the pipeline stands: its exits, and what hangs on the machine.
pub(super) struct Around {
    pub(super) relays: Vec<RelayStatus>,
    pub(super) mqtt: LinkState,
    pub(super) storage: Storage,
    pub(super) attached: Attached,
}

/// The status of the moment.
pub(super) fn status(
    who: &Identity,
    streams: &Streams,
    decoders: &[(StreamId, DecoderState)],
    (detector, pace): (&DetectorState, Pace),
    stuck: Option<String>,
    around: Around,
    config: ConfigState,
) -> NodeStatus {
    let in_use = decoders.iter().map(|(id, d)| DecoderInUse {
        stream: id.to_string(),
        decoder: d.element.clone().or(d.error.clone()).unwrap_or_else(|| {
            // None is opened before the first wish.
            if d.resting { "none yet" } else { "starting" }.into()
        }),
        resting: d.resting.then(|| "detection is off and nobody asks for pictures".into()),
        refusals: d.refusals.clone(),
    });
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        board: who.board.model.clone(),
        decoders: in_use.collect(),
        detector: detector.info.clone(),
        detector_error: stuck.or_else(|| detector.error.clone()),
        pace,
        relays: around.relays.into_iter().map(RelayInUse::from).collect(),
        addresses: who.bound.addresses(),
        mqtt: around.mqtt,
        capacity: Capacity {
            max_streams: who.max_streams,
            streams: streams.list().len(),
            detections_per_s: detections_per_s(streams),
        },
        storage: around.storage,
        attached: around.attached,
        config,
    }
}

/// What one interpreter could do if it did nothing else, from the time that pictures take now.
fn detections_per_s(streams: &Streams) -> Option<f64> {
    let times = streams.list();
    let slowest = times.iter().map(|s| s.counters.infer.percentiles().p50).fold(0.0, f64::max);
    (slowest > 0.0).then(|| (10_000.0 / slowest).round() / 10.0)
}

/// The named groups of counters in the statistics, each read when asked.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<&'static str, Group>);

type Group = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

impl Groups {
    /// A stage's new counters, which are the group `name`.
    pub(super) fn counted<T>(&mut self, name: &'static str) -> Arc<T>
    where
        T: Default + Serialize + Send + Sync + 'static,
    {
        let counters = Arc::default();
        self.shared(name, &counters);
        counters
    }

    pub(super) fn shared<T>(&mut self, name: &'static str, counters: &Arc<T>)
    where
        T: Serialize + Send + Sync + 'static,
    {
        let counters = Arc::clone(counters);
        self.read(name, move || json(&*counters));
    }

    pub(super) fn read(
        &mut self,
        name: &'static str,
        read: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        self.0.insert(name, Box::new(read));
    }
}

pub(super) fn json(counters: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(counters).unwrap_or_default()
}

/// Makes the statistics message, for each reader with rates over the time since its own last reading.
pub(super) struct Statistics {
    started: Instant,
    streams: Arc<Streams>,
    groups: Groups,
    pace: watch::Receiver<Pace>,
}

impl Statistics {
    pub(super) fn new(
        streams: Arc<Streams>,
        pace: watch::Receiver<Pace>,
        groups: Groups,
    ) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), streams, groups, pace })
    }

    pub(super) fn reader(self: &Arc<Self>) -> Arc<dyn Fn() -> NodeStats + Send + Sync> {
        let statistics = Arc::clone(self);
        let meter = Mutex::new((StreamMeter::default(), Cpu::now()));
        Arc::new(move || {
            let (streams, cpu) = &mut *meter.lock();
            statistics.read(streams, cpu)
        })
    }

    fn read(&self, meter: &mut StreamMeter, cpu: &mut Cpu) -> NodeStats {
        let load = load(cpu);
        let (streams, now) = (self.streams.list(), Instant::now());
        // Advice follows from what is read here; whoever reads keeps it up to date.
        streams.iter().for_each(|stream| stream.advise(signs(&load), now));
        NodeStats {
            uptime_s: self.started.elapsed().as_secs(),
            load,
            pace: self.pace.borrow().clone(),
            streams: meter.read(&streams, now),
            counters: self.groups.0.iter().map(|(name, read)| (*name, read())).collect(),
        }
    }
}

/// What there is to know of the machine; the processor's time is from the moment that `cpu` holds.
pub(super) fn load(cpu: &mut Cpu) -> Load {
    let before = std::mem::replace(cpu, Cpu::now());
    Load {
        cpu_percent: cpu.percent_since(&before),
        cpu_seconds: cpu.used_s,
        memory_bytes: memory_bytes(),
        temperature_c: board::temperature_c(Path::new("/")).map(f64::from),
        throttled: !board::throttled(Path::new("/")).is_empty(),
    }
}

/// What of the load speaks for doing less.
pub(super) fn signs(load: &Load) -> BoardSigns {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    BoardSigns {
        busy: load.cpu_percent.map(|percent| percent / 100.0 / cores),
        temperature_c: load.temperature_c,
        throttled: load.throttled,
    }
}

/// Processor time this process has used, at a moment.
pub(super) struct Cpu {
    at: Instant,
    used_s: Option<f64>,
}

impl Cpu {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), used_s: used_s() }
    }

    /// 100 is one core.
    fn percent_since(&self, before: &Self) -> Option<f64> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let used = self.used_s? - before.used_s?;
        (seconds > 0.0).then(|| (used / seconds * 1000.0).round() / 10.0)
    }
}

/// User and system time of this process in seconds (proc(5), stat fields 14 and 15, in ticks of 1/100 s on Linux).
fn used_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; what follows it does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}

fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
