//! Which box is which animal: gives each box of a frame the number of a track. Knows neither rules nor events.
//!
//! ByteTrack's two-stage association (Zhang et al., ECCV 2022): sure boxes choose first, then faint ones may keep a track
//! alive but never begin one. Unlike it, time counts in seconds, the camera's own motion is taken out, and boxes may
//! match without overlapping.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::motion::Motion;
use super::place::Place;
use crate::media::MediaTime;

/// Tracks one stream may have; beyond that no new one begins.
pub(super) const MOST_TRACKS: usize = 256;
/// A found box further from another of the same frame than this overlap is an animal of its own.
const SAME_PLACE: f32 = 0.6;
/// Seconds for which a movement seen is believed to go on.
const MOMENTUM_S: f32 = 0.4;
/// Frames whose labels vote.
const VOTERS: usize = 16;
/// Sightings after which a track is no accident.
const SETTLED: u32 = 3;
/// Labels that detectors mix up on one and the same animal.
const MIXED_UP: [&[&str]; 3] = [&["cat", "dog"], &["dog", "bear"], &["horse", "cow", "sheep"]];

/// A found box on its way to a track.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub place: Place,
    pub label: Arc<str>,
    pub score: f32,
    /// Good enough to begin a track.
    pub sure: bool,
}

/// One animal followed through frames. `D` is what others want to remember of it.
#[derive(Debug)]
pub(super) struct Track<D> {
    pub id: u64,
    /// The label its recent frames vote for.
    pub label: Arc<str>,
    /// When it was last seen.
    pub seen: MediaTime,
    pub data: D,
    /// Where it is believed to be at the newest frame.
    place: Place,
    /// Where it was last seen.
    measured: Place,
    /// Of the middle, in pictures a second.
    velocity: [f32; 2],
    sightings: u32,
    /// Frames since it was last seen.
    misses: u32,
    votes: VecDeque<(Arc<str>, f32)>,
}

#[derive(Debug)]
pub(super) struct Tracker<D> {
    tracks: Vec<Track<D>>,
    now: Option<MediaTime>,
}

/// How far apart a track and a box may be, and what they are taken for.
#[derive(Clone, Copy)]
struct Gate {
    /// Mean box sizes after a tenth of a second; each second adds one, at most two.
    distance: f32,
    size_ratio: f32,
}

const SURE: Gate = Gate { distance: 1.0, size_ratio: 2.5 };
const FAINT: Gate = Gate { distance: 0.4, size_ratio: 1.8 };
/// For the only track and the only box of a label that are left over.
const ALONE: Gate = Gate { distance: 2.5, size_ratio: 2.0 };

impl<D: Default> Tracker<D> {
    pub(super) fn new() -> Self {
        Self { tracks: Vec::new(), now: None }
    }

    pub(super) fn tracks(&self) -> &[Track<D>] {
        &self.tracks
    }

    pub(super) fn tracks_mut(&mut self) -> impl Iterator<Item = &mut Track<D>> {
        self.tracks.iter_mut()
    }

    /// Removes and returns the tracks that `over` says are.
    pub(super) fn take_if(&mut self, mut over: impl FnMut(&Track<D>) -> bool) -> Vec<Track<D>> {
        self.tracks.extract_if(.., |track| over(track)).collect()
    }

    /// Follows the tracks to `at`. The answer has one entry a box: its track, none where no track began.
    ///
    /// A time at or before the newest one counts as the newest.
    pub(super) fn follow(
        &mut self,
        at: MediaTime,
        found: &[Seen],
        next_id: &mut u64,
    ) -> Vec<Option<u64>> {
        let before = self.now.unwrap_or(at);
        let dt = at.since(before);
        self.now = Some(at.max(before));
        let at = at.max(before);
        self.predict(dt);
        self.compensate(found);

        let mut owners: Vec<Option<usize>> = vec![None; found.len()];
        let mut free: Vec<bool> = vec![true; self.tracks.len()];
        self.choose(at, found, SURE, |s| s.sure, &mut owners, &mut free);
        self.choose(at, found, FAINT, |s| !s.sure, &mut owners, &mut free);
        self.reunite(at, found, &mut owners, &mut free);

        for (seen, owner) in found.iter().zip(&owners) {
            if let Some(track) = *owner {
                self.tracks[track].take(at, seen);
            }
        }
        for at_box in 0..found.len() {
            let seen = &found[at_box];
            let ghost = || {
                let beside = found.iter().zip(&owners).enumerate();
                beside.into_iter().any(|(other, (o, owner))| {
                    other != at_box && owner.is_some() && o.place.iou(&seen.place) > SAME_PLACE
                })
            };
            if owners[at_box].is_none() && seen.sure && self.tracks.len() < MOST_TRACKS && !ghost()
            {
                owners[at_box] = Some(self.tracks.len());
                self.tracks.push(Track::begin(*next_id, at, seen));
                *next_id += 1;
            }
        }
        let ids = owners.iter().map(|owner| owner.map(|track| self.tracks[track].id)).collect();
        // What was seen once or twice and is gone was an accident, and must not wait for the next.
        self.tracks.retain(|t| t.sightings >= SETTLED || t.misses <= t.sightings);
        ids
    }

    fn predict(&mut self, dt: Duration) {
        let fade = (-dt.as_secs_f32() / MOMENTUM_S).exp();
        for track in &mut self.tracks {
            track.place.cx += track.velocity[0] * MOMENTUM_S * (1.0 - fade);
            track.place.cy += track.velocity[1] * MOMENTUM_S * (1.0 - fade);
            track.velocity = track.velocity.map(|v| v * fade);
            track.misses = track.misses.saturating_add(1);
        }
    }

