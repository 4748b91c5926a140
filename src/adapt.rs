//! What all share that do less under strain and more again after it: the steps with their hysteresis, and what strains the
//! board. Pure: signs and time in, a step out. What a step means is each user's own.

use std::fmt;
use std::time::{Duration, Instant};

/// How long everything lasts before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The board must be strained for so long.
    pub strained: Duration,
    /// A step down gets so long to show.
    pub dwell: Duration,
    /// Without any sign for so long, before the first step up; and at most, after many that went wrong.
    pub first_wait: Duration,
    pub last_wait: Duration,
    /// A step up that is taken back within this was a mistake.
    pub mistake: Duration,
}

impl Times {
    pub const USUAL: Self = Self {
        strained: Duration::from_secs(10),
        dwell: Duration::from_secs(20),
        first_wait: Duration::from_secs(60),
        last_wait: Duration::from_secs(960),
        mistake: Duration::from_secs(120),
    };

    /// The same in a twentieth of the time, for what has nothing to lose by changing often.
    pub fn brisk() -> Self {
        let Self { strained, dwell, first_wait, last_wait, mistake } = Self::USUAL;
        Self {
            strained: strained / 20,
            dwell: dwell / 20,
            first_wait: first_wait / 20,
            last_wait: last_wait / 20,
            mistake: mistake / 20,
        }
    }
}

/// How things stand at a look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sight<W> {
    /// Bad for long enough to do less, and why.
    Trouble(W),
    /// Not good enough to count towards more.
    Doubt,
    Clear,
}

/// Goes down a step at a time at trouble, and up after long without any; twice as long after each step up that went
/// wrong, so that what cannot be borne is not tried again and again.
#[derive(Debug)]
pub struct Ladder<W> {
    times: Times,
    top: usize,
    rung: usize,
    why: Option<W>,
    changed: Option<Instant>,
    rose: Option<Instant>,
    /// Without any trouble since.
    clear: Option<Instant>,
    wait: Duration,
}

impl<W: Copy> Ladder<W> {
    /// Begins at `top`; 0 is the lowest rung.
    pub fn new(top: usize, times: Times) -> Self {
        let wait = times.first_wait;
        Self { times, top, rung: top, why: None, changed: None, rose: None, clear: None, wait }
    }

    pub fn rung(&self) -> usize {
        self.rung
    }

    pub fn is_at_top(&self) -> bool {
        self.rung == self.top
    }

    /// Why it last went down; none at the top.
    pub fn why(&self) -> Option<W> {
        self.why
    }

    /// Another reason holds it down now.
    pub fn renew(&mut self, why: W) {
        if !self.is_at_top() {
            self.why = Some(why);
        }
    }

    /// Takes note of how things stand; whether that changed the rung.
    pub fn look(&mut self, sight: Sight<W>, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        match sight {
            Sight::Trouble(why) => {
                let settled = self.changed.is_none_or(|at| since(at) >= self.times.dwell);
                if settled && self.rung > 0 {
                    self.go_down(why, now);
                    return true;
                }
                self.clear = None;
            }
            Sight::Doubt => self.clear = None,
            Sight::Clear => {
                let clear = *self.clear.get_or_insert(now);
                if self.rung < self.top && since(clear) >= self.wait {
                    self.go_up(now);
                    return true;
                }
            }
        }
        false
    }

    fn go_down(&mut self, why: W, now: Instant) {
        let mistaken = |at: Instant| now.saturating_duration_since(at) < self.times.mistake;
        self.wait = match self.rose.take() {
            Some(at) if mistaken(at) => (self.wait * 2).min(self.times.last_wait),
            Some(_) => self.times.first_wait,
            None => self.wait,
        };
        self.rung -= 1;
        self.why = Some(why);
        self.changed = Some(now);
        self.clear = None;
    }

    fn go_up(&mut self, now: Instant) {
        self.rung += 1;
        if self.rung == self.top {
            self.why = None;
        }
        self.changed = Some(now);
        self.rose = Some(now);
        self.clear = None;
    }
}

/// What is known of the board, as far as it tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct BoardSigns {
    /// Of all its cores, 0 to 1.
    pub busy: Option<f64>,
    /// Degrees Celsius of the processor.
    pub temperature_c: Option<f64>,
    /// Heat or a weak supply slows it.
    pub throttled: bool,
}

/// What is too much for the board.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strain {
    SlowedDown,
    /// Degrees Celsius.
    Hot(f64),
    Busy,
}

impl fmt::Display for Strain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlowedDown => f.write_str("the board is slowed down"),
            Self::Hot(degrees) => write!(f, "the board is hot, {degrees:.0} °C"),
            Self::Busy => f.write_str("the board is busy"),
        }
    }
}

/// Above the first it is strained, and only below the second no longer.
const BUSY: (f64, f64) = (0.9, 0.75);
const HOT_C: (f64, f64) = (80.0, 75.0);

impl BoardSigns {
    /// `strained`: whether it was so before.
    pub fn strain(&self, strained: bool) -> Option<Strain> {
        if self.throttled {
            return Some(Strain::SlowedDown);
        }
        let over = |value: Option<f64>, limits| value.filter(|v| is_over(*v, limits, strained));
        let hot = over(self.temperature_c, HOT_C).map(Strain::Hot);
        hot.or_else(|| over(self.busy, BUSY).map(|_| Strain::Busy))
    }
}

/// Whether a value is over its limits, the lower one of which counts once it was so before.
pub fn is_over(value: f64, (high, low): (f64, f64), before: bool) -> bool {
    value >= if before { low } else { high }
}

/// Something that counts once it lasts.
#[derive(Debug, Default)]
pub struct Lasting(Option<Instant>);

impl Lasting {
    pub fn is_so(&self) -> bool {
        self.0.is_some()
    }

    /// What is so now, once it is so for as long as `at_least`.
    pub fn look<T>(&mut self, now: Instant, found: Option<T>, at_least: Duration) -> Option<T> {
        let Some(found) = found else {
            self.0 = None;
            return None;
        };
        let since = *self.0.get_or_insert(now);
        (now.saturating_duration_since(since) >= at_least).then_some(found)
    }
}
