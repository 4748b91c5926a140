//! The GOP ring: one writer pushes and never waits, many cursors read, each at its own pace. A stream's units wait in
//! one for decoder, viewers and recorder; a watched stream's fragments in another for their viewers.
//! What is old, or no longer fits a byte budget, goes a whole GOP at a time, and a cursor that lost units is told how many.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::unit::{AudioParams, Unit};
use crate::health::Counter;

/// The ring reaches back at least so far where the budget allows. A reader further behind jumps to the newest key frame
/// anyway, and on a small board memory for the past is memory taken from detection.
const KEPT: Duration = Duration::from_secs(5);
/// Sound between two pictures waits so long for the next picture, so that one wake-up of each reader carries both.
const PACE: Duration = Duration::from_millis(40);

/// What a ring can hold: cheap to clone, in decoding order.
pub trait Item: Clone {
    /// Payload bytes, for the budget.
    fn size(&self) -> usize;
    /// Whether a reader can begin here.
    fn starts_gop(&self) -> bool;
    /// When it reached this machine.
    fn arrived(&self) -> Instant;
    /// Whether a paced reader can wait for the next picture before it takes this.
    fn is_sound(&self) -> bool {
        false
    }
}

impl Item for Unit {
    fn size(&self) -> usize {
        self.len()
    }

    fn starts_gop(&self) -> bool {
        self.is_key()
    }

    fn arrived(&self) -> Instant {
        match self {
            Self::Video(u) => u.arrived.mono,
            Self::Audio(u) => u.arrived.mono,
        }
    }

    fn is_sound(&self) -> bool {
        matches!(self, Self::Audio(_))
    }
}

#[derive(Debug)]
pub struct Ring<T = Unit> {
    inner: Mutex<Inner<T>>,
    grown: Notify,
    /// As `grown`, but once a picture: for the many readers that send on and each pay for being woken.
    paced: Notify,
    budget_bytes: usize,
    /// Units that left the ring before their time: a GOP over the budget, or older GOPs.
    pub pruned: Counter,
}

#[derive(Debug)]
struct Inner<T> {
    units: VecDeque<T>,
    /// Sequence number of `units[0]`.
    first: u64,
    bytes: usize,
    /// Set while a GOP that outgrew the budget is still arriving: its rest is of no use to anyone.
    until_key: bool,
    /// When `paced` was last notified.
    paced_at: Option<Instant>,
    closed: bool,
}

/// What a cursor finds.
#[derive(Debug)]
pub enum Read<T = Unit> {
    Unit(T),
    /// The cursor was overtaken and now stands at the newest key frame.
    Lagged {
        skipped: u64,
    },
}

/// What [`Cursor::gather`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gathered {
    /// Units were handed over.
    Units,
    /// As [`Read::Lagged`].
    Lagged { skipped: u64 },
    /// The ring is closed and read to its end.
    Ended,
}

impl<T: Item> Ring<T> {
    pub fn new(budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                units: VecDeque::new(),
                first: 0,
                bytes: 0,
                until_key: false,
                closed: false,
                paced_at: None,
            }),
            grown: Notify::new(),
            paced: Notify::new(),
            budget_bytes,
            pruned: Counter::default(),
        })
    }

    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Adds the newest unit; makes room by dropping the oldest GOPs. Never waits.
    pub fn push(&self, unit: T) {
        let paced = {
            let mut inner = self.inner.lock();
            if unit.starts_gop() {
                inner.until_key = false;
            } else if inner.until_key {
                self.pruned.inc();
                return;
            }
            inner.bytes += unit.size();
            let paced = inner.is_due(&unit);
            inner.units.push_back(unit);
            while inner.bytes > self.budget_bytes {
                self.pruned.add(inner.drop_oldest_gop());
            }
            while inner.second_gop_is_older_than(KEPT) {
                inner.drop_oldest_gop();
            }
            paced
        };
        self.grown.notify_waiters();
        if paced {
            self.paced.notify_waiters();
        }
    }

    /// No more units will come; cursors end after what they have not read.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.grown.notify_waiters();
        self.paced.notify_waiters();
    }

    /// A cursor at the newest key frame, so that a reader can start at once.
    pub fn cursor(self: &Arc<Self>) -> Cursor<T> {
        let next = self.inner.lock().newest_key();
        Cursor { ring: Arc::clone(self), next }
    }

    /// A cursor at the oldest unit, for a reader that wants what there is of the past.
    pub fn cursor_at_oldest(self: &Arc<Self>) -> Cursor<T> {
        let next = self.inner.lock().first;
        Cursor { ring: Arc::clone(self), next }
    }

    /// All that is here now, oldest first.
    pub fn snapshot(&self) -> Vec<T> {
        self.inner.lock().units.iter().cloned().collect()
    }
}

