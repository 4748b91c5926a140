//! A detection's box and label, painted row by row. Plain on purpose: no fonts to ship.

use font8x8::UnicodeFonts;

use crate::detect::Detection;

/// Y, Cb, Cr of the frame (a strong orange) and of the letters (white).
const FRAME: [u8; 3] = [114, 64, 228];
const INK: [u8; 3] = [255, 128, 128];
/// Width of the frame, pixels.
const LINE: usize = 3;
/// Pixels for one pixel of the 8x8 font, and the label's height and margin.
const ZOOM: usize = 2;
const LABEL: usize = 10 * ZOOM;

/// A box and its words in whole pixels of one picture.
pub(super) struct Mark {
    x1: usize,
    y1: usize,
    x2: usize,
    y2: usize,
    words: Vec<[u8; 8]>,
}

impl Mark {
    pub(super) fn new(d: &Detection, width: u32, height: u32) -> Self {
        // A float out of range becomes the nearest number there is, and what is none becomes 0.
        let clip = |v: f32, most: u32| (v.max(0.0) as usize).min(most.saturating_sub(1) as usize);
        let words = format!("{} {:.0}%", d.label, d.confidence * 100.0);
        let glyph = |c| font8x8::BASIC_FONTS.get(c).unwrap_or_default();
        Self {
            x1: clip(d.bbox.x1, width),
            y1: clip(d.bbox.y1, height),
            x2: clip(d.bbox.x2, width),
            y2: clip(d.bbox.y2, height),
            words: words.chars().map(glyph).collect(),
        }
    }

    /// Paints what of the mark is in row `y`; `row` holds the whole row's Y, Cb and Cr.
    pub(super) fn paint(&self, y: usize, mut row: [&mut [u8]; 3]) {
        let mut span = |from: usize, to: usize, colour: [u8; 3]| {
            for (plane, value) in row.iter_mut().zip(colour) {
                let to = to.min(plane.len());
                if from < to {
                    plane[from..to].fill(value);
                }
            }
        };
        if (self.y1..=self.y2).contains(&y) {
            if y < self.y1 + LINE || y + LINE > self.y2 {
                span(self.x1, self.x2 + 1, FRAME);
            } else {
                span(self.x1, self.x1 + LINE, FRAME);
                span((self.x2 + 1).saturating_sub(LINE), self.x2 + 1, FRAME);
            }
        }
        // Over the box where there is room, else inside it.
        let top = self.y1.saturating_sub(LABEL);
        if (top..top + LABEL).contains(&y) {
            span(self.x1, self.x1 + self.words.len() * 8 * ZOOM, FRAME);
            let line = ((y - top) / ZOOM).checked_sub(1);
            for (n, glyph) in self.words.iter().enumerate() {
                let bits = line.and_then(|l| glyph.get(l)).copied().unwrap_or_default();
                for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                    let x = self.x1 + (n * 8 + bit) * ZOOM;
                    span(x, x + ZOOM, INK);
                }
            }
        }
    }
}
