//! The service once it is started: says how it stands, takes up changes of the configuration, and ends the stages in the order
//! in which data goes through them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::decoders::Decoders;
use super::detector::{self, DetectorThread};
use super::local::Local;
use super::manager::Manager;
use super::report::{self, Around, Identity};
use super::signals::Signals;
use super::tracking::Tracking;
use crate::auth::Guard;
use crate::config::Loaded;
use crate::control::Control;
use crate::detect::scheduler::Scheduler;
use crate::detect::{self, worker};
use crate::media::Streams;
use crate::relay::Relays;
use crate::reload::{Changes, LOOK_EVERY, Reloader};
use crate::setup;
use crate::store::Store;
use crate::wire::{ConfigState, Encoded, LinkState, NodeStatus, Pace};

pub(super) struct Running {
    pub(super) who: Identity,
    pub(super) guard: Arc<Guard>,
    pub(super) streams: Arc<Streams>,
    pub(super) scheduler: Arc<Scheduler>,
    /// Held until the last detection is out.
    pub(super) detections: broadcast::Sender<Arc<Encoded>>,
    pub(super) control: Arc<Control>,
    pub(super) store: Arc<Store>,
    pub(super) tracking: Arc<Tracking>,
    pub(super) local: Local,
    pub(super) detector: DetectorThread,
    pub(super) decoders: Decoders,
    pub(super) paths: detect::Paths,
    pub(super) pace: watch::Receiver<Pace>,
    pub(super) relays: Arc<Relays>,
    pub(super) link: watch::Receiver<LinkState>,
    pub(super) status: watch::Sender<Option<Arc<NodeStatus>>>,
    pub(super) tasks: Tasks,
    pub(super) stops: Stops,
}

/// What is waited for at the end.
pub(super) struct Tasks {
    pub(super) ingest: JoinHandle<()>,
    pub(super) srt: Option<oneshot::Receiver<()>>,
    pub(super) record: JoinHandle<()>,
    pub(super) keep: JoinHandle<()>,
    pub(super) mqtt: JoinHandle<()>,
    pub(super) exits: Vec<JoinHandle<()>>,
}

/// The front door closes first and the exits last, so that what came in still goes out.
pub(super) struct Stops {
    pub(super) ingest: CancellationToken,
    pub(super) record: CancellationToken,
    pub(super) exits: CancellationToken,
}

impl Running {
    /// Until a signal asks to end, or a stage gives up.
    pub(super) async fn follow(
        &mut self,
        loaded: Loaded,
        asked: Option<PathBuf>,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let mut settings = self.control.settings();
        let mut current = settings.borrow_and_update().clone();
        self.tracking.set_config(&current);
        let problem = setup::problem_beside(loaded.file.as_deref());
        let mut reloader = Reloader::new(loaded, asked);
        let mut config_state = ConfigState { file: reloader.file(), error: problem };
        let mut streams = self.streams.watch();
        let mut decoders = self.decoders.changed();
        let mut relays = self.relays.watch();
        let mut storage = self.store.state();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut manager = Manager::from_env();
        let mut beats = manager.beats();
        let outcome = loop {
            self.decoders.follow(&self.streams, &current);
            self.control.saw(self.streams.list().iter().map(|s| &s.id));
            let stuck = manager.stuck(self.scheduler.busy.busy_for());
            let now = report::status(
                &self.who,
                &self.streams,
                &self.decoders.states(),
                (&self.detector.state.borrow(), self.pace.borrow_and_update().clone()),
                stuck.clone(),
                Around {
                    relays: self.relays.status(),
                    mqtt: self.link.borrow_and_update().clone(),
                    storage: storage.borrow_and_update().clone(),
                    attached: self.local.status(),
                },
                config_state.clone(),
            );
            self.local.show(&now);
            manager.status(&now);
            self.publish(now);
            tokio::select! {
                _ = beats.tick() => manager.beat(stuck.as_deref()),
                _ = streams.changed() => {}
                _ = decoders.changed() => {}
                _ = relays.changed() => {}
                () = self.local.changed() => {}
                _ = self.detector.state.changed() => {}
                Ok(()) = self.pace.changed() => {}
                Ok(()) = self.link.changed() => {}
                Ok(()) = storage.changed() => {}
                Ok(()) = settings.changed() => {
                    current = settings.borrow_and_update().clone();
                    self.decoders.set_rates(&current);
                    self.tracking.set_config(&current);
                }
                ended = &mut self.detector.ended => break Err(detector::end(ended)),
                _ = &mut self.tasks.ingest => break Err(Failure::gave_up("the RTMP listener ended")),
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.interrupt.recv() => break Ok(()),
                _ = look.tick() => {
                    self.take_up(reloader.poll(), &reloader, &mut config_state).await;
                    self.send_away_who_has_no_token();
                }
                _ = signals.hangup.recv() => {
                    self.take_up(reloader.read(), &reloader, &mut config_state).await;
                    if let Err(error) = self.guard.reload() {
                        tracing::error!(%error, "the token file is bad, the old tokens stay in force");
                    }
                }
            }
        };
        manager.stopping();
        outcome
    }

