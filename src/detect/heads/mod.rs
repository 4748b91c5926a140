//! Raw outputs to candidate boxes, one file a kind of head; pure, and told everything by the manifest.
//!
//! A [`Head`] is built once: it resolves tensor names to positions and checks every shape, so that
//! decoding a picture indexes without asking. Candidates then go through [`nms`].

mod gfl;
pub mod nms;
mod ssd;
mod yolo;
mod yolov8;
mod yolox;

use super::manifest::{HeadKind, HeadSpec};
use super::tensor::{Element, TensorMeta, View};

/// A box some class was seen in, before suppression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub class_id: u16,
    /// 0 to 1.
    pub score: f32,
    /// x1, y1, x2, y2 in pixels of the model's input; may reach beyond it.
    pub corners: [f32; 4],
}

/// What the model's tensors are where the manifest expects something else; one entry a difference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Mismatch(pub Vec<String>);

/// An output held NaN; the position in the model's list of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANumber(pub usize);

/// A decoder fitted to one model's outputs.
#[derive(Debug)]
pub struct Head {
    decoder: Decoder,
    /// Outputs it reads, for the check against NaN.
    used: Vec<usize>,
}

#[derive(Debug)]
enum Decoder {
    Anchors(yolo::Anchors),
    Yolox(yolox::Yolox),
    YoloV8(yolov8::YoloV8),
    Gfl(gfl::Gfl),
    Ssd(ssd::Ssd),
}

impl Head {
    /// Fits `spec` to a model with `outputs`, an input of `size` (width, height) and `classes` labels.
    pub fn new(
        spec: &HeadSpec,
        size: (u32, u32),
        classes: usize,
        outputs: &[TensorMeta],
    ) -> Result<Self, Mismatch> {
        let mut fit = Fitting { outputs, size, classes, used: Vec::new(), differences: Vec::new() };
        let decoder = match &spec.kind {
            HeadKind::YoloV3 { levels } | HeadKind::YoloV4 { levels } => {
                Decoder::Anchors(yolo::Anchors::fit(levels, &mut fit))
            }
            HeadKind::Yolox { output, strides, logits } => {
                Decoder::Yolox(yolox::Yolox::fit(output, strides, *logits, &mut fit))
            }
            HeadKind::YoloV8 { output, normalized } => {
                Decoder::YoloV8(yolov8::YoloV8::fit(output, *normalized, &mut fit))
            }
            HeadKind::Gfl { levels, reg_max } => {
                Decoder::Gfl(gfl::Gfl::fit(levels, *reg_max, &mut fit))
            }
            HeadKind::Ssd { boxes, classes, scores, count, class_offset } => Decoder::Ssd(
                ssd::Ssd::fit([boxes, classes, scores, count], *class_offset, &mut fit),
            ),
        };
        if fit.differences.is_empty() {
            Ok(Self { decoder, used: fit.used })
        } else {
            Err(Mismatch(fit.differences))
        }
    }

    /// Appends every box whose score exceeds `threshold`, for classes in `wanted` only.
    ///
    /// `outputs` are in the order of the metas the head was fitted to. Values that are not finite
    /// give no candidates.
    pub fn decode(
        &self,
        outputs: &[View<'_>],
        threshold: f32,
        wanted: &[u16],
        found: &mut Vec<Candidate>,
    ) -> Result<(), NotANumber> {
        if let Some(&at) = self.used.iter().find(|&&at| outputs[at].has_nan()) {
            return Err(NotANumber(at));
        }
        let mut sink = Sink { threshold, found };
        match &self.decoder {
            Decoder::Anchors(d) => d.decode(outputs, wanted, &mut sink),
            Decoder::Yolox(d) => d.decode(outputs, wanted, &mut sink),
            Decoder::YoloV8(d) => d.decode(outputs, wanted, &mut sink),
            Decoder::Gfl(d) => d.decode(outputs, wanted, &mut sink),
            Decoder::Ssd(d) => d.decode(outputs, wanted, &mut sink),
        }
        Ok(())
    }

    /// Whether boxes still want suppression; an SSD graph has done it.
    pub fn wants_nms(&self) -> bool {
        !matches!(self.decoder, Decoder::Ssd(_))
    }
}

/// Takes candidates, and holds the line for all heads: above the threshold and finite.
struct Sink<'a> {
    threshold: f32,
    found: &'a mut Vec<Candidate>,
}

