//! Whether the wall clock can be believed, and how far times from before it was set are off: boards have no clock that
//! runs while they are off. All but [`signs`] is pure; nothing here sets a clock.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nobody ran this program before it was written: an earlier wall clock is wrong. Seconds since 1970 of 2026-11-01.
const WRITTEN: Duration = Duration::from_secs(1_793_491_200);
/// A wall clock that departs further than this from the monotonic one was set.
const JUMP: Duration = Duration::from_secs(2);
/// Jumps that are remembered; more means a clock that nobody can mend.
const MAX_JUMPS: usize = 16;

/// Where the time comes from: the clock that never jumps and the wall's. The system's, or a simulation's, which runs faster.
#[derive(Clone)]
pub struct Source(Arc<dyn Fn() -> (Instant, SystemTime) + Send + Sync>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").finish_non_exhaustive()
    }
}

impl Source {
    pub fn system() -> Self {
        Self(Arc::new(|| (Instant::now(), SystemTime::now())))
    }

    pub fn simulated(now: impl Fn() -> (Instant, SystemTime) + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn mono(&self) -> Instant {
        (self.0)().0
    }

    /// The wall's, in microseconds since 1970.
    pub(super) fn us(&self) -> i64 {
        micros((self.0)().1)
    }
}

/// Microseconds since 1970; 0 for earlier times.
pub fn micros(wall: SystemTime) -> i64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The other way round.
pub fn wall(us: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us.max(0).unsigned_abs())
}

/// Whether a time can be real.
pub fn is_plausible(us: i64) -> bool {
    us >= i64::try_from(WRITTEN.as_micros()).unwrap_or(i64::MAX)
}

/// What the system says of its clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    /// The kernel is being disciplined (adjtimex(2)); none: it does not tell.
    pub kernel: Option<bool>,
    /// systemd-timesyncd heard from a server since the start.
    pub timesyncd: bool,
}

/// Asks the system.
pub fn signs() -> Signs {
    Signs { kernel: kernel(), timesyncd: Path::new("/run/systemd/timesync/synchronized").exists() }
}

#[allow(unsafe_code)]
fn kernel() -> Option<bool> {
    // SAFETY: timex is a struct of integers, for which all zeros is a value; with modes = 0 the call only fills it in.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// Whether a wall clock that shows `us` was set by somebody who knows.
pub fn is_synced(us: i64, signs: Signs) -> bool {
    is_plausible(us) && (signs.timesyncd || signs.kernel == Some(true))
}

/// The wall clock was set: what it showed before, by microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    pub before_us: i64,
    pub by_us: i64,
}

/// Watches the wall clock against the one that never jumps.
#[derive(Debug, Clone)]
pub struct Clock {
    last: (Instant, i64),
    synced: bool,
    /// Those of times that could not be believed.
    jumps: Vec<Jump>,
}

impl Clock {
    pub fn new(mono: Instant, us: i64, signs: Signs) -> Self {
        Self { last: (mono, us), synced: is_synced(us, signs), jumps: Vec::new() }
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether times of this run may be others than they were told.
    pub fn is_doubtful(&self) -> bool {
        !self.synced || !self.jumps.is_empty()
    }

    /// To be called about once a second. A jump is answered when what was written before it is to be mended by it; one by
    /// nothing when the clock turns out to have been right.
    pub fn look(&mut self, mono: Instant, us: i64, signs: Signs) -> Option<Jump> {
        let (then, was) = std::mem::replace(&mut self.last, (mono, us));
        let passed = mono.saturating_duration_since(then).as_micros();
        let expected = was.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        let jump = Jump { before_us: expected, by_us: us.saturating_sub(expected) };
        let was_synced = std::mem::replace(&mut self.synced, is_synced(us, signs));
        let far = u128::from(jump.by_us.unsigned_abs()) > JUMP.as_micros();
        if was_synced || !far && !self.synced {
            return None;
        }
        if !far {
            return Some(Jump { by_us: 0, ..jump });
        }
        if self.jumps.len() < MAX_JUMPS {
            self.jumps.push(jump);
        }
        Some(jump)
    }

    /// A time of this run as the clock of now would have shown it.
    pub fn mend(&self, us: i64) -> i64 {
        self.jumps.iter().fold(us, |us, jump| {
            // After a jump back only times still to come are known to be older than it.
            let old = if jump.by_us > 0 { us <= jump.before_us } else { us > self.last.1 };
            if old { us.saturating_add(jump.by_us) } else { us }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_439_400_000_000;
    const GOOD: Signs = Signs { kernel: Some(true), timesyncd: false };

    #[test]
    fn a_clock_is_believed_when_it_can_be_right_and_somebody_set_it() {
        assert!(is_synced(NOW, GOOD));
        assert!(is_synced(NOW, Signs { kernel: None, timesyncd: true }));
        assert!(!is_synced(NOW, Signs { kernel: Some(false), timesyncd: false }));
        assert!(!is_synced(60_000_000, GOOD), "1970 is wrong whatever the kernel says");
        signs();
    }

    #[test]
    fn times_before_the_first_sync_are_mended_by_the_jump() {
        let t0 = Instant::now();
        let mut clock = Clock::new(t0, 5_000_000, Signs::default());
        let s = |n| t0 + Duration::from_secs(n);
        assert_eq!(clock.look(s(1), 6_000_000, Signs::default()), None);
        assert!(!clock.is_synced());
        let jump = clock.look(s(2), NOW, GOOD).unwrap();
        assert_eq!(jump, Jump { before_us: 7_000_000, by_us: NOW - 7_000_000 });
        assert!(clock.is_synced());
        assert_eq!(clock.mend(6_500_000), NOW - 500_000);
        assert_eq!(clock.mend(NOW + 1), NOW + 1);
        // A clock that was right and is set by hand changes nothing of the past.
        assert_eq!(clock.look(s(3), NOW + 3_600_000_000, GOOD), None);
    }

    #[test]
    fn a_clock_that_was_right_all_along_is_said_to_be() {
        let t0 = Instant::now();
        let mut clock = Clock::new(t0, NOW, Signs::default());
        let told = clock.look(t0 + Duration::from_secs(1), NOW + 1_000_000, GOOD);
        assert_eq!(told.map(|jump| jump.by_us), Some(0));
        assert_eq!(clock.mend(NOW), NOW);
    }

    #[test]
    fn slow_drift_is_no_jump_and_a_jump_back_mends_the_future() {
        let t0 = Instant::now();
        let mut clock = Clock::new(t0, NOW, Signs::default());
        let s = |n| t0 + Duration::from_secs(n);
        assert_eq!(clock.look(s(1), NOW + 1_900_000, Signs::default()), None);
        let right = clock.look(s(2), NOW + 2_900_000, Signs::default());
        assert_eq!(right, None);
        let back = clock.look(s(2), NOW - 3_600_000_000, GOOD).unwrap();
        assert_eq!(clock.mend(NOW), NOW + back.by_us);
        assert_eq!(clock.mend(NOW - 3_700_000_000), NOW - 3_700_000_000);
    }
}
