//! What a publisher is advised to send: less when its link or the board cannot keep up, more again after they could for
//! long. Pure: signs and time in, advice out. Who publishes may take it or leave it.
//!
//! Going down takes several signs within seconds, going up a minute without any, and twice as long after each time that
//! it went wrong: a stream is begun anew for each change, so that changing often would be worse than either.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::link::Link;
use crate::adapt::{BoardSigns, Ladder, Lasting, Sight, Strain, Times};

/// What to send, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Advice {
    /// Pixels.
    pub width: u32,
    pub height: u32,
    pub bitrate_bps: u32,
    /// Pictures a second.
    pub fps: u32,
    /// For people.
    pub reason: String,
}

/// What is known of a stream at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    /// A publisher is connected.
    pub online: bool,
    pub link: Link,
    /// Totals since the stream began.
    pub gaps: u64,
    pub publications: u64,
    pub board: BoardSigns,
}

/// Width, height, bits and pictures a second; from the least that animals are found in to what shows them well. More than
/// the last would be found no better and heat the glasses.
const LADDER: [(u32, u32, u32, u32); 4] = [
    (640, 480, 300_000, 8),
    (640, 480, 600_000, 12),
    (854, 480, 1_000_000, 15),
    (1280, 720, 2_000_000, 15),
];
const TOP: usize = LADDER.len() - 1;

/// Looks closer together than this say nothing new.
const LOOK_EVERY: Duration = Duration::from_millis(900);
/// So many signs of a bad link within so long.
const BAD: usize = 3;
const WITHIN: Duration = Duration::from_secs(20);
const TOO_FAR_BEHIND: Duration = Duration::from_millis(800);
/// Why less is advised.
#[derive(Debug, Clone, Copy)]
enum Why {
    Link(&'static str),
    Board(Strain),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(why) => f.write_str(why),
            Self::Board(strain) => strain.fmt(f),
        }
    }
}

/// Advises one stream.
#[derive(Debug)]
pub struct Advisor {
    ladder: Ladder<Why>,
    looked: Option<Instant>,
    bad: VecDeque<Instant>,
    strained: Lasting,
    gaps: u64,
    stalls: u64,
    publications: u64,
}

impl Default for Advisor {
    fn default() -> Self {
        Self {
            ladder: Ladder::new(TOP, Times::USUAL),
            looked: None,
            bad: VecDeque::new(),
            strained: Lasting::default(),
            gaps: 0,
            stalls: 0,
            publications: 0,
        }
    }
}

impl Advisor {
    pub fn advice(&self) -> Advice {
        let (width, height, bitrate_bps, fps) = LADDER[self.ladder.rung()];
        let reason = match self.ladder.why() {
            Some(why) => format!("less, because {why}"),
            None => "link and board keep up".to_owned(),
        };
        Advice { width, height, bitrate_bps, fps, reason }
    }

