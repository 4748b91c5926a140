//! How a connection stands, for the status and the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Side;
use super::link::LinkError;
use crate::wire::LinkState;

/// How long another node of our name is spoken of after it was last heard.
const CONTESTED: Duration = Duration::from_secs(300);

/// Keeps the link's state and writes one line a change, not one an attempt.
pub(super) struct Report<'a> {
    side: &'a Side,
    node: Arc<str>,
    broker: String,
    failed: Option<LinkError>,
    attempts: u64,
    /// When another node of our name was last noticed.
    contested: Option<Instant>,
}

impl<'a> Report<'a> {
    pub(super) fn new(side: &'a Side, node: &Arc<str>, broker: String) -> Self {
        let node = Arc::clone(node);
        Self { side, node, broker, failed: None, attempts: 0, contested: None }
    }

    pub(super) fn connecting(&self) {
        // While it is down, the reason is worth more than that we try again.
        if self.failed.is_none() {
            let broker = self.broker.clone();
            self.side.link.send_replace(LinkState::Connecting { broker });
        }
    }

    pub(super) fn up(&mut self) {
        self.side.counters.connects.inc();
        tracing::info!(broker = self.broker, failed_attempts = self.attempts, "mqtt connected");
        self.failed = None;
        self.attempts = 0;
        self.side.complaints.clear();
        let broker = self.broker.clone();
        self.side.link.send_replace(match self.is_contested() {
            true => LinkState::Contested { broker, reason: self.remedy() },
            false => LinkState::Up { broker, reason: None },
        });
    }

    /// Shows what is complained of now.
    pub(super) fn refresh(&self) {
        let now = self.side.complaints.text();
        self.side.link.send_if_modified(|state| match state {
            LinkState::Up { reason, .. } if *reason != now => {
                *reason = now;
                true
            }
            _ => false,
        });
    }

    pub(super) fn contested(&mut self) {
        if !self.is_contested() {
            tracing::error!(broker = self.broker, reason = self.remedy(), "mqtt name taken twice");
        }
        self.contested = Some(Instant::now());
        let broker = self.broker.clone();
        self.side.link.send_replace(LinkState::Contested { broker, reason: self.remedy() });
    }

    pub(super) fn is_contested(&self) -> bool {
        self.contested.is_some_and(|at| at.elapsed() < CONTESTED)
    }

    fn remedy(&self) -> String {
        format!(
            "another node at this broker is called {}: give one of them another node.name",
            self.node
        )
    }

    pub(super) fn down(&mut self, error: &LinkError) {
        self.side.counters.failures.inc();
        self.attempts += 1;
        if self.failed.as_ref() == Some(error) {
            tracing::debug!(broker = self.broker, %error, "mqtt still not connected");
            return;
        }
        tracing::warn!(broker = self.broker, %error, "mqtt not connected; trying again");
        self.failed = Some(error.clone());
        let broker = self.broker.clone();
        let reason = match self.is_contested() {
            true => format!("{}; {error}", self.remedy()),
            false => error.to_string(),
        };
        self.side.link.send_replace(LinkState::Down { broker, reason });
    }
}
