//! Rows of Y, U and V to rows of R, G and B bytes (ITU-R BT.601 and BT.709) in 16-bit arithmetic; scales nothing.

use super::resample::FRACTION;
use crate::decode::{Colour, Matrix, Range};

/// A conversion's factors in 8192nds: the largest, 2.11, still fits an i16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yuv {
    /// Black's Y, with [`FRACTION`] fraction bits.
    black: i16,
    y: i16,
    v_to_r: i16,
    u_to_g: i16,
    v_to_g: i16,
    u_to_b: i16,
}

impl Yuv {
    /// ITU-T H.273: R = Y + 2 (1 - Kr) V and so on, with Y and chroma stretched from their ranges to 0..255.
    pub(super) fn new(colour: Colour) -> Self {
        let (kr, kb) = match colour.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let (black, luma, chroma) = match colour.range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        let kg = 1.0 - kr - kb;
        let factor = |x: f64| (x * 8192.0).round() as i16;
        Self {
            black: black << FRACTION,
            y: factor(luma),
            v_to_r: factor(chroma * 2.0 * (1.0 - kr)),
            u_to_g: factor(chroma * -2.0 * (1.0 - kb) * kb / kg),
            v_to_g: factor(chroma * -2.0 * (1.0 - kr) * kr / kg),
            u_to_b: factor(chroma * 2.0 * (1.0 - kb)),
        }
    }

    /// Converts `out[0].len()` pixels; rows have [`FRACTION`] fraction bits.
    #[inline(always)]
    pub(super) fn convert(&self, yuv: [&[i16]; 3], out: [&mut [u8]; 3]) {
        const GREY: i16 = 128 << FRACTION;
        let [red, green, blue] = out;
        let width = red.len();
        // Equal lengths, told once, let the loop run without bounds checks.
        let [ys, us, vs] = yuv.map(|row| &row[..width]);
        let (green, blue) = (&mut green[..width], &mut blue[..width]);
        for x in 0..width {
            let y = scaled(ys[x] - self.black, self.y);
            let (u, v) = (us[x] - GREY, vs[x] - GREY);
            red[x] = byte(y + scaled(v, self.v_to_r));
            green[x] = byte(y + scaled(u, self.u_to_g) + scaled(v, self.v_to_g));
            blue[x] = byte(y + scaled(u, self.u_to_b));
        }
    }
}

/// 7 fraction bits times 13, less 16: 4 remain.
#[inline(always)]
fn scaled(value: i16, factor: i16) -> i16 {
    ((i32::from(value) * i32::from(factor)) >> 16) as i16
}

/// Rounds 4 fraction bits away. The sixteenth beyond a half makes up for what two or three `scaled` cut off.
#[inline(always)]
fn byte(value: i16) -> u8 {
    ((value + 9) >> 4).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        let bt709 = Yuv::new(Colour { matrix: Matrix::Bt709, range: Range::Limited });
        let bt601 = Yuv::new(Colour { matrix: Matrix::Bt601, range: Range::Limited });
        let full = Yuv::new(Colour { matrix: Matrix::Bt601, range: Range::Full });
        for (yuv, [y, u, v], rgb) in [
            (&bt709, [16, 128, 128], [0, 0, 0]),
            (&bt709, [235, 128, 128], [255, 255, 255]),
            (&bt709, [63, 102, 240], [255, 0, 0]),
            (&bt601, [81, 90, 240], [254, 0, 0]),
            (&bt601, [41, 240, 110], [0, 0, 255]),
            (&full, [200, 128, 128], [200, 200, 200]),
            (&full, [255, 255, 255], [255, 121, 255]),
            (&bt709, [0, 0, 0], [0, 77, 0]),
        ] {
            let rows = [y, u, v].map(|c: i16| [c << FRACTION]);
            let mut out = [[0u8]; 3];
            let [r, g, b] = &mut out;
            yuv.convert([&rows[0], &rows[1], &rows[2]], [r, g, b]);
            for (got, want) in out.iter().zip(rgb) {
                assert!(got[0].abs_diff(want) <= 1, "{:?} gave {out:?}", [y, u, v]);
            }
        }
    }
}
