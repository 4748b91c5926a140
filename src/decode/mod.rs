//! Access units in, pictures out: one decoder a stream, chosen among what this machine has.
//! The seam between the stream's task and a decoder is here; what a decoder is made of is in the files below.

pub mod elements; // board and codec -> decoders to try, in order (pure)
mod fake;
#[cfg(feature = "gst")]
pub mod file; // the pictures of a video file
pub mod frame; // what comes out
#[cfg(feature = "gst")]
mod gst;
mod inspect; // which decoders are there, for `spotter probe`
#[cfg(feature = "gst")]
mod pending; // units inside a decoder
mod rules; // when a decoder is given up, and what it is spared
mod task; // one stream's decoding, from first parameters to last picture

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

pub use frame::{
    Colour, Frame, Matrix, OwnedPicture, Picture, PictureView, PixelFormat, Plane, Range,
    RgbPicture,
};
#[cfg(feature = "gst")]
pub(crate) use gst::{start as start_gstreamer, told};
#[cfg(feature = "gst")]
pub(crate) use inspect::look_at;
pub use inspect::{DecoderReport, inspect};
pub use rules::small;
pub use task::{Demand, run};

use crate::config::{self, DecodeBackend};
use crate::media::{AccessUnit, Arrival, MediaTime, VideoParams};
use elements::Candidate;

/// What a stream's decoding says of itself wherever a user looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DecoderState {
    /// The GStreamer element that decodes, or "fake"; absent before the first parameters and while none works.
    pub element: Option<String>,
    pub hardware: bool,
    /// "H.264" or "H.265".
    pub codec: Option<&'static str>,
    /// Displayed size of the published picture in pixels.
    pub width: u32,
    pub height: u32,
    /// Each decoder that was tried before and why it is not the one in use.
    pub refusals: Vec<String>,
    /// Set while no decoder works.
    pub error: Option<String>,
    /// Nobody wants pictures: it is given nothing, and stays as it is.
    pub resting: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("gstreamer does not start: {0}; install gstreamer1.0-plugins-base")]
    Start(String),
    #[error("{0}")]
    Open(String),
    #[error("{0}")]
    Failed(String),
    #[error(
        "this build has no gstreamer: build with feature gst, or set decode.backend to \"fake\""
    )]
    NoGstreamer,
}

/// A decoded picture before the stream's task gives it a number.
pub struct Decoded {
    pub pts: MediaTime,
    pub arrived: Arrival,
    pub decoded: Instant,
    pub picture: Box<dyn Picture>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded").field("pts", &self.pts).finish_non_exhaustive()
    }
}

/// Where a decoder puts its pictures, on a thread of its own; must not wait.
pub type FrameSink = Arc<dyn Fn(Decoded) + Send + Sync>;

/// Whether a decoder took a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Taken,
    /// Its queue is full; [`Signals::wake`] tells when it is not.
    Full,
}

/// A decoder ready for one stream's units.
pub trait Decoder: Send {
    /// Hands over the next unit in decoding order. Never waits.
    fn push(&mut self, unit: &AccessUnit) -> Result<Pushed, DecodeError>;

    /// No more units come: waits, at most so long, until every picture is out.
    fn finish(&mut self, within: Duration);
}

/// What a decoder tells its task from its own threads.
#[derive(Debug, Default)]
pub struct Signals {
    failure: Mutex<Option<String>>,
    /// Woken by a failure and by room in the queue.
    pub wake: Notify,
    /// Pictures that came out.
    pub pictures: crate::health::Counter,
}

impl Signals {
    /// Keeps the first failure: those after it are its consequences.
    pub fn fail(&self, reason: String) {
        self.failure.lock().get_or_insert(reason);
        self.wake.notify_one();
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

/// How large the detector wants a picture of that width and height, in pixels.
pub type Fit = Arc<dyn Fn((u32, u32)) -> (u32, u32) + Send + Sync>;

/// Opens one candidate for a stream with these parameters, its pictures as small as `small` where it has a scaler. May take some tenths of a second: not for an async task.
pub fn open(
    candidate: &Candidate,
    cfg: &config::Decode,
    params: &VideoParams,
    small: Option<(u32, u32)>,
    sink: FrameSink,
    signals: Arc<Signals>,
) -> Result<Box<dyn Decoder>, DecodeError> {
    match cfg.backend {
        DecodeBackend::Fake => Ok(Box::new(fake::FakeDecoder::new(params, sink, signals))),
        #[cfg(feature = "gst")]
        DecodeBackend::Gst => {
            let opened =
                gst::GstDecoder::open(candidate, cfg.threads, params, small, sink, signals)?;
            Ok(Box::new(opened))
        }
        #[cfg(not(feature = "gst"))]
        DecodeBackend::Gst => {
            let _ = (candidate, params, small, sink, signals);
            Err(DecodeError::NoGstreamer)
        }
    }
}
