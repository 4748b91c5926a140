//! One row of a picture as full-range BT.601 YCbCr, which is what JFIF holds (ITU-T T.871, 7).

use jpeg_encoder::rgb_to_ycbcr;

use crate::decode::{Colour, Matrix, PictureView, PixelFormat, Range};

/// Turns a decoder's YCbCr into JFIF's; a 3x3 matrix in 1/65536.
pub(super) struct Converter {
    black: i32,
    /// Of Y, Cb, Cr in the result's Y.
    luma: [i32; 3],
    /// Of Cb, Cr in the result's Cb and Cr.
    blue: [i32; 2],
    red: [i32; 2],
}

impl Converter {
    /// The way from one matrix of H.273 (8.3, formulas 41 to 43) to another goes through RGB; for BT.709 to BT.601 it
    /// comes down to these numbers. Gains stretch limited range to full (8.3, formulas 30 to 32).
    pub(super) fn new(colour: Colour) -> Self {
        let (black, gain_y, gain_c) = match colour.range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        let [luma, blue, red] = match colour.matrix {
            Matrix::Bt601 => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            Matrix::Bt709 => [
                [1.0, 0.101_579, 0.196_076],
                [0.0, 0.989_854, -0.110_653],
                [0.0, -0.072_453, 0.983_398],
            ],
        };
        let fixed = |x: f64| (x * 65536.0).round() as i32;
        Self {
            black,
            luma: [fixed(luma[0] * gain_y), fixed(luma[1] * gain_c), fixed(luma[2] * gain_c)],
            blue: [fixed(blue[1] * gain_c), fixed(blue[2] * gain_c)],
            red: [fixed(red[1] * gain_c), fixed(red[2] * gain_c)],
        }
    }

    /// Appends row `y` to the Y, Cb and Cr buffers, a byte a pixel each. The view must be whole.
    pub(super) fn row(&self, view: &PictureView<'_>, y: usize, out: [&mut Vec<u8>; 3]) {
        let width = view.width as usize;
        let line = |plane: usize, row: usize, bytes: usize| {
            let p = view.planes[plane];
            &p.data[row * p.stride..][..bytes]
        };
        let half = width.div_ceil(2);
        match view.format {
            PixelFormat::Rgb => {
                let [luma, blue, red] = out;
                for rgb in line(0, y, width * 3).chunks_exact(3) {
                    let (l, b, r) = rgb_to_ycbcr(rgb[0], rgb[1], rgb[2]);
                    luma.push(l);
                    blue.push(b);
                    red.push(r);
                }
            }
            PixelFormat::Nv12 => {
                let chroma = line(1, y / 2, half * 2).chunks_exact(2).map(|c| (c[0], c[1]));
                self.yuv(line(0, y, width), chroma, out);
            }
            PixelFormat::I420 => {
                let (blue, red) = (line(1, y / 2, half), line(2, y / 2, half));
                self.yuv(line(0, y, width), blue.iter().copied().zip(red.iter().copied()), out);
            }
        }
    }

    fn yuv(
        &self,
        luma_in: &[u8],
        chroma: impl Iterator<Item = (u8, u8)>,
        [luma, blue, red]: [&mut Vec<u8>; 3],
    ) {
        const HALF: i32 = 1 << 15;
        let byte = |x: i32| ((x + HALF) >> 16).clamp(0, 255) as u8;
        for (pixels, (u, v)) in luma_in.chunks(2).zip(chroma) {
            let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
            let shift = self.luma[1] * u + self.luma[2] * v;
            let b = byte(self.blue[0] * u + self.blue[1] * v + (128 << 16));
            let r = byte(self.red[0] * u + self.red[1] * v + (128 << 16));
            for y in pixels {
                luma.push(byte(self.luma[0] * (i32::from(*y) - self.black) + shift));
                blue.push(b);
                red.push(r);
            }
        }
    }
}
