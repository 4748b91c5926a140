//! One track's way from a guess to a visit that is told of: confirmation, best picture, and what is worth an update.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Best, BetterPicture, Event, EventKind, Moment, Visit};
use super::place::Place;
use super::rules::{Rules, Scores};
use crate::detect::{Detection, Detections};

/// Updates of one visit come no closer than this.
const UPDATE_EVERY: Duration = Duration::from_secs(1);
/// A picture must be so much better to replace the one kept.
const CLEARLY_BETTER: f32 = 1.1;
/// A rise of the top score that is worth an update.
const RISE: f32 = 0.05;

/// What is remembered of a track beside where it is.
#[derive(Debug, Default)]
pub(super) struct Story {
    scores: Scores,
    first: Option<Moment>,
    entered: Vec<Arc<str>>,
    /// From confirmation on.
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    visit: Visit,
    /// What the last message said, and when on the media's line.
    last: Arc<Visit>,
    last_at: Moment,
    merit: f32,
}

/// A sighting on its way into a story.
pub(super) struct Sighting<'a> {
    pub track_id: u64,
    /// The track's.
    pub label: &'a Arc<str>,
    pub place: Place,
    pub item: &'a Detection,
    pub frame: &'a Detections,
}

impl Story {
    pub(super) fn label(&self) -> Option<&Arc<str>> {
        self.told.as_ref().map(|told| &told.visit.label)
    }

    /// A frame in which the animal was not seen.
    pub(super) fn miss(&mut self, frame: &Detections, rules: &Rules) {
        self.scores.push(frame.pts, 0.0, rules.frames());
    }

    /// A frame in which it was.
    pub(super) fn see(
        &mut self,
        sighting: &Sighting<'_>,
        rules: &Rules,
        suffix: impl FnOnce() -> String,
        events: &mut Vec<Arc<Event>>,
    ) -> Option<BetterPicture> {
        let (frame, item) = (sighting.frame, sighting.item);
        let now = Moment { media: frame.pts, wall: frame.captured };
        let first = *self.first.get_or_insert(now);
        self.scores.push(frame.pts, item.confidence, rules.frames());
        let zones = rules.zones(sighting.label, &sighting.place);
        for zone in &zones {
            if !self.entered.contains(zone) {
                self.entered.push(Arc::clone(zone));
            }
        }
        let best = Best { at: now, seq: frame.seq, score: item.confidence, bbox: item.bbox };
        let merit = merit(item.confidence, &sighting.place);
        let median = self.scores.median();
        let Some(told) = &mut self.told else {
            let wanted = rules.confirms(sighting.label, &self.scores, frame.pts)
                && rules.is_wanted_in(&self.entered);
            if !wanted {
                return None;
            }
            let visit = Visit {
                id: id(first, &suffix()),
                stream: frame.stream.clone(),
                track_id: sighting.track_id,
                label: Arc::clone(sighting.label),
                score: item.confidence,
                top_score: median,
                start: first,
                seen: now,
                end: None,
                width: frame.width,
                height: frame.height,
                bbox: item.bbox,
                best: best.clone(),
                current_zones: zones,
                entered_zones: self.entered.clone(),
            };
            let last = Arc::new(visit.clone());
            let (before, after) = (Arc::clone(&last), Arc::clone(&last));
            events.push(Arc::new(Event { kind: EventKind::New, before, after }));
            let better =
                BetterPicture { id: Arc::clone(&last.id), label: last.label.clone(), best };
            self.told = Some(Told { visit, last, last_at: now, merit });
            return Some(better);
        };
        let visit = &mut told.visit;
        visit.label = Arc::clone(sighting.label);
        visit.score = item.confidence;
        visit.top_score = visit.top_score.max(median);
        if now.media >= visit.seen.media {
            visit.seen = now;
        }
        (visit.width, visit.height, visit.bbox) = (frame.width, frame.height, item.bbox);
        visit.current_zones = zones;
        visit.entered_zones.clone_from(&self.entered);
        // A flickering label's picture would show another animal than its name says.
        let better =
            (merit > told.merit * CLEARLY_BETTER && item.label == *sighting.label).then(|| {
                told.merit = merit;
                visit.best = best.clone();
                BetterPicture { id: Arc::clone(&visit.id), label: Arc::clone(&visit.label), best }
            });
        if now.media.since(told.last_at.media) >= UPDATE_EVERY && told.has_news() {
            events.push(told.tell(EventKind::Update, now));
        }
        better
    }

    /// The animal is gone; none if it was never told of.
    pub(super) fn end(self) -> Option<Arc<Event>> {
        let mut told = self.told?;
        let seen = told.visit.seen;
        told.visit.end = Some(seen);
        Some(told.tell(EventKind::End, seen))
    }
}

impl Told {
    /// Where the animal is in the picture is no news: on a head, it is elsewhere in every frame.
    fn has_news(&self) -> bool {
        let (last, now) = (&self.last, &self.visit);
        last.label != now.label
            || last.current_zones != now.current_zones
            || last.entered_zones != now.entered_zones
            || last.best != now.best
            || now.top_score > last.top_score + RISE
    }

    fn tell(&mut self, kind: EventKind, at: Moment) -> Arc<Event> {
        let after = Arc::new(self.visit.clone());
        let before = std::mem::replace(&mut self.last, Arc::clone(&after));
        self.last_at = at;
        Arc::new(Event { kind, before, after })
    }
}

/// How much a picture is worth: sure, large, and whole.
fn merit(score: f32, place: &Place) -> f32 {
    score * place.area().sqrt() * if place.is_cut() { 0.7 } else { 1.0 }
}

fn id(start: Moment, suffix: &str) -> Arc<str> {
    let since = start.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:06}-{suffix}", since.as_secs(), since.subsec_micros()).into()
}
