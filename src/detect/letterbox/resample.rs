//! Scaling of one plane by a triangle filter that widens with the scale, in fixed point; knows no colours.
//!
//! The filter is what imaging libraries call antialiased bilinear: when a picture shrinks, every source
//! pixel counts, so that small animals do not fall between samples. It is separable: [`Rows`] weighs
//! source rows into one row of the output's height, [`Columns`] then weighs that row's values.
//! Loops are written so that compilers turn them into SSE2, AVX2 or NEON without being told to.

/// Fraction bits of the values between the passes: 255 << 7 still fits an i16.
pub(super) const FRACTION: u32 = 7;

/// Weighs whole rows of bytes into one.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    windows: Vec<Window>,
    /// In 256ths.
    weights: Vec<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    /// First source row, and where its weights begin.
    first: usize,
    start: usize,
    count: usize,
}

impl Rows {
    /// From `source` rows, whose first `extent` cover the picture, to `out` rows.
    pub(super) fn new(source: usize, extent: f64, out: usize) -> Self {
        let (mut windows, mut weights) = (Vec::with_capacity(out), Vec::new());
        for at in 0..out {
            let (first, taps) = window(source, extent, out, at);
            windows.push(Window { first, start: weights.len(), count: taps.len() });
            weights.extend(fixed(&taps, 256).map(|w| w as u16));
        }
        Self { windows, weights }
    }

    /// Writes output row `at` of a plane, `out.len()` bytes wide, with [`FRACTION`] fraction bits.
    #[inline(always)]
    pub(super) fn blend(&self, data: &[u8], stride: usize, at: usize, out: &mut [i16]) {
        /// Sums of so many columns stay in registers while all rows of a window are added.
        const BLOCK: usize = 32;
        let w = self.windows[at];
        let weights = &self.weights[w.start..w.start + w.count];
        let rows = &data[w.first * stride..];
        let width = out.len();
        let mut blocks = out.chunks_exact_mut(BLOCK);
        let mut x = 0;
        for block in &mut blocks {
            let mut sums = [0u16; BLOCK];
            for (k, &weight) in weights.iter().enumerate() {
                let from = k * stride + x;
                let pixels: &[u8; BLOCK] =
                    rows[from..from + BLOCK].try_into().expect("a slice of BLOCK bytes");
                for (sum, &pixel) in sums.iter_mut().zip(pixels) {
                    // At most 255 * 256, as weights sum to 256.
                    *sum = sum.wrapping_add(weight.wrapping_mul(u16::from(pixel)));
                }
            }
            for (out, sum) in block.iter_mut().zip(sums) {
                *out = (sum >> (8 - FRACTION)) as i16;
            }
            x += BLOCK;
        }
        for (x, out) in (x..width).zip(blocks.into_remainder()) {
            let pixels =
                weights.iter().enumerate().map(|(k, &w)| w * u16::from(rows[k * stride + x]));
            *out = (pixels.sum::<u16>() >> (8 - FRACTION)) as i16;
        }
    }
}

/// Weighs neighbouring values of a row.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    first: Vec<u32>,
    /// `taps` a column, in 16384ths, zeros after the last one needed.
    weights: Vec<i16>,
    taps: usize,
}

const COLUMN_BITS: u32 = 14;

impl Columns {
    /// From `source` values, whose first `extent` cover the picture, to `out` values.
    pub(super) fn new(source: usize, extent: f64, out: usize) -> Self {
        let windows: Vec<_> = (0..out).map(|at| window(source, extent, out, at)).collect();
        let most = windows.iter().map(|w| w.1.len()).max().unwrap_or(1);
        let taps = if most <= 4 { 4 } else { most.next_multiple_of(8) };
        let mut weights = Vec::with_capacity(out * taps);
        for (_, window) in &windows {
            weights.extend(fixed(window, 1 << COLUMN_BITS).map(|w| w as i16));
            weights.resize(weights.len().next_multiple_of(taps), 0);
        }
        Self { first: windows.iter().map(|w| w.0 as u32).collect(), weights, taps }
    }

    /// How far behind the row's end reading may go; the values there count nothing.
    pub(super) fn overhang(&self) -> usize {
        self.taps
    }

    /// Scales a row followed by [`Columns::overhang`] arbitrary values; fraction bits stay as they are.
    #[inline(always)]
    pub(super) fn blend(&self, row: &[i16], out: &mut [i16]) {
        match self.taps {
            4 => self.blend_few::<4, 2, 16>(row, out),
            8 => self.blend_few::<8, 4, 8>(row, out),
            _ => self.blend_long(row, out),
        }
    }