impl Ring<Unit> {
    /// Whether pictures come in another order than they are shown in.
    pub fn has_b_frames(&self) -> bool {
        let mut last = None;
        self.inner.lock().units.iter().any(|unit| {
            let Unit::Video(unit) = unit else { return false };
            last.replace(unit.pts).is_some_and(|last| unit.pts < last)
        })
    }

    /// What the sound kept here is; `None` without sound.
    pub fn newest_audio(&self) -> Option<Arc<AudioParams>> {
        self.inner.lock().units.iter().rev().find_map(|unit| match unit {
            Unit::Audio(audio) => Some(Arc::clone(&audio.params)),
            Unit::Video(_) => None,
        })
    }
}

impl<T: Item> Inner<T> {
    fn end(&self) -> u64 {
        self.first + self.units.len() as u64
    }

    /// Whether paced readers are to be woken for `unit`.
    fn is_due(&mut self, unit: &T) -> bool {
        let now = unit.arrived();
        let waited = |at: Instant| now.saturating_duration_since(at) >= PACE;
        let due = !unit.is_sound() || self.paced_at.is_none_or(waited);
        if due {
            self.paced_at = Some(now);
        }
        due
    }

    /// Where the newest GOP begins, or the end when there is none.
    fn newest_key(&self) -> u64 {
        let key = self.units.iter().rposition(T::starts_gop);
        key.map_or(self.end(), |at| self.first + at as u64)
    }

    /// Whether what would stay without the oldest GOP still reaches back so far.
    fn second_gop_is_older_than(&self, age: Duration) -> bool {
        let newest = self.units.back().map(T::arrived);
        let second = self.second_key().and_then(|at| self.units.get(at)).map(T::arrived);
        newest.zip(second).is_some_and(|(new, old)| new.saturating_duration_since(old) >= age)
    }

    /// Index of the second GOP's key frame.
    fn second_key(&self) -> Option<usize> {
        self.units.iter().skip(1).position(T::starts_gop).map(|at| at + 1)
    }

    /// Drops units up to the second key frame; with none, everything, and the rest of that GOP as it comes.
    fn drop_oldest_gop(&mut self) -> u64 {
        let second = self.second_key();
        if second.is_none() {
            self.until_key = true;
        }
        let n = second.unwrap_or(self.units.len());
        for unit in self.units.drain(..n) {
            self.bytes -= unit.size();
        }
        self.first += n as u64;
        n as u64
    }
}

/// A reader's place in a [`Ring`].
#[derive(Debug)]
pub struct Cursor<T = Unit> {
    ring: Arc<Ring<T>>,
    next: u64,
}

