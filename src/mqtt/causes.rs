//! Lines about what others get wrong: one a second and cause, and the newest of those kept back when the second is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Causes(BTreeMap<&'static str, Cause>);

#[derive(Debug)]
struct Cause {
    last: Instant,
    kept_back: u64,
    newest: String,
}

/// A line to log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) what: String,
    /// How many of its cause were kept back before it.
    pub(super) untold: u64,
}

impl Line {
    pub(super) fn log(&self) {
        let Self { what, untold } = self;
        tracing::warn!(untold, "mqtt command not obeyed: {what}");
    }
}

impl Causes {
    /// `cause` is one of a fixed few.
    pub(super) fn say(&mut self, cause: &'static str, what: String, now: Instant) -> Option<Line> {
        let Some(known) = self.0.get_mut(cause) else {
            self.0.insert(cause, Cause { last: now, kept_back: 0, newest: String::new() });
            return Some(Line { what, untold: 0 });
        };
        if now.saturating_duration_since(known.last) < EVERY {
            known.kept_back += 1;
            known.newest = what;
            return None;
        }
        known.last = now;
        Some(Line { what, untold: std::mem::take(&mut known.kept_back) })
    }

    /// What was kept back and is due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Line> {
        let due =
            |c: &&mut Cause| c.kept_back > 0 && now.saturating_duration_since(c.last) >= EVERY;
        let line = |cause: &mut Cause| {
            cause.last = now;
            let untold = std::mem::take(&mut cause.kept_back) - 1;
            Line { what: std::mem::take(&mut cause.newest), untold }
        };
        self.0.values_mut().filter(due).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_do_not_hide_each_other_and_nothing_stays_untold() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        let line = |what: &str, untold| Line { what: what.into(), untold };
        assert_eq!(causes.say("a", "1".into(), now), Some(line("1", 0)));
        assert_eq!(causes.say("b", "2".into(), now), Some(line("2", 0)));
        for what in ["3", "4"] {
            assert_eq!(causes.say("a", what.into(), now), None);
        }
        assert_eq!(causes.due(now), []);
        let later = now + EVERY;
        assert_eq!(causes.due(later), [line("4", 1)]);
        assert_eq!(causes.due(later + EVERY), []);
        assert_eq!(causes.say("b", "5".into(), later), Some(line("5", 0)));
    }
}
