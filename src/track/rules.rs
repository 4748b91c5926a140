//! What one stream's owner counts as an animal worth telling: thresholds, sizes, zones and masks. Each rule is a function of
//! values; none remembers anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::place::{Place, holds};
use crate::config::{self, Config};
use crate::media::{MediaTime, StreamId};

/// The rules of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    events: config::Events,
    /// By label: threshold and smallest area.
    labels: BTreeMap<Arc<str>, (f32, f32)>,
    threshold: f32,
    min_area: f32,
    zones: Vec<(Arc<str>, config::Area)>,
    required: Vec<Arc<str>>,
    masks: Vec<config::Area>,
}

/// A faint box never begins a track, unless the owner asks for as little.
const SURE: f32 = 0.4;

impl Rules {
    /// The rules for `stream`: its own section's, then those for labels, then those of `[events]`.
    pub fn of(config: &Config, stream: &StreamId) -> Self {
        let own = config.stream.get(stream.as_str()).cloned().unwrap_or_default();
        let events = config.events.clone();
        let threshold = own.threshold.unwrap_or(events.threshold);
        let min_area = own.min_area.unwrap_or(events.min_area);
        let mut labels = BTreeMap::new();
        for (label, rule) in events.labels.iter().chain(&own.labels) {
            let (t, a) = labels.entry(label.as_str().into()).or_insert((threshold, min_area));
            *t = rule.threshold.unwrap_or(*t);
            *a = rule.min_area.unwrap_or(*a);
        }
        let zones = own.zones.into_iter().map(|(name, area)| (name.into(), area)).collect();
        let required = own.required_zones.iter().map(|name| name.as_str().into()).collect();
        Self { events, labels, threshold, min_area, zones, required, masks: own.masks }
    }

    pub fn lost_after(&self) -> Duration {
        Duration::from_secs_f64(self.events.lost_after_s)
    }

    /// How many frames the median is over.
    pub(super) fn frames(&self) -> usize {
        self.events.frames
    }

    pub(super) fn threshold(&self, label: &str) -> f32 {
        self.labels.get(label).map_or(self.threshold, |rule| rule.0)
    }

    pub(super) fn is_sure(&self, label: &str, score: f32) -> bool {
        score >= SURE.min(self.threshold(label))
    }

    /// Whether a box is to be looked at: large enough and outside of every mask.
    pub(super) fn admits(&self, label: &str, place: &Place) -> bool {
        let least = self.labels.get(label).map_or(self.min_area, |rule| rule.1);
        place.area() >= least && !self.masks.iter().any(|mask| concerns(mask, label, place))
    }

    /// The zones an animal stands in.
    pub(super) fn zones(&self, label: &str, place: &Place) -> Vec<Arc<str>> {
        let within = self.zones.iter().filter(|(_, area)| concerns(area, label, place));
        within.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Whether an animal that was in these zones may be told of.
    pub(super) fn is_wanted_in(&self, entered: &[Arc<str>]) -> bool {
        self.required.is_empty() || self.required.iter().any(|zone| entered.contains(zone))
    }

    /// Whether these scores make an animal; `scores` ends at `now`.
    pub(super) fn confirms(&self, label: &str, scores: &Scores, now: MediaTime) -> bool {
        let within = Duration::from_secs_f64(self.events.within_s);
        scores.seen_since(now, within) >= self.events.seen
            && scores.median() >= self.threshold(label)
    }
}

fn concerns(area: &config::Area, label: &str, place: &Place) -> bool {
    (area.labels.is_empty() || area.labels.iter().any(|l| l == label))
        && holds(&area.points, place.foot())
}

/// The scores of a track's newest frames; one in which it was not seen counts as 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Scores(VecDeque<(MediaTime, f32)>);

impl Scores {
    /// Adds a frame and keeps the newest `most`.
    pub(super) fn push(&mut self, at: MediaTime, score: f32, most: usize) {
        self.0.push_back((at, score));
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    fn seen_since(&self, now: MediaTime, within: Duration) -> usize {
        self.0.iter().filter(|(at, score)| *score > 0.0 && now.since(*at) <= within).count()
    }

    /// The lower of the two middle ones where there are two; 0 without scores.
    pub(super) fn median(&self) -> f32 {
        let mut sorted: Vec<f32> = self.0.iter().map(|(_, score)| *score).collect();
        sorted.sort_by(f32::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let config = config::parse("test", text).unwrap();
        Rules::of(&config, &StreamId::new("garden").unwrap())
    }

    fn scores(of: &[f32]) -> (Scores, MediaTime) {
        let mut scores = Scores::default();
        let mut now = MediaTime::ZERO;
        for score in of {
            now = now.saturating_add(Duration::from_millis(100));
            scores.push(now, *score, 5);
        }
        (scores, now)
    }

    #[test]
    fn the_median_over_frames_confirms() {
        let rules = rules("");
        let confirms = |of: &[f32]| {
            let (scores, now) = scores(of);
            rules.confirms("dog", &scores, now)
        };
        assert!(confirms(&[0.6, 0.5, 0.7]) && confirms(&[0.6, 0.0, 0.0, 0.6, 0.6]));
        assert!(!confirms(&[0.9]) && !confirms(&[0.9, 0.9]), "seen too rarely");
        assert!(!confirms(&[0.9, 0.4, 0.4, 0.4, 0.9]), "the median is too low");
        assert!(!confirms(&[0.9, 0.9, 0.0, 0.0, 0.0]), "gone");
        assert!(!confirms(&[]));
        let (scores, now) = scores(&[0.9, 0.9, 0.9]);
        let later = now.saturating_add(Duration::from_secs(6));
        assert!(!rules.confirms("dog", &scores, later), "too long ago");
    }

    #[test]
    fn thresholds_go_from_the_label_to_the_stream_to_all() {
        let rules = rules(
            "[events]\nthreshold = 0.55\n[events.labels.cat]\nthreshold = 0.3\n\
             [stream.garden]\nthreshold = 0.6\n[stream.garden.labels.dog]\nthreshold = 0.8\n",
        );
        let of = |label| rules.threshold(label);
        assert_eq!((of("cat"), of("dog"), of("cow")), (0.3, 0.8, 0.6));
        assert!(rules.is_sure("cat", 0.3) && !rules.is_sure("dog", 0.39));
    }

    #[test]
    fn masks_zones_and_sizes_are_asked_where_the_animal_stands() {
        let rules = rules(
            "[stream.garden]\nmin_area = 0.01\nrequired_zones = [\"lawn\"]\n\
             masks = [{ points = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.3], [0.0, 0.3]], labels = [\"bird\"] }]\n\
             [stream.garden.zones.lawn]\npoints = [[0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 1.0]]\n",
        );
        let at = |cx, cy| Place { cx, cy, w: 0.2, h: 0.1 };
        assert!(rules.admits("dog", &at(0.5, 0.2)) && !rules.admits("bird", &at(0.5, 0.2)));
        assert!(!rules.admits("dog", &Place { w: 0.01, ..at(0.5, 0.2) }));
        assert_eq!(rules.zones("dog", &at(0.2, 0.5)), [Arc::from("lawn")]);
        assert!(rules.zones("dog", &at(0.7, 0.5)).is_empty());
        assert!(rules.is_wanted_in(&["lawn".into()]) && !rules.is_wanted_in(&[]));
    }
}
