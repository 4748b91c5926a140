//! What a connection was asked for and what became of it: the numbers behind packet identifiers, the answers to
//! subscriptions, and how long a message may be. It sends nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::carrier::{Granted, Happened, Refused};

/// Why a request did not go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The connection has no room for another one now.
    NoRoom,
    TooLarge(TooLarge),
}

/// A message that is longer than may be sent, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub(super) bytes: usize,
    pub(super) most: usize,
    pub(super) by: Bound,
}

/// Who says how long a message may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// `mqtt.max_packet_bytes`.
    Ours,
    /// The broker, as version 5 has it.
    Brokers,
    /// Experience with a broker that says nothing.
    Guessed,
}

/// Longer than what a broker would refuse by any measure, bytes.
pub(super) const SMALL: usize = 16 << 10;

/// Which numbers stand behind the packet identifiers. The library chooses those when it writes, in the order of requests.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// QoS 1 publishes that were asked for and not yet written.
    pub(super) asked: VecDeque<Asked>,
    pub(super) written: BTreeMap<u16, Asked>,
    /// The same for subscriptions: asked for, written, and answered.
    pub(super) topics: VecDeque<String>,
    pub(super) subscribing: BTreeMap<u16, String>,
    pub(super) subscribed: BTreeSet<String>,
    pub(super) limits: Limits,
    /// The longest message of this connection, bytes.
    pub(super) longest: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) number: Option<u64>,
    pub(super) topic: Arc<str>,
}

/// How long a message may be, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ours: usize,
    pub(super) brokers: usize,
    pub(super) guessed: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ours: usize::MAX, brokers: usize::MAX, guessed: usize::MAX }
    }
}

impl Limits {
    pub(super) fn judge(&self, bytes: usize) -> Result<(), NotSent> {
        let all = [
            (self.ours, Bound::Ours),
            (self.brokers, Bound::Brokers),
            (self.guessed, Bound::Guessed),
        ];
        match all.into_iter().min_by_key(|(most, _)| *most) {
            Some((most, by)) if bytes > most => {
                Err(NotSent::TooLarge(TooLarge { bytes, most, by }))
            }
            _ => Ok(()),
        }
    }
}

/// How long a publish is at most in either version, bytes.
pub(super) fn packet_bytes(topic: &str, payload: &[u8], id: Option<&str>) -> usize {
    // Fixed header, topic's length, packet identifier, length of properties; content type and name of the property.
    let around = 5 + 2 + 2 + 4;
    let properties = id.map_or(0, |id| id.len() + 40);
    around + topic.len() + properties + payload.len()
}

impl Ledger {
    pub(super) fn wrote(&mut self, packet_id: u16) {
        // QoS 0 has none.
        if packet_id == 0 {
            return;
        }
        if let Some(asked) = self.asked.pop_front() {
            self.written.insert(packet_id, asked);
        }
    }

    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Happened {
        let number = self.written.remove(&packet_id).and_then(|asked| asked.number);
        number.map_or(Happened::Nothing, Happened::Acknowledged)
    }

    pub(super) fn refused(&mut self, packet_id: u16, reason: String) -> Happened {
        let Some(Asked { number, topic }) = self.written.remove(&packet_id) else {
            return Happened::Nothing;
        };
        Happened::Refused(Refused { number, topic, reason })
    }

    pub(super) fn connected(&mut self, resumed: bool) -> Happened {
        if !resumed {
            // The library forgot them too.
            self.asked.clear();
            self.written.clear();
        }
        Happened::Connected { resumed }
    }

    pub(super) fn subscribed(&mut self, packet_id: u16, granted: Granted) -> Happened {
        let Some(topic) = self.subscribing.remove(&packet_id) else { return Happened::Nothing };
        self.subscribed.insert(topic.clone());
        Happened::Subscribed(topic, granted)
    }

    pub(super) fn subscribing(&mut self, packet_id: u16) -> Happened {
        if let Some(topic) = self.topics.pop_front() {
            self.subscribing.insert(packet_id, topic);
        }
        Happened::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_bound_is_named() {
        let mut limits = Limits { ours: 100, ..Limits::default() };
        assert_eq!(limits.judge(100), Ok(()));
        let over = |most, by| Err(NotSent::TooLarge(TooLarge { bytes: 101, most, by }));
        assert_eq!(limits.judge(101), over(100, Bound::Ours));
        limits.brokers = 50;
        assert_eq!(limits.judge(101), over(50, Bound::Brokers));
        limits.guessed = 20;
        assert_eq!(limits.judge(101), over(20, Bound::Guessed));
        assert_eq!(Limits::default().judge(usize::MAX), Ok(()));
    }

    #[test]
    fn answers_find_what_was_asked_for() {
        let mut ledger = Ledger::default();
        for (number, topic) in [(None, "a"), (Some(7), "b"), (Some(8), "c")] {
            ledger.asked.push_back(Asked { number, topic: topic.into() });
        }
        [1, 0, 2, 3].into_iter().for_each(|packet_id| ledger.wrote(packet_id));
        assert!(matches!(ledger.acknowledged(1), Happened::Nothing));
        assert!(matches!(ledger.acknowledged(3), Happened::Acknowledged(8)));
        assert!(matches!(
            ledger.refused(2, "no".into()),
            Happened::Refused(Refused { number: Some(7), topic, .. }) if &*topic == "b"
        ));
        ledger.topics.push_back("d".into());
        ledger.subscribing(1);
        let answer = ledger.subscribed(1, Granted::No);
        assert!(matches!(answer, Happened::Subscribed(topic, Granted::No) if topic == "d"));
        assert!(ledger.subscribed.contains("d"));
    }
}
