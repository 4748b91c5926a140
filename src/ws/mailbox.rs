//! What waits for one client: answers, which make the asker wait when there are many, and pushes, of which the newest
//! win. Bounded both ways; it sends nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire;

/// Answers that may wait; beyond that the client's next request is not read.
const ANSWERS: usize = 16;
/// Pushes that may wait: a second and a half of two streams.
const PUSHES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    answers: VecDeque<Bytes>,
    pushes: VecDeque<Bytes>,
    /// Pushes lost since the client was last told.
    dropped: u64,
}

impl Mailbox {
    /// Adds an answer; waits while too many are waiting already.
    pub(super) async fn answer(&self, message: Bytes) {
        let mut message = Some(message);
        loop {
            {
                let mut inner = self.inner.lock();
                if inner.answers.len() < ANSWERS
                    && let Some(message) = message.take()
                {
                    inner.answers.push_back(message);
                }
            }
            if message.is_none() {
                return self.filled.notify_one();
            }
            self.emptied.notified().await;
        }
    }

    /// Adds a push, at the cost of the oldest when there are too many; returns how many that cost.
    pub(super) fn push(&self, message: Bytes) -> u64 {
        let lost = {
            let mut inner = self.inner.lock();
            inner.pushes.push_back(message);
            let lost = u64::from(inner.pushes.len() > PUSHES);
            if lost > 0 {
                inner.pushes.pop_front();
            }
            inner.dropped += lost;
            lost
        };
        self.filled.notify_one();
        lost
    }

    /// Notes pushes that were lost before they came here.
    pub(super) fn lost(&self, n: u64) {
        self.inner.lock().dropped += n;
        self.filled.notify_one();
    }

    /// Forgets the pushes, as after `unsubscribe`.
    pub(super) fn clear_pushes(&self) {
        let mut inner = self.inner.lock();
        inner.pushes.clear();
        inner.dropped = 0;
    }

    /// The next message to send. Cancel-safe.
    pub(super) async fn next(&self) -> Bytes {
        loop {
            {
                let mut inner = self.inner.lock();
                if let Some(answer) = inner.answers.pop_front() {
                    self.emptied.notify_one();
                    return answer;
                }
                if inner.dropped > 0 {
                    return wire::lagged(std::mem::take(&mut inner.dropped));
                }
                if let Some(push) = inner.pushes.pop_front() {
                    return push;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn text(n: usize) -> Bytes {
        n.to_string().into()
    }

    #[tokio::test]
    async fn the_newest_pushes_win_and_the_loss_is_told_first() {
        let mailbox = Mailbox::default();
        let lost: u64 = (0..PUSHES + 5).map(|n| mailbox.push(text(n))).sum();
        assert_eq!(lost, 5);
        mailbox.lost(2);
        assert_eq!(mailbox.next().await, wire::lagged(7));
        for n in 5..PUSHES + 5 {
            assert_eq!(mailbox.next().await, text(n));
        }
    }

    #[tokio::test]
    async fn answers_go_first_and_make_the_asker_wait() {
        let mailbox = Mailbox::default();
        mailbox.push(text(99));
        for n in 0..ANSWERS {
            mailbox.answer(text(n)).await;
        }
        let full = timeout(Duration::from_millis(20), mailbox.answer(text(ANSWERS))).await;
        assert!(full.is_err());
        assert_eq!(mailbox.next().await, text(0));
        mailbox.answer(text(ANSWERS)).await;
        for n in 1..=ANSWERS {
            assert_eq!(mailbox.next().await, text(n));
        }
        assert_eq!(mailbox.next().await, text(99));
    }
}
