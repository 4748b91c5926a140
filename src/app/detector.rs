//! The one detector thread, seen from the service: started, told of new settings, waited for. What it does is in `detect/`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::Failure;
use crate::board::{self, Board, BoardKind};
use crate::config::{self, Config, Provider};
use crate::decode::{Fit, Frame};
use crate::detect::letterbox::Placement;
use crate::detect::scheduler::Scheduler;
use crate::detect::worker::{self, DetectorState};
use crate::detect::{self, Detections, Way, self_test};

/// What opening a detector needs to know of this machine.
pub(super) fn paths(board: &Board, state_dir: PathBuf) -> detect::Paths {
    let profile = board.kind.profile();
    // One half of an accelerator, its library or its device, is worth telling; of most there is neither.
    let (whole, parts): (Vec<_>, Vec<_>) = board::delegates()
        .into_iter()
        .filter(|d| d.path.is_some() || d.accelerator.is_some())
        .partition(|d| d.path.is_some() && d.accelerator.is_some());
    let hints = parts.into_iter().map(|d| format!("{} for {}: {}", d.library, d.of, d.detail));
    let delegate = |path: String| config::Delegate {
        path: path.into(),
        model: String::new(),
        options: BTreeMap::new(),
    };
    let delegates = whole.into_iter().filter_map(|d| d.path).map(delegate).map(Way::Delegate);
    let providers: &[Provider] = match board.kind {
        BoardKind::JetsonOrin | BoardKind::JetsonOther => &[Provider::Tensorrt, Provider::Cuda],
        _ => &[],
    };
    let providers = providers.iter().map(|provider| Way::Onnx(Some(*provider)));
    detect::Paths {
        default_model: profile.model.into(),
        default_threads: profile.threads,
        accelerators: delegates.chain(providers).collect(),
        hints: hints.collect(),
        ..detect::Paths::new(state_dir)
    }
}

/// How large this detector wants pictures; none where it looks closer at parts of them, or has no model to tell.
pub(super) fn fit(config: &config::Detect, paths: &detect::Paths) -> Option<Fit> {
    if config.tiles.is_some() || config.backend == config::DetectBackend::Fake {
        return None;
    }
    let input = detect::find_manifest(config, paths).ok()?.input;
    Some(Arc::new(move |(width, height)| Placement::new(&input, width, height).inner))
}

pub(super) struct DetectorThread {
    pub(super) ended: oneshot::Receiver<Result<(), String>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub(super) state: watch::Receiver<DetectorState>,
    /// What the next opening reads: as configured, but for the model while a smaller one works.
    pub(super) wanted: Arc<Mutex<config::Detect>>,
}

impl DetectorThread {
    /// Opens and tests the detector, so that a bad model is refused at start, and gives it a thread of its own.
    pub(super) fn start(
        config: &Config,
        paths: detect::Paths,
        scheduler: &Arc<Scheduler>,
        emit: impl Fn(&Frame, Detections) + Send + 'static,
    ) -> Result<Self, Failure> {
        let first = self_test::open_tested(&config.detect, &paths).map_err(Failure::config)?;
        let info = first.info();
        tracing::info!(model = %info.model, backend = info.backend, threads = info.threads, library = info.library, "detector opened");
        for refusal in &info.refusals {
            tracing::warn!(refusal, "detector");
        }
        let wanted = Arc::new(Mutex::new(config.detect.clone()));
        let (state, seen) = watch::channel(DetectorState::default());
        let (done, ended) = oneshot::channel();
        let open = {
            let wanted = Arc::clone(&wanted);
            Box::new(move || {
                let detect = wanted.lock().clone();
                self_test::open_tested(&detect, &paths).map_err(|e| e.to_string())
            })
        };
        let scheduler = Arc::clone(scheduler);
        let thread = std::thread::Builder::new()
            .name("detect".into())
            .spawn(move || {
                let _ = done.send(worker::run(&scheduler, first, open, &state, &emit));
            })
            .map_err(Failure::unavailable)?;
        Ok(Self { ended, thread: Some(thread), state: seen, wanted })
    }

    /// Waits for the thread, which `Scheduler::close` ends.
    pub(super) async fn join(&mut self, at_most: Duration) {
        let Some(thread) = self.thread.take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(at_most, joined).await.is_err() {
            tracing::warn!("the detector did not end in time and is left behind");
        }
    }
}

/// Why the thread ended although nobody closed its scheduler.
pub(super) fn end(ended: Result<Result<(), String>, oneshot::error::RecvError>) -> Failure {
    match ended {
        Ok(Err(error)) => Failure::gave_up(error),
        Ok(Ok(())) => Failure::gave_up("the detector thread ended"),
        Err(_) => Failure::gave_up("the detector thread panicked"),
    }
}
