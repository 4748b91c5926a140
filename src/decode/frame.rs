//! A decoded picture as later stages see it: planes in somebody else's memory, mapped and not copied.

use std::fmt;
use std::time::Instant;

use crate::media::{Arrival, MediaTime, StreamId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Y plane, then one plane of interleaved U and V at half size.
    Nv12,
    /// Y, U and V planes, the latter two at half size.
    I420,
    /// One plane of R, G, B bytes.
    Rgb,
}

/// Which formula turns YUV into RGB (ITU-T H.273 MatrixCoefficients) and which range Y uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Colour {
    pub matrix: Matrix,
    pub range: Range,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matrix {
    Bt601,
    Bt709,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Range {
    /// Y 16 to 235, U and V 16 to 240.
    Limited,
    Full,
}

/// One plane's bytes; row `y` begins at `y * stride`.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    pub data: &'a [u8],
    pub stride: usize,
}

/// A picture to look at, however its memory is held.
#[derive(Debug, Clone, Copy)]
pub struct PictureView<'a> {
    /// Pixels.
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    /// Of no meaning for [`PixelFormat::Rgb`].
    pub colour: Colour,
    /// As many as the format has; the rest are empty.
    pub planes: [Plane<'a>; 3],
}

impl PictureView<'_> {
    /// Whether every plane holds the rows the size asks for. Whoever maps foreign memory checks this once.
    pub fn is_whole(&self) -> bool {
        let (w, h) = (self.width as usize, self.height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        let needs: [(usize, usize); 3] = match self.format {
            PixelFormat::Nv12 => [(w, h), (cw * 2, ch), (0, 0)],
            PixelFormat::I420 => [(w, h), (cw, ch), (cw, ch)],
            PixelFormat::Rgb => [(w * 3, h), (0, 0), (0, 0)],
        };
        w > 0
            && h > 0
            && self.planes.iter().zip(needs).all(|(p, (row, rows))| {
                rows == 0 || (p.stride >= row && p.data.len() >= p.stride * (rows - 1) + row)
            })
    }
}

impl<'a> PictureView<'a> {
    /// The part of a whole picture around `x`, `y` (the top left corner) of at most `width` by `height` pixels, widened
    /// to where the colour planes can be cut too, and clipped to the picture.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> PictureView<'a> {
        let (x1, y1) = (x.min(self.width - 1) & !1, y.min(self.height - 1) & !1);
        let x2 = x.saturating_add(width).clamp(x1 + 1, self.width);
        let y2 = y.saturating_add(height).clamp(y1 + 1, self.height);
        let (left, top) = (x1 as usize, y1 as usize);
        let offsets = match self.format {
            PixelFormat::Nv12 => [(left, top), (left, top / 2), (0, 0)],
            PixelFormat::I420 => [(left, top), (left / 2, top / 2), (left / 2, top / 2)],
            PixelFormat::Rgb => [(left * 3, top), (0, 0), (0, 0)],
        };
        let mut planes = self.planes;
        for (plane, (bytes, rows)) in planes.iter_mut().zip(offsets) {
            plane.data = plane.data.get(rows * plane.stride + bytes..).unwrap_or_default();
        }
        PictureView { width: x2 - x1, height: y2 - y1, planes, ..*self }
    }
}

/// Memory that holds a picture: a mapped GStreamer buffer, or plain bytes.
pub trait Picture: Send {
    /// What the detector looks at.
    fn view(&self) -> PictureView<'_>;

    /// Width and height of the published picture, in pixels. `view` is smaller where a board scaled it on its way.
    fn size(&self) -> (u32, u32) {
        let view = self.view();
        (view.width, view.height)
    }

    /// Has `look` see the published picture, which may have to be fetched first.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn look_at_whole(&self, look: &mut dyn FnMut(&PictureView<'_>)) -> Result<(), String> {
        look(&self.view());
        Ok(())
    }
}

/// A picture in plain memory: stills, and the fake decoder's.
#[derive(Debug, Clone)]
pub struct RgbPicture {
    pub width: u32,
    pub height: u32,
    /// `width * height * 3` bytes.
    pub pixels: Vec<u8>,
}

impl Picture for RgbPicture {
    fn view(&self) -> PictureView<'_> {
        let none = Plane { data: &[], stride: 0 };
        let rgb = Plane { data: &self.pixels, stride: self.width as usize * 3 };
        PictureView {
            width: self.width,
            height: self.height,
            format: PixelFormat::Rgb,
            colour: Colour { matrix: Matrix::Bt601, range: Range::Full },
            planes: [rgb, none, none],
        }
    }
}

/// A picture copied out of foreign memory, to be looked at after that is given back.
#[derive(Debug)]
pub struct OwnedPicture {
    width: u32,
    height: u32,
    format: PixelFormat,
    colour: Colour,
    planes: [(Vec<u8>, usize); 3],
}

impl OwnedPicture {
    pub fn copy(view: &PictureView<'_>) -> Self {
        Self {
            width: view.width,
            height: view.height,
            format: view.format,
            colour: view.colour,
            planes: view.planes.map(|p| (p.data.to_vec(), p.stride)),
        }
    }
}

impl Picture for OwnedPicture {
    fn view(&self) -> PictureView<'_> {
        let plane = |n: usize| Plane { data: &self.planes[n].0, stride: self.planes[n].1 };
        PictureView {
            width: self.width,
            height: self.height,
            format: self.format,
            colour: self.colour,
            planes: [plane(0), plane(1), plane(2)],
        }
    }
}

/// One decoded picture of a stream.
pub struct Frame {
    pub stream: StreamId,
    /// Counts the stream's decoded pictures from 0.
    pub seq: u64,
    pub pts: MediaTime,
    pub arrived: Arrival,
    pub decoded: Instant,
    pub picture: Box<dyn Picture>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("stream", &self.stream)
            .field("seq", &self.seq)
            .field("pts", &self.pts)
            .finish_non_exhaustive()
    }
}
