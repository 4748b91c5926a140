//! Which unit a picture came from: decoders give back only a time stamp, so what else is known of a unit waits here.

use std::collections::VecDeque;

use crate::media::{AccessUnit, Arrival, MediaTime};

/// Units that are inside the decoder, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    units: VecDeque<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    pts: MediaTime,
    arrived: Arrival,
}

/// A time stamp as GStreamer carries it: nanoseconds, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(pub(super) u64);

impl Stamp {
    /// Media time may be a little before the stream's first unit; GStreamer's cannot be before zero.
    const LEAD_US: i64 = 3_600_000_000;

    pub(super) fn of(time: MediaTime) -> Self {
        let us = time.as_micros().saturating_add(Self::LEAD_US).max(0).unsigned_abs();
        // Below u64::MAX, which means "none" to GStreamer.
        Self(us.min(u64::MAX / 2000) * 1000)
    }
}

impl Pending {
    /// More than any decoder reorders (16 frames) and queues; pictures that never come out must not pile up.
    const KEPT: usize = 64;

    pub(super) fn add(&mut self, unit: &AccessUnit) -> Stamp {
        let stamp = Stamp::of(unit.pts);
        if self.units.len() == Self::KEPT {
            self.units.pop_front();
        }
        self.units.push_back(Entry { stamp, pts: unit.pts, arrived: unit.arrived });
        stamp
    }

    /// The unit with that stamp; a picture without a known one is taken for the oldest unit's.
    pub(super) fn take(&mut self, stamp: Option<Stamp>) -> Option<(MediaTime, Arrival)> {
        let at = stamp.and_then(|s| self.units.iter().position(|e| e.stamp == s)).unwrap_or(0);
        self.units.remove(at).map(|e| (e.pts, e.arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::samples;

    fn unit(us: i64) -> AccessUnit {
        let pts = MediaTime::from_micros(us);
        AccessUnit { pts, ..samples::picture(0, true) }
    }

    #[test]
    fn reordered_pictures_find_their_units() {
        let mut p = Pending::default();
        let stamps: Vec<_> = [0, 120, 40, 80].map(|us| p.add(&unit(us))).into();
        for (at, us) in [(0, 0), (2, 40), (3, 80), (1, 120)] {
            assert_eq!(p.take(Some(stamps[at])).unwrap().0.as_micros(), us);
        }
        assert!(p.take(None).is_none());
    }

    #[test]
    fn it_is_bounded_and_forgives_unknown_stamps() {
        let mut p = Pending::default();
        for us in 0..1000 {
            p.add(&unit(us));
        }
        assert_eq!(p.units.len(), Pending::KEPT);
        assert_eq!(p.take(Some(Stamp(1))).unwrap().0.as_micros(), 936);
    }

    #[test]
    fn stamps_hold_at_the_edges_of_time() {
        for us in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_ne!(Stamp::of(MediaTime::from_micros(us)).0, u64::MAX);
        }
        assert!(Stamp::of(MediaTime::from_micros(-1)) < Stamp::of(MediaTime::ZERO));
    }
}
