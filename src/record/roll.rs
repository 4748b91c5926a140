//! Which fragments of a stream are written (pure): all, none, or those around visits, of which the seconds before are kept
//! in memory, so that nothing goes to the disk until an animal is there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cutter::Fragment;
use crate::config::RecordMode;
use crate::media::MediaTime;
use crate::track::{Event, EventKind};

/// Of memory for the seconds before, a stream.
const MAX_BEFORE_BYTES: usize = 16 << 20;
/// A clip ends at a key frame, if one comes within this time.
const TO_KEY: Duration = Duration::from_secs(10);

/// What the owner wants of a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wish {
    pub mode: RecordMode,
    pub before: Duration,
    pub after: Duration,
    /// How long before a visit is told of it may have begun.
    pub late: Duration,
    pub segment: Duration,
}

/// What to do on the disk.
#[derive(Debug)]
pub(super) enum Order {
    /// `fresh`: in a new file.
    Write {
        fragment: Fragment,
        fresh: bool,
    },
    End,
}

#[derive(Debug, Default)]
pub(super) struct Roll {
    before: VecDeque<Fragment>,
    bytes: usize,
    visits: BTreeSet<Arc<str>>,
    /// Written up to here, once no visit is left.
    until: Option<MediaTime>,
    /// Where the file being written begins.
    writing: Option<MediaTime>,
    /// A fragment was lost on the way to the disk.
    lost: bool,
}

