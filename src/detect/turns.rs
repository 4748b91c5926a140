//! Whose turn it is: decides, from the time alone, which frames are due and which stream is served next (pure).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::pace::paced;
use crate::media::StreamId;

/// Every stream's rate and place in the round.
#[derive(Debug)]
pub(super) struct Turns {
    /// What is given of every rate now.
    share: f64,
    streams: BTreeMap<StreamId, Turn>,
    round: u64,
}

#[derive(Debug)]
struct Turn {
    /// As asked for; `None` while detection is off.
    rate_hz: Option<f64>,
    /// Time between two detections at what is given of the rate now.
    period: Option<Duration>,
    due: Option<Instant>,
    /// The round in which the stream was last served; the smallest goes first.
    served: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { share: 1.0, streams: BTreeMap::new(), round: 0 }
    }
}

impl Turns {
    /// Adds a stream or changes its rate. A rate of zero or below, or none, means detection is off.
    pub(super) fn set_rate(&mut self, id: &StreamId, rate_hz: Option<f64>) {
        let rate_hz = rate_hz.filter(|r| *r > 0.0);
        let (round, period) = (self.round, period(rate_hz, self.share));
        let fresh = || Turn { rate_hz: None, period: None, due: None, served: round };
        let turn = self.streams.entry(id.clone()).or_insert_with(fresh);
        (turn.rate_hz, turn.period, turn.due) = (rate_hz, period, None);
    }

    /// Gives this share of every rate from now on.
    pub(super) fn set_share(&mut self, share: f64) {
        self.share = share;
        for turn in self.streams.values_mut() {
            (turn.period, turn.due) = (period(turn.rate_hz, share), None);
        }
    }

    pub(super) fn remove(&mut self, id: &StreamId) {
        self.streams.remove(id);
    }

    /// Whether frames of `id` are detected at all.
    pub(super) fn is_on(&self, id: &StreamId) -> bool {
        self.streams.get(id).is_some_and(|turn| turn.period.is_some())
    }

    /// Whether a frame of `id` that came at `now` should be detected. An eighth of a period early counts as on time:
    /// frames come on their own grid, and waiting for the next would cost a whole frame of latency.
    pub(super) fn is_due(&self, id: &StreamId, now: Instant) -> bool {
        let Some(Turn { period: Some(period), due, .. }) = self.streams.get(id) else {
            return false;
        };
        due.is_none_or(|due| now + *period / 8 >= due)
    }

    /// Records that `id` is served at `now`. The next time is counted from when this one was due, so that the rate holds on
    /// average, but never so that more than one missed turn is made up for.
    pub(super) fn serve(&mut self, id: &StreamId, now: Instant) {
        self.round += 1;
        let Some(turn) = self.streams.get_mut(id) else { return };
        turn.served = self.round;
        if let Some(period) = turn.period {
            let next = turn.due.map_or(now, |due| due) + period;
            turn.due = Some(next.max(now));
        }
    }

    /// Of those that wait, the stream served longest ago.
    pub(super) fn next<'a>(
        &self,
        waiting: impl Iterator<Item = &'a StreamId>,
    ) -> Option<&'a StreamId> {
        waiting.min_by_key(|id| self.streams.get(*id).map_or(0, |t| t.served))
    }

    /// The round in which `id` was last served.
    pub(super) fn served(&self, id: &StreamId) -> u64 {
        self.streams.get(id).map_or(0, |t| t.served)
    }

    /// Counts a turn that went to something other than a stream, and returns its round.
    pub(super) fn serve_other(&mut self) -> u64 {
        self.round += 1;
        self.round
    }
}

fn period(rate_hz: Option<f64>, share: f64) -> Option<Duration> {
    rate_hz.map(|rate_hz| Duration::from_secs_f64(1.0 / paced(rate_hz, share)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> StreamId {
        StreamId::new(name).unwrap()
    }

    /// Frames at `fps` with a detector that is always free: how many of `seconds` worth are taken.
    fn taken(fps: f64, rate: f64, seconds: f64) -> usize {
        let mut turns = Turns::default();
        let a = id("a");
        turns.set_rate(&a, Some(rate));
        let start = Instant::now();
        (0..(fps * seconds) as u32)
            .filter(|n| {
                let now = start + Duration::from_secs_f64(f64::from(*n) / fps);
                let due = turns.is_due(&a, now);
                if due {
                    turns.serve(&a, now);
                }
                due
            })
            .count()
    }

    #[test]
    fn the_rate_holds_on_average_at_any_frame_rate() {
        for fps in [15.0, 24.0, 25.0, 30.0, 60.0] {
            let n = taken(fps, 10.0, 60.0);
            assert!((595..=605).contains(&n), "{fps} fps: {n} in 60 s");
        }
        // A stream slower than the rate is detected whole.
        assert_eq!(taken(5.0, 10.0, 60.0), 300);
    }

    #[test]
    fn a_share_is_of_every_rate_and_of_those_that_come_later() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let period = |turns: &Turns, n| turns.streams[&id(n)].period.map(|p| p.as_millis());
        turns.set_rate(&id("a"), Some(10.0));
        turns.set_rate(&id("off"), None);
        turns.serve(&id("a"), now);
        turns.set_share(0.5);
        assert!(turns.is_due(&id("a"), now), "a change counts at once");
        turns.set_rate(&id("b"), Some(1.5));
        assert_eq!((period(&turns, "a"), period(&turns, "b")), (Some(200), Some(1000)));
        assert!(!turns.is_on(&id("off")));
        turns.set_share(1.0);
        assert_eq!((period(&turns, "a"), period(&turns, "b")), (Some(100), Some(666)));
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut turns = Turns::default();
        let a = id("a");
        turns.set_rate(&a, Some(10.0));
        let start = Instant::now();
        turns.serve(&a, start);
        let later = start + Duration::from_secs(10);
        let mut n = 0;
        for ms in 0..100 {
            let now = later + Duration::from_millis(ms);
            if turns.is_due(&a, now) {
                turns.serve(&a, now);
                n += 1;
            }
        }
        assert!(n <= 3, "{n} in 100 ms");
    }

    #[test]
    fn a_slow_detector_is_shared_in_turn() {
        let mut turns = Turns::default();
        let names = [id("a"), id("b"), id("c")];
        names.iter().for_each(|n| turns.set_rate(n, Some(10.0)));
        let now = Instant::now();
        let order: Vec<String> = (0..6)
            .map(|_| {
                let next = turns.next(names.iter()).unwrap().clone();
                turns.serve(&next, now);
                next.to_string()
            })
            .collect();
        assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn a_stream_switched_off_is_never_due() {
        let mut turns = Turns::default();
        turns.set_rate(&id("a"), None);
        turns.set_rate(&id("b"), Some(1.0));
        assert!(!turns.is_on(&id("a")) && turns.is_on(&id("b")) && !turns.is_on(&id("unknown")));
        assert!(!turns.is_due(&id("a"), Instant::now()));
        assert!(!turns.is_due(&id("unknown"), Instant::now()));
    }
}
