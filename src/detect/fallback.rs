//! A detector that has several ways to run: when an accelerator fails the next way takes over with the same picture, and the
//! better one is tried again later, beside the work. It opens nothing by itself.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use super::OpenError;
use super::choose::Way;
use super::types::{Accelerator, AcceleratorUse, DetectError, Detection, Detector, DetectorInfo};
use crate::decode::PictureView;
use crate::supervise::BackOff;

/// Opens one way and tests what an accelerator says.
pub(super) type OpenWay = dyn Fn(&Way) -> Result<Box<dyn Detector>, OpenError> + Send + Sync;

/// Versions of runtime, accelerator and driver; some are known only after opening was tried.
pub(super) type Versions = dyn Fn(&Way) -> Vec<String> + Send;

/// A way that held for so long starts with the shortest wait again when it fails.
const HELD: Duration = Duration::from_secs(60);

pub(super) struct Fallback {
    ways: Vec<Tried>,
    current: Option<Current>,
    retry: Option<Retry>,
    open: Arc<OpenWay>,
    versions: Box<Versions>,
    info: DetectorInfo,
    /// What else was found wanting on this machine.
    hints: Vec<String>,
}

struct Current {
    at: usize,
    detector: Box<dyn Detector>,
    since: Instant,
}

/// A way, and how it went.
struct Tried {
    way: Way,
    versions: Vec<String>,
    refused: Option<Refused>,
    takes: Option<String>,
    failures: u32,
    back_off: BackOff,
}

struct Refused {
    reason: String,
    /// It ran before.
    dropped: bool,
    wait: Duration,
    next: Instant,
}

/// An opening that goes on beside the work.
struct Retry {
    at: usize,
    outcome: Receiver<Result<Box<dyn Detector>, OpenError>>,
}

impl Fallback {
    /// Opens the first of the ways that can be had.
    ///
    /// # Errors
    /// The CPU's, when none can: what is wrong there is wrong everywhere, as a rule.
    pub(super) fn open(
        ways: Vec<Way>,
        back_off: &BackOff,
        hints: Vec<String>,
        open: Arc<OpenWay>,
        versions: Box<Versions>,
    ) -> Result<Self, OpenError> {
        let tried = ways.into_iter().map(|way| Tried {
            way,
            versions: Vec::new(),
            refused: None,
            takes: None,
            failures: 0,
            back_off: back_off.clone(),
        });
        let info = DetectorInfo::default();
        let ways = tried.collect();
        let mut this = Self { ways, current: None, retry: None, open, versions, info, hints };
        match this.open_from(0) {
            Some(error) => Err(error),
            None => Ok(this),
        }
    }

    /// Opens the first way at or behind `at` that works; the refusal to tell if none did.
    fn open_from(&mut self, at: usize) -> Option<OpenError> {
        let mut told: Option<OpenError> = None;
        let mut cpu_spoke = false;
        for at in at..self.ways.len() {
            let way = &self.ways[at].way;
            let on_cpu = !way.is_accelerated();
            if way.opens_slowly() {
                self.put_off(at);
                continue;
            }
            match (self.open)(&self.ways[at].way) {
                Ok(detector) => {
                    self.take_up(at, detector);
                    return None;
                }
                Err(error) => {
                    self.refuse(at, error.to_string(), false);
                    if !cpu_spoke {
                        told = Some(error);
                        cpu_spoke = on_cpu;
                    }
                }
            }
        }
        self.tell();
        told
    }

    /// Leaves a way that takes minutes to be opened beside the work, which begins on another.
    fn put_off(&mut self, at: usize) {
        let tried = &mut self.ways[at];
        tried.versions = (self.versions)(&tried.way);
        let reason = "is being prepared, which takes minutes the first time".to_owned();
        let (wait, next) = (Duration::ZERO, Instant::now());
        tried.refused = Some(Refused { reason, dropped: false, wait, next });
    }

    fn take_up(&mut self, at: usize, detector: Box<dyn Detector>) {
        let tried = &mut self.ways[at];
        tried.versions = (self.versions)(&tried.way);
        tried.refused = None;
        tried.takes = detector.info().accelerators.first().and_then(|a| a.takes.clone());
        self.current = Some(Current { at, detector, since: Instant::now() });
        self.tell();
    }

    fn refuse(&mut self, at: usize, reason: String, dropped: bool) {
        let tried = &mut self.ways[at];
        tried.versions = (self.versions)(&tried.way);
        tried.failures += 1;
        let wait = tried.back_off.next(&mut rand::rng());
        let again = if tried.way.is_accelerated() { wait.as_secs_f32() } else { 0.0 };
        tracing::warn!(way = %tried.way, reason, dropped, again_in_s = again, "the detector goes another way");
        tried.refused = Some(Refused { reason, dropped, wait, next: Instant::now() + wait });
    }

