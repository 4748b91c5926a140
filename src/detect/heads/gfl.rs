//! Generalized focal loss, as PicoDet and NanoDet use it: each side of a box is a distribution over distances.
//!
//! Formula: Li et al. 2020 (arXiv 2006.04388): a side is the mean of the softmax over 0..=reg_max, in strides,
//! from the cell's centre; with an objectness output (PicoDet) the score is sqrt(cls * obj).

use super::{Field, Fitting, Sink, View, logit, sigmoid};
use crate::detect::manifest::GflLevel;

#[derive(Debug)]
pub(super) struct Gfl {
    levels: Vec<Level>,
    bins: usize,
}

#[derive(Debug)]
struct Level {
    stride: f32,
    columns: usize,
    cells: usize,
    cls: Field,
    dis: Field,
    obj: Option<Field>,
}

impl Gfl {
    pub(super) fn fit(levels: &[GflLevel], reg_max: u32, fit: &mut Fitting<'_>) -> Self {
        let bins = reg_max as usize + 1;
        let levels = levels.iter().map(|level| {
            let (rows, columns) = fit.grid(level.stride);
            let mut part = |name: &str, channels: usize| {
                Field::rows(fit.exact(name, &[1, rows, columns, channels]), channels)
            };
            let dis = part(&level.dis, 4 * bins);
            let obj = level.obj.as_ref().map(|name| part(name, 1));
            let classes = fit.classes;
            let cls = Field::rows(fit.exact(&level.cls, &[1, rows, columns, classes]), classes);
            let (stride, cells) = (level.stride as f32, rows * columns);
            Level { stride, columns, cells, cls, dis, obj }
        });
        Self { levels: levels.collect(), bins }
    }

    pub(super) fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        for level in &self.levels {
            match level.obj {
                Some(obj) => level.decode_with_obj(obj, self.bins, outputs, wanted, sink),
                None => level.decode_plain(self.bins, outputs, wanted, sink),
            }
        }
    }
}

impl Level {
    fn decode_with_obj(
        &self,
        field: Field,
        bins: usize,
        outputs: &[View<'_>],
        wanted: &[u16],
        sink: &mut Sink<'_>,
    ) {
        let (obj, cls) = (&outputs[field.tensor], &outputs[self.cls.tensor]);
        // sqrt(cls * obj) > t asks cls * obj > t², and each factor is at most 1.
        let product = sink.threshold * sink.threshold;
        let objects = (0..self.cells).map(|cell| (cell, field.at(cell, 0)));
        obj.above(objects, obj.cut(logit(product)), |cell| {
            let raw = obj.get(field.at(cell, 0));
            if !raw.is_finite() {
                return;
            }
            let objectness = sigmoid(raw);
            let cut = cls.cut(logit(product / objectness));
            let classes = wanted.iter().map(|&c| (c, self.cls.at(cell, c.into())));
            let mut place = None;
            cls.above(classes, cut, |class| {
                let raw = cls.get(self.cls.at(cell, class.into()));
                if raw.is_finite() {
                    let place = *place.get_or_insert_with(|| self.corners(bins, outputs, cell));
                    sink.push(class, (objectness * sigmoid(raw)).sqrt(), place);
                }
            });
        });
    }

    fn decode_plain(&self, bins: usize, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        let cls = &outputs[self.cls.tensor];
        let places = (0..self.cells)
            .flat_map(|cell| wanted.iter().map(move |&c| ((cell, c), self.cls.at(cell, c.into()))));
        // Hits come cell by cell, and all classes of a cell share its box.
        let mut last = (usize::MAX, [0.0; 4]);
        cls.above(places, cls.cut(logit(sink.threshold)), |(cell, class)| {
            let raw = cls.get(self.cls.at(cell, class.into()));
            if raw.is_finite() {
                if last.0 != cell {
                    last = (cell, self.corners(bins, outputs, cell));
                }
                sink.push(class, sigmoid(raw), last.1);
            }
        });
    }

    fn corners(&self, bins: usize, outputs: &[View<'_>], cell: usize) -> [f32; 4] {
        let dis = &outputs[self.dis.tensor];
        let side = |side: usize| {
            let raw = |bin: usize| dis.get(self.dis.at(cell, side * bins + bin));
            let most = (0..bins).map(raw).fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut moment) = (0.0, 0.0);
            for bin in 0..bins {
                let weight = (raw(bin) - most).exp();
                sum += weight;
                moment += weight * bin as f32;
            }
            // Infinite distances make this NaN, which the sink refuses.
            moment / sum * self.stride
        };
        let x = ((cell % self.columns) as f32 + 0.5) * self.stride;
        let y = ((cell / self.columns) as f32 + 0.5) * self.stride;
        [x - side(0), y - side(1), x + side(2), y + side(3)]
    }
}
