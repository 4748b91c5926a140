//! What hangs on this machine: cameras, lamps, the button, and the privacy pause that holds them all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::doors::Bound;
use super::tracking::AllCounts;
use crate::auth::Guard;
use crate::board::button::Press;
use crate::board::hands::{self, Done, Hands, PinStatus};
use crate::board::lamp::{self, Mood};
use crate::board::{self, Board};
use crate::config::Config;
use crate::media::Streams;
use crate::pause::{AfterReboot, Pause, Paused};
use crate::reload::Changes;
use crate::source::Sources;
use crate::wire::{Attached, NodeStatus, PauseInfo, PinInUse, SourceInUse};

/// How long lines may take to be given back.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Local {
    pub(super) pause: Arc<Pause>,
    pub(super) sources: Arc<Sources>,
    hands: Arc<Hands>,
    mood: watch::Sender<Mood>,
    paused: watch::Receiver<Option<Paused>>,
    sources_seen: watch::Receiver<()>,
    pins: watch::Receiver<Vec<PinStatus>>,
}

impl Local {
    /// A pause of before is in force when this returns; lamps begin to show "starting".
    pub(super) fn new(
        config: &Config,
        dir: &Path,
        board: &Board,
        streams: &Arc<Streams>,
        counts: watch::Receiver<AllCounts>,
        (guard, bound): (Arc<Guard>, Bound),
    ) -> Self {
        let after_reboot = match config.node.pause_outlasts_reboot {
            true => AfterReboot::Lasts,
            false => AfterReboot::Ends,
        };
        let pause = Pause::open(dir, Arc::clone(streams), after_reboot);
        let sources = Sources::new(Arc::clone(streams), board.kind);
        let mood = watch::Sender::new(Mood::Starting);
        let hands = {
            let pause = Arc::clone(&pause);
            let pressed = move |press| match press {
                Press::Short => done(pause.toggle("button")),
                Press::Long => renew(&guard, &bound),
            };
            let mood = mood.subscribe();
            Hands::new(hands::Context { mood, counts, pressed: Arc::new(pressed) })
        };
        hands.follow(&config.gpio);
        let paused = pause.watch();
        let (sources_seen, pins) = (sources.watch(), hands.status());
        let hands = Arc::new(hands);
        Self { pause, sources, hands, mood, paused, sources_seen, pins }
    }

    pub(super) fn status(&mut self) -> Attached {
        let sources = self.sources.status();
        Attached {
            pause: self.paused.borrow_and_update().clone().map(PauseInfo::from),
            sources: sources.into_iter().map(SourceInUse::from).collect(),
            pins: self.pins.borrow_and_update().iter().cloned().map(PinInUse::from).collect(),
            throttled: board::throttled(Path::new("/")),
        }
    }

    /// Waits for a change of any of it. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        // Their senders are held here and above: they end with us.
        tokio::select! {
            _ = self.paused.changed() => {}
            _ = self.sources_seen.changed() => {}
            _ = self.pins.changed() => {}
        }
    }

    /// What the lamp shows follows from what the node says of itself.
    pub(super) fn show(&self, status: &NodeStatus) {
        let mood = lamp::mood(Some(status));
        self.mood.send_if_modified(|old| {
            let differs = *old != mood;
            *old = mood;
            differs
        });
    }

    pub(super) async fn apply(&self, changes: &Changes) {
        if changes.sources {
            self.sources.follow(&changes.config.source);
        }
        if changes.gpio {
            let (hands, gpio) = (Arc::clone(&self.hands), changes.config.gpio.clone());
            // Lines are given back first, which takes a tick, or for ever on a bus that hangs.
            let taken = tokio::task::spawn_blocking(move || hands.follow(&gpio));
            if tokio::time::timeout(PATIENCE, taken).await.is_err() {
                tracing::error!("the lines of [gpio] hang: the change waits for them");
            }
        }
    }

    /// Lamps off. The cameras end before, with the front door.
    pub(super) async fn finish(&self) {
        let hands = Arc::clone(&self.hands);
        let ended = tokio::task::spawn_blocking(move || hands.finish());
        // A bus that hangs must not hold the rest.
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

fn done<E>(result: Result<(), E>) -> Done {
    if result.is_ok() { Done::Yes } else { Done::No }
}

/// Makes a new owner token and says it where the first one was said, and nowhere else.
fn renew(guard: &Guard, bound: &Bound) -> Done {
    let addresses = bound.addresses();
    match guard.renew_owner() {
        Ok(secret) => {
            let (file, token) = (guard.file().display(), secret.expose());
            tracing::warn!("the button made a new owner token; the old one ended");
            eprintln!("spotter: new owner token, shown once and kept in {file}");
            if !addresses.rtmp.is_empty() {
                let at = &addresses.rtmp;
                eprintln!("spotter:   point the glasses at  rtmp://{at}/live/stream?token={token}");
            }
            if !addresses.web.is_empty() {
                eprintln!(
                    "spotter:   see it at              http://{}/?token={token}",
                    addresses.web
                );
            }
            Done::Yes
        }
        Err(error) => {
            tracing::error!(%error, "the button made no new owner token; the old one stays");
            Done::No
        }
    }
}
