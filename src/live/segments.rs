//! Fragments gathered into the parts and segments of low-latency HLS (pure). Segments begin at key frames, parts are some
//! hundred milliseconds; only the newest few are kept. The text of the playlist is in `playlist.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::muxer::{Fragment, Init};

/// Complete segments kept, where the budget allows.
const KEPT: usize = 6;
/// PART-TARGET. Parts may be this long and should not be under 85 % of it (draft-pantos-hls-rfc8216bis 4.4.4.9): at 10,
/// 12, 15, 20, 24, 25, 30, 50 and 60 pictures a second a whole number of them fits well, millisecond clocks included.
pub const PART_TARGET: Duration = Duration::from_millis(420);
/// Fragments a part, whatever their times say.
const MAX_FRAGMENTS: usize = 128;
/// Shorter groups of pictures share a segment.
const MIN_SEGMENT: Duration = Duration::from_secs(1);
/// A segment is cut here even without a key frame, so that a publisher that sends none cannot grow it for ever.
const MAX_SEGMENT: Duration = Duration::from_secs(10);
/// A pause so much longer than a picture is a gap of the time line: the publisher was away.
const GAP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Part {
    pub data: Bytes,
    pub duration: Duration,
    /// It begins with a key frame.
    pub independent: bool,
}

#[derive(Debug)]
pub struct Segment {
    pub init: Arc<Init>,
    pub parts: Vec<Part>,
    /// When its first picture came.
    pub taken: SystemTime,
    /// It does not go on where the segment before it ended, or has another init segment.
    pub discontinuity: bool,
}

impl Segment {
    pub fn duration(&self) -> Duration {
        self.parts.iter().map(|p| p.duration).sum()
    }

    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.data.len()).sum()
    }
}

/// The newest segments of a stream, and the one that is growing.
#[derive(Debug)]
pub struct Segments {
    budget_bytes: usize,
    pub(super) complete: VecDeque<Segment>,
    /// Media sequence number of `complete[0]`.
    pub(super) first: u64,
    pub(super) open: Option<Segment>,
    /// Fragments of the part that is growing.
    growing: Vec<Fragment>,
    /// Longest segment so far: the target must not shrink under a player.
    pub(super) longest: Duration,
    /// Discontinuities among the segments that are gone.
    pub(super) discontinuities_gone: u64,
    pub(super) ended: bool,
}

/// Whether something asked for is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    Here(T),
    /// It is the next, or one of the next.
    Soon,
    /// It is gone, or too far ahead.
    No,
}

impl<T> Found<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Here(found) => Found::Here(f(found)),
            Self::Soon => Found::Soon,
            Self::No => Found::No,
        }
    }
}

