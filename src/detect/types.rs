//! What a detector is asked and what it answers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::decode::PictureView;
use crate::media::{MediaTime, StreamId};

/// A box in pixels of the picture it was found in; `x1 <= x2`, `y1 <= y2`, clipped to the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BBox {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

impl BBox {
    /// The same place in the same picture of another size; sizes are width and height.
    pub fn scaled(self, from: (u32, u32), to: (u32, u32)) -> Self {
        let (x, y) = (to.0 as f32 / from.0 as f32, to.1 as f32 / from.1 as f32);
        Self { x1: self.x1 * x, y1: self.y1 * y, x2: self.x2 * x, y2: self.y2 * y }
    }
}

/// One thing found in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Index into the model's labels.
    pub class_id: u16,
    pub label: Arc<str>,
    /// 0 to 1.
    pub confidence: f32,
    pub bbox: BBox,
    /// Which animal of the stream it is; none where nothing is tracked, or nothing can be.
    pub track_id: Option<u64>,
}

/// Where a frame's time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Arrival of the unit's last byte to the decoded picture.
    pub decode: Duration,
    /// From there until the detector took it.
    pub wait: Duration,
    /// Conversion, interpreter and head together.
    pub infer: Duration,
    /// Arrival to hand-over to the exits.
    pub total: Duration,
}

/// All that was found in one frame of one stream; without animals the list is empty.
#[derive(Debug, Clone)]
pub struct Detections {
    pub stream: StreamId,
    pub seq: u64,
    pub pts: MediaTime,
    pub captured: SystemTime,
    /// Pixels of the published picture.
    pub width: u32,
    pub height: u32,
    pub model: Arc<str>,
    pub timings: Timings,
    pub items: Arc<[Detection]>,
}

/// What a detector says of itself wherever a user looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct DetectorInfo {
    /// "tflite-xnnpack", "tflite-delegate", "onnx", "onnx-tensorrt", "onnx-cuda", "onnx-openvino", "fake".
    pub backend: String,
    pub model: Arc<str>,
    /// Input size of the model in pixels.
    pub width: u32,
    pub height: u32,
    pub threads: usize,
    /// The runtime library and its version, where it tells.
    pub library: String,
    /// What was asked for and could not be had, each with its reason.
    pub refusals: Vec<String>,
    /// Every accelerator that was asked for or found, and how it stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<Accelerator>,
}

/// An accelerator as it stands at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Accelerator {
    /// As in the refusals: "delegate /usr/lib/libedgetpu.so.1".
    pub name: String,
    pub state: AcceleratorUse,
    /// Of the runtime, of the accelerator's own library and of its driver, as far as each tells.
    pub versions: Vec<String>,
    /// How much of the model it runs, as "57 of 60 operations"; absent where that cannot be told.
    pub takes: Option<String>,
    /// Why it is not in use, and what to do; absent when it is.
    pub reason: Option<String>,
    /// How often it was refused or failed since the detector was opened.
    pub failures: u32,
    /// Seconds from the last failure to the next try.
    pub retry_after_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorUse {
    InUse,
    /// It could not be opened.
    Refused,
    /// It ran, failed or did not answer, and another way took over.
    Dropped,
}

#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error("picture of {width}x{height} does not hold the bytes its size asks for")]
    BrokenPicture { width: u32, height: u32 },
    #[error(
        "model {model}: output \"{output}\" holds values that are not numbers; use another model file"
    )]
    NotANumber { model: Arc<str>, output: String },
    #[error("the interpreter failed: {0}; spotter reopens the detector")]
    Interpreter(String),
    #[error(
        "model {model} finds no {label} in spotter's self-test picture: its file, its manifest, the library or the delegate is wrong; set detect.model = \"auto\" and leave detect.delegate out"
    )]
    SelfTest { model: Arc<str>, label: Arc<str> },
}

#[cfg(feature = "engines")]
impl DetectError {
    /// Whether the fault is not the picture's.
    pub(super) fn is_the_engines(&self) -> bool {
        !matches!(self, Self::BrokenPicture { .. })
    }

    /// What happened, for where something else takes over.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Interpreter(why) => why.clone(),
            other => other.to_string(),
        }
    }
}

/// A model ready to look at pictures. Used by one thread at a time.
pub trait Detector: Send {
    fn info(&self) -> &DetectorInfo;

    /// Finds the wanted labels in one picture, best first.
    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError>;

    /// Looks at the self-test's picture, whatever the owner wants to be told of.
    fn self_test(&mut self, picture: &PictureView<'_>) -> Result<(), DetectError>;
}
