//! What somebody means with a button: contacts over time in, presses out (pure). Contacts bounce, fingers linger.

use std::time::{Duration, Instant};

/// A contact counts once it has not changed for so long: mechanical ones bounce for up to 20 ms.
const SETTLED: Duration = Duration::from_millis(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    Open,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// Told when the button is let go.
    Short,
    /// Told while it is still held, so that the finger learns that it was long enough.
    Long,
}

/// One button's past.
#[derive(Debug)]
pub struct Presses {
    long: Duration,
    seen: Contact,
    seen_since: Option<Instant>,
    held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Not seen open yet: a button that is stuck or held at the start says nothing.
    Unknown,
    No,
    Since(Instant),
    /// Long enough, and told.
    Told,
}

impl Presses {
    pub fn new(long: Duration) -> Self {
        Self { long, seen: Contact::Closed, seen_since: None, held: Held::Unknown }
    }

    /// Takes the contact as it is now; called often.
    pub fn see(&mut self, contact: Contact, now: Instant) -> Option<Press> {
        if self.seen_since.is_none() || contact != self.seen {
            (self.seen, self.seen_since) = (contact, Some(now));
        }
        let since = self.seen_since.unwrap_or(now);
        if now.duration_since(since) < SETTLED {
            return None;
        }
        match (contact, self.held) {
            (Contact::Open, Held::Since(_)) => {
                self.held = Held::No;
                Some(Press::Short)
            }
            (Contact::Open, _) => {
                self.held = Held::No;
                None
            }
            (Contact::Closed, Held::No) => {
                self.held = Held::Since(since);
                None
            }
            (Contact::Closed, Held::Since(since)) if now.duration_since(since) >= self.long => {
                self.held = Held::Told;
                Some(Press::Long)
            }
            (Contact::Closed, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contact::{Closed, Open};

    /// Plays contacts, each for so many milliseconds, looking every 10; what was understood and when.
    fn play(contacts: &[(Contact, u64)]) -> Vec<(u64, Press)> {
        let (begin, mut at) = (Instant::now(), 0);
        let mut presses = Presses::new(Duration::from_secs(5));
        let mut told = Vec::new();
        for (contact, ms) in contacts {
            for _ in 0..ms / 10 {
                let press = presses.see(*contact, begin + Duration::from_millis(at));
                told.extend(press.map(|p| (at, p)));
                at += 10;
            }
        }
        told
    }

    #[test]
    fn short_presses_are_told_at_their_end() {
        let told = play(&[(Open, 100), (Closed, 200), (Open, 100), (Closed, 4000), (Open, 100)]);
        assert_eq!(told, [(330, Press::Short), (4430, Press::Short)]);
    }

    #[test]
    fn a_long_press_is_told_once_while_held() {
        let told = play(&[(Open, 100), (Closed, 20_000), (Open, 100), (Closed, 100), (Open, 100)]);
        assert_eq!(told, [(5100, Press::Long), (20_330, Press::Short)]);
    }

    #[test]
    fn bouncing_is_one_press() {
        let mut contacts = vec![(Open, 100)];
        let bounce = [(Closed, 10), (Open, 10), (Closed, 20), (Open, 10)];
        contacts.extend(bounce);
        contacts.push((Closed, 300));
        contacts.extend(bounce.map(|(c, ms)| (if c == Open { Closed } else { Open }, ms)));
        contacts.push((Open, 300));
        assert_eq!(play(&contacts).len(), 1);
        // And a spark is none.
        assert!(play(&[(Open, 100), (Closed, 20), (Open, 500)]).is_empty());
    }

    #[test]
    fn a_button_held_at_the_start_says_nothing() {
        let told = play(&[(Closed, 10_000), (Open, 100), (Closed, 100), (Open, 100)]);
        assert_eq!(told, [(10_230, Press::Short)]);
    }
}
