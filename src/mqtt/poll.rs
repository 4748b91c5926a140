//! The task that drives one connection, and tells the client what comes of it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Counters;
use super::carrier::{Connection, Granted, Happened, Refused};
use super::command::Topics;
use super::complaints::{Complaints, Trouble};
use super::link::Ended;
use super::outbox::Outbox;
use super::words::Words;

/// The connection is made.
pub(super) struct Connected {
    /// In the session of before.
    pub(super) resumed: bool,
}

/// Drives the connection, in a task of its own because what panics in the library then ends a connection and not the
/// service, and because acknowledgements must be heard while the client waits for room.
pub(super) struct Poll {
    pub(super) connection: Connection,
    pub(super) topics: Topics,
    pub(super) outbox: Arc<Outbox>,
    pub(super) counters: Arc<Counters>,
    pub(super) complaints: Arc<Complaints>,
    pub(super) words: Arc<Words>,
    pub(super) told: mpsc::Sender<Connected>,
}

impl Poll {
    /// To the connection's end and why it came to it; `None`: by our DISCONNECT, or stopped.
    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        ended: CancellationToken,
    ) -> (Connection, Option<Ended>) {
        let _end_on_drop = ended.drop_guard();
        let why = loop {
            // What is cut off half-way is a connection that nobody wants any longer.
            let happened = tokio::select! {
                happened = self.connection.next() => happened,
                () = stop.cancelled() => break None,
            };
            match happened {
                Ok(Happened::Connected { resumed }) => {
                    let _ = self.told.send(Connected { resumed }).await;
                }
                Ok(Happened::Acknowledged(number)) => self.outbox.acknowledged(number),
                Ok(Happened::Refused(refused)) => {
                    note_refusal(refused, &self.outbox, &self.counters, &self.complaints);
                }
                Ok(Happened::Heard(heard)) => {
                    if let Some(word) = self.topics.read(&heard) {
                        self.counters.commands_dropped.add(self.words.push(heard.topic, word));
                    }
                }
                Ok(Happened::Subscribed(topic, Granted::No)) => {
                    let trouble = Trouble::NotHeard(topic.clone());
                    self.complaints.say(trouble, || format!(
                        "the broker refuses the subscription to {topic}, so what is said there is not heard: allow this user to read it in the broker's ACL"
                    ));
                }
                Ok(Happened::Subscribed(_, Granted::Yes)) => {}
                Ok(Happened::Closed) => break None,
                Ok(Happened::Nothing) => {}
                Err(why) => break Some(why),
            }
        };
        (self.connection, why)
    }
}

/// What a broker refuses it would refuse the next time too: it is let go.
pub(super) fn note_refusal(
    refused: Refused,
    outbox: &Outbox,
    counters: &Counters,
    complaints: &Complaints,
) {
    let Refused { number, topic, reason } = refused;
    match number {
        Some(number) => {
            counters.events_refused.inc();
            outbox.let_go(number);
        }
        None => counters.refused.inc(),
    }
    complaints.say(Trouble::Refused(topic.to_string()), || {
        format!(
            "the broker refuses what is published on {topic} ({reason}): allow this user to write it in the broker's ACL"
        )
    });
}
