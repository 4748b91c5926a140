//! The way of events through our client: from the tracker into the outbox, from there to the connection. What becomes of
//! them is the outbox's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tokio::time::timeout;

use super::carrier::Promise;
use super::client::{Client, Side};
use super::complaints::Trouble;
use super::ledger::NotSent;
use super::mend::mended;
use super::voice::Line;
use crate::track::Event;
use crate::wire;

/// Events handed to the connection and not acknowledged; below what it takes in all, so that the rest has room.
const EVENTS_UNDER_WAY: usize = 16;
/// How long the last events may take at the end.
const LAST_EVENTS: Duration = Duration::from_secs(3);

impl Client<'_> {
    pub(super) fn look_for_a_stall(&mut self) {
        let Side { outbox, complaints, .. } = self.side;
        let first = outbox.first_given(self.handed);
        if !self.stall.look(first.as_ref().map(|m| m.number), Instant::now()) {
            return complaints.take_back(&Trouble::Stalled);
        }
        let id = first.map(|m| m.id).unwrap_or_default();
        complaints.say(Trouble::Stalled, || format!(
            "the broker does not acknowledge event {id}, and all that came after it waits: look at the broker and what it passes events on to"
        ));
    }

    /// Gives the connection as many waiting events as it may have.
    pub(super) fn hand_over(&mut self, line: &Line<'_>) {
        let topic = self.voice.topic("events");
        while line.sender.under_way() < EVENTS_UNDER_WAY {
            let Some(message) = self.side.outbox.next(self.handed) else { return };
            let promise = Promise::Numbered(message.number);
            match line.sender.publish(&topic, promise, message.payload, Some(&message.id)) {
                Ok(()) => {}
                Err(NotSent::NoRoom) => return,
                Err(NotSent::TooLarge(what)) => {
                    line.left_out(&topic, what);
                    self.side.outbox.let_go(message.number);
                    continue;
                }
            }
            self.side.outbox.give(&mut self.handed, message.number);
        }
    }

    /// At the end the broker gets what it will take in a moment.
    pub(super) async fn last_events(&mut self, line: &Line<'_>) {
        let all = async {
            while !self.side.outbox.is_empty() && !line.ended.is_cancelled() {
                self.hand_over(line);
                let changed = self.side.outbox.changed.notified();
                let _ = timeout(Duration::from_millis(50), changed).await;
            }
        };
        let _ = timeout(LAST_EVENTS, all).await;
    }

    pub(super) fn take_event(&self, received: Result<Arc<Event>, broadcast::error::RecvError>) {
        match received {
            Ok(event) => {
                let kept = (self.ctx.kept)(&event.after);
                let mut message = wire::event(&self.ctx.node, &event, kept);
                let clock = self.clock.borrow();
                if clock.is_doubtful() {
                    message = mended(&message, &clock).unwrap_or(message);
                }
                drop(clock);
                self.side.outbox.push(wire::message_id(&event).into(), message);
            }
            Err(broadcast::error::RecvError::Lagged(n)) => self.side.counters.events_missed.add(n),
            // The context holds a sender, so this does not come.
            Err(broadcast::error::RecvError::Closed) => {}
        }
    }

    /// The clock was set: what waits had its times from before.
    pub(super) fn mend(&mut self) {
        let clock = self.clock.borrow_and_update();
        self.side.outbox.rewrite(|message| mended(message, &clock));
    }

    /// Takes what has come already.
    pub(super) fn collect(&mut self) {
        use broadcast::error::{RecvError, TryRecvError};
        loop {
            match self.events.try_recv() {
                Ok(event) => self.take_event(Ok(event)),
                Err(TryRecvError::Lagged(n)) => self.take_event(Err(RecvError::Lagged(n))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}