impl<T: Item> Cursor<T> {
    /// The next unit in order; `None` when the ring is closed and read to its end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Read<T>> {
        let ring = Arc::clone(&self.ring);
        loop {
            let grown = ring.grown.notified();
            tokio::pin!(grown);
            // Registered before the look, so that a push in between is not missed.
            grown.as_mut().enable();
            if let Some(found) = self.look() {
                return found;
            }
            grown.await;
        }
    }

    /// Whether all that is here was read.
    pub fn is_at_end(&self) -> bool {
        self.next >= self.ring.inner.lock().end()
    }

    /// Hands every waiting unit to `take`, in order, until it breaks off; waits until there is one. `take` runs under the
    /// ring's lock and must be quick. Units come at the pace of pictures: sound alone may be some milliseconds late.
    /// Cancel-safe.
    pub async fn gather(&mut self, mut take: impl FnMut(&T) -> ControlFlow<()>) -> Gathered {
        let ring = Arc::clone(&self.ring);
        loop {
            if let Some(found) = self.sweep(&mut take) {
                return found;
            }
            let paced = ring.paced.notified();
            tokio::pin!(paced);
            paced.as_mut().enable();
            if let Some(found) = self.sweep(&mut take) {
                return found;
            }
            paced.await;
        }
    }

    fn sweep(&mut self, take: &mut impl FnMut(&T) -> ControlFlow<()>) -> Option<Gathered> {
        let inner = self.ring.inner.lock();
        if self.next < inner.first {
            let to = inner.newest_key();
            let skipped = to - self.next;
            self.next = to;
            return Some(Gathered::Lagged { skipped });
        }
        let at = usize::try_from(self.next - inner.first).unwrap_or(usize::MAX);
        if at >= inner.units.len() {
            return inner.closed.then_some(Gathered::Ended);
        }
        for unit in inner.units.range(at..) {
            self.next += 1;
            if take(unit).is_break() {
                break;
            }
        }
        Some(Gathered::Units)
    }

    /// Goes to the newest key frame, as after a decoder was replaced.
    pub fn restart(&mut self) {
        self.next = self.ring.inner.lock().newest_key();
    }

    /// Goes to the newest key frame if it is still ahead; how many units that passed over.
    pub fn skip_ahead(&mut self) -> u64 {
        let newest = self.ring.inner.lock().newest_key();
        let skipped = newest.saturating_sub(self.next);
        self.next += skipped;
        skipped
    }

    /// `None`: nothing yet. `Some(None)`: nothing ever again.
    fn look(&mut self) -> Option<Option<Read<T>>> {
        let inner = self.ring.inner.lock();
        if self.next < inner.first {
            let to = inner.newest_key();
            let skipped = to - self.next;
            self.next = to;
            return Some(Some(Read::Lagged { skipped }));
        }
        let at = usize::try_from(self.next - inner.first).unwrap_or(usize::MAX);
        if let Some(unit) = inner.units.get(at) {
            self.next += 1;
            return Some(Some(Read::Unit(unit.clone())));
        }
        inner.closed.then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::samples;
    use crate::media::unit::*;
    use bytes::Bytes;

    fn unit(key: bool, len: usize, ms: i64) -> Unit {
        let data = Bytes::from(vec![0; len]);
        Unit::Video(AccessUnit { data, ..samples::picture(ms, key) })
    }

    async fn pts(c: &mut Cursor) -> Result<i64, u64> {
        match c.next().await.unwrap() {
            Read::Unit(Unit::Video(u)) => Ok(u.pts.as_millis()),
            Read::Unit(Unit::Audio(_)) => unreachable!(),
            Read::Lagged { skipped } => Err(skipped),
        }
    }

    #[tokio::test]
    async fn a_late_reader_starts_at_the_newest_key_frame() {
        let ring = Ring::new(1000);
        for (i, key) in [true, false, true, false].into_iter().enumerate() {
            ring.push(unit(key, 10, i as i64));
        }
        let mut c = ring.cursor();
        assert_eq!(pts(&mut c).await, Ok(2));
        assert_eq!(pts(&mut c).await, Ok(3));
        ring.close();
        assert!(c.next().await.is_none());
    }

    #[tokio::test]
    async fn whole_gops_leave_and_the_overtaken_reader_is_told() {
        let ring = Ring::new(100);
        ring.push(unit(true, 30, 0));
        let mut c = ring.cursor();
        ring.push(unit(false, 30, 1));
        ring.push(unit(true, 30, 2));
        ring.push(unit(false, 30, 3));
        assert_eq!(ring.pruned.get(), 2);
        assert_eq!(pts(&mut c).await, Err(2));
        assert_eq!(pts(&mut c).await, Ok(2));
    }

    #[tokio::test]
    async fn old_gops_leave_without_being_a_loss() {
        let ring = Ring::new(1000);
        let began = Instant::now();
        for s in 0..20 {
            let mut u = unit(s % 2 == 0, 1, s * 1000);
            if let Unit::Video(u) = &mut u {
                u.arrived.mono = began + Duration::from_secs(s as u64);
            }
            ring.push(u);
        }
        assert_eq!(ring.pruned.get(), 0);
        // The newest came at 19 s; the GOP of 14 s is the first that reaches back 5 s.
        assert_eq!(
            ring.inner.lock().units.front().map(Unit::arrived),
            Some(began + Duration::from_secs(14))
        );
    }

    #[tokio::test]
    async fn a_gop_over_the_budget_is_dropped_up_to_the_next_key_frame() {
        let ring = Ring::new(100);
        let mut c = ring.cursor();
        for (i, key) in [true, false, false, false, false, true].into_iter().enumerate() {
            ring.push(unit(key, 40, i as i64));
        }
        assert_eq!(ring.pruned.get(), 5);
        assert_eq!(pts(&mut c).await, Err(3));
        assert_eq!(pts(&mut c).await, Ok(5));
    }

    #[tokio::test]
    async fn a_slow_reader_skips_ahead_and_never_back() {
        let ring = Ring::new(1000);
        let mut c = ring.cursor();
        for (i, key) in [true, false, false, true, false].into_iter().enumerate() {
            ring.push(unit(key, 10, i as i64));
        }
        assert_eq!(pts(&mut c).await, Ok(0));
        assert_eq!(c.skip_ahead(), 2);
        assert_eq!(pts(&mut c).await, Ok(3));
        assert_eq!(c.skip_ahead(), 0);
        assert_eq!(pts(&mut c).await, Ok(4));
    }

    #[test]
    fn b_frames_are_pictures_out_of_order() {
        let ring = Ring::new(1000);
        [0, 33, 66].into_iter().for_each(|ms| ring.push(unit(ms == 0, 10, ms)));
        assert!(!ring.has_b_frames());
        [166, 100, 133].into_iter().for_each(|ms| ring.push(unit(false, 10, ms)));
        assert!(ring.has_b_frames());
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let ring = Ring::new(100);
        let mut c = ring.cursor();
        let reader = tokio::spawn(async move { pts(&mut c).await });
        tokio::task::yield_now().await;
        ring.push(unit(true, 1, 7));
        assert_eq!(reader.await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn a_gatherer_takes_all_that_waits_and_may_break_off() {
        let ring = Ring::new(100);
        let mut cursor = ring.cursor();
        for i in 0..5 {
            ring.push(unit(i == 0, 10, i));
        }
        let mut seen = 0;
        let three = |seen: &mut u32| {
            *seen += 1;
            if *seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(cursor.gather(|_| three(&mut seen)).await, Gathered::Units);
        assert_eq!(seen, 3);
        assert_eq!(cursor.gather(|_| three(&mut seen)).await, Gathered::Units);
        assert_eq!(seen, 5);
        for i in 5..12 {
            ring.push(unit(i == 9, 20, i));
        }
        assert!(matches!(cursor.gather(|_| three(&mut seen)).await, Gathered::Lagged { .. }));
        assert_eq!(cursor.gather(|_| three(&mut seen)).await, Gathered::Units);
        assert_eq!(seen, 8);
        ring.close();
        assert_eq!(cursor.gather(|_| three(&mut seen)).await, Gathered::Ended);
    }
}
