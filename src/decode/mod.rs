//! Access units in, pictures out: one decoder a stream, chosen among what this machine has.

pub mod frame;

pub use frame::{
    Colour, Frame, Matrix, Picture, PictureView, PixelFormat, Plane, Range, RgbPicture,
};
