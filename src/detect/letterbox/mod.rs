//! A decoded picture straight into a model's input tensor: scaled, converted, quantized. Runs no model.
//!
//! A frame's pixels are read once, row by row, and written once; between lie a few rows of scratch that
//! stay in the first-level cache. Tables for a picture's size are made when the size changes.

mod colour;
mod placement;
mod resample;

pub use placement::Placement;

use colour::Yuv;
use resample::{Columns, FRACTION, Rows};

use super::heads::Mismatch;
use super::manifest::{Channels, InputSpec, Layout};
use super::tensor::{Element, TensorMeta, TensorMut};
use crate::decode::{PictureView, PixelFormat};

/// Fills one model's input.
#[derive(Debug, Clone)]
pub struct Letterbox {
    spec: InputSpec,
    tables: Tables,
    plan: Option<Plan>,
    scratch: Scratch,
}

/// Why a picture could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LetterboxError {
    #[error("the picture does not hold the bytes its size asks for")]
    BrokenPicture,
    #[error("the input tensor is not the one the model declared")]
    Tensor,
}

/// For each channel of the model, what to store for a pixel's 256 values.
#[derive(Debug, Clone)]
enum Tables {
    Bytes(Box<[[u8; 256]; 3]>),
    F32(Box<[[f32; 256]; 3]>),
}

/// All that depends on a picture's size.
#[derive(Debug, Clone)]
struct Plan {
    size: (u32, u32, PixelFormat),
    placement: Placement,
    luma: (Rows, Columns),
    chroma: (Rows, Columns),
}

/// Rows under way; sized by the plan.
#[derive(Debug, Clone, Default)]
struct Scratch {
    /// A plane's row after [`Rows`], and its channels one by one where it interleaves them.
    tall: Vec<i16>,
    apart: Vec<i16>,
    /// Three rows after [`Columns`], then as colours.
    scaled: [Vec<i16>; 3],
    rgb: [Vec<u8>; 3],
}

impl Letterbox {
    /// For a model's input as the manifest describes it and the tensor as the model has it.
    pub fn new(spec: &InputSpec, meta: &TensorMeta) -> Result<Self, Mismatch> {
        let mut differences = Vec::new();
        let (w, h) = (spec.width as usize, spec.height as usize);
        let expected = match spec.layout {
            Layout::Nhwc => [1, h, w, 3],
            Layout::Nchw => [1, 3, h, w],
        };
        let name = &meta.name;
        if meta.shape != expected {
            let found = &meta.shape;
            differences
                .push(format!("input \"{name}\": expected shape {expected:?}, found {found:?}"));
        }
        let quantized = matches!(meta.element, Element::I8 | Element::U8);
        if quantized && !meta.quant.is_usable() {
            differences
                .push(format!("input \"{name}\": expected a quantization scale, found none"));
        }
        let real = |channel: usize, v: usize| (v as f32 - spec.mean[channel]) / spec.std[channel];
        let stored = |limits| {
            let byte = |c, v| meta.quant.store(real(c, v), limits) as u8;
            Tables::Bytes(Box::new([0, 1, 2].map(|c| std::array::from_fn(|v| byte(c, v)))))
        };
        let tables = match meta.element {
            Element::I8 => stored((-128, 127)),
            Element::U8 => stored((0, 255)),
            Element::F32 => {
                Tables::F32(Box::new([0, 1, 2].map(|c| std::array::from_fn(|v| real(c, v)))))
            }
            Element::Other(found) => {
                differences.push(format!(
                    "input \"{name}\": expected int8, uint8 or float32, found {found}"
                ));
                return Err(Mismatch(differences));
            }
        };
        if !differences.is_empty() {
            return Err(Mismatch(differences));
        }
        Ok(Self { spec: spec.clone(), tables, plan: None, scratch: Scratch::default() })
    }

