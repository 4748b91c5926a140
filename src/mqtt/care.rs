//! How carefully the next connection begins, after those that a message ended (pure). A version 4 broker hands a message that is
//! larger than we take to a session again and again: the session is begun anew then, and topics are asked for one after
//! the other, so that one with such a message retained shows and is left out. And a broker that closes the connection over and over
//! soon after something long is sent nothing long for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ledger::SMALL;

/// When a topic that was left out is asked for again, which costs a connection.
pub(super) const AGAIN: Duration = Duration::from_secs(3600);

/// A connection that breaks within this time may do so for what was sent.
const SOON: Duration = Duration::from_secs(10);
/// So many in a row are no chance.
const ENOUGH: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Care {
    careful: bool,
    /// What is being asked for.
    asking: Option<String>,
    /// By how large a message stands there, bytes.
    left_out: BTreeMap<String, usize>,
    /// When this connection had asked for everything.
    asked_all: Option<Instant>,
    /// Connections in a row that broke soon after something long.
    broken: u32,
    /// Since when nothing long is sent.
    brief: Option<Instant>,
}

impl Care {
    /// A connection that had been made broke after `lasted`; `longest` was the longest message in it, bytes.
    pub(super) fn broke(&mut self, lasted: Duration, longest: usize, now: Instant) {
        if lasted >= SOON {
            self.broken = 0;
        } else if longest > SMALL {
            self.broken += 1;
        }
        if self.broken >= ENOUGH {
            self.broken = 0;
            self.brief = Some(now);
        }
    }

    /// How long a message may be, bytes.
    pub(super) fn most(&mut self, now: Instant) -> Option<usize> {
        self.brief = self.brief.filter(|since| now.saturating_duration_since(*since) < AGAIN);
        self.brief.map(|_| SMALL)
    }

    /// A connection is about to be tried. `true`: in a new session, one topic after the other.
    pub(super) fn begin(&mut self) -> bool {
        self.asking = None;
        // It went well the last time: what was left out may be gone.
        if self.asked_all.take().is_some() {
            self.left_out.clear();
        }
        self.careful
    }

    pub(super) fn is_careful(&self) -> bool {
        self.careful
    }

    /// Whether this topic may be asked for; it is under suspicion until [`Care::answered`].
    pub(super) fn asks(&mut self, topic: &str) -> bool {
        let may = !self.left_out.contains_key(topic);
        if may && self.careful {
            self.asking = Some(topic.to_owned());
        }
        may
    }

    pub(super) fn answered(&mut self) {
        self.asking = None;
    }

    /// Everything was asked for; answers what was left out.
    pub(super) fn asked_all(&mut self, now: Instant) -> Vec<(String, usize)> {
        self.asked_all = Some(now);
        self.careful = !self.left_out.is_empty();
        self.left_out.iter().map(|(topic, bytes)| (topic.clone(), *bytes)).collect()
    }

    /// The connection ended with a message of so many bytes. Answers whether the next one does something about it.
    pub(super) fn too_large(&mut self, bytes: usize) -> bool {
        let asking = self.asking.take();
        let knows_more = asking.is_some() || !self.careful;
        if let Some(topic) = asking {
            self.left_out.insert(topic, bytes);
        }
        self.careful = true;
        knows_more
    }

    /// Whether it is time to look if what was left out is gone.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let long_ago = |at| now.saturating_duration_since(at) >= AGAIN;
        !self.left_out.is_empty() && self.asked_all.is_some_and(long_ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subscribes to a and b as the client does; `bad` has a message of five bytes retained.
    fn connect(care: &mut Care, bad: Option<&str>, now: Instant) -> Option<Vec<(String, usize)>> {
        care.begin();
        for topic in ["a", "b"] {
            if care.asks(topic) {
                if bad == Some(topic) {
                    care.too_large(5);
                    return None;
                }
                care.answered();
            }
        }
        Some(care.asked_all(now))
    }

    #[test]
    fn a_message_that_came_once_costs_a_session_and_nothing_more() {
        let (mut care, now) = (Care::default(), Instant::now());
        assert_eq!(connect(&mut care, None, now), Some(vec![]));
        assert!(care.too_large(9) && care.begin());
        assert_eq!(connect(&mut care, None, now), Some(vec![]));
        assert!(!care.begin());
    }

    #[test]
    fn a_broker_that_breaks_at_long_messages_is_sent_none_for_a_while() {
        let (mut care, now, soon) = (Care::default(), Instant::now(), Duration::from_secs(1));
        for _ in 0..9 {
            care.broke(soon, SMALL, now);
        }
        care.broke(soon, SMALL + 1, now);
        care.broke(soon, SMALL + 1, now);
        care.broke(SOON, SMALL + 1, now);
        assert_eq!(care.most(now), None);
        for _ in 0..ENOUGH {
            assert_eq!(care.most(now), None);
            care.broke(soon, SMALL + 1, now);
        }
        assert_eq!(care.most(now), Some(SMALL));
        assert_eq!(care.most(now + AGAIN), None);
    }

    #[test]
    fn a_retained_one_is_found_left_out_and_asked_for_again_later() {
        let (mut care, now) = (Care::default(), Instant::now());
        // The first time nobody knows which it is.
        assert_eq!(connect(&mut care, Some("b"), now), None);
        assert_eq!(connect(&mut care, Some("b"), now), None);
        let left_out = Some(vec![("b".to_owned(), 5)]);
        assert_eq!(connect(&mut care, Some("b"), now), left_out);
        assert!(!care.is_due(now) && care.is_due(now + AGAIN));
        // Still there, then gone.
        assert_eq!(connect(&mut care, Some("b"), now), None);
        assert_eq!(connect(&mut care, Some("b"), now), left_out);
        assert_eq!(connect(&mut care, None, now), Some(vec![]));
        assert!(!care.begin() && !care.is_due(now + AGAIN));
    }
}
