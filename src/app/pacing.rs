//! Holds the detector to what it and the board can take: looks about once a second, sets the scheduler's rates, and opens
//! another model beside the one at work. What is too much is judged in `detect/pace.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::report::{self, Cpu};
use crate::adapt::Times;
use crate::config::{self, Adapt, Config, DetectBackend};
use crate::detect::pace::{Judge, ModelSize, Signs, paced};
use crate::detect::scheduler::Scheduler;
use crate::detect::{self, Detector, self_test};
use crate::wire::{Pace, rfc3339};

/// The least of the shipped models.
const SMALLER: &str = "picodet-s-320";
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Fast enough for [`Times::brisk`].
const BRISK_LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Context {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) settings: watch::Receiver<Arc<Config>>,
    /// What the detector's thread opens when it has to open one.
    pub(super) wanted: Arc<Mutex<config::Detect>>,
    pub(super) paths: detect::Paths,
}

/// Begins, and tells how it stands, until `stop`.
pub(super) fn start(mut ctx: Context, stop: CancellationToken) -> watch::Receiver<Pace> {
    let asked = Asked::of(&ctx.settings.borrow_and_update());
    let (told, seen) = watch::channel(Pace::default());
    let pacing = Pacing {
        judge: judge(&asked.detect, &ctx.paths),
        asked,
        smaller: None,
        opening: None,
        since: None,
        meter: Meter::new(&ctx.scheduler),
        told,
        ctx,
    };
    pacing.tell();
    tokio::spawn(pacing.run(stop));
    seen
}

/// What the owner asks for; when it changes, all begins anew with the whole of it.
#[derive(PartialEq)]
struct Asked {
    detect: config::Detect,
    /// Streams with a rate of their own.
    rates_hz: BTreeMap<String, f64>,
}

impl Asked {
    fn of(config: &Config) -> Self {
        let own = config.stream.iter().filter_map(|(name, s)| Some((name.clone(), s.rate_hz?)));
        Self { detect: config.detect.clone(), rates_hz: own.collect() }
    }
}

struct Pacing {
    ctx: Context,
    asked: Asked,
    /// None when nothing is to follow.
    judge: Option<Judge>,
    /// The smaller model, while it is at work.
    smaller: Option<String>,
    opening: Option<Opening>,
    since: Option<SystemTime>,
    meter: Meter,
    told: watch::Sender<Pace>,
}

/// A model on its way, opened and tested on a thread of its own.
struct Opening {
    size: ModelSize,
    detect: config::Detect,
    outcome: JoinHandle<Result<Box<dyn Detector>, String>>,
}

impl Pacing {
    async fn run(mut self, stop: CancellationToken) {
        let mut looks = self.looks();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.ctx.settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_up();
                    looks = self.looks();
                }
                (opening, outcome) = opened(&mut self.opening) => self.take_over(opening, outcome),
                _ = looks.tick() => self.look(),
            }
        }
    }

    fn looks(&self) -> Interval {
        let every = match self.asked.detect.backend {
            DetectBackend::Fake => BRISK_LOOK_EVERY,
            _ => LOOK_EVERY,
        };
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }

    /// What the owner changed is in force at once, whatever was judged before.
    fn take_up(&mut self) {
        let asked = Asked::of(&self.ctx.settings.borrow_and_update());
        if asked == self.asked {
            return;
        }
        self.asked = asked;
        self.opening = None;
        if self.smaller.take().is_some() {
            *self.ctx.wanted.lock() = self.asked.detect.clone();
            self.ctx.scheduler.reopen();
        }
        let slowed = self.judge.as_ref().is_some_and(|judge| judge.why().is_some());
        self.judge = judge(&self.asked.detect, &self.ctx.paths);
        self.ctx.scheduler.set_share(1.0);
        if slowed {
            self.since = Some(SystemTime::now());
            tracing::info!("the configuration changed: streams are looked at as it says");
        }
        self.tell();
    }

    fn look(&mut self) {
        let signs = self.meter.read(&self.ctx.scheduler);
        let Some(judge) = &mut self.judge else { return };
        let before = judge.step();
        if !judge.look(&signs, Instant::now()) {
            // Another reason may hold it where it is.
            return self.tell();
        }
        let step = judge.step();
        self.ctx.scheduler.set_share(step.share);
        self.since = Some(SystemTime::now());
        if step.model != before.model {
            self.open(step.model);
        }
        let Pace { rate_hz, of_hz, reason, .. } = self.pace();
        match reason {
            Some(reason) => {
                tracing::warn!(rate_hz, of_hz, model = ?step.model, reason, "streams are looked at less often");
            }
            None => tracing::info!(rate_hz, "streams are looked at as often as configured again"),
        }
        self.tell();
    }

    fn open(&mut self, size: ModelSize) {
        let detect = match size {
            ModelSize::AsConfigured => Some(self.asked.detect.clone()),
            ModelSize::Smaller => smaller(&self.asked.detect, &self.ctx.paths),
        };
        let Some(detect) = detect else { return };
        let (asked, paths) = (detect.clone(), self.ctx.paths.clone());
        let open = move || self_test::open_tested(&asked, &paths).map_err(|e| e.to_string());
        let outcome = tokio::task::spawn_blocking(open);
        self.opening = Some(Opening { size, detect, outcome });
    }

    fn take_over(&mut self, opening: Opening, outcome: Result<Box<dyn Detector>, String>) {
        let is_smaller = opening.size == ModelSize::Smaller;
        match outcome {
            Ok(detector) => {
                self.smaller = is_smaller.then(|| detector.info().model.to_string());
                *self.ctx.wanted.lock() = opening.detect;
                self.ctx.scheduler.take_over(detector);
                self.tell();
            }
            Err(error) if is_smaller => {
                tracing::warn!(error, "the smaller model does not work, the one in use stays");
            }
            Err(error) => {
                // Tried once more where its failure shows.
                tracing::error!(error, "the configured model does not work any more");
                *self.ctx.wanted.lock() = opening.detect;
                self.ctx.scheduler.reopen();
            }
        }
    }

    fn pace(&self) -> Pace {
        let of_hz = self.asked.detect.rate_hz;
        let share = self.judge.as_ref().map_or(1.0, |judge| judge.step().share);
        Pace {
            rate_hz: paced(of_hz, share),
            of_hz,
            smaller_model: self.smaller.clone(),
            reason: self.judge.as_ref().and_then(Judge::why).map(|why| why.to_string()),
            since: self.since.map(rfc3339),
        }
    }

    fn tell(&self) {
        let pace = self.pace();
        self.told.send_if_modified(|old| {
            let differs = *old != pace;
            *old = pace;
            differs
        });
    }
}