    /// Ends all stages, within the time that the configuration gives.
    pub(super) async fn finish(self, signals: &mut Signals) {
        let grace = self.control.settings().borrow().node.shutdown_grace_s;
        let grace = Duration::from_secs(grace);
        tracing::info!(grace_s = grace.as_secs(), "shutting down; a second signal ends at once");
        tokio::select! {
            drained = tokio::time::timeout(grace, self.drain(grace)) => {
                if drained.is_err() {
                    tracing::warn!("not everything was drained in time");
                }
            }
            () = signals.end() => tracing::warn!("second signal, not everything was drained"),
        }
    }

    async fn drain(mut self, grace: Duration) {
        self.stops.ingest.cancel();
        self.local.sources.finish(grace / 3).await;
        if !self.tasks.ingest.is_finished() {
            let _ = (&mut self.tasks.ingest).await;
        }
        if let Some(ended) = self.tasks.srt {
            let _ = ended.await;
        }
        self.streams.close_all();
        self.relays.finish().await;
        self.decoders.finish(grace / 3).await;
        self.scheduler.close();
        self.detector.join(worker::LAST_WORK).await;
        self.tracking.finish();
        self.stops.record.cancel();
        drop(self.detections);
        self.stops.exits.cancel();
        self.local.finish().await;
        let _ = self.tasks.record.await;
        let _ = self.tasks.keep.await;
        self.store.finish().await;
        let _ = self.tasks.mqtt.await;
        for exit in self.tasks.exits {
            let _ = exit.await;
        }
    }

    /// Hands each changed section to its stage.
    async fn take_up(
        &mut self,
        read: Result<Option<Changes>, crate::config::ConfigError>,
        reloader: &Reloader,
        state: &mut ConfigState,
    ) {
        let changes = match read {
            Ok(None) => return,
            Ok(Some(changes)) => changes,
            Err(error) => {
                tracing::error!(%error, "the changed configuration is bad, the old one stays in force");
                state.error = Some(error.to_string());
                return;
            }
        };
        tracing::info!(auth = changes.auth, detector = changes.detector, rates = changes.rates, relays = changes.relays, at_restart = ?changes.at_restart, "configuration changed");
        *state = ConfigState { file: reloader.file(), error: None };
        self.decoders.fit = detector::fit(&changes.config.detect, &self.paths);
        if changes.auth {
            self.guard.update_config(&changes.config.auth);
        }
        if changes.detector {
            *self.detector.wanted.lock() = changes.config.detect.clone();
            self.scheduler.reopen();
        }
        if changes.relays {
            self.relays.follow(&changes.config.relay);
        }
        self.local.apply(&changes).await;
        if !changes.at_restart.is_empty() {
            let sections = changes.at_restart.join(", ");
            tracing::warn!(sections, "these sections take effect at the next start");
            state.error = Some(format!("restart spotter for the changes of: {sections}"));
        }
        // Rates and rules are taken up with what is switched laid over them.
        self.control.set_base(changes.config);
    }

    /// `spotter token revoke` and `renew` change the file from outside.
    fn send_away_who_has_no_token(&self) {
        self.guard.look_at_file();
        for stream in self.streams.send_away_unless(|token| self.guard.knows(token)) {
            tracing::info!(%stream, "its publisher's token is not good any longer: sent away");
        }
    }

    /// Sends the status if it says something new.
    fn publish(&self, status: NodeStatus) {
        self.status.send_if_modified(|old| {
            let differs = old.as_deref() != Some(&status);
            if differs {
                *old = Some(Arc::new(status));
            }
            differs
        });
    }
}