    /// Moves all tracks as the camera did.
    fn compensate(&mut self, found: &[Seen]) {
        // The newest first: they are the ones that can tell.
        self.tracks.sort_by_key(|t| (std::cmp::Reverse(t.seen), t.id));
        let expected: Vec<Place> = self.tracks.iter().map(|t| t.place).collect();
        let sure: Vec<&Seen> = found.iter().filter(|s| s.sure).collect();
        let places: Vec<Place> = sure.iter().map(|s| s.place).collect();
        let alike = |track: usize, seen: usize| self.tracks[track].label == sure[seen].label;
        if let Some(motion) = Motion::estimate(&expected, &places, alike) {
            for track in &mut self.tracks {
                track.place = motion.carry(&track.place);
            }
        }
    }

    /// Pairs free tracks with boxes that have none, the closest first.
    fn choose(
        &self,
        at: MediaTime,
        found: &[Seen],
        gate: Gate,
        eligible: impl Fn(&Seen) -> bool,
        owners: &mut [Option<usize>],
        free: &mut [bool],
    ) {
        let mut pairs = Vec::new();
        for (track, _) in free.iter().enumerate().filter(|(_, free)| **free) {
            for (seen, s) in found.iter().enumerate() {
                if owners[seen].is_none() && eligible(s) {
                    let cost = self.tracks[track].cost(at, s, gate);
                    pairs.extend(cost.map(|cost| (cost, track, seen)));
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (_, track, seen) in pairs {
            if free[track] && owners[seen].is_none() {
                free[track] = false;
                owners[seen] = Some(track);
            }
        }
    }

    /// Where one track and one sure box of a label are left over, they are the same animal unless they are far apart.
    fn reunite(
        &self,
        at: MediaTime,
        found: &[Seen],
        owners: &mut [Option<usize>],
        free: &mut [bool],
    ) {
        for seen in 0..found.len() {
            let s = &found[seen];
            let left =
                |o: &(usize, &Seen)| owners[o.0].is_none() && o.1.sure && o.1.label == s.label;
            if owners[seen].is_some()
                || !s.sure
                || found.iter().enumerate().filter(left).count() != 1
            {
                continue;
            }
            let mut lost = (0..free.len()).filter(|&t| {
                free[t] && self.tracks[t].label == s.label && self.tracks[t].sightings >= SETTLED
            });
            if let (Some(track), None) = (lost.next(), lost.next())
                && self.tracks[track].cost(at, s, ALONE).is_some()
            {
                free[track] = false;
                owners[seen] = Some(track);
            }
        }
    }
}

impl<D: Default> Track<D> {
    fn begin(id: u64, at: MediaTime, seen: &Seen) -> Self {
        Self {
            id,
            label: Arc::clone(&seen.label),
            seen: at,
            data: D::default(),
            place: seen.place,
            measured: seen.place,
            velocity: [0.0; 2],
            sightings: 1,
            misses: 0,
            votes: VecDeque::from([(Arc::clone(&seen.label), seen.score)]),
        }
    }

    /// How badly a box fits, none where it cannot be this animal.
    fn cost(&self, at: MediaTime, seen: &Seen, gate: Gate) -> Option<f32> {
        let unseen_s = at.since(self.seen).as_secs_f32();
        let reach = gate.distance + (unseen_s - 0.1).clamp(0.0, 2.0);
        let distance = self.place.distance(&seen.place);
        let ratio = self.place.size_ratio(&seen.place);
        let overlap = self.place.iou(&seen.place);
        // Another label is the same animal only where it stood.
        let other = self.label != seen.label;
        let fits = distance < reach
            && ratio < gate.size_ratio + unseen_s.min(1.0)
            && (!other || overlap > 0.3 && self.can_be(&seen.label));
        let label = if other { 0.2 } else { 0.0 };
        let cost = 0.5 * (1.0 - overlap) + 0.5 * distance / gate.distance + 0.1 * ratio.ln();
        fits.then_some(cost + label)
    }

    /// Whether another label may be this animal's: it had it before, it is not sure of its own yet, or the two look alike.
    fn can_be(&self, label: &Arc<str>) -> bool {
        let alike = |group: &&[&str]| group.contains(&&**label) && group.contains(&&*self.label);
        self.sightings <= SETTLED
            || self.votes.iter().any(|v| v.0 == *label)
            || MIXED_UP.iter().any(alike)
    }

    fn take(&mut self, at: MediaTime, seen: &Seen) {
        let dt = at.since(self.seen).as_secs_f32();
        if dt > 1e-3 {
            // Two frames say all there is to know; after that, noise is smoothed over a tenth of a second.
            let trust = if self.sightings < 2 { 1.0 } else { 1.0 - (-dt / 0.1).exp() };
            let moved = [seen.place.cx - self.measured.cx, seen.place.cy - self.measured.cy];
            for (v, moved) in self.velocity.iter_mut().zip(moved) {
                *v += ((moved / dt).clamp(-10.0, 10.0) - *v) * trust;
            }
        }
        (self.place, self.measured) = (seen.place, seen.place);
        self.seen = at;
        self.sightings = self.sightings.saturating_add(1);
        self.misses = 0;
        if self.votes.len() == VOTERS {
            self.votes.pop_front();
        }
        self.votes.push_back((Arc::clone(&seen.label), seen.score));
        let votes = |label: &str| -> f32 {
            self.votes.iter().filter(|v| &*v.0 == label).map(|v| v.1).sum()
        };
        // A lead is kept until it is clearly lost, so that a close vote does not flicker.
        if votes(&seen.label) > 1.25 * votes(&self.label) {
            self.label = Arc::clone(&seen.label);
        }
    }
}
