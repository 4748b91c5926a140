//! The stage between detector and exits: gives boxes their animals' numbers and tells of visits. What it decides is in `track/`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use rand::distr::slice::Choose;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::detect::Detections;
use crate::media::{StreamId, Streams};
use crate::store::Store;
use crate::track::{BetterPicture, Counts, Event, EventKind, Passed, Rules, Tracks};

/// Events an exit may fall behind before it loses the oldest; a visit has a handful.
const EVENT_BACKLOG: usize = 256;

/// How often visits on silent streams are looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// The confirmed animals in view, by stream. A stream without any has no entry.
pub type AllCounts = BTreeMap<StreamId, Counts>;

/// Shared by the detector's thread and the service; each holds the lock for well below a millisecond.
pub(super) struct Tracking {
    state: Mutex<State>,
    streams: Arc<Streams>,
    store: Arc<Store>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) counts: watch::Sender<AllCounts>,
}

struct State {
    tracks: Tracks,
    config: Config,
}

impl Tracking {
    pub(super) fn new(config: &Config, streams: Arc<Streams>, store: Arc<Store>) -> Arc<Self> {
        let state = State { tracks: Tracks::new(1, Box::new(suffix)), config: config.clone() };
        Arc::new(Self {
            state: Mutex::new(state),
            streams,
            store,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            counts: watch::Sender::default(),
        })
    }

    /// Puts the track's number on each detection, and answers the visits of which this frame is the best picture.
    pub(super) fn observe(&self, found: &mut Detections) -> Vec<BetterPicture> {
        let mut state = self.state.lock();
        let State { tracks, config } = &mut *state;
        let outcome = tracks.observe(found, Instant::now(), || Rules::of(config, &found.stream));
        // Nobody else holds them yet, so this copies nothing.
        let items = Arc::make_mut(&mut found.items);
        for (item, id) in items.iter_mut().zip(outcome.ids) {
            item.track_id = id;
        }
        // Sent under the lock, so that no exit sees a visit's end before its beginning.
        self.tell(outcome.events, outcome.counts.map(|c| (found.stream.clone(), c)));
        outcome.better
    }

    /// Ends visits that time or the lack of their stream ended. Called often; cheap.
    pub(super) fn follow(&self) {
        let mut state = self.state.lock();
        let State { tracks, config } = &mut *state;
        let live = self.streams.list();
        let detects = |id: &StreamId| config.stream.get(id.as_str()).is_none_or(|s| s.detect);
        let gone = tracks.retain(|id| detects(id) && live.iter().any(|s| s.id == *id));
        let lost = tracks.tick(Instant::now());
        for Passed { events, counts } in [gone, lost] {
            self.tell(events, counts);
        }
    }

    /// Does so until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.follow();
        }
    }

    /// Ends every visit, so that the exits tell it before they close.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        let Passed { events, counts } = state.tracks.retain(|_| false);
        self.tell(events, counts);
    }

    pub(super) fn set_config(&self, config: &Config) {
        let mut state = self.state.lock();
        state.config = config.clone();
        state.tracks.set_rules(|id| Rules::of(config, id));
    }

    fn tell(&self, events: Vec<Arc<Event>>, counts: impl IntoIterator<Item = (StreamId, Counts)>) {
        for event in events {
            let visit = &event.after;
            tracing::debug!(kind = event.kind.name(), stream = %visit.stream, label = %visit.label, id = %visit.id, top_score = visit.top_score, "visit");
            let began = event.kind == EventKind::New;
            if let Some(stream) = self.streams.get(&visit.stream).filter(|_| began) {
                stream.counters.animals.inc();
            }
            // The store first: who hears of a visit finds it there.
            self.store.event(&event);
            // No exit listens: nothing is lost that anyone wanted.
            let _ = self.events.send(event);
        }
        for (stream, counts) in counts {
            self.counts.send_modify(|all| {
                if counts.is_empty() {
                    all.remove(&stream);
                } else {
                    all.insert(stream, counts);
                }
            });
        }
    }
}

fn suffix() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let letters = Choose::new(LETTERS).expect("there are letters");
    rand::rng().sample_iter(letters).take(6).map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_six_letters_that_differ() {
        let some: std::collections::BTreeSet<_> = (0..100).map(|_| suffix()).collect();
        assert!(some.len() == 100 && some.iter().all(|s| s.len() == 6));
    }
}
