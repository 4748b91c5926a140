//! One camera's thread: opens it, publishes what it gives, and begins anew when it is unplugged, busy or broken. What a
//! camera is and how pictures become H.264 is elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::camera::{self, CameraError, Pixels, Quality};
use super::clock::{Clock, Now};
use super::encode::{self, Encoder};
use super::outlet::Outlet;
use super::{Source, SourceState};
use crate::media::stream::{ClaimError, Displaced, Takeover};
use crate::media::{Arrival, StreamId, Streams};
use crate::supervise::{BackOff, panic_text};

/// How often is looked whether a camera was plugged in, and whether a pause is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A camera that ran so long works: the next failure is tried again soon.
const HEALTHY: Duration = Duration::from_secs(30);

/// Why an attempt ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Camera(#[from] CameraError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Displaced(#[from] Displaced),
    #[error("{0}")]
    Encoder(String),
    #[error("panicked: {0}")]
    Panicked(String),
    #[error("told to end")]
    Stopped,
}

impl Ended {
    fn state(&self) -> SourceState {
        match self {
            Self::Camera(CameraError::Absent(_) | CameraError::Gone(_)) => SourceState::Absent,
            Self::Camera(CameraError::Busy(_)) => SourceState::Busy,
            Self::Claim(ClaimError::Paused) | Self::Displaced(Displaced::Paused) => {
                SourceState::Paused
            }
            _ => SourceState::Failed,
        }
    }
}

/// Runs one source until it is told to end.
pub(super) fn run(source: &Arc<Source>, streams: &Arc<Streams>) {
    let Ok(id) = StreamId::new(&source.config.stream) else { return };
    let mut back_off = BackOff::default();
    // The encoder to begin with: one that failed is not the first to be tried again.
    let mut encoder = 0;
    while !source.stop.is_asked() {
        if streams.is_paused() {
            source.tell(|s| (s.state, s.error) = (SourceState::Paused, None));
            source.stop.within(LOOK_EVERY);
            continue;
        }
        let began = Instant::now();
        let attempt = || attempt(source, streams, &id, encoder);
        let ended = catch_unwind(AssertUnwindSafe(attempt))
            .unwrap_or_else(|panic| Ended::Panicked(panic_text(&*panic)));
        let state = ended.state();
        match &ended {
            Ended::Stopped => return,
            Ended::Encoder(_) => encoder += 1,
            _ => {}
        }
        if state == SourceState::Paused {
            continue;
        }
        if began.elapsed() >= HEALTHY {
            back_off.reset();
        }
        // A plug is looked for often, which costs nothing; what fails is left alone for longer and longer.
        let wait = match state {
            SourceState::Absent => {
                back_off.reset();
                LOOK_EVERY
            }
            _ => back_off.next(&mut rand::rng()),
        };
        let error = ended.to_string();
        let known = source.status.lock().error.as_ref() == Some(&error);
        if !known {
            source.counters.failures.inc();
            tracing::warn!(stream = %id, device = source.config.device, error, "no pictures from this camera; trying again");
        }
        source.tell(|s| {
            (s.state, s.error) = (state, Some(error));
            if state == SourceState::Absent {
                (s.node, s.format, s.encoder) = (None, None, None);
            }
        });
        source.stop.within(wait);
    }
}

/// One camera from its opening to its end.
fn attempt(source: &Arc<Source>, streams: &Arc<Streams>, id: &StreamId, encoder: usize) -> Ended {
    match publish(source, streams, id, encoder) {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

fn publish(
    source: &Arc<Source>,
    streams: &Arc<Streams>,
    id: &StreamId,
    encoder: usize,
) -> Result<std::convert::Infallible, Ended> {
    let mut camera = camera::open(&source.config)?;
    source.counters.opened.inc();
    let given = camera.given().clone();
    let publication = streams.claim(id, Takeover::Refused)?;
    let outlet = Arc::new(Outlet::new(publication));
    let mut encoder = match given.pixels {
        Pixels::H264 => None,
        _ => Some(open_encoder(source, &given, &outlet, encoder)?),
    };
    let name = encoder.as_ref().map(|e| e.name.clone());
    let mut clock = Clock::default();
    let mut live = false;
    loop {
        if source.stop.is_asked() {
            return Err(Ended::Stopped);
        }
        if let Some(why) = outlet.displaced() {
            return Err(why.into());
        }
        if let Some(encoder) = &encoder
            && let Some(reason) = encoder.failure()
        {
            return Err(Ended::Encoder(format!("{}: {reason}", encoder.name)));
        }
        let Some(taken) = camera.next()? else { continue };
        let at = clock.taken(taken.at, now());
        source.counters.pictures.inc();
        source.counters.pictures_lost.add(clock.lost(taken.sequence).into());
        let short = given.pixels.whole(given.width, given.height);
        if taken.quality == Quality::Damaged || short.is_some_and(|n| taken.data.len() < n) {
            source.counters.pictures_damaged.inc();
            continue;
        }
        if !std::mem::replace(&mut live, true) {
            tracing::info!(stream = %id, node = given.node, format = %given, encoder = name, "camera in use");
            source.tell(|s| {
                (s.state, s.error) = (SourceState::Live, None);
                s.node = Some(given.node.clone());
                s.format = Some(given.to_string());
                s.encoder = name.clone();
            });
        }
        match &mut encoder {
            None => outlet.push(taken.data, at, &source.counters)?,
            Some(encoder) => encoder.push(taken.data, at).map_err(Ended::Encoder)?,
        }
    }
}

/// The first that opens, beginning with number `first`.
fn open_encoder(
    source: &Arc<Source>,
    given: &camera::Given,
    outlet: &Arc<Outlet>,
    first: usize,
) -> Result<Encoder, Ended> {
    let candidates = encode::candidates(source.board, &source.config, given);
    let mut refusals = Vec::new();
    for n in 0..candidates.len() {
        let candidate = &candidates[(first + n) % candidates.len()];
        match Encoder::open(candidate, given, Arc::clone(outlet), Arc::clone(source)) {
            Ok(encoder) => return Ok(encoder),
            Err(reason) => refusals.push(format!("{}: {reason}", candidate.name)),
        }
    }
    let why = refusals.join("; ");
    Err(Ended::Encoder(format!("no encoder for {}: {why}", given.pixels)))
}

fn now() -> Now {
    let kernel = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Of other widths on other machines.
    let part = |n: Result<u64, std::num::TryFromIntError>| n.unwrap_or(0);
    let seconds = Duration::from_secs(part(kernel.tv_sec.try_into()));
    let monotonic = seconds + Duration::from_nanos(part(kernel.tv_nsec.try_into()));
    Now { monotonic, arrival: Arrival::now() }
}