    /// Gathers the values of a block of columns first, so that multiplying them is one straight loop. The blocks' sizes are those
    /// that were fastest on x86-64.
    #[inline(always)]
    fn blend_few<const TAPS: usize, const PAIRS: usize, const BLOCK: usize>(
        &self,
        row: &[i16],
        out: &mut [i16],
    ) {
        let (weights, _) = self.weights.as_chunks::<TAPS>();
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let (firsts, firsts_rest) = self.first.as_chunks::<BLOCK>();
        let (weight_blocks, weights_rest) = weights.as_chunks::<BLOCK>();
        let at = |first: u32| -> &[i16; TAPS] {
            row[first as usize..].first_chunk().expect("rows have an overhang")
        };
        for ((out, first), weights) in blocks.iter_mut().zip(firsts).zip(weight_blocks) {
            let mut values = [[0i16; TAPS]; BLOCK];
            for k in 0..BLOCK {
                values[k] = *at(first[k]);
            }
            let mut pairs = [[0i32; PAIRS]; BLOCK];
            let (values, _) = values.as_flattened().as_chunks::<2>();
            let (weights, _) = weights.as_flattened().as_chunks::<2>();
            for ((pair, v), w) in pairs.as_flattened_mut().iter_mut().zip(values).zip(weights) {
                *pair = i32::from(v[0]) * i32::from(w[0]) + i32::from(v[1]) * i32::from(w[1]);
            }
            for (out, pairs) in out.iter_mut().zip(pairs) {
                *out = rounded(pairs.iter().sum());
            }
        }
        for ((out, &first), weights) in rest.iter_mut().zip(firsts_rest).zip(weights_rest) {
            let products =
                at(first).iter().zip(weights).map(|(&v, &w)| i32::from(v) * i32::from(w));
            *out = rounded(products.sum());
        }
    }

    #[inline(always)]
    fn blend_long(&self, row: &[i16], out: &mut [i16]) {
        let weights = self.weights.chunks_exact(self.taps);
        for ((out, &first), weights) in out.iter_mut().zip(&self.first).zip(weights) {
            let values = &row[first as usize..][..self.taps];
            let (values, _) = values.as_chunks::<8>();
            let (weights, _) = weights.as_chunks::<8>();
            *out = rounded(values.iter().zip(weights).map(|(v, w)| dot(v, w)).sum());
        }
    }
}

#[inline(always)]
fn dot(values: &[i16; 8], weights: &[i16; 8]) -> i32 {
    let mut sum = 0;
    for k in 0..8 {
        sum += i32::from(values[k]) * i32::from(weights[k]);
    }
    sum
}

#[inline(always)]
fn rounded(sum: i32) -> i16 {
    ((sum + (1 << (COLUMN_BITS - 1))) >> COLUMN_BITS) as i16
}

/// First source index and normalised weights for output `at`: a triangle around the point it stands for.
fn window(source: usize, extent: f64, out: usize, at: usize) -> (usize, Vec<f64>) {
    let scale = extent / out as f64;
    let reach = scale.max(1.0);
    let centre = (at as f64 + 0.5) * scale;
    let first = ((centre - reach + 0.5).max(0.0) as usize).min(source - 1);
    let end = ((centre + reach + 0.5) as usize).clamp(first + 1, source);
    let mut weights: Vec<f64> =
        (first..end).map(|i| (1.0 - ((i as f64 + 0.5 - centre) / reach).abs()).max(0.0)).collect();
    let sum: f64 = weights.iter().sum();
    if sum > 0.0 {
        weights.iter_mut().for_each(|w| *w /= sum);
    } else {
        weights.fill(1.0 / (end - first) as f64);
    }
    (first, weights)
}

/// Weights as integers that sum to exactly `whole`: each running sum is rounded, not each weight.
fn fixed(weights: &[f64], whole: i32) -> impl Iterator<Item = i32> {
    let last = weights.len() - 1;
    weights.iter().enumerate().scan((0.0, 0), move |(sum, given), (k, w)| {
        *sum += w;
        let until = if k == last { whole } else { (*sum * f64::from(whole)).round() as i32 };
        let weight = until - *given;
        *given = until;
        Some(weight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_the_whole_and_stay_inside() {
        for (source, extent, out) in [
            (1280, 1280.0, 416),
            (640, 640.0, 416),
            (1, 0.5, 416),
            (3, 2.5, 7),
            (5000, 5000.0, 3),
            (1, 1.0, 1),
        ] {
            let rows = Rows::new(source, extent, out);
            for w in &rows.windows {
                assert!(w.count >= 1 && w.first + w.count <= source, "{source} {out}");
                let sum: u16 = rows.weights[w.start..w.start + w.count].iter().sum();
                assert_eq!(sum, 256);
            }
            let columns = Columns::new(source, extent, out);
            assert_eq!(columns.weights.len(), out * columns.taps);
            for weights in columns.weights.chunks(columns.taps) {
                assert_eq!(weights.iter().map(|&w| i32::from(w)).sum::<i32>(), 1 << COLUMN_BITS);
                assert!(weights.iter().all(|&w| w >= 0));
            }
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let row: Vec<u8> = (0..100).map(|i| (i * 37 % 256) as u8).collect();
        let (rows, columns) = (Rows::new(1, 1.0, 1), Columns::new(100, 100.0, 100));
        let mut between = vec![0; 100];
        rows.blend(&row, 100, 0, &mut between);
        between.extend(vec![i16::MAX; columns.overhang()]);
        let mut out = vec![0; 100];
        columns.blend(&between, &mut out);
        let back: Vec<u8> = out.iter().map(|v| (v >> FRACTION) as u8).collect();
        assert_eq!(back, row);
    }
}