    /// Writes the whole tensor, border included, and tells how to map boxes back.
    pub fn write(
        &mut self,
        picture: &PictureView<'_>,
        dest: TensorMut<'_>,
    ) -> Result<Placement, LetterboxError> {
        if !picture.is_whole() {
            return Err(LetterboxError::BrokenPicture);
        }
        let size = (picture.width, picture.height, picture.format);
        if self.plan.as_ref().is_none_or(|plan| plan.size != size) {
            self.plan = Some(Plan::new(&self.spec, size));
        }
        let plan = self.plan.as_ref().expect("made above");
        let (spec, scratch) = (&self.spec, &mut self.scratch);
        scratch.resize(plan);
        match (&self.tables, dest) {
            (Tables::Bytes(tables), TensorMut::Bytes(data)) => {
                Canvas { data, tables, spec }.paint(picture, plan, scratch)?;
            }
            (Tables::F32(tables), TensorMut::F32(data)) => {
                Canvas { data, tables, spec }.paint(picture, plan, scratch)?;
            }
            _ => return Err(LetterboxError::Tensor),
        }
        Ok(plan.placement)
    }
}

impl Plan {
    fn new(spec: &InputSpec, size: (u32, u32, PixelFormat)) -> Self {
        let (width, height, format) = size;
        let placement = Placement::new(spec, width, height);
        let (out_w, out_h) = (placement.inner.0 as usize, placement.inner.1 as usize);
        let tables = |w: usize, h: usize, wide: f64, high: f64| {
            (Rows::new(h, high, out_h), Columns::new(w, wide, out_w))
        };
        let (w, h) = (width as usize, height as usize);
        let luma = tables(w, h, w as f64, h as f64);
        let chroma = match format {
            PixelFormat::Rgb => tables(1, 1, 1.0, 1.0),
            // An odd size ends in the middle of a chroma sample.
            _ => tables(w.div_ceil(2), h.div_ceil(2), w as f64 / 2.0, h as f64 / 2.0),
        };
        Self { size, placement, luma, chroma }
    }
}

impl Scratch {
    fn resize(&mut self, plan: &Plan) {
        let (width, _, format) = plan.size;
        let channels = if format == PixelFormat::Rgb { 3 } else { 1 };
        let overhang = plan.luma.1.overhang().max(plan.chroma.1.overhang());
        // An interleaved chroma row of an odd picture is one sample wider than its luma row.
        let wide = (width as usize + 1) * channels + overhang;
        self.tall.resize(wide, 0);
        self.apart.resize(width as usize + 1 + overhang, 0);
        self.scaled.iter_mut().for_each(|row| row.resize(plan.placement.inner.0 as usize, 0));
        self.rgb.iter_mut().for_each(|row| row.resize(plan.placement.inner.0 as usize, 0));
    }
}

/// A tensor's memory with the tables that say what to store in it.
struct Canvas<'a, T> {
    data: &'a mut [T],
    tables: &'a [[T; 256]; 3],
    spec: &'a InputSpec,
}