impl Roll {
    pub(super) fn fragment(&mut self, fragment: Fragment, wish: &Wish) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.wants(&fragment, wish) {
            orders.extend(self.write(fragment, wish));
            return orders;
        }
        if self.writing.take().is_some() {
            orders.push(Order::End);
        }
        self.keep(fragment, wish);
        orders
    }

    pub(super) fn event(&mut self, event: &Event, wish: &Wish) -> Vec<Order> {
        let visit = &event.after;
        if event.kind == EventKind::End {
            self.visits.remove(&visit.id);
        } else {
            self.visits.insert(Arc::clone(&visit.id));
        }
        let until = visit.seen.media.saturating_add(wish.after);
        self.until = Some(self.until.map_or(until, |u| u.max(until)));
        if wish.mode != RecordMode::Events || self.writing.is_some() {
            return Vec::new();
        }
        let from = visit
            .start
            .media
            .as_micros()
            .saturating_sub(i64::try_from(wish.before.as_micros()).unwrap_or(i64::MAX));
        let begin = self.before.iter().rposition(|f| f.key && f.start.as_micros() <= from);
        let begin = begin.or_else(|| self.before.iter().position(|f| f.key));
        let waiting = std::mem::take(&mut self.before);
        self.bytes = 0;
        let due = waiting.into_iter().skip(begin.unwrap_or(usize::MAX));
        due.filter_map(|fragment| self.write(fragment, wish)).collect()
    }

    /// Events were missed: whoever was there is taken to be gone.
    pub(super) fn missed_events(&mut self) {
        self.visits.clear();
    }

    /// The disk did not take a fragment; what follows it is of use from the next key frame on.
    pub(super) fn lost(&mut self) {
        self.lost = true;
    }

    /// Nothing is recorded any more: ends the file being written, forgets what waits.
    pub(super) fn off(&mut self) -> Vec<Order> {
        self.before.clear();
        self.bytes = 0;
        self.writing.take().map(|_| Order::End).into_iter().collect()
    }

    fn wants(&self, fragment: &Fragment, wish: &Wish) -> bool {
        match wish.mode {
            RecordMode::Off => false,
            RecordMode::Continuous => true,
            RecordMode::Events => {
                let Some(until) = self.until else { return false };
                // Up to a key frame, so that a visit right afterwards finds no hole before it.
                let end = self.writing.is_some()
                    && !fragment.key
                    && fragment.start < until.saturating_add(TO_KEY);
                !self.visits.is_empty() || fragment.start < until || end
            }
        }
    }

    fn write(&mut self, fragment: Fragment, wish: &Wish) -> Option<Order> {
        let due = self.writing.is_none_or(|began| fragment.start.since(began) >= wish.segment);
        let fresh = fragment.key && (due || fragment.gap || self.lost);
        if !fresh && (self.writing.is_none() || self.lost) {
            return None;
        }
        if fresh {
            (self.writing, self.lost) = (Some(fragment.start), false);
        }
        Some(Order::Write { fragment, fresh })
    }

    fn keep(&mut self, fragment: Fragment, wish: &Wish) {
        if wish.mode != RecordMode::Events {
            self.before.clear();
            self.bytes = 0;
            return;
        }
        let newest = fragment.end;
        self.bytes += fragment.data.len();
        self.before.push_back(fragment);
        let enough = wish.before + wish.late;
        while self.bytes > MAX_BEFORE_BYTES
            || self.second().is_some_and(|at| newest.since(self.before[at].start) >= enough)
        {
            let n = self.second().unwrap_or(self.before.len());
            for fragment in self.before.drain(..n) {
                self.bytes -= fragment.data.len();
            }
        }
    }

    /// Where the second group begins.
    fn second(&self) -> Option<usize> {
        self.before.iter().skip(1).position(|f| f.key).map(|at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::BBox;
    use crate::media::StreamId;
    use crate::record::cutter::tests::fragments;
    use crate::track::{Best, Moment, Visit};
    use std::time::SystemTime;

    fn wish(mode: RecordMode) -> Wish {
        let s = Duration::from_secs;
        Wish { mode, before: s(3), after: s(2), late: s(5), segment: s(10) }
    }

    fn event(kind: EventKind, start_ms: i64, seen_ms: i64) -> Event {
        let at = |ms| Moment { media: MediaTime::from_millis(ms), wall: SystemTime::UNIX_EPOCH };
        let bbox = BBox { x1: 0.0, y1: 0.0, x2: 1.0, y2: 1.0 };
        let visit = Arc::new(Visit {
            id: "a".into(),
            stream: StreamId::new("s").unwrap(),
            track_id: 1,
            label: "dog".into(),
            score: 0.5,
            top_score: 0.5,
            start: at(start_ms),
            seen: at(seen_ms),
            end: None,
            width: 1,
            height: 1,
            bbox,
            best: Best { at: at(seen_ms), seq: 0, score: 0.5, bbox },
            current_zones: vec![],
            entered_zones: vec![],
        });
        Event { kind, before: Arc::clone(&visit), after: visit }
    }

    /// Starts in ms, a new file's with a minus sign; `None` for an end.
    fn told(orders: &[Order]) -> Vec<Option<i64>> {
        let tell = |order: &Order| match order {
            Order::End => None,
            Order::Write { fragment, fresh } => {
                Some(fragment.start.as_millis() * if *fresh { -1 } else { 1 })
            }
        };
        orders.iter().map(tell).collect()
    }

    #[test]
    fn around_a_visit_the_seconds_before_and_after_are_written() {
        let (mut roll, wish) = (Roll::default(), wish(RecordMode::Events));
        let mut all = fragments(0, 60_000).into_iter();
        for fragment in all.by_ref().take(30) {
            assert!(roll.fragment(fragment, &wish).is_empty());
        }
        // Eight seconds are enough, and whole groups are kept.
        assert_eq!(roll.before.front().unwrap().start.as_millis(), 22_000);
        let begun = roll.event(&event(EventKind::New, 28_500, 29_500), &wish);
        assert_eq!(
            told(&begun),
            [Some(-24_000), Some(25_000), Some(26_000), Some(27_000), Some(28_000), Some(29_000)]
        );
        let mut orders = Vec::new();
        for fragment in all.by_ref().take(3) {
            orders.extend(roll.fragment(fragment, &wish));
        }
        assert_eq!(told(&orders), [Some(30_000), Some(31_000), Some(32_000)]);
        roll.event(&event(EventKind::End, 28_500, 32_500), &wish);
        let after: Vec<_> = all.take(5).flat_map(|f| roll.fragment(f, &wish)).collect();
        // 34.5 s are wanted, and at 36 s comes the key frame.
        assert_eq!(told(&after), [Some(33_000), Some(-34_000), Some(35_000), None]);
    }

    #[test]
    fn continuous_recording_begins_a_file_at_the_key_frame_after_each_length() {
        let (mut roll, wish) = (Roll::default(), wish(RecordMode::Continuous));
        let orders: Vec<_> =
            fragments(2000, 24_000).into_iter().flat_map(|f| roll.fragment(f, &wish)).collect();
        let fresh: Vec<_> = told(&orders).into_iter().flatten().filter(|ms| *ms < 0).collect();
        assert_eq!((orders.len(), fresh), (22, vec![-2000, -12_000, -22_000]));
    }

    #[test]
    fn after_a_loss_the_next_key_frame_begins_a_file() {
        let (mut roll, wish) = (Roll::default(), wish(RecordMode::Continuous));
        let mut all = fragments(2000, 8000).into_iter();
        roll.fragment(all.next().unwrap(), &wish);
        roll.lost();
        let orders: Vec<_> = all.flat_map(|f| roll.fragment(f, &wish)).collect();
        assert_eq!(told(&orders), [Some(-4000), Some(5000), Some(6000), Some(7000)]);
    }

    #[test]
    fn switched_off_nothing_is_kept_and_a_file_ends() {
        let mut roll = Roll::default();
        let mut all = fragments(2000, 6000).into_iter();
        roll.fragment(all.next().unwrap(), &wish(RecordMode::Continuous));
        let off: Vec<_> = all.flat_map(|f| roll.fragment(f, &wish(RecordMode::Off))).collect();
        assert_eq!(told(&off), [None]);
        assert!(roll.before.is_empty());
    }
}
