//! How often the detector looks while board or detector have too much to do: three quarters of what was asked for, then
//! half, then half with a smaller model, and back after long without strain. Pure: signs and time in, a step out.
//!
//! The same ladder advises who publishes (`media/advice.rs`). Here it follows the board and the detector, not the link.

use std::fmt;
use std::mem::discriminant;
use std::time::{Duration, Instant};

use crate::adapt::{BoardSigns, Ladder, Lasting, Sight, Strain, Times};
use crate::config::Adapt;

/// Of every rate, the lowest rung first.
const SHARES: [f64; 3] = [0.5, 0.75, 1.0];
/// No rate is made lower than this; one that is lower already stays as it is.
const FLOOR_HZ: f64 = 1.0;
/// A detector that works for so much of the time has no time left.
const BUSY: f64 = 0.95;
/// Frames give way to newer ones at least so often when the detector is behind.
const DISPLACED_WITHIN: Duration = Duration::from_secs(5);

/// What is known at a look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    pub board: BoardSigns,
    /// Of the detector thread's time since the last look, 0 to 1.
    pub busy: Option<f64>,
    /// Frames that were due and gave way to newer ones, since the start.
    pub displaced: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Of every stream's rate, 0 to 1.
    pub share: f64,
    pub model: ModelSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSize {
    AsConfigured,
    Smaller,
}

/// Why it looks less often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    Board(Strain),
    /// The detector takes longer than there is.
    Behind,
}

impl Why {
    /// The same, but for how much.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Board(a), Self::Board(b)) => discriminant(&a) == discriminant(&b),
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Board(strain) => strain.fmt(f),
            Self::Behind => f.write_str("the detector does not keep up"),
        }
    }
}

/// The rate that is left of `rate_hz`.
pub fn paced(rate_hz: f64, share: f64) -> f64 {
    (rate_hz * share).max(rate_hz.min(FLOOR_HZ))
}

/// Judges for all streams together: they share one detector and one board.
#[derive(Debug)]
pub struct Judge {
    ladder: Ladder<Why>,
    /// The lowest rung is the smaller model's.
    smaller: bool,
    times: Times,
    strained: Lasting,
    behind: Lasting,
    displaced: u64,
    displaced_at: Option<Instant>,
}

impl Judge {
    /// Begins with all that was asked for. None for [`Adapt::Off`].
    pub fn new(adapt: Adapt, times: Times) -> Option<Self> {
        let smaller = match adapt {
            Adapt::Off => return None,
            Adapt::Rate => false,
            Adapt::Model => true,
        };
        let top = SHARES.len() - 1 + usize::from(smaller);
        Some(Self {
            ladder: Ladder::new(top, times),
            smaller,
            times,
            strained: Lasting::default(),
            behind: Lasting::default(),
            displaced: 0,
            displaced_at: None,
        })
    }

    pub fn step(&self) -> Step {
        self.at(self.ladder.rung())
    }

    /// None while it does all that was asked for.
    pub fn why(&self) -> Option<Why> {
        self.ladder.why()
    }

    /// Takes note of how things stand; whether that changed the step.
    pub fn look(&mut self, signs: &Signs, now: Instant) -> bool {
        let strain = signs.board.strain(self.strained.is_so());
        let strain = self.strained.look(now, strain, self.times.strained).map(Why::Board);
        let behind = self.is_behind(signs, now).then_some(Why::Behind);
        let behind = self.behind.look(now, behind, self.times.strained);
        let sight = match strain.or(behind) {
            Some(why) => Sight::Trouble(why),
            None if self.strained.is_so() || self.behind.is_so() => Sight::Doubt,
            None if !self.has_room(signs) => Sight::Doubt,
            None => Sight::Clear,
        };
        let changed = self.ladder.look(sight, now);
        if let (Sight::Trouble(now), Some(before)) = (sight, self.ladder.why())
            && !now.is_like(before)
        {
            self.ladder.renew(now);
        }
        changed
    }

    fn is_behind(&mut self, signs: &Signs, now: Instant) -> bool {
        if signs.displaced > std::mem::replace(&mut self.displaced, signs.displaced) {
            self.displaced_at = Some(now);
        }
        let lately = |at: Instant| now.saturating_duration_since(at) < DISPLACED_WITHIN;
        self.displaced_at.is_some_and(lately) && signs.busy.is_some_and(|busy| busy >= BUSY)
    }

