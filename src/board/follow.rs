//! When an output that follows animals is on (pure): a bell must not ring all day, a light must not flicker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use embedded_hal::digital::PinState;

use crate::config::Output;
use crate::media::StreamId;
use crate::track::Counts;

/// Whether what an output follows is in view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Empty,
    Animal,
}

/// One output's past.
#[derive(Debug)]
pub struct Follow {
    least: Duration,
    /// `None`: no bound.
    most: Option<Duration>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    OnSince(Instant),
    /// On for the longest time: off until nothing is in view.
    Spent,
}

impl Follow {
    pub fn new(config: &Output) -> Self {
        let most = (config.max_on_s > 0.0).then(|| Duration::from_secs_f64(config.max_on_s));
        Self { least: Duration::from_secs_f64(config.min_on_s), most, state: State::Off }
    }

    pub fn step(&mut self, view: View, now: Instant) -> PinState {
        self.state = match (self.state, view) {
            (State::Off, View::Animal) => State::OnSince(now),
            (State::OnSince(since), view) => {
                let on = now.duration_since(since);
                match view {
                    View::Animal if self.most.is_some_and(|most| on >= most) => State::Spent,
                    View::Empty if on >= self.least => State::Off,
                    _ => self.state,
                }
            }
            (State::Spent, View::Empty) => State::Off,
            (state, _) => state,
        };
        PinState::from(matches!(self.state, State::OnSince(_)))
    }
}

/// Whether what `config` asks for is among the animals in view.
pub fn view(config: &Output, counts: &BTreeMap<StreamId, Counts>) -> View {
    let has = |all: &[String], one: &str| all.is_empty() || all.iter().any(|o| o == one);
    let seen = counts.iter().any(|(stream, labels)| {
        has(&config.streams, stream.as_str())
            && labels.iter().any(|(label, n)| *n > 0 && has(&config.labels, label))
    });
    if seen { View::Animal } else { View::Empty }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Line;

    fn output(least: f64, most: f64) -> Output {
        Output {
            name: "bell".into(),
            chip: String::new(),
            line: Line::Number(1),
            active_low: false,
            labels: vec!["dog".into()],
            streams: vec![],
            min_on_s: least,
            max_on_s: most,
        }
    }

    /// One letter a second: what is in view -> whether it is on.
    fn play(least: f64, most: f64, views: &str) -> String {
        let (begin, mut follow) = (Instant::now(), Follow::new(&output(least, most)));
        let mut step = |(n, c): (usize, char)| {
            let view = if c == 'd' { View::Animal } else { View::Empty };
            let on = follow.step(view, begin + Duration::from_secs(n as u64));
            if on == PinState::High { '#' } else { '.' }
        };
        views.chars().enumerate().map(&mut step).collect()
    }

    #[test]
    fn it_is_on_for_the_least_and_the_most_time() {
        assert_eq!(play(0.0, 0.0, "..ddd...d."), "..###...#.");
        assert_eq!(play(3.0, 0.0, "..d......."), "..###.....");
        // The longest time is over: once, until the view was empty.
        assert_eq!(play(0.0, 2.0, ".ddddd.ddd"), ".##....##.");
        // A bell: one stroke a visit, however short.
        assert_eq!(play(1.0, 1.0, "d..ddd.d.."), "#..#...#..");
    }

    #[test]
    fn labels_and_streams_are_chosen() {
        let of = |stream: &str, label: &str, n: usize| {
            let counts: Counts = [(label.into(), n)].into_iter().collect();
            BTreeMap::from([(StreamId::new(stream).unwrap(), counts)])
        };
        let mut config = output(0.0, 0.0);
        assert_eq!(view(&config, &of("a", "dog", 1)), View::Animal);
        assert_eq!(view(&config, &of("a", "dog", 0)), View::Empty);
        assert_eq!(view(&config, &of("a", "cat", 1)), View::Empty);
        config.labels.clear();
        config.streams = vec!["b".into()];
        assert_eq!(view(&config, &of("a", "cat", 1)), View::Empty);
        assert_eq!(view(&config, &of("b", "cat", 1)), View::Animal);
    }
}
