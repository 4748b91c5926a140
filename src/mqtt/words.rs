//! Words on their way from the connection to who obeys them: of each topic the newest. It judges none.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::command::Word;

/// Topics with a word that waits.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Words {
    waiting: Mutex<VecDeque<(String, Word)>>,
    come: Notify,
}

impl Words {
    /// Takes a word in the place of an older one of its topic. Answers how many were lost for it.
    pub(super) fn push(&self, mut topic: String, word: Word) -> u64 {
        // Nodes of one name speak on one topic, and each is to be heard.
        if let Word::Instance { id, .. } = &word {
            topic.push_str(id);
        }
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        waiting.retain(|(other, _)| *other != topic);
        if waiting.len() >= MOST {
            waiting.pop_front();
        }
        let lost = before - waiting.len();
        waiting.push_back((topic, word));
        drop(waiting);
        self.come.notify_one();
        lost as u64
    }

    /// The next word, when there is one. Cancel-safe.
    pub(super) async fn next(&self) -> Word {
        loop {
            if let Some((_, word)) = self.waiting.lock().pop_front() {
                return word;
            }
            self.come.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_topic_is_kept_and_the_oldest_topic_goes() {
        let words = Words::default();
        let word = |n: usize| Word::RetainedOnline(n.to_string());
        let lost: u64 = (0..1000).map(|n| words.push(format!("{}", n % 3), word(n))).sum();
        assert_eq!(lost, 997);
        for n in [997, 998, 999] {
            assert_eq!(words.next().await, word(n));
        }
        let lost: u64 = (0..MOST + 1).map(|n| words.push(format!("{n}"), word(n))).sum();
        assert_eq!((lost, words.next().await), (1, word(1)));

        let words = Words::default();
        let instance = |id: &str| Word::Instance { id: id.into(), retained: false };
        ["a", "b"].into_iter().for_each(|id| assert_eq!(words.push("i".into(), instance(id)), 0));
        assert_eq!([words.next().await, words.next().await], ["a", "b"].map(instance));
    }
}