impl<T: Copy + PartialEq> Canvas<'_, T> {
    fn paint(
        &mut self,
        picture: &PictureView<'_>,
        plan: &Plan,
        scratch: &mut Scratch,
    ) -> Result<(), LetterboxError> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            // SAFETY: the processor has what the function is compiled for.
            #[allow(unsafe_code)]
            return unsafe { self.paint_avx2(picture, plan, scratch) };
        }
        self.paint_inlined(picture, plan, scratch)
    }

    /// The same loops for processors with AVX2: a fifth less time. On arm64 every processor has NEON.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi2")]
    fn paint_avx2(
        &mut self,
        picture: &PictureView<'_>,
        plan: &Plan,
        scratch: &mut Scratch,
    ) -> Result<(), LetterboxError> {
        self.paint_inlined(picture, plan, scratch)
    }

    /// All below is inlined, to be compiled for what its caller is compiled for.
    #[inline(always)]
    fn paint_inlined(
        &mut self,
        picture: &PictureView<'_>,
        plan: &Plan,
        scratch: &mut Scratch,
    ) -> Result<(), LetterboxError> {
        let (width, height) = (self.spec.width as usize, self.spec.height as usize);
        if self.data.len() != width * height * 3 {
            return Err(LetterboxError::Tensor);
        }
        let yuv = Yuv::new(picture.colour);
        let (left, top) = (plan.placement.pad.0 as usize, plan.placement.pad.1 as usize);
        let inner = (plan.placement.inner.0 as usize, plan.placement.inner.1 as usize);
        for y in 0..height {
            if y < top || y >= top + inner.1 {
                self.border(y, 0, width);
                continue;
            }
            scratch.colours(picture, plan, &yuv, y - top);
            self.border(y, 0, left);
            self.border(y, left + inner.0, width);
            self.row(y, left, &scratch.rgb);
        }
        Ok(())
    }

    /// Stores the border's grey from `from` to `to` of row `y`.
    fn border(&mut self, y: usize, from: usize, to: usize) {
        let grey = self.tables.map(|table| table[usize::from(self.spec.pad)]);
        let (width, plane) = (self.spec.width as usize, self.data.len() / 3);
        match self.spec.layout {
            Layout::Nhwc => {
                let row = &mut self.data[(y * width + from) * 3..(y * width + to) * 3];
                if grey[0] == grey[1] && grey[1] == grey[2] {
                    row.fill(grey[0]);
                } else {
                    row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&grey));
                }
            }
            Layout::Nchw => {
                for (channel, value) in grey.into_iter().enumerate() {
                    let start = channel * plane + y * width;
                    self.data[start + from..start + to].fill(value);
                }
            }
        }
    }

    /// Stores one row of colours from column `left` on.
    #[inline(always)]
    fn row(&mut self, y: usize, left: usize, rgb: &[Vec<u8>; 3]) {
        let [a, b, c] = match self.spec.channels {
            Channels::Rgb => [&rgb[0], &rgb[1], &rgb[2]],
            Channels::Bgr => [&rgb[2], &rgb[1], &rgb[0]],
        };
        let (width, plane) = (self.spec.width as usize, self.data.len() / 3);
        match self.spec.layout {
            Layout::Nhwc => {
                let start = (y * width + left) * 3;
                let (pixels, _) = self.data[start..start + a.len() * 3].as_chunks_mut::<3>();
                let [ta, tb, tc] = self.tables;
                for (((pixel, &a), &b), &c) in pixels.iter_mut().zip(a).zip(b).zip(c) {
                    *pixel = [ta[usize::from(a)], tb[usize::from(b)], tc[usize::from(c)]];
                }
            }
            Layout::Nchw => {
                for (channel, values) in [a, b, c].into_iter().enumerate() {
                    let start = channel * plane + y * width + left;
                    let table = &self.tables[channel];
                    let row = &mut self.data[start..start + values.len()];
                    row.iter_mut().zip(values).for_each(|(out, &v)| *out = table[usize::from(v)]);
                }
            }
        }
    }
}

impl Scratch {
    /// Makes `rgb` of output row `at`.
    #[inline(always)]
    fn colours(&mut self, picture: &PictureView<'_>, plan: &Plan, yuv: &Yuv, at: usize) {
        let width = plan.size.0 as usize;
        let half = width.div_ceil(2);
        match picture.format {
            PixelFormat::Rgb => {
                self.plane(picture, 0, width, &plan.luma, at, [Some(0), Some(1), Some(2)]);
                for (out, row) in self.rgb.iter_mut().zip(&self.scaled) {
                    for (out, &value) in out.iter_mut().zip(row) {
                        *out = ((value + (1 << (FRACTION - 1))) >> FRACTION).clamp(0, 255) as u8;
                    }
                }
                return;
            }
            PixelFormat::Nv12 => {
                self.plane(picture, 0, width, &plan.luma, at, [Some(0), None, None]);
                self.plane(picture, 1, half, &plan.chroma, at, [Some(1), Some(2), None]);
            }
            PixelFormat::I420 => {
                self.plane(picture, 0, width, &plan.luma, at, [Some(0), None, None]);
                self.plane(picture, 1, half, &plan.chroma, at, [Some(1), None, None]);
                self.plane(picture, 2, half, &plan.chroma, at, [Some(2), None, None]);
            }
        }
        let [y, u, v] = &self.scaled;
        let [r, g, b] = &mut self.rgb;
        yuv.convert([y, u, v], [r, g, b]);
    }

