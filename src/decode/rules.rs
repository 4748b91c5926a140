//! When a decoder is given up, and which pictures are news (pure: counts and times in, answers out).

use std::time::{Duration, Instant};

use crate::media::MediaTime;

/// A decoder that gives no picture for so long a stretch of units is given up.
pub(super) const STALL: Duration = Duration::from_secs(3);
const STALL_UNITS: u32 = 5;
/// Whether a decoder answers what it is fed (pure).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Watchdog {
    pictures: u64,
    units: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Watchdog {
    /// A unit went in when so many pictures had come out.
    pub(super) fn fed(&mut self, now: Instant, pictures: u64) {
        if pictures != self.pictures {
            *self = Self { pictures, ..Self::default() };
        }
        self.units += 1;
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// `blocked`: the decoder takes no more units. A pause of the publisher is not the decoder's fault: only the
    /// time over which it was fed, or would not be, counts.
    pub(super) fn stalled(&self, now: Instant, pictures: u64, blocked: bool) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else { return false };
        let until = if blocked { now } else { last };
        pictures == self.pictures
            && self.units >= STALL_UNITS
            && until.duration_since(first) >= STALL
    }
}

/// What passes to the frames' reader: numbers them, and holds back what was already shown before a restart.
#[derive(Debug, Default)]
pub(super) struct Gate {
    seq: u64,
    last: Option<MediaTime>,
    seen: Option<(MediaTime, Instant)>,
}

impl Gate {
    /// What has been shown until now is not to be shown again.
    pub(super) fn seen(&mut self) {
        self.seen = self.last.map(|pts| (pts, Instant::now()));
    }

    /// The picture's number, or none if it was already shown.
    pub(super) fn pass(&mut self, pts: MediaTime, arrived: Instant) -> Option<u64> {
        if self.seen.is_some_and(|(until, at)| pts <= until && arrived <= at) {
            return None;
        }
        let seq = self.seq;
        self.seq += 1;
        self.last = Some(pts);
        Some(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_needs_units_and_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut w = Watchdog::default();
        assert!(!w.stalled(at(9000), 0, false));
        for n in 0..4 {
            w.fed(at(n * 1000), 0);
        }
        assert!(!w.stalled(at(9000), 0, true), "too few units");
        w.fed(at(2900), 0);
        assert!(!w.stalled(at(9000), 0, false), "the publisher paused");
        assert!(w.stalled(at(9000), 0, true));
        assert!(!w.stalled(at(9000), 1, true), "a picture came");
        w.fed(at(9000), 1);
        assert!(!w.stalled(at(9001), 1, true));
    }

    #[test]
    fn what_was_shown_before_a_restart_is_not_shown_again() {
        let ms = MediaTime::from_millis;
        let mut gate = Gate::default();
        let before = Instant::now();
        assert_eq!(gate.pass(ms(0), before), Some(0));
        assert_eq!(gate.pass(ms(40), before), Some(1));
        gate.seen();
        let later = Instant::now() + Duration::from_millis(1);
        assert_eq!(gate.pass(ms(40), before), None);
        assert_eq!(gate.pass(ms(80), before), Some(2));
        // A publisher whose time line begins anew is seen all the same.
        assert_eq!(gate.pass(ms(0), later), Some(3));
    }
}
