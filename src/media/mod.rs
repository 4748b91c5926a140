//! What flows through the house between the front door and the decoder: access units and the places they wait in.

pub mod advice;
pub mod avc;
mod bits;
pub mod fmp4;
pub mod hevc;
pub mod link;
pub mod nal;
pub mod ring;
#[cfg(test)]
pub(crate) mod samples;
pub mod stream;
pub mod unit;

pub use advice::Advice;
pub use link::Link;
pub use stream::{Stream, StreamStatus, Streams};
pub use unit::{
    AccessUnit, Arrival, AudioCodec, AudioParams, AudioUnit, MediaTime, StreamId, Unit, VideoCodec,
    VideoParams,
};
