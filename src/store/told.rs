//! What subscribers hear of while it is still on its way to the disk: who asks for it right then waits, for a bounded time, and
//! who asks for anything else does not. It neither reads nor writes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a visit's row may be waited for. A commit follows within a tenth of a second, unless the disk is busy.
const ROW: Duration = Duration::from_secs(1);
/// For how long after a message about a visit its picture and clip may still come: one is encoded, the other cut.
const COMING: Duration = Duration::from_secs(3);
/// Visits of that time that are remembered.
const LATELY: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Told {
    newest: Mutex<Newest>,
    /// The number of the newest message whose visit is committed, with all before it.
    committed: watch::Sender<u64>,
    /// Bumped with each picture and fragment that was written.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Newest {
    number: u64,
    lately: VecDeque<(Arc<str>, Instant)>,
}

impl Told {
    /// Numbers a message that `visit` began or ended, if `send` hands it to the disk. To be called before anybody hears of it.
    pub(super) fn message(&self, visit: &Arc<str>, send: impl FnOnce(u64) -> bool) -> bool {
        let (mut newest, now) = (self.newest.lock(), Instant::now());
        let sent = send(newest.number + 1);
        if sent {
            newest.number += 1;
            newest.lately.push_back((Arc::clone(visit), now));
            let full = newest.lately.len() > LATELY;
            if full || newest.lately.front().is_some_and(|(_, at)| now - *at > COMING) {
                newest.lately.pop_front();
            }
        }
        sent
    }

    pub(super) fn committed(&self, number: u64) {
        self.committed.send_if_modified(|old| std::mem::replace(old, number) != number);
    }

    pub(super) fn wrote(&self) {
        self.written.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Waits until every visit that anybody was told of by now has its row.
    pub(super) async fn rows(&self) {
        let number = self.newest.lock().number;
        let mut committed = self.committed.subscribe();
        // In vain: what is asked for is answered as the disk has it.
        let _ = timeout(ROW, committed.wait_for(|n| *n >= number)).await;
    }

    /// To be asked for before something of a visit is looked for.
    pub(super) fn coming(&self, visit: &str) -> Coming {
        let newest = self.newest.lock();
        let told = newest.lately.iter().rev().find(|(id, _)| **id == *visit);
        Coming(told.map(|(_, at)| (*at + COMING, self.written.subscribe())))
    }
}

/// What is still coming of one visit.
#[derive(Debug)]
pub struct Coming(Option<(Instant, watch::Receiver<u64>)>);

impl Coming {
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// True when something was written since, and it is worth another look. False: what is not there by now does not come.
    pub async fn more(&mut self) -> bool {
        let Some((until, written)) = &mut self.0 else { return false };
        matches!(timeout_at(*until, written.changed()).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::pin;

    #[tokio::test]
    async fn a_row_is_waited_for_only_while_it_is_on_its_way() {
        let told = Told::default();
        told.rows().await;
        assert!(told.message(&"a".into(), |number| number == 1));
        assert!(!told.message(&"b".into(), |_| false), "the queue is full");
        {
            let mut waits = pin!(told.rows());
            assert!((&mut waits).now_or_never().is_none());
            told.committed(1);
            waits.await;
        }
        told.message(&"c".into(), |_| true);
        told.committed(2);
        assert!(told.rows().now_or_never().is_some());
        told.message(&"d".into(), |_| true);
        // A disk that hangs keeps nobody.
        told.rows().await;
    }

    #[tokio::test]
    async fn a_picture_is_waited_for_only_soon_after_its_visit_was_told() {
        let told = Told::default();
        assert!(!told.coming("never").more().await);
        told.message(&"a".into(), |_| true);
        let mut coming = told.coming("a");
        assert!(coming.more().now_or_never().is_none());
        told.wrote();
        assert!(coming.more().await);
        assert!(!coming.more().await, "nothing comes any more");
        assert!(!told.coming("a").more().await);
        for n in 0..2 * LATELY {
            told.message(&n.to_string().into(), |_| true);
        }
        assert!(told.newest.lock().lately.len() <= LATELY);
    }
}
