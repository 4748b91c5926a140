//! How the status lamp shows a mood: time in, on or off out (pure). Which mood it is, is told by whoever knows.

use std::time::Duration;

use embedded_hal::digital::PinState;

use crate::wire::{LinkState, NodeStatus, StorageState};

/// How spotter is, as a lamp can tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    #[default]
    Starting,
    /// Well, and nobody publishes.
    Waiting,
    Streaming,
    /// An animal is in view.
    Animal,
    /// Something does not work: `status` says what.
    Fault,
    /// The privacy pause.
    Paused,
    /// The button was understood.
    Confirm,
}

/// How long a confirmation is shown.
pub const CONFIRM_FOR: Duration = Duration::from_secs(2);

impl Mood {
    /// What the lamp does, over and over: on and off in turns, in milliseconds, beginning with on. Told apart by rhythm
    /// alone: who sees no colours, and who has one lamp, must tell them too.
    const fn rhythm(self) -> &'static [u64] {
        match self {
            Self::Starting => &[100, 100],
            Self::Waiting => &[100, 1900],
            Self::Streaming => &[1, 0],
            Self::Animal => &[250, 250],
            Self::Fault => &[150, 150, 150, 150, 150, 1250],
            Self::Paused => &[2000, 2000],
            Self::Confirm => &[50, 50],
        }
    }
}

/// The lamp so long after the mood began.
pub fn lit(mood: Mood, since: Duration) -> PinState {
    let rhythm = mood.rhythm();
    let round: u64 = rhythm.iter().sum();
    let mut at = since.as_millis() as u64 % round;
    for (n, ms) in rhythm.iter().enumerate() {
        if at < *ms {
            return PinState::from(n % 2 == 0);
        }
        at -= ms;
    }
    PinState::Low
}

/// The mood of a node that says this of itself; `None` while it starts. Animals are not in the status.
pub fn mood(status: Option<&NodeStatus>) -> Mood {
    let Some(status) = status else { return Mood::Starting };
    if status.attached.pause.is_some() {
        return Mood::Paused;
    }
    let camera = status.attached.sources.iter().any(|s| s.state.is_trouble());
    let disk = matches!(
        status.storage.state,
        StorageState::Full | StorageState::ReadOnly | StorageState::Failed
    );
    let broker = matches!(status.mqtt, LinkState::Down { .. } | LinkState::Contested { .. });
    let detector = status.detector.is_none() || status.detector_error.is_some();
    if detector || camera || disk || broker {
        return Mood::Fault;
    }
    if status.capacity.streams > 0 { Mood::Streaming } else { Mood::Waiting }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: [Mood; 7] = [
        Mood::Starting,
        Mood::Waiting,
        Mood::Streaming,
        Mood::Animal,
        Mood::Fault,
        Mood::Paused,
        Mood::Confirm,
    ];

    /// Four seconds as marks and blanks of 50 ms.
    fn drawn(mood: Mood) -> String {
        let at = |n: u64| lit(mood, Duration::from_millis(n * 50));
        (0..80).map(|n| if at(n) == PinState::High { '#' } else { '.' }).collect()
    }

    #[test]
    fn every_mood_looks_different_and_begins_lit() {
        let looks: BTreeSet<_> = ALL.map(drawn).into();
        assert_eq!(looks.len(), ALL.len());
        assert!(looks.iter().all(|l| l.starts_with('#')), "{looks:?}");
    }

    #[test]
    fn rhythms_are_as_documented() {
        assert_eq!(drawn(Mood::Streaming), "#".repeat(80));
        assert_eq!(drawn(Mood::Waiting), format!("##{}", ".".repeat(38)).repeat(2));
        assert_eq!(drawn(Mood::Fault)[..40], format!("###...###...###{}", ".".repeat(25)));
        assert_eq!(drawn(Mood::Paused), format!("{}{}", "#".repeat(40), ".".repeat(40)));
        // For ever.
        let late = Duration::from_secs(100_000_000);
        assert_eq!(lit(Mood::Animal, late), PinState::High);
        assert_eq!(lit(Mood::Animal, late + Duration::from_millis(250)), PinState::Low);
    }
}
