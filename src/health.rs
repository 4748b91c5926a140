//! Counters and latencies that every stage keeps and every exit shows; who is busy since when; what readiness is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::wire::NodeStatus;

/// What a node lacks to detect what is published to it; nothing when it is ready. Its detector has passed the self-test
/// when the status names one.
pub fn missing(status: Option<&NodeStatus>) -> Vec<String> {
    match status {
        None => vec!["spotter is starting".into()],
        Some(status) if status.detector.is_none() => vec!["no detector is open yet".into()],
        Some(status) => status.detector_error.iter().map(|e| format!("detector: {e}")).collect(),
    }
}

/// Since when somebody has been at one piece of work, and how long at all. Who waits for work is not busy, for however long.
#[derive(Debug, Default)]
pub struct Busy(Mutex<Work>);

#[derive(Debug, Default)]
struct Work {
    since: Option<Instant>,
    /// All that ended.
    before: Duration,
}

impl Busy {
    pub fn begin(&self) {
        self.0.lock().since = Some(Instant::now());
    }

    pub fn end(&self) {
        let mut work = self.0.lock();
        let ended = work.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        work.before += ended;
    }

    pub fn busy_for(&self) -> Option<Duration> {
        self.0.lock().since.map(|since| since.elapsed())
    }

    /// All the time of work so far.
    pub fn total(&self) -> Duration {
        let work = self.0.lock();
        work.before + work.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.get())
    }
}

/// The last few hundred durations of one kind, for percentiles over the recent past.
#[derive(Debug, Default)]
pub struct Latency(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    us: Vec<u32>,
    next: usize,
}

/// Percentiles of a [`Latency`] in milliseconds; all zero before the first sample.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Latency {
    /// Ten detections a second for a minute: long enough for a p99, short enough to be "now".
    const KEPT: usize = 600;

    pub fn record(&self, d: Duration) {
        let us = u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        let mut s = self.0.lock();
        if s.us.len() < Self::KEPT {
            s.us.push(us);
        } else {
            let at = s.next;
            s.us[at] = us;
        }
        s.next = (s.next + 1) % Self::KEPT;
    }

    pub fn percentiles(&self) -> Percentiles {
        let mut us = self.0.lock().us.clone();
        if us.is_empty() {
            return Percentiles::default();
        }
        us.sort_unstable();
        // Nearest-rank: the smallest sample that at least p of all samples do not exceed.
        let at = |p: f64| {
            let rank = (p * us.len() as f64).ceil() as usize;
            f64::from(us[rank.clamp(1, us.len()) - 1]) / 1000.0
        };
        Percentiles { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_adds_up_and_waiting_does_not() {
        let busy = Busy::default();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!((busy.total(), busy.busy_for()), (Duration::ZERO, None));
        busy.begin();
        std::thread::sleep(Duration::from_millis(5));
        let so_far = busy.total();
        assert!(so_far >= Duration::from_millis(5) && busy.busy_for().is_some());
        busy.end();
        let done = busy.total();
        busy.end();
        assert!(done >= so_far && busy.total() == done);
    }

    #[test]
    fn percentiles_are_nearest_rank_over_the_newest() {
        let l = Latency::default();
        assert_eq!(l.percentiles().p99, 0.0);
        for ms in 1..=1000u64 {
            l.record(Duration::from_millis(ms));
        }
        // 401..=1000 are kept.
        let p = l.percentiles();
        assert_eq!((p.p50, p.p95, p.p99), (700.0, 970.0, 994.0));
    }
}
