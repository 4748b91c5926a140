//! Who looks at one stream's pictures, when their next one is due, and whether it must be decoded for them (pure: times
//! in, answers out). It makes no picture.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Decoding goes on so long after somebody was given a picture, for who asks again and again. Whoever comes less often is
/// served sooner by decoding a little than later by decoding everything in between.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// Everybody who looks at one kind of a stream's pictures.
#[derive(Debug)]
pub(super) struct Wanted {
    /// How often each wants one, by its number.
    periods: BTreeMap<u64, Duration>,
    newcomers: u64,
    due: Instant,
    /// Until then one more may be asked for any moment.
    lease: Instant,
}

impl Wanted {
    pub(super) fn new(now: Instant) -> Self {
        Self { periods: BTreeMap::new(), newcomers: 0, due: now, lease: now }
    }

    /// Somebody comes, and wants the first picture now; their number.
    pub(super) fn join(&mut self, now: Instant, period: Duration) -> u64 {
        self.newcomers += 1;
        self.periods.insert(self.newcomers, period);
        self.due = now;
        self.newcomers
    }

    pub(super) fn leave(&mut self, number: u64) {
        self.periods.remove(&number);
    }

    /// Whether a picture that is there now is taken; then the next is due a period later.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let Some(period) = self.period().filter(|_| now >= self.due) else { return false };
        self.due = now + period;
        if period <= LEASE {
            self.lease = now + LEASE;
        }
        true
    }

    /// Whether the stream is to be decoded for them.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        now < self.lease || !self.periods.is_empty() && now >= self.due
    }

    /// Whether nobody looks, and nobody is about to.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.periods.is_empty() && now >= self.lease
    }

    fn period(&self) -> Option<Duration> {
        self.periods.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_leaves_a_lease_and_then_nothing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut wanted = Wanted::new(start);
        assert!(!wanted.is_wanted(start) && wanted.is_over(start) && !wanted.take(start));
        let one = wanted.join(at(0), Duration::ZERO);
        // Without a picture, a publisher that is away say, the wish stays.
        assert!(wanted.is_wanted(at(0)) && wanted.is_wanted(at(60_000)));
        assert!(wanted.take(at(100)));
        wanted.leave(one);
        assert!(wanted.is_wanted(at(5_099)) && !wanted.is_over(at(5_099)));
        assert!(!wanted.is_wanted(at(5_100)) && wanted.is_over(at(5_100)));
        // One that left without a picture leaves nothing behind.
        let one = wanted.join(at(9_000), Duration::ZERO);
        wanted.leave(one);
        assert!(!wanted.is_wanted(at(9_000)));
    }

    #[test]
    fn many_a_second_keep_it_and_one_a_minute_does_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut often = Wanted::new(start);
        often.join(start, Duration::from_millis(200));
        let taken = (0..100).filter(|n| often.take(at(n * 40)));
        assert_eq!(taken.count(), 20);
        assert!((0..100).all(|n| often.is_wanted(at(4_000 + n * 40))));

        let mut seldom = Wanted::new(start);
        seldom.join(start, Duration::from_secs(60));
        assert!(seldom.take(at(0)) && !seldom.is_wanted(at(1)) && !seldom.is_wanted(at(59_999)));
        assert!(seldom.is_wanted(at(60_000)) && !seldom.is_over(at(1)));
        // Both together: as often as the hastier wants.
        let one = seldom.join(at(70_000), Duration::from_secs(1));
        assert!(seldom.take(at(70_000)) && !seldom.take(at(70_999)) && seldom.take(at(71_000)));
        seldom.leave(one);
        assert!(seldom.take(at(72_000)) && !seldom.take(at(131_999)) && seldom.take(at(132_000)));
    }
}
