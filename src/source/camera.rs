//! What takes pictures, as the thread behind it sees it: the trait, what can go wrong, and which backend opens.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::fake;
use crate::config::{self, SourceBackend};

/// What a picture's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pixels {
    /// One access unit in Annex B.
    H264,
    /// One JPEG.
    Mjpeg,
    Yuyv,
    Uyvy,
    Nv12,
    I420,
}

impl Pixels {
    pub(crate) const ALL: [Self; 6] =
        [Self::H264, Self::Mjpeg, Self::Yuyv, Self::Uyvy, Self::Nv12, Self::I420];

    /// As Video4Linux calls it.
    pub(crate) fn fourcc(self) -> [u8; 4] {
        *match self {
            Self::H264 => b"H264",
            Self::Mjpeg => b"MJPG",
            Self::Yuyv => b"YUYV",
            Self::Uyvy => b"UYVY",
            Self::Nv12 => b"NV12",
            Self::I420 => b"YU12",
        }
    }

    pub(crate) fn of_fourcc(fourcc: &[u8; 4]) -> Option<Self> {
        // Some drivers, bcm2835's among them, call motion JPEG by its other name.
        if fourcc == b"JPEG" {
            return Some(Self::Mjpeg);
        }
        Self::ALL.into_iter().find(|p| p.fourcc() == *fourcc)
    }

    /// Bytes of a row and rows of all planes; `None` for what is coded.
    pub(crate) fn whole(self, width: u32, height: u32) -> Option<usize> {
        let (w, h) = (width as usize, height as usize);
        match self {
            Self::H264 | Self::Mjpeg => None,
            Self::Yuyv | Self::Uyvy => Some(w * h * 2),
            Self::Nv12 | Self::I420 => Some(w * h + 2 * w.div_ceil(2) * h.div_ceil(2)),
        }
    }
}

impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.fourcc()))
    }
}

/// What an open camera gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    /// The device's node, or the fake's file.
    pub(crate) node: String,
    pub(crate) pixels: Pixels,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Bytes from row to row of the first plane, for what is not coded.
    pub(crate) stride: u32,
    pub(crate) rate_hz: f64,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.rate_hz * 10.0).round() / 10.0;
        write!(f, "{} {}x{} at {rate}/s", self.pixels, self.width, self.height)
    }
}

/// One picture, in the driver's memory.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) data: &'a [u8],
    /// By the monotonic clock, where the driver tells.
    pub(crate) at: Option<Duration>,
    /// Counts every picture, also those that were lost.
    pub(crate) sequence: u32,
    pub(crate) quality: Quality,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    Whole,
    /// The driver says so.
    Damaged,
}

/// Why there is no picture. Each text names the thing and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CameraError {
    #[error("there is no camera {0}: plug it in, or see `spotter probe`")]
    Absent(String),
    #[error("{0} was unplugged")]
    Gone(String),
    #[error("{0} is used by another program: end that one")]
    Busy(String),
    #[error("{0} may not be opened: add spotter's user to the group video")]
    Refused(String),
    /// It cannot give what is wished.
    #[error("{0}")]
    Unfit(String),
    #[error("{0} gave no picture for {1} s")]
    Silent(String, u64),
    #[error("{0}: {1}")]
    Failed(String, String),
}

/// A camera that is open and runs.
pub(crate) trait Camera {
    fn given(&self) -> &Given;

    /// The next picture; `None` when there is none yet after a fraction of a second.
    fn next(&mut self) -> Result<Option<Taken<'_>>, CameraError>;
}

pub(crate) fn open(config: &config::Source) -> Result<Box<dyn Camera>, CameraError> {
    match config.backend {
        SourceBackend::Fake => Ok(Box::new(fake::FakeCamera::open(config)?)),
        #[cfg(feature = "v4l2")]
        SourceBackend::V4l2 => Ok(Box::new(super::v4l2::V4l2Camera::open(config)?)),
        #[cfg(not(feature = "v4l2"))]
        SourceBackend::V4l2 => Err(CameraError::Unfit(NOT_BUILT.into())),
    }
}

#[cfg(not(feature = "v4l2"))]
const NOT_BUILT: &str = "this build has no v4l2: build with feature v4l2";

/// A video node as `spotter probe` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CameraReport {
    /// "/dev/video0".
    pub node: String,
    /// The card's name, its driver and where it is plugged in.
    pub name: String,
    pub driver: String,
    pub bus: String,
    /// A path that stays the same, if udev made one.
    pub by_id: Option<String>,
    /// As in "MJPG 1280x720 30 15/s"; those that `[[source]]` can take are marked.
    pub formats: Vec<FormatReport>,
    /// Why it is no camera for `[[source]]`.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatReport {
    pub fourcc: String,
    pub usable: bool,
    /// "1280x720", or "48x48 to 1920x1080".
    pub sizes: Vec<String>,
}

/// The video nodes of this machine; why they cannot be looked at, when they cannot.
pub fn cameras() -> Result<Vec<CameraReport>, String> {
    #[cfg(feature = "v4l2")]
    return Ok(super::v4l2::report());
    #[cfg(not(feature = "v4l2"))]
    Err(NOT_BUILT.into())
}
