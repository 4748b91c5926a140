//! Tensors as heads and letterbox see them: names, shapes, quantization and borrowed values. Runs nothing.

/// What one value of a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    I8,
    U8,
    F32,
    /// A type no head reads; carried so that a refusal can name it.
    Other(&'static str),
}

impl Element {
    pub fn name(self) -> &'static str {
        match self {
            Element::I8 => "int8",
            Element::U8 => "uint8",
            Element::F32 => "float32",
            Element::Other(name) => name,
        }
    }
}

/// Affine quantization: real = (stored - zero_point) * scale. Of no meaning for float32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quant {
    pub scale: f32,
    pub zero_point: i32,
}

impl Quant {
    /// For float32 tensors.
    pub const NONE: Quant = Quant { scale: 1.0, zero_point: 0 };

    pub fn real(self, stored: i32) -> f32 {
        (stored - self.zero_point) as f32 * self.scale
    }

    /// The stored value nearest to `real` within `limits`, ties to even as TFLite's reference rounds.
    pub fn store(self, real: f32, limits: (i32, i32)) -> i32 {
        let value = (real / self.scale).round_ties_even() as i32;
        value.saturating_add(self.zero_point).clamp(limits.0, limits.1)
    }

    /// Whether this can be the quantization of an 8-bit tensor.
    pub fn is_usable(self) -> bool {
        self.scale.is_normal() && self.scale > 0.0 && (-128..=255).contains(&self.zero_point)
    }
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorMeta {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: Element,
    pub quant: Quant,
}

impl TensorMeta {
    /// Number of values.
    pub fn volume(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor's memory to write into.
#[derive(Debug)]
pub enum TensorMut<'a> {
    /// int8 and uint8 alike; the letterbox's tables already hold the right bytes.
    Bytes(&'a mut [u8]),
    F32(&'a mut [f32]),
}

/// A tensor's values as the model left them.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    I8(&'a [i8]),
    U8(&'a [u8]),
    F32(&'a [f32]),
    /// Of a type no head reads.
    Other,
}

impl Values<'_> {
    /// How many there are, where that can be told.
    pub fn count(&self) -> Option<usize> {
        match self {
            Values::I8(v) => Some(v.len()),
            Values::U8(v) => Some(v.len()),
            Values::F32(v) => Some(v.len()),
            Values::Other => None,
        }
    }
}

/// Read access to one output: single values as real numbers, many values compared without dequantizing them.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub values: Values<'a>,
    pub quant: Quant,
}

/// A threshold in a tensor's own domain, made once and compared with many values.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    stored: i32,
    real: f32,
}

impl View<'_> {
    /// The real value at `index`.
    pub fn get(&self, index: usize) -> f32 {
        match self.values {
            Values::I8(v) => self.quant.real(v[index].into()),
            Values::U8(v) => self.quant.real(v[index].into()),
            Values::F32(v) => v[index],
            Values::Other => f32::NAN,
        }
    }

    /// Prepares comparing with `real`. The comparison lets values within a rounding error of it pass:
    /// it sorts out the many, the caller's own arithmetic decides about the few.
    pub fn cut(&self, real: f32) -> Cut {
        let slack = 1e-5 * (1.0 + real.abs());
        let lowest = if real.is_finite() { real - slack } else { real };
        // `as` saturates, so infinite thresholds keep or refuse everything.
        let stored = (lowest / self.quant.scale).floor() as i32;
        Cut { stored: stored.saturating_add(self.quant.zero_point), real: lowest }
    }

    /// Calls `hit` with the tag of every place whose value exceeds the cut; NaN never does.
    pub fn above<T>(
        &self,
        places: impl Iterator<Item = (T, usize)>,
        cut: Cut,
        mut hit: impl FnMut(T),
    ) {
        match self.values {
            Values::I8(v) => {
                places.filter(|p| i32::from(v[p.1]) > cut.stored).for_each(|p| hit(p.0));
            }
            Values::U8(v) => {
                places.filter(|p| i32::from(v[p.1]) > cut.stored).for_each(|p| hit(p.0));
            }
            Values::F32(v) => places.filter(|p| v[p.1] > cut.real).for_each(|p| hit(p.0)),
            Values::Other => {}
        }
    }

    /// Whether any value is not a number; integers cannot be.
    pub fn has_nan(&self) -> bool {
        match self.values {
            // Without an early exit, so that it runs in vector registers.
            Values::F32(v) => v.iter().fold(false, |found, x| found | x.is_nan()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_agrees_with_real_comparison_but_for_rounding() {
        let quant = Quant { scale: 0.13, zero_point: -7 };
        let values: Vec<i8> = (-128..=127).collect();
        let view = View { values: Values::I8(&values), quant };
        for threshold in [-20.0f32, -1.0, 0.0, 0.33, 5.0, f32::INFINITY, f32::NEG_INFINITY] {
            let mut hits = Vec::new();
            let places = (0..values.len()).map(|i| (i, i));
            view.above(places, view.cut(threshold), |i| hits.push(i));
            for i in 0..values.len() {
                let exact = view.get(i) > threshold;
                let near = (view.get(i) - threshold).abs() < 1e-3;
                assert!(hits.contains(&i) == exact || near, "{threshold} {i}");
            }
        }
    }

    #[test]
    fn storing_rounds_and_clamps() {
        let q = Quant { scale: 1.0 / 255.0, zero_point: -128 };
        assert_eq!(q.store(0.0, (-128, 127)), -128);
        assert_eq!(q.store(1.0, (-128, 127)), 127);
        assert_eq!(q.store(9.0, (-128, 127)), 127);
        assert_eq!(q.store(f32::NAN, (-128, 127)), -128);
    }

    #[test]
    fn nan_is_seen_and_never_exceeds() {
        let values = [1.0, f32::NAN, 3.0];
        let view = View { values: Values::F32(&values), quant: Quant::NONE };
        assert!(view.has_nan());
        let mut hits = Vec::new();
        view.above((0..3).map(|i| (i, i)), view.cut(0.0), |i| hits.push(i));
        assert_eq!(hits, [0, 2]);
    }
}
