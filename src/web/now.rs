//! What every page asks for again and again, gathered once: each stream's newest detections, and the statistics of the
//! last second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::media::StreamId;
use crate::wire::{Encoded, NodeStats};

/// How often the statistics are read.
const EVERY: Duration = Duration::from_secs(1);
/// Detections older than this say nothing of what is in view now.
const FRESH: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Now {
    newest: Mutex<BTreeMap<StreamId, (Instant, Arc<Encoded>)>>,
    stats: watch::Sender<Option<Arc<NodeStats>>>,
}

impl Now {
    /// Gathers until `stop`.
    pub(super) async fn follow(&self, ctx: &Context, stop: &CancellationToken) {
        let mut detections = ctx.detections.subscribe();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {
                    self.stats.send_replace(Some(Arc::new((ctx.stats)())));
                    self.newest.lock().retain(|_, (at, _)| at.elapsed() < FRESH);
                }
                received = detections.recv() => match received {
                    Ok(message) => {
                        let stream = message.detections.stream.clone();
                        self.newest.lock().insert(stream, (Instant::now(), message));
                    }
                    // Only the newest count here.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// How many of each label are in view.
    pub(super) fn animals(&self, stream: &StreamId) -> BTreeMap<String, usize> {
        let newest = self.newest.lock().get(stream).cloned();
        let fresh = newest.filter(|(at, _)| at.elapsed() < FRESH);
        let mut counts = BTreeMap::new();
        for found in fresh.iter().flat_map(|(_, message)| message.detections.items.iter()) {
            *counts.entry(found.label.to_string()).or_default() += 1;
        }
        counts
    }

    /// The statistics, and a wake-up each second.
    pub(super) fn stats(&self) -> watch::Receiver<Option<Arc<NodeStats>>> {
        self.stats.subscribe()
    }
}
