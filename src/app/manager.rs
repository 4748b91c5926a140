//! What the service manager hears of us (sd_notify(3)): ready, stopping, a line of status, and signs of life as long as
//! nothing hangs. Says nothing where nobody asked ($NOTIFY_SOCKET, $WATCHDOG_USEC).

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::health::{Busy, missing};
use crate::wire::NodeStatus;

/// How long one piece of work may last where no watchdog says: well over an inference or an opening on the slowest board.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Manager {
    /// The service manager restarts us when it hears nothing for so long.
    watchdog: Option<Duration>,
    /// How long one piece of work may last.
    limit: Duration,
    /// The threads that carry the sockets, asked anew at each beat to do something.
    io: Arc<Busy>,
    told_ready: bool,
    told: String,
}

impl Manager {
    pub(super) fn from_env() -> Self {
        let watchdog = sd_notify::watchdog_enabled();
        // Half of it, so that what is late by a little is not killed, and what hangs ends within one and a half.
        let limit = watchdog.map_or(PATIENCE, |w| w / 2);
        Self { watchdog, limit, io: Arc::default(), told_ready: false, told: String::new() }
    }

    /// When to call [`Manager::beat`].
    pub(super) fn beats(&self) -> Interval {
        let mut beats = interval(self.limit / 4);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats
    }

    /// What hangs, if anything does. `detector` is how long its thread has been at one piece of work.
    pub(super) fn stuck(&self, detector: Option<Duration>) -> Option<String> {
        // Says the limit and not the time, so that it stays one message.
        let late = |what: &str, busy: Option<Duration>| {
            let s = busy.filter(|busy| *busy > self.limit).map(|_| self.limit.as_secs_f32())?;
            Some(format!("{what} for more than {s:.1} s; restart spotter"))
        };
        late("the detector hangs: it has been at one picture", detector).or_else(|| {
            late("the threads for the sockets hang: they did nothing", self.io.busy_for())
        })
    }

    /// A sign of life, unless something hangs. An idle node has nothing that could hang.
    pub(super) fn beat(&self, stuck: Option<&str>) {
        match stuck {
            // Without a watchdog this goes on, and the status says it.
            Some(what) => tracing::error!(watchdog = ?self.watchdog, "{what}"),
            None if self.watchdog.is_some() => tell(&[NotifyState::Watchdog]),
            None => {}
        }
        if self.io.busy_for().is_none() {
            self.io.begin();
            let io = Arc::clone(&self.io);
            tokio::spawn(async move { io.end() });
        }
    }

    /// Tells a changed status, and once that we are ready.
    pub(super) fn status(&mut self, status: &NodeStatus) {
        let words = words(status);
        if words != self.told {
            tell(&[NotifyState::Status(&words)]);
            self.told = words;
        }
        if !self.told_ready && missing(Some(status)).is_empty() {
            tracing::info!("spotter is ready");
            tell(&[NotifyState::Ready]);
            self.told_ready = true;
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("shutting down")]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told; see $NOTIFY_SOCKET");
    }
}

/// The status in a line, as `systemctl status` shows it.
fn words(status: &NodeStatus) -> String {
    let streams: Vec<_> =
        status.decoders.iter().map(|d| format!("{} by {}", d.stream, d.decoder)).collect();
    let streams = match streams.is_empty() {
        true => format!("waiting for a stream at rtmp://{}/live/...", status.addresses.rtmp),
        false => streams.join(", "),
    };
    let wrong = missing(Some(status)).into_iter();
    let wrong = wrong.chain(status.config.error.iter().map(|e| format!("configuration: {e}")));
    // One line is all there is.
    let words: Vec<_> = wrong.chain([streams]).map(|w| w.replace('\n', " ")).collect();
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_named() {
        let manager = Manager::from_env();
        assert_eq!(manager.stuck(None), None);
        assert_eq!(manager.stuck(Some(Duration::from_secs(29))), None);
        let words = manager.stuck(Some(Duration::from_secs(31))).unwrap();
        assert!(words.starts_with("the detector hangs: "), "{words}");
    }

    #[test]
    fn the_socket_threads_answer_or_are_named() {
        let mut manager = Manager::from_env();
        manager.limit = Duration::ZERO;
        // Nobody runs what is spawned here: a runtime whose threads hang.
        let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = idle.enter();
        manager.beat(None);
        std::thread::sleep(Duration::from_millis(1));
        assert!(manager.stuck(None).unwrap().starts_with("the threads for the sockets hang"));
        idle.block_on(tokio::task::yield_now());
        assert_eq!(manager.stuck(None), None);
    }
}