    /// Renews what is told of the detector.
    fn tell(&mut self) {
        let Some(current) = &self.current else { return };
        let mut info = current.detector.info().clone();
        let own = std::mem::take(&mut info.refusals);
        info.refusals.clone_from(&self.hints);
        info.refusals.extend(self.ways.iter().filter_map(Tried::refusal));
        info.refusals.extend(own);
        let accelerated = self.ways.iter().enumerate().filter(|(_, t)| t.way.is_accelerated());
        info.accelerators = accelerated.filter_map(|(at, t)| t.state(at == current.at)).collect();
        self.info = info;
    }

    /// Takes up a better way that works again; tries one when it is time.
    fn look_for_better(&mut self) {
        let Some(current) = &self.current else { return };
        if let Some(retry) = &self.retry {
            let at = retry.at;
            let outcome = match retry.outcome.try_recv() {
                Ok(outcome) => outcome,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    Err(OpenError::Accelerator { reason: "opening it ended without a word".into() })
                }
            };
            self.retry = None;
            let was_dropped = self.ways[at].refused.as_ref().is_some_and(|r| r.dropped);
            match outcome {
                Ok(detector) => {
                    tracing::info!(way = %self.ways[at].way, "the accelerator works again");
                    self.take_up(at, detector);
                }
                Err(error) => {
                    self.refuse(at, error.to_string(), was_dropped);
                    self.tell();
                }
            }
            return;
        }
        let better = &self.ways[..current.at];
        let now = Instant::now();
        let due = |tried: &Tried| tried.refused.as_ref().is_some_and(|r| r.next <= now);
        let Some(at) = better.iter().position(due) else { return };
        let (open, way) = (Arc::clone(&self.open), better[at].way.clone());
        let (told, outcome) = sync_channel(1);
        let thread = std::thread::Builder::new().name("reopen".into());
        // Nobody waits any more when the detector was replaced meanwhile.
        match thread.spawn(move || drop(told.send(open(&way)))) {
            Ok(_) => self.retry = Some(Retry { at, outcome }),
            Err(error) => self.refuse(at, format!("no thread to open it: {error}"), false),
        }
    }

    /// Asks the detector in use; one whose accelerator fails is replaced, and the next is asked the same.
    fn ask<T>(
        &mut self,
        question: impl Fn(&mut dyn Detector) -> Result<T, DetectError>,
    ) -> Result<T, DetectError> {
        loop {
            let Some(current) = &mut self.current else {
                return Err(DetectError::Interpreter("no way to run the model is left".into()));
            };
            let error = match question(&mut *current.detector) {
                Err(error) if error.is_the_engines() => error,
                answer => return answer,
            };
            let (at, held) = (current.at, current.since.elapsed() >= HELD);
            if !self.ways[at].way.is_accelerated() {
                return Err(error);
            }
            // Lets go of the device before anything else is opened.
            self.current = None;
            if held {
                self.ways[at].back_off.reset();
            }
            self.refuse(at, error.reason(), true);
            self.open_from(at + 1);
            if self.current.is_none() {
                return Err(error);
            }
        }
    }
}

impl Tried {
    fn refusal(&self) -> Option<String> {
        let refused = self.refused.as_ref()?;
        let versions: String = self.versions.iter().map(|v| format!("; {v}")).collect();
        Some(format!("{}: {}{versions}", self.way, refused.reason))
    }

    fn state(&self, in_use: bool) -> Option<Accelerator> {
        let state = match &self.refused {
            _ if in_use => AcceleratorUse::InUse,
            Some(Refused { dropped: true, .. }) => AcceleratorUse::Dropped,
            Some(_) => AcceleratorUse::Refused,
            // Behind the way in use, and so never tried.
            None => return None,
        };
        Some(Accelerator {
            name: self.way.to_string(),
            state,
            versions: self.versions.clone(),
            takes: self.takes.clone(),
            reason: self.refused.as_ref().map(|r| r.reason.clone()),
            failures: self.failures,
            retry_after_s: self.refused.as_ref().map(|r| r.wait.as_secs_f32().ceil() as u64),
        })
    }
}

impl Detector for Fallback {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
        self.look_for_better();
        self.ask(|detector| detector.detect(picture))
    }

    fn self_test(&mut self, picture: &PictureView<'_>) -> Result<(), DetectError> {
        self.ask(|detector| detector.self_test(picture))
    }
}

impl std::fmt::Debug for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fallback").field("info", &self.info).finish_non_exhaustive()
    }
}
