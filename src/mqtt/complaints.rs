//! What is wrong at a broker that we are connected to, for the status and the log: each thing with its remedy. It mends
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Complaints at a time.
const MOST: usize = 6;

/// What is wrong; the newest of a kind is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Nothing is heard on this topic, because of what is retained there.
    LeftOut(String),
    /// The broker does not let us subscribe to this one.
    NotHeard(String),
    /// It does not want what we publish on this one.
    Refused(String),
    /// What we have for it is larger than it takes.
    TooLarge,
    /// It acknowledges nothing.
    Stalled,
}

/// An event that the broker was given and does not acknowledge. The others wait behind it.
#[derive(Debug, Default)]
pub(super) struct Stall(Option<(u64, Instant)>);

impl Stall {
    /// How long an acknowledgement may take, with no word said of it.
    pub(super) const AFTER: Duration = Duration::from_secs(30);

    /// Whether `first`, which is the first that waits and which the broker has, waits for too long.
    pub(super) fn look(&mut self, first: Option<u64>, now: Instant) -> bool {
        match (first, self.0) {
            (Some(n), Some((before, since))) if n == before => {
                now.saturating_duration_since(since) >= Self::AFTER
            }
            _ => {
                self.0 = first.map(|n| (n, now));
                false
            }
        }
    }
}

/// The complaints of one connection after the other.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    now: BTreeMap<Trouble, String>,
    /// What the log has, so that a connection that comes and goes does not say it each time.
    logged: BTreeMap<Trouble, String>,
}

impl Complaints {
    /// A connection begins: nothing is known of it.
    pub(super) fn clear(&self) {
        self.0.lock().now.clear();
    }

    /// Says it, unless it has been said of this connection.
    pub(super) fn say(&self, trouble: Trouble, reason: impl FnOnce() -> String) {
        let mut state = self.0.lock();
        // A broker that refuses everything need not name it all.
        if state.now.contains_key(&trouble) || state.now.len() >= MOST {
            return;
        }
        let reason = reason();
        if state.logged.get(&trouble) != Some(&reason) {
            if state.logged.len() >= MOST {
                state.logged.clear();
            }
            tracing::warn!(reason, "mqtt is connected, but");
            state.logged.insert(trouble.clone(), reason.clone());
        }
        state.now.insert(trouble, reason);
    }

    pub(super) fn take_back(&self, trouble: &Trouble) {
        let mut state = self.0.lock();
        if state.now.remove(trouble).is_some() {
            state.logged.remove(trouble);
        }
    }

    /// All of them in one line.
    pub(super) fn text(&self) -> Option<String> {
        let state = self.0.lock();
        let all: Vec<_> = state.now.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_stays_first_stalls() {
        let (mut stall, now) = (Stall::default(), Instant::now());
        let (half, whole) = (now + Stall::AFTER / 2, now + Stall::AFTER);
        assert!(!stall.look(Some(1), now) && !stall.look(Some(2), half));
        assert!(!stall.look(Some(2), whole));
        assert!(stall.look(Some(2), half + Stall::AFTER));
        assert!(
            !stall.look(None, half + Stall::AFTER) && !stall.look(Some(2), now + 2 * Stall::AFTER)
        );
    }

    #[test]
    fn complaints_are_few_and_can_be_taken_back() {
        let complaints = Complaints::default();
        (0..99)
            .for_each(|n| complaints.say(Trouble::NotHeard(n.to_string()), || format!("no {n}")));
        assert_eq!(complaints.text().unwrap().matches("no ").count(), MOST);
        complaints.take_back(&Trouble::NotHeard("0".into()));
        assert!(complaints.text().unwrap().starts_with("no 1; "));
        complaints.clear();
        assert_eq!(complaints.text(), None);
    }
}
