//! What is wrong at a broker that we are connected to, for the status and the log: each thing with its remedy. It mends
//! nothing.

use std::collections::BTreeMap;

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