    /// Whether the detector has time for the next step up, as far as that can be told: another model takes another time.
    fn has_room(&self, signs: &Signs) -> bool {
        if self.ladder.is_at_top() {
            return true;
        }
        let (now, next) = (self.step(), self.at(self.ladder.rung() + 1));
        now.model != next.model
            || signs.busy.is_none_or(|busy| busy * next.share / now.share < BUSY)
    }

    fn at(&self, rung: usize) -> Step {
        match rung.checked_sub(usize::from(self.smaller)) {
            Some(rung) => Step { share: SHARES[rung], model: ModelSize::AsConfigured },
            None => Step { share: SHARES[0], model: ModelSize::Smaller },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A box that is looked at each second.
    struct Play {
        judge: Judge,
        now: Instant,
        signs: Signs,
        changes: usize,
    }

    impl Play {
        fn new(adapt: Adapt) -> Self {
            let judge = Judge::new(adapt, Times::USUAL).unwrap();
            Self { judge, now: Instant::now(), signs: Signs::default(), changes: 0 }
        }

        fn seconds(&mut self, n: u64, mut each: impl FnMut(f64, &mut Signs)) -> &mut Self {
            for _ in 0..n {
                each(self.judge.step().share, &mut self.signs);
                self.now += Duration::from_secs(1);
                self.changes += usize::from(self.judge.look(&self.signs, self.now));
            }
            self
        }

        #[track_caller]
        fn is(&mut self, share: f64, model: ModelSize, why: &str) -> &mut Self {
            assert_eq!(self.judge.step(), Step { share, model }, "{:?}", self.judge.why());
            let told = self.judge.why().map_or_else(String::new, |w| w.to_string());
            assert!(told.contains(why) && told.is_empty() == why.is_empty(), "{told}");
            self
        }
    }

    use ModelSize::{AsConfigured, Smaller};

    fn at(c: f64) -> impl FnMut(f64, &mut Signs) {
        move |_, s| s.board.temperature_c = Some(c)
    }

    /// A detector that could do `most` of the rate asked for.
    fn able(most: f64) -> impl FnMut(f64, &mut Signs) {
        move |share, s| {
            s.busy = Some((share / most).min(1.0));
            s.displaced += u64::from(share > most) * 14;
        }
    }

    #[test]
    fn nothing_is_judged_when_it_is_off() {
        assert!(Judge::new(Adapt::Off, Times::USUAL).is_none());
    }

    #[test]
    fn heat_slows_step_by_step_and_cold_brings_all_back() {
        let mut play = Play::new(Adapt::Rate);
        play.seconds(600, at(74.0)).is(1.0, AsConfigured, "");
        play.seconds(10, at(81.0)).is(1.0, AsConfigured, "");
        play.seconds(5, at(81.0)).is(0.75, AsConfigured, "hot, 81 °C");
        play.seconds(20, at(81.0)).is(0.5, AsConfigured, "81 °C");
        // The floor, for however long.
        play.seconds(3600, at(90.0)).is(0.5, AsConfigured, "81 °C");
        // Between the limits it is still hot.
        play.seconds(600, at(77.0)).is(0.5, AsConfigured, "81 °C");
        play.seconds(60, at(70.0)).is(0.5, AsConfigured, "81 °C");
        play.seconds(5, at(70.0)).is(0.75, AsConfigured, "81 °C");
        play.seconds(65, at(70.0)).is(1.0, AsConfigured, "");
        assert_eq!(play.changes, 4);
    }

    #[test]
    fn the_smaller_model_is_the_last_way_out_and_the_first_to_go() {
        let mut play = Play::new(Adapt::Model);
        play.seconds(35, |_, s| s.board.throttled = true).is(0.5, AsConfigured, "slowed down");
        play.seconds(20, |_, _| {}).is(0.5, Smaller, "slowed down");
        play.seconds(65, |_, s| s.board.throttled = false).is(0.5, AsConfigured, "slowed down");
        play.seconds(125, |_, _| {}).is(1.0, AsConfigured, "");
    }

    #[test]
    fn a_detector_that_does_not_keep_up_gets_what_it_can_do_and_stays_there() {
        let mut play = Play::new(Adapt::Rate);
        play.seconds(7200, able(0.8)).is(0.75, AsConfigured, "keep up");
        assert_eq!(play.changes, 1, "it was not tried again while there was no room");
        // Hot as well by now, and then no longer: the reason is what holds it down.
        play.seconds(40, |share, s| {
            able(0.8)(share, s);
            s.board.temperature_c = Some(82.0);
        });
        play.is(0.5, AsConfigured, "hot, 82 °C");
        play.seconds(20, |_, s| {
            (s.board.temperature_c, s.busy, s.displaced) = (None, Some(1.0), s.displaced + 9)
        });
        play.is(0.5, AsConfigured, "keep up");
        // Faster now: a smaller model was configured, or the board is cool.
        play.seconds(130, able(1.2)).is(1.0, AsConfigured, "");
        // One that can do nearly nothing ends at the floor.
        let mut play = Play::new(Adapt::Rate);
        play.seconds(7200, able(0.1)).is(0.5, AsConfigured, "keep up");
        assert_eq!(play.changes, 2);
    }

    #[test]
    fn work_without_frames_that_give_way_is_no_sign() {
        let mut play = Play::new(Adapt::Rate);
        play.seconds(600, |_, s| s.busy = Some(1.0)).is(1.0, AsConfigured, "");
        play.seconds(600, |_, s| (s.busy, s.displaced) = (Some(0.5), s.displaced + 1));
        play.is(1.0, AsConfigured, "");
    }

    #[test]
    fn a_board_that_gets_hot_at_the_full_rate_is_not_tried_again_and_again() {
        let mut play = Play::new(Adapt::Rate);
        // More than three quarters heats it within half a minute.
        let mut c: f64 = 70.0;
        play.seconds(4 * 3600, |share, s| {
            c = (c + if share > 0.75 { 0.5 } else { -0.5 }).clamp(65.0, 85.0);
            s.board.temperature_c = Some(c);
        });
        assert!(play.changes <= 48, "{} changes in four hours", play.changes);
    }

    #[test]
    fn no_rate_goes_below_one_a_second_and_none_is_raised() {
        assert_eq!(paced(10.0, 0.75), 7.5);
        assert_eq!(paced(1.5, 0.5), 1.0);
        assert_eq!(paced(0.2, 0.5), 0.2);
    }

    #[derive(Debug, Clone, Copy)]
    struct Second {
        temperature_c: f64,
        load: f64,
        busy: f64,
        displaced: u64,
        throttled: bool,
        lasts: u64,
    }

    fn seconds() -> impl Strategy<Value = Vec<Second>> {
        let one = (40.0..100.0, 0.0..1.0, 0.0..1.0, 0..3u64, 0..8u8, 1..90u64);
        let one = one.prop_map(|(temperature_c, load, busy, displaced, throttled, lasts)| Second {
            temperature_c,
            load,
            busy,
            displaced,
            throttled: throttled == 0,
            lasts,
        });
        proptest::collection::vec(one, 1..60)
    }

    proptest! {
        #[test]
        fn whatever_comes_the_rate_is_within_its_bounds_and_changes_seldom(
            signs in seconds(), rate in 0.01..120.0f64, model in 0..2u8,
        ) {
            let mut play = Play::new(if model == 0 { Adapt::Rate } else { Adapt::Model });
            let (mut before, mut changed) = (play.judge.step(), None::<Instant>);
            for second in signs {
                for _ in 0..second.lasts {
                    play.seconds(1, |_, s| {
                        s.board = BoardSigns {
                            busy: Some(second.load),
                            temperature_c: Some(second.temperature_c),
                            throttled: second.throttled,
                        };
                        s.busy = Some(second.busy);
                        s.displaced += second.displaced;
                    });
                    let step = play.judge.step();
                    let left = paced(rate, step.share);
                    prop_assert!(left <= rate && left >= rate.min(1.0) && left >= rate * 0.5);
                    prop_assert_eq!(play.judge.why().is_none(), step.share == 1.0);
                    if step == before {
                        continue;
                    }
                    let rung = |s: Step| (s.model == AsConfigured, s.share);
                    let hold = if rung(step) > rung(before) { Times::USUAL.first_wait } else { Times::USUAL.dwell };
                    prop_assert!(changed.is_none_or(|at| play.now - at >= hold));
                    (before, changed) = (step, Some(play.now));
                }
            }
        }
    }
}
