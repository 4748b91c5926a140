//! Detections in, animals out: which box is which animal, which of them are real, when each came and went. Pure: all
//! state is in [`Tracks`], time comes with the detections, chance is handed in.
//!
//! [`tracker`] follows boxes, [`motion`] takes the camera's movement out, [`rules`] say what counts, [`visit`] tells it.

pub mod event;
mod motion;
mod place;
pub mod rules;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
mod tracker;
mod visit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use event::{Best, BetterPicture, Event, EventKind, Moment, Visit};
pub use rules::Rules;

use crate::detect::Detections;
use crate::media::{MediaTime, StreamId};
use place::Place;
use tracker::{Seen, Tracker};
use visit::{Sighting, Story};

/// A label's confirmed animals in view. A label that is no longer in view has no entry.
pub type Counts = BTreeMap<Arc<str>, usize>;

/// What came of one frame.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// One a detection, in order: its track. None for what begins no track: faint, masked, too small, or no box.
    pub ids: Vec<Option<u64>>,
    pub events: Vec<Arc<Event>>,
    /// Visits of which this frame is the best picture so far.
    pub better: Vec<BetterPicture>,
    /// All counts of the stream, if one changed.
    pub counts: Option<Counts>,
}

/// What came of time passing, or of a stream's end; streams whose counts changed with all their counts.
#[derive(Debug, Default, PartialEq)]
pub struct Passed {
    pub events: Vec<Arc<Event>>,
    pub counts: Vec<(StreamId, Counts)>,
}

/// Six random characters for an event's id.
pub type Suffix = Box<dyn FnMut() -> String + Send>;

/// The animals of all streams.
pub struct Tracks {
    /// One number a track over all streams, so that it is never given twice.
    next_id: u64,
    streams: BTreeMap<StreamId, OneStream>,
    suffix: Suffix,
}

struct OneStream {
    tracker: Tracker<Story>,
    rules: Rules,
    counts: Counts,
    /// The newest frame's time on both lines.
    at: MediaTime,
    heard: Instant,
}

/// A stream's time that falls further back than this is another stream's under the same name.
const ANOTHER_STREAM: Duration = Duration::from_secs(2);

impl Tracks {
    /// Numbers tracks from `first_id` on.
    pub fn new(first_id: u64, suffix: Suffix) -> Self {
        Self { next_id: first_id, streams: BTreeMap::new(), suffix }
    }

    /// Takes one frame's detections. `rules` are asked for when the stream is new; `now` is for [`Self::tick`].
    pub fn observe(
        &mut self,
        found: &Detections,
        now: Instant,
        rules: impl FnOnce() -> Rules,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let stream = self.streams.entry(found.stream.clone()).or_insert_with(|| OneStream {
            tracker: Tracker::new(),
            rules: rules(),
            counts: Counts::new(),
            at: found.pts,
            heard: now,
        });
        if stream.at.since(found.pts) > ANOTHER_STREAM {
            outcome.events = stream.end_all();
            stream.tracker = Tracker::new();
            stream.at = found.pts;
        }
        // A picture out of order is taken for one more look at the newest moment.
        (stream.at, stream.heard) = (stream.at.max(found.pts), now);
        let lost_after = stream.rules.lost_after();
        let at = stream.at;
        // Before matching: who was away for so long and comes back has come anew.
        let lost = stream.tracker.take_if(|t| at.since(t.seen) >= lost_after);
        outcome.events.extend(lost.into_iter().filter_map(|t| t.data.end()));
        stream.follow(found, &mut self.next_id, &mut self.suffix, &mut outcome);
        outcome.counts = stream.recount();
        outcome
    }

    /// Ends what was not seen for too long on streams that bring no frames. To be called about once a second.
    pub fn tick(&mut self, now: Instant) -> Passed {
        self.end_where(|_, s| now.saturating_duration_since(s.heard) >= s.rules.lost_after())
    }

    /// Ends everything on the streams that `stays` does not name: those that are gone or no longer looked at.
    pub fn retain(&mut self, stays: impl Fn(&StreamId) -> bool) -> Passed {
        self.end_where(|id, _| !stays(id))
    }

    /// Takes changed rules over, for the streams there are.
    pub fn set_rules(&mut self, rules: impl Fn(&StreamId) -> Rules) {
        for (id, stream) in &mut self.streams {
            stream.rules = rules(id);
        }
    }

    fn end_where(&mut self, over: impl Fn(&StreamId, &OneStream) -> bool) -> Passed {
        let mut passed = Passed::default();
        self.streams.retain(|id, stream| {
            if !over(id, stream) {
                return true;
            }
            passed.events.extend(stream.end_all());
            passed.counts.extend(stream.recount().map(|counts| (id.clone(), counts)));
            false
        });
        passed
    }
}

impl OneStream {
    fn end_all(&mut self) -> Vec<Arc<Event>> {
        self.tracker.take_if(|_| true).into_iter().filter_map(|t| t.data.end()).collect()
    }

    fn follow(
        &mut self,
        found: &Detections,
        next_id: &mut u64,
        suffix: &mut Suffix,
        outcome: &mut Outcome,
    ) {
        let mut seen = Vec::with_capacity(found.items.len());
        let mut item_of = Vec::with_capacity(found.items.len());
        for (at, item) in found.items.iter().enumerate() {
            let Some(place) = Place::of(&item.bbox, found.width, found.height) else { continue };
            let (label, score) = (Arc::clone(&item.label), item.confidence);
            if score.is_finite() && score > 0.0 && self.rules.admits(&label, &place) {
                let sure = self.rules.is_sure(&label, score);
                seen.push(Seen { place, label, score, sure });
                item_of.push(at);
            }
        }
        let ids = self.tracker.follow(self.at, &seen, next_id);
        outcome.ids = vec![None; found.items.len()];
        for (at, id) in item_of.iter().zip(&ids) {
            outcome.ids[*at] = *id;
        }
        let box_of: BTreeMap<u64, usize> =
            ids.iter().enumerate().filter_map(|(at, id)| Some(((*id)?, at))).collect();
        for track in self.tracker.tracks_mut() {
            let Some(&at) = box_of.get(&track.id) else {
                track.data.miss(found, &self.rules);
                continue;
            };
            let sighting = Sighting {
                track_id: track.id,
                label: &track.label,
                place: seen[at].place,
                item: &found.items[item_of[at]],
                frame: found,
            };
            let better = track.data.see(&sighting, &self.rules, &mut *suffix, &mut outcome.events);
            outcome.better.extend(better);
        }
    }

    fn recount(&mut self) -> Option<Counts> {
        let mut counts = Counts::new();
        for label in self.tracker.tracks().iter().filter_map(|t| t.data.label()) {
            *counts.entry(Arc::clone(label)).or_default() += 1;
        }
        (counts != self.counts).then(|| {
            self.counts.clone_from(&counts);
            counts
        })
    }
}

impl std::fmt::Debug for Tracks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracks").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}