impl Sink<'_> {
    fn push(&mut self, class_id: u16, score: f32, corners: [f32; 4]) {
        let usable = score.is_finite() && corners.iter().all(|v| v.is_finite());
        if score > self.threshold && usable {
            // Rounding in a quantized tensor can carry a probability past 1.
            self.found.push(Candidate { class_id, score: score.min(1.0), corners });
        }
    }
}

/// Where values of one kind lie in a tensor: `offset + cell * cell_step + channel * channel_step`.
#[derive(Debug, Clone, Copy)]
struct Field {
    tensor: usize,
    offset: usize,
    cell_step: usize,
    channel_step: usize,
}

impl Field {
    /// Cells one after the other, each with its channels together.
    fn rows(tensor: usize, channels: usize) -> Self {
        Self { tensor, offset: 0, cell_step: channels, channel_step: 1 }
    }

    fn shifted(self, channels: usize) -> Self {
        Self { offset: self.offset + channels * self.channel_step, ..self }
    }

    fn at(&self, cell: usize, channel: usize) -> usize {
        self.offset + cell * self.cell_step + channel * self.channel_step
    }
}

/// Finds outputs by name, checks them, and gathers all differences rather than the first.
struct Fitting<'a> {
    outputs: &'a [TensorMeta],
    size: (u32, u32),
    classes: usize,
    used: Vec<usize>,
    differences: Vec<String>,
}

impl Fitting<'_> {
    /// The output of this name, if `fits` takes its shape; `expected` says in words what would fit.
    fn take(
        &mut self,
        name: &str,
        expected: &str,
        fits: impl Fn(&[usize]) -> bool,
    ) -> Option<usize> {
        let Some(at) = self.outputs.iter().position(|o| o.name == name) else {
            let names: Vec<_> = self.outputs.iter().map(|o| o.name.as_str()).collect();
            let names = names.join(", ");
            self.differences
                .push(format!("output \"{name}\": expected, but the model has {names}"));
            return None;
        };
        let meta = &self.outputs[at];
        if !fits(&meta.shape) {
            let found = &meta.shape;
            self.differences
                .push(format!("output \"{name}\": expected shape {expected}, found {found:?}"));
            return None;
        }
        match meta.element {
            Element::Other(found) => {
                self.differences.push(format!(
                    "output \"{name}\": expected int8, uint8 or float32, found {found}"
                ));
                return None;
            }
            Element::I8 | Element::U8 if !meta.quant.is_usable() => {
                self.differences
                    .push(format!("output \"{name}\": expected a quantization scale, found none"));
                return None;
            }
            _ => {}
        }
        self.used.push(at);
        Some(at)
    }

    /// An output of exactly this shape; position 0 stands in for one that does not fit.
    fn exact(&mut self, name: &str, shape: &[usize]) -> usize {
        self.take(name, &format!("{shape:?}"), |found| found == shape).unwrap_or(0)
    }

    /// Rows and columns of the grid at a stride.
    fn grid(&self, stride: u32) -> (usize, usize) {
        (self.size.1.div_ceil(stride) as usize, self.size.0.div_ceil(stride) as usize)
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The x at which [`sigmoid`] is `p`; infinite at and beyond 0 and 1.
fn logit(p: f32) -> f32 {
    if p <= 0.0 {
        f32::NEG_INFINITY
    } else if p >= 1.0 {
        f32::INFINITY
    } else {
        (p / (1.0 - p)).ln()
    }
}

/// exp within the range that keeps a box finite; infinite values are left for the sink to refuse.
fn bounded_exp(x: f32) -> f32 {
    if x.is_finite() { x.clamp(-20.0, 20.0).exp() } else { f32::NAN }
}

fn corners(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logit_undoes_sigmoid() {
        for p in [0.01, 0.25, 0.5, 0.99] {
            assert!((sigmoid(logit(p)) - p).abs() < 1e-6);
        }
        assert_eq!(logit(0.0), f32::NEG_INFINITY);
        assert_eq!(logit(1.0), f32::INFINITY);
    }

    #[test]
    fn the_sink_refuses_what_is_not_finite() {
        let mut found = Vec::new();
        let mut sink = Sink { threshold: 0.5, found: &mut found };
        sink.push(0, f32::NAN, [0.0; 4]);
        sink.push(0, f32::INFINITY, [0.0; 4]);
        sink.push(0, 0.9, [0.0, 0.0, f32::INFINITY, 1.0]);
        sink.push(0, 0.5, [0.0; 4]);
        sink.push(1, 1.004, [0.0; 4]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].class_id, found[0].score), (1, 1.0));
    }
}
