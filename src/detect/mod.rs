//! Pictures in, detections out: the model behind one trait, and the thread that shares it among all streams.

pub mod scheduler;
mod turns;
pub mod types;
pub mod worker;

pub use types::{BBox, DetectError, Detection, Detections, Detector, DetectorInfo, Timings};