    /// Scales one plane's interleaved channels into the rows of `scaled` that `into` names in order.
    #[inline(always)]
    fn plane(
        &mut self,
        picture: &PictureView<'_>,
        plane: usize,
        width: usize,
        (rows, columns): &(Rows, Columns),
        at: usize,
        into: [Option<usize>; 3],
    ) {
        let plane = picture.planes[plane];
        let channels = into.iter().flatten().count();
        rows.blend(plane.data, plane.stride, at, &mut self.tall[..width * channels]);
        if channels == 1 {
            let out = into[0].unwrap_or(0);
            columns.blend(&self.tall, &mut self.scaled[out]);
            return;
        }
        for (channel, out) in into.into_iter().flatten().enumerate() {
            let apart = &mut self.apart[..width];
            if channels == 2 {
                pick::<2>(&self.tall, channel, apart);
            } else {
                pick::<3>(&self.tall, channel, apart);
            }
            columns.blend(&self.apart, &mut self.scaled[out]);
        }
    }
}

/// Copies one channel out of a row that interleaves `N`.
#[inline(always)]
fn pick<const N: usize>(row: &[i16], channel: usize, out: &mut [i16]) {
    let (groups, _) = row.as_chunks::<N>();
    out.iter_mut().zip(groups).for_each(|(out, group)| *out = group[channel]);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::decode::{Colour, Matrix, Plane, Range};
    use crate::detect::manifest::FitMode;

    /// Elsewhere the plain loops are the only ones; here nothing else would run them where there is AVX2.
    #[test]
    fn the_plain_loops_and_those_for_avx2_paint_the_same() {
        let spec = InputSpec {
            width: 61,
            height: 47,
            layout: Layout::Nhwc,
            channels: Channels::Rgb,
            fit: FitMode::Letterbox,
            pad: 114,
            mean: [0.0; 3],
            std: [255.0; 3],
        };
        let table: [u8; 256] = std::array::from_fn(|v| v as u8);
        let bytes: Vec<u8> =
            (0..200 * 150 * 3u32).map(|i| (i.wrapping_mul(i) / 7 % 251) as u8).collect();
        let colour = Colour { matrix: Matrix::Bt709, range: Range::Limited };
        for format in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Rgb] {
            // Four, eight and more taps.
            for (w, h) in [(90usize, 64usize), (200, 150), (30, 20)] {
                let half = w.div_ceil(2);
                let strides = match format {
                    PixelFormat::I420 => [w, half, half],
                    PixelFormat::Nv12 => [w, half * 2, 0],
                    PixelFormat::Rgb => [w * 3, 0, 0],
                };
                let planes = strides.map(|stride| Plane { data: &bytes, stride });
                let (width, height) = (w as u32, h as u32);
                let picture = PictureView { width, height, format, colour, planes };
                let plan = Plan::new(&spec, (width, height, format));
                let painted = |avx2: bool| {
                    let mut scratch = Scratch::default();
                    scratch.resize(&plan);
                    let mut data = vec![0u8; 61 * 47 * 3];
                    let tables = &[table; 3];
                    let mut canvas = Canvas { data: &mut data, tables, spec: &spec };
                    match avx2 {
                        true => canvas.paint(&picture, &plan, &mut scratch).unwrap(),
                        false => canvas.paint_inlined(&picture, &plan, &mut scratch).unwrap(),
                    }
                    data
                };
                let plain = painted(false);
                assert!(plain.iter().any(|v| *v != plain[0]));
                assert_eq!(painted(true), plain, "{format:?} {w}x{h}");
            }
        }
    }
}