    /// Takes note of how things stand. However often it is called, it looks about once a second.
    pub fn look(&mut self, signs: &Signs, now: Instant) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
            return;
        }
        let first = self.looked.replace(now).is_none();
        let link = self.link_trouble(signs).filter(|_| !first && signs.online);
        let strain = signs.board.strain(self.strained.is_so());
        let board = self.strained.look(now, strain, Times::USUAL.strained).map(Why::Board);
        if !signs.online {
            // Nothing can be learnt of a link without a publisher.
            self.bad.clear();
            self.ladder.look(Sight::Doubt, now);
            return;
        }
        if link.is_some() {
            self.bad.push_back(now);
        }
        while self.bad.front().is_some_and(|at| now.saturating_duration_since(*at) > WITHIN) {
            self.bad.pop_front();
        }
        let often = link.filter(|_| self.bad.len() >= BAD).map(Why::Link);
        let sight = match board.or(often) {
            Some(why) => Sight::Trouble(why),
            None if link.is_some() || self.strained.is_so() => Sight::Doubt,
            None => Sight::Clear,
        };
        let trouble = matches!(sight, Sight::Trouble(_));
        if self.ladder.look(sight, now) && trouble {
            self.bad.clear();
        }
    }

    /// What is wrong with the link since the last look.
    fn link_trouble(&mut self, signs: &Signs) -> Option<&'static str> {
        let grown = |total: u64, seen: &mut u64| total > std::mem::replace(seen, total);
        let gaps = grown(signs.gaps, &mut self.gaps);
        let stalls = grown(signs.link.stalls, &mut self.stalls);
        let came_back = grown(signs.publications, &mut self.publications);
        if gaps {
            Some("the link loses pictures")
        } else if stalls {
            Some("the link stands still at times")
        } else if came_back {
            Some("the link breaks")
        } else if signs.link.behind > TOO_FAR_BEHIND {
            Some("pictures come late")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that is looked at each second.
    struct Play {
        advisor: Advisor,
        now: Instant,
        signs: Signs,
        changes: usize,
    }

    impl Play {
        fn new() -> Self {
            let signs = Signs { online: true, publications: 1, ..Signs::default() };
            Self { advisor: Advisor::default(), now: Instant::now(), signs, changes: 0 }
        }

        fn seconds(&mut self, n: u64, mut each: impl FnMut(u64, &mut Signs)) -> &mut Self {
            for second in 0..n {
                each(second, &mut self.signs);
                self.now += Duration::from_secs(1);
                let before = self.advisor.ladder.rung();
                self.advisor.look(&self.signs, self.now);
                self.changes += usize::from(before != self.advisor.ladder.rung());
            }
            self
        }

        #[track_caller]
        fn is(&mut self, rung: usize, reason: &str) -> &mut Self {
            let advice = self.advisor.advice();
            assert_eq!(self.advisor.ladder.rung(), rung, "{advice:?}");
            assert!(advice.reason.contains(reason), "{advice:?}");
            self
        }
    }

    #[test]
    fn a_good_link_gets_the_most() {
        Play::new().seconds(1000, |_, _| {}).is(TOP, "keep up");
        let advice = Advisor::default().advice();
        assert_eq!((advice.width, advice.height, advice.fps), (1280, 720, 15));
    }

    #[test]
    fn a_bad_link_gets_less_step_by_step_and_more_after_a_while() {
        let mut play = Play::new();
        play.seconds(2, |_, s| s.gaps += 1).is(TOP, "keep up");
        play.seconds(3, |_, s| s.gaps += 1).is(TOP - 1, "loses pictures");
        play.seconds(15, |_, s| s.gaps += 1).is(TOP - 1, "loses pictures");
        play.seconds(10, |_, s| s.link.stalls += 1).is(TOP - 2, "stands still");
        play.seconds(200, |_, s| s.link.behind = Duration::from_secs(2)).is(0, "come late");
        play.seconds(59, |_, s| s.link.behind = Duration::ZERO).is(0, "come late");
        play.seconds(5, |_, _| {}).is(1, "less");
        play.seconds(130, |_, _| {}).is(TOP, "keep up");
    }

    #[test]
    fn one_bad_moment_changes_nothing() {
        let mut play = Play::new();
        // A stream that begins anew, as it does when advice is taken; and a loss now and then.
        play.seconds(600, |n, s| {
            s.publications += u64::from(n % 60 == 0);
            s.gaps += u64::from(n % 15 == 0);
        });
        play.is(TOP, "keep up");
    }

    #[test]
    fn a_link_that_bears_no_more_is_not_tried_again_and_again() {
        let mut play = Play::new();
        // More than the middle is too much for it, for an hour.
        let limit = TOP - 1;
        for _ in 0..3600 {
            let too_much = play.advisor.ladder.rung() > limit;
            play.seconds(1, |_, s| s.gaps += u64::from(too_much));
        }
        assert!(play.changes <= 16, "{} changes in an hour", play.changes);
        assert_eq!(play.advisor.ladder.rung(), limit);
        // It got better: in the end it is believed.
        play.seconds(Times::USUAL.last_wait.as_secs() + 5, |_, _| {}).is(TOP, "keep up");
    }

    #[test]
    fn a_board_that_is_hot_gets_less_until_it_is_cool() {
        let mut play = Play::new();
        let warm = |c: f64| move |_: u64, s: &mut Signs| s.board.temperature_c = Some(c);
        play.seconds(9, warm(81.0)).is(TOP, "keep up");
        play.seconds(5, warm(81.0)).is(TOP - 1, "hot");
        // In between neither is news.
        play.seconds(40, warm(77.0)).is(TOP - 3, "hot");
        play.seconds(300, warm(70.0)).is(TOP, "keep up");
        play.seconds(15, |_, s| s.board.busy = Some(0.95)).is(TOP - 1, "busy");
        play.seconds(25, |_, s| s.board = BoardSigns { throttled: true, ..BoardSigns::default() });
        play.is(TOP - 2, "slowed");
    }

    #[test]
    fn without_a_publisher_it_stays_as_it_is() {
        let mut play = Play::new();
        play.seconds(10, |_, s| s.gaps += 1).is(TOP - 1, "loses");
        play.seconds(500, |_, s| s.online = false).is(TOP - 1, "loses");
        play.seconds(30, |_, s| s.online = true).is(TOP - 1, "loses");
        play.seconds(40, |_, _| {}).is(TOP, "keep up");
    }

    #[test]
    fn looking_often_counts_once() {
        let mut play = Play::new();
        play.seconds(1, |_, _| {});
        for n in 1..50 {
            play.signs.gaps = n;
            play.advisor.look(&play.signs, play.now + Duration::from_millis(n));
        }
        play.is(TOP, "keep up");
    }
}
