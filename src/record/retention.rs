//! What must go so that the disk keeps within its limits (pure): oldest first, never what is protected. It deletes nothing.

use crate::store::clock::is_plausible;

/// The owner's limits; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub keep_days: u64,
    pub keep_bytes: u64,
    pub keep_free_bytes: u64,
}

/// What can go: a segment, or an event with its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Segment(i64),
    Event(i64),
}

/// The index, as far as it is asked: the oldest entries first by run and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub what: What,
    /// Grows with every start of the program. Times of different runs may be of different clocks; runs are in order.
    pub run: i64,
    /// Microseconds since 1970.
    pub start_us: i64,
    pub end_us: i64,
    pub bytes: u64,
    pub protected: bool,
}

/// How the disk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub used_bytes: u64,
    pub free_bytes: u64,
}

/// What must go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub gone: Vec<What>,
    /// Run and beginning of the newest that goes for want of room. A visit that was over by then and has no picture goes too:
    /// it makes no room, but nothing else of its time is left, and rows alone would become ever more.
    pub room_to: Option<(i64, i64)>,
}

/// What to delete. `entries` may be the oldest part of the index only; then more may be due afterwards.
pub fn plan(mut entries: Vec<Entry>, limits: &Limits, now_us: i64, disk: Disk) -> Plan {
    entries.retain(|e| !e.protected);
    entries.sort_by_key(|e| (e.run, e.start_us, e.what));
    let age_us = i64::try_from(limits.keep_days.saturating_mul(86_400_000_000)).unwrap_or(i64::MAX);
    let Disk { mut used_bytes, mut free_bytes } = disk;
    let mut plan = Plan::default();
    for entry in entries {
        // Of a time that cannot be real no age is known.
        let known = is_plausible(now_us) && is_plausible(entry.end_us);
        let old = limits.keep_days > 0 && known && now_us.saturating_sub(entry.end_us) > age_us;
        let over = limits.keep_bytes > 0 && used_bytes > limits.keep_bytes;
        let full = free_bytes < limits.keep_free_bytes;
        // An event without pictures makes no room.
        let makes_room = (over || full) && entry.bytes > 0;
        if old || makes_room {
            used_bytes = used_bytes.saturating_sub(entry.bytes);
            free_bytes = free_bytes.saturating_add(entry.bytes);
            plan.gone.push(entry.what);
        }
        if makes_room {
            plan.room_to = Some((entry.run, entry.start_us));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use What::{Event, Segment};

    const DAY: i64 = 86_400_000_000;
    const NOW: i64 = 1_795_439_400_000_000 + 100 * DAY;

    fn entry(what: What, run: i64, days_ago: i64, bytes: u64) -> Entry {
        let start_us = NOW - days_ago * DAY;
        Entry { what, run, start_us, end_us: start_us, bytes, protected: false }
    }

    fn disk(used_bytes: u64, free_bytes: u64) -> Disk {
        Disk { used_bytes, free_bytes }
    }

    #[test]
    fn what_is_too_old_goes_unless_protected() {
        let limits = Limits { keep_days: 7, ..Limits::default() };
        let kept = Entry { protected: true, ..entry(Segment(3), 1, 30, 5) };
        let all = vec![entry(Segment(1), 1, 6, 5), entry(Event(2), 1, 8, 0), kept];
        let plan = plan(all, &limits, NOW, disk(9, 0));
        assert_eq!((&plan.gone[..], plan.room_to), (&[Event(2)][..], None));
    }

    #[test]
    fn times_that_cannot_be_real_have_no_age() {
        let limits = Limits { keep_days: 7, ..Limits::default() };
        let dawn = Entry { start_us: 5, end_us: 6, ..entry(Segment(1), 1, 0, 5) };
        assert_eq!(plan(vec![dawn], &limits, NOW, disk(9, 9)), Plan::default());
        let old = vec![entry(Segment(1), 1, 30, 5)];
        assert_eq!(plan(old, &limits, 60_000_000, disk(9, 9)), Plan::default());
    }

    #[test]
    fn bytes_and_free_space_take_the_oldest_and_no_more_than_needed() {
        let all = || {
            vec![
                entry(Segment(1), 2, 3, 10),
                // An earlier run is older whatever its clock said.
                entry(Segment(2), 1, 1, 10),
                entry(Event(3), 1, 0, 0),
                entry(Event(4), 2, 2, 4),
            ]
        };
        let bytes = Limits { keep_bytes: 12, ..Limits::default() };
        let both = plan(all(), &bytes, NOW, disk(24, 0));
        assert_eq!(both.gone, [Segment(2), Segment(1)]);
        assert_eq!(both.room_to, Some((2, NOW - 3 * DAY)));
        let free = Limits { keep_free_bytes: 100, ..Limits::default() };
        assert_eq!(plan(all(), &free, NOW, disk(24, 95)).gone, [Segment(2)]);
        assert_eq!(plan(all(), &free, NOW, disk(24, 100)), Plan::default());
    }

    #[test]
    fn a_year_of_recording_on_simulated_time_stays_within_its_limits() {
        let limits = Limits { keep_days: 7, keep_bytes: 3000, keep_free_bytes: 0 };
        let mut kept: Vec<Entry> = Vec::new();
        let mut most = 0;
        for hour in 0..365 * 24 {
            let now = NOW + hour * DAY / 24;
            let one = Entry { start_us: now, end_us: now, ..entry(Segment(hour), 1, 0, 20) };
            kept.push(one);
            let used = kept.iter().map(|e| e.bytes).sum();
            let gone = plan(kept.clone(), &limits, now, disk(used, 0)).gone;
            kept.retain(|e| !gone.contains(&e.what));
            most = most.max(kept.len());
        }
        assert_eq!((most, kept.len()), (150, 150));
    }
}