impl Segments {
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            complete: VecDeque::new(),
            first: 0,
            open: None,
            growing: Vec::new(),
            longest: Duration::ZERO,
            discontinuities_gone: 0,
            ended: false,
        }
    }

    /// Takes the next fragment; true when a part was completed by it.
    pub fn push(&mut self, fragment: Fragment) -> bool {
        let (Some(open), Some(last)) = (&self.open, self.growing.last()) else {
            if fragment.key {
                // Segments last a second at least, so numbers that begin with the seconds of the stream never come
                // twice, even when nobody asked for a while and all began anew.
                self.first = fragment.start.as_millis().max(0).unsigned_abs() / 1000;
                self.begin(fragment, false);
            }
            return false;
        };
        let interval = fragment.start.since(last.start);
        let new_init = !Arc::ptr_eq(&last.init, &fragment.init);
        let gap = fragment.key && interval > last.duration + GAP;
        let last_lasts = if new_init || gap { last.duration } else { interval };
        let part = self.growing_since_first() + last_lasts;
        let segment = open.duration() + part;
        let growing: usize = self.growing.iter().map(|f| f.data.len()).sum();
        let too_big = open.bytes() + growing > self.budget_bytes / 4;
        let cut = new_init
            || gap
            || fragment.key && segment >= MIN_SEGMENT
            || segment >= MAX_SEGMENT
            || too_big;
        if cut {
            self.finish_part(part);
            self.finish_segment();
            self.begin(fragment, new_init || gap);
            return true;
        }
        let full = part + fragment.duration > PART_TARGET || self.growing.len() >= MAX_FRAGMENTS;
        if full {
            self.finish_part(part);
        }
        self.growing.push(fragment);
        full
    }

    /// No more will come.
    pub fn end(&mut self) {
        if let Some(last) = self.growing.last() {
            let part = self.growing_since_first() + last.duration;
            self.finish_part(part);
            self.finish_segment();
        }
        self.ended = true;
    }

    /// Media sequence number of the growing segment.
    pub fn open_number(&self) -> u64 {
        self.first + self.complete.len() as u64
    }

    /// Whether a playlist has this segment, or this part of it (draft-pantos-hls-rfc8216bis 6.2.5.2).
    pub fn has(&self, number: u64, part: Option<usize>) -> Found<()> {
        if self.ended {
            return Found::Here(());
        }
        let (mut number, mut part) = (number, part);
        // Beyond a segment's last part the first of the next one is meant.
        if let (Some(n), Some(segment)) = (part, self.segment(number))
            && n >= segment.parts.len()
        {
            (number, part) = (number.saturating_add(1), Some(0));
        }
        let open = self.open_number();
        let parts = self.open.as_ref().map_or(0, |s| s.parts.len());
        match part {
            _ if number < open => Found::Here(()),
            Some(n) if number == open && n < parts => Found::Here(()),
            _ if number > open.saturating_add(1) => Found::No,
            _ => Found::Soon,
        }
    }

    /// Whether a playlist is worth sending: players want a whole segment.
    pub fn ready(&self) -> Found<()> {
        if self.complete.is_empty() && !self.ended { Found::Soon } else { Found::Here(()) }
    }

    pub fn segment_data(&self, number: u64) -> Found<Vec<Bytes>> {
        match self.segment(number) {
            Some(segment) => Found::Here(segment.parts.iter().map(|p| p.data.clone()).collect()),
            None if number == self.open_number() && !self.ended => Found::Soon,
            None => Found::No,
        }
    }

    pub fn part_data(&self, number: u64, part: usize) -> Found<Bytes> {
        let open = number == self.open_number();
        let segment = if open { self.open.as_ref() } else { self.segment(number) };
        let parts = segment.map_or(&[][..], |s| &s.parts);
        match parts.get(part) {
            Some(part) => Found::Here(part.data.clone()),
            // Only what was announced is waited for.
            None if open && part == parts.len() && !self.ended => Found::Soon,
            None => Found::No,
        }
    }

    pub fn init(&self, id: u64) -> Option<Arc<Init>> {
        let mut all = self.complete.iter().chain(&self.open).map(|s| &s.init);
        all.find(|i| i.id == id).map(Arc::clone)
    }

    fn segment(&self, number: u64) -> Option<&Segment> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.complete.get(at)
    }

    /// Media time between the first and the last fragment of the growing part.
    fn growing_since_first(&self) -> Duration {
        let ends = self.growing.first().zip(self.growing.last());
        ends.map_or(Duration::ZERO, |(first, last)| last.start.since(first.start))
    }

    fn begin(&mut self, fragment: Fragment, discontinuity: bool) {
        let (init, taken) = (Arc::clone(&fragment.init), fragment.arrived.wall);
        self.open = Some(Segment { init, parts: Vec::new(), taken, discontinuity });
        self.growing.push(fragment);
    }

    fn finish_part(&mut self, duration: Duration) {
        let independent = self.growing.first().is_some_and(|f| f.key);
        let data: Vec<u8> = self.growing.iter().flat_map(|f| f.data.iter().copied()).collect();
        self.growing.clear();
        if let Some(open) = &mut self.open {
            open.parts.push(Part { data: data.into(), duration, independent });
        }
    }

    fn finish_segment(&mut self) {
        let Some(segment) = self.open.take() else { return };
        self.longest = self.longest.max(segment.duration());
        self.complete.push_back(segment);
        let bytes = |all: &VecDeque<Segment>| all.iter().map(Segment::bytes).sum::<usize>();
        while self.complete.len() > KEPT
            || self.complete.len() > 1 && bytes(&self.complete) > self.budget_bytes
        {
            let gone = self.complete.pop_front();
            self.discontinuities_gone += u64::from(gone.is_some_and(|s| s.discontinuity));
            self.first += 1;
        }
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