/// Waits for the model on its way, for ever where there is none. Cancel-safe.
async fn opened(slot: &mut Option<Opening>) -> (Opening, Result<Box<dyn Detector>, String>) {
    let Some(opening) = slot.as_mut() else { return std::future::pending().await };
    let outcome = (&mut opening.outcome).await;
    let outcome = outcome.unwrap_or_else(|_| Err("it panicked while it was opened".into()));
    match slot.take() {
        Some(opening) => (opening, outcome),
        None => std::future::pending().await,
    }
}

/// The fake detector has no model whose opening takes time: with it all follows in seconds, as tests want it.
fn judge(detect: &config::Detect, paths: &detect::Paths) -> Option<Judge> {
    let times = match detect.backend {
        DetectBackend::Fake => Times::brisk(),
        _ => Times::USUAL,
    };
    let adapt = match detect.adapt {
        Adapt::Model if smaller(detect, paths).is_none() => {
            tracing::info!(
                "detect.adapt = \"model\": here the model is not spotter's choice or the least already; the rate alone follows"
            );
            Adapt::Rate
        }
        adapt => adapt,
    };
    Judge::new(adapt, times)
}

/// What asks for the smaller model, where the model is the board's choice, is not that one anyway, and runs on the processor.
fn smaller(detect: &config::Detect, paths: &detect::Paths) -> Option<config::Detect> {
    let on_processor = detect.delegate.is_none()
        && match detect.backend {
            DetectBackend::Auto => paths.accelerators.is_empty(),
            DetectBackend::Onnx => detect.onnx.providers.is_empty(),
            DetectBackend::Tflite | DetectBackend::Tflitec | DetectBackend::Fake => true,
        };
    if detect.model != "auto" || paths.default_model == SMALLER || !on_processor {
        return None;
    }
    let detect = config::Detect { model: SMALLER.into(), ..detect.clone() };
    let is_there =
        detect.backend == DetectBackend::Fake || detect::find_manifest(&detect, paths).is_ok();
    is_there.then_some(detect)
}

/// Reads the signs, each since the reading before.
struct Meter {
    cpu: Cpu,
    at: Instant,
    worked: Duration,
}

impl Meter {
    fn new(scheduler: &Scheduler) -> Self {
        Self { cpu: Cpu::now(), at: Instant::now(), worked: scheduler.busy.total() }
    }

    fn read(&mut self, scheduler: &Scheduler) -> Signs {
        let (at, worked) = (Instant::now(), scheduler.busy.total());
        let passed = at.saturating_duration_since(std::mem::replace(&mut self.at, at));
        let did = worked.saturating_sub(std::mem::replace(&mut self.worked, worked));
        let share = did.as_secs_f64() / passed.as_secs_f64();
        Signs {
            board: report::signs(&report::load(&mut self.cpu)),
            // The first tick comes at once.
            busy: (passed >= BRISK_LOOK_EVERY / 2).then_some(share),
            displaced: scheduler.frames_displaced.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_model_of_spotter_s_choice_on_the_processor_gives_way() {
        let paths = detect::Paths::new("/nonexistent");
        let detect = config::Detect { backend: DetectBackend::Fake, ..config::Detect::default() };
        assert_eq!(smaller(&detect, &paths).unwrap().model, SMALLER);
        let named = config::Detect { model: "yolov4-tiny-416".into(), ..detect.clone() };
        assert_eq!(smaller(&named, &paths), None);
        let least = detect::Paths { default_model: SMALLER.into(), ..paths.clone() };
        assert_eq!(smaller(&detect, &least), None);
        let auto = config::Detect { backend: DetectBackend::Auto, ..detect.clone() };
        assert!(smaller(&auto, &paths).is_some(), "models/ ships it");
        let fast = detect::Paths { accelerators: vec![detect::Way::Onnx(None)], ..paths };
        assert_eq!(smaller(&auto, &fast), None);
    }
}
