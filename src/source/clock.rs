//! When a picture was taken (pure): a driver's timestamp, if it can be believed, else the time it came to us.

use std::time::{Duration, Instant, SystemTime};

use crate::media::Arrival;

/// A picture older than this is not believed: the driver counts by another clock, or from another moment.
const MAX_AGE: Duration = Duration::from_secs(2);

/// Both clocks at one moment: the kernel's monotonic one, by which drivers count, and ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) monotonic: Duration,
    pub(crate) arrival: Arrival,
}

/// One camera's past.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: Option<Instant>,
    /// Numbers that the driver gave.
    sequence: Option<u32>,
}

impl Clock {
    /// When it was taken. Never before the one before it: later stages count on that.
    pub(crate) fn taken(&mut self, driver: Option<Duration>, now: Now) -> Arrival {
        let age = driver
            .and_then(|at| now.monotonic.checked_sub(at))
            .filter(|age| *age <= MAX_AGE)
            .unwrap_or_default();
        let mono = now.arrival.mono.checked_sub(age).unwrap_or(now.arrival.mono);
        let least = self.last.map(|last| last + Duration::from_millis(1));
        let mono = least.map_or(mono, |least| mono.max(least));
        self.last = Some(mono);
        let wall = now.arrival.wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        Arrival { mono, wall }
    }

    /// How many pictures were lost before this one, by the driver's own count.
    pub(crate) fn lost(&mut self, sequence: u32) -> u32 {
        let lost = self.sequence.map_or(0, |last| sequence.wrapping_sub(last).wrapping_sub(1));
        self.sequence = Some(sequence);
        // Begun anew, or counted by fields, or not at all.
        if lost > 10_000 { 0 } else { lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_believed_while_it_makes_sense() {
        let begin = Arrival::now();
        let at = |ms: u64| Now {
            monotonic: Duration::from_secs(5000) + Duration::from_millis(ms),
            arrival: Arrival {
                mono: begin.mono + Duration::from_millis(ms),
                wall: begin.wall + Duration::from_millis(ms),
            },
        };
        let mut clock = Clock::default();
        let mut taken = |driver: Option<u64>, came: u64| {
            let driver = driver.map(Duration::from_millis);
            let taken = clock.taken(driver, at(came));
            assert!(taken.wall <= at(came).arrival.wall);
            taken.mono.duration_since(begin.mono).as_millis()
        };
        assert_eq!(taken(Some(5_000_900), 1000), 900);
        assert_eq!(taken(Some(5_000_933), 1040), 933);
        // From the future, from another clock, not told.
        assert_eq!(taken(Some(5_009_000), 1070), 1070);
        assert_eq!(taken(Some(1_795_439_400_000), 1100), 1100);
        assert_eq!(taken(Some(0), 1133), 1133);
        assert_eq!(taken(None, 1166), 1166);
        // And never back.
        assert_eq!(taken(Some(5_001_000), 1200), 1167);
    }

    #[test]
    fn lost_pictures_are_counted_and_nonsense_is_not() {
        let mut clock = Clock::default();
        let lost: Vec<_> = [7, 8, 11, 12, 0, 1, 1].map(|n| clock.lost(n)).into();
        assert_eq!(lost, [0, 0, 2, 0, 0, 0, 0]);
        clock.lost(u32::MAX);
        assert_eq!(clock.lost(0), 0);
        assert_eq!(clock.lost(3), 2);
    }
}
