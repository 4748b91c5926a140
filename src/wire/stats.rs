//! The statistics message: what was counted since the start and how fast it goes now. It counts nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;

use super::Pace;
use crate::health::Percentiles;
use crate::media::{Advice, Link, Stream, StreamId, StreamStatus};

/// What the machine's parts take, where it tells.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Load {
    /// Of this process since the last message; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Of this process since it started.
    pub cpu_seconds: Option<f64>,
    /// Resident memory of this process, bytes.
    pub memory_bytes: Option<u64>,
    /// Degrees Celsius of the processor.
    pub temperature_c: Option<f64>,
    /// Heat or a weak supply slows the processor now; `status` says which.
    pub throttled: bool,
}

/// Everything counted, as `.../stats` shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeStats {
    pub uptime_s: u64,
    pub load: Load,
    pub pace: Pace,
    pub streams: Vec<StreamStats>,
    /// The counters of each door and exit by its name: "mqtt", "broker", "websocket", "denied" and so on.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub counters: BTreeMap<&'static str, serde_json::Value>,
}

/// One stream's numbers. Rates are over the time since the last message, latencies over the last 600 frames.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamStats {
    #[schema(value_type = String)]
    pub stream: StreamId,
    #[schema(value_type = String)]
    pub status: StreamStatus,
    /// Published pictures a second.
    pub fps: f64,
    pub detections_per_s: f64,
    pub latency_ms: StreamLatency,
    pub link: LinkStats,
    /// What its publisher had better send, by link and load.
    pub advice: Advice,
    pub counters: serde_json::Value,
}

/// How a publisher's link does.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct LinkStats {
    /// Over the last five seconds, sound included.
    pub bitrate_bps: u64,
    /// Pictures that came a second, over the last five.
    pub fps: f64,
    /// Of their arrival, smoothed.
    pub jitter_ms: f64,
    /// How much later the newest came than the promptest of the last minute.
    pub behind_ms: f64,
    /// Times that nothing came although it was due.
    pub stalls: u64,
}

impl From<Link> for LinkStats {
    fn from(link: Link) -> Self {
        Self {
            bitrate_bps: link.bitrate_bps as u64,
            fps: (link.fps * 10.0).round() / 10.0,
            jitter_ms: super::ms(link.jitter),
            behind_ms: super::ms(link.behind),
            stalls: link.stalls,
        }
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct StreamLatency {
    pub decode: Percentiles,
    pub wait: Percentiles,
    pub infer: Percentiles,
    pub total: Percentiles,
}

/// Makes rates out of the counters of two moments.
#[derive(Debug, Default)]
pub struct StreamMeter {
    last: BTreeMap<StreamId, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    units: u64,
    detected: u64,
}

impl StreamMeter {
    /// The numbers of all streams at `now`; streams seen for the first time have rates of 0.
    pub fn read(&mut self, streams: &[Arc<Stream>], now: Instant) -> Vec<StreamStats> {
        self.last.retain(|id, _| streams.iter().any(|s| s.id == *id));
        streams.iter().map(|stream| self.one(stream, now)).collect()
    }

    fn one(&mut self, stream: &Stream, now: Instant) -> StreamStats {
        let c = &stream.counters;
        let seen = Seen { at: now, units: c.video_units.get(), detected: c.frames_detected.get() };
        let before = self.last.insert(stream.id.clone(), seen).unwrap_or(seen);
        let seconds = now.saturating_duration_since(before.at).as_secs_f64();
        let rate = |new: u64, old: u64| {
            let n = new.saturating_sub(old) as f64;
            if seconds > 0.0 { (n / seconds * 10.0).round() / 10.0 } else { 0.0 }
        };
        StreamStats {
            stream: stream.id.clone(),
            status: stream.summary().status,
            fps: rate(seen.units, before.units),
            detections_per_s: rate(seen.detected, before.detected),
            latency_ms: StreamLatency {
                decode: c.decode.percentiles(),
                wait: c.wait.percentiles(),
                infer: c.infer.percentiles(),
                total: c.total.percentiles(),
            },
            link: stream.link(now).into(),
            advice: stream.advice(),
            counters: counters(stream),
        }
    }
}

/// The stream's own counters, and what its ring lost.
fn counters(stream: &Stream) -> serde_json::Value {
    let mut all = serde_json::to_value(&stream.counters).unwrap_or_default();
    all["units_pruned"] = stream.ring.pruned.get().into();
    all
}

#[cfg(test)]
pub(super) fn example() -> NodeStats {
    use crate::media::stream::StreamLimits;
    use crate::media::{Streams, stream::Takeover};
    use std::time::Duration;

    let limits =
        StreamLimits { max_streams: 1, gop_budget_bytes: 1, grace: Duration::from_secs(1) };
    let streams = Streams::new(limits);
    let _publication = streams.claim(&StreamId::new("garden").unwrap(), Takeover::Refused).unwrap();
    let all = streams.list();
    let mut meter = StreamMeter::default();
    let now = Instant::now();
    meter.read(&all, now);
    all[0].counters.video_units.add(300);
    all[0].counters.frames_detected.add(100);
    all[0].counters.total.record(Duration::from_micros(21_400));
    let mut read = meter.read(&all, now + Duration::from_secs(10));
    // The message's form is held here, not which counters there are.
    read[0].counters = serde_json::json!({ "gaps": 0 });
    NodeStats {
        uptime_s: 3600,
        load: Load {
            cpu_percent: Some(41.5),
            cpu_seconds: Some(1500.2),
            memory_bytes: Some(88_000_000),
            temperature_c: None,
            throttled: false,
        },
        pace: super::pace::example(),
        streams: read,
        counters: BTreeMap::from([("denied", serde_json::json!({ "no_token": 3 }))]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rates_are_over_the_time_between_two_readings() {
        let stats = super::example();
        assert_eq!((stats.streams[0].fps, stats.streams[0].detections_per_s), (30.0, 10.0));
    }
}
