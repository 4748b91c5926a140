//! YOLOv3 and v4: anchor boxes per cell, raw logits, in one tensor a stride or split into four.
//!
//! Formula: Redmon & Farhadi 2018 (arXiv 1804.02767); `scale_xy` as in Scaled-YOLOv4 (arXiv 2011.08036):
//! centre = (sigmoid(t) * s - (s - 1) / 2 + cell) * stride, size = exp(t) * anchor.

use super::{Field, Fitting, Sink, View, bounded_exp, corners, logit, sigmoid};
use crate::detect::manifest::AnchorLevel;

#[derive(Debug)]
pub(super) struct Anchors {
    levels: Vec<Level>,
}

/// "Cell" counts anchors too: (row * columns + column) * anchors + anchor.
#[derive(Debug)]
struct Level {
    stride: f32,
    columns: usize,
    cells: usize,
    anchors: Vec<[f32; 2]>,
    scale_xy: f32,
    xy: Field,
    wh: Field,
    obj: Field,
    cls: Field,
}

impl Anchors {
    pub(super) fn fit(levels: &[AnchorLevel], fit: &mut Fitting<'_>) -> Self {
        Self { levels: levels.iter().map(|level| Level::fit(level, fit)).collect() }
    }

    pub(super) fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        for level in &self.levels {
            level.decode(outputs, wanted, sink);
        }
    }
}

impl Level {
    fn fit(level: &AnchorLevel, fit: &mut Fitting<'_>) -> Self {
        let (rows, columns) = fit.grid(level.stride);
        let (count, classes) = (level.anchors.len(), fit.classes);
        // Anchors and their values may share an axis or have one each: both lie alike in memory.
        let mut part = |name: &Option<String>, each: usize| {
            let name = name.as_deref().unwrap_or_default();
            let expected = format!("[1, {rows}, {columns}, {}]", count * each);
            let tensor = fit.take(name, &expected, |found| {
                found.len() >= 4
                    && found[..3] == [1, rows, columns]
                    && found[3..].iter().product::<usize>() == count * each
            });
            Field::rows(tensor.unwrap_or(0), each)
        };
        let (xy, wh, obj, cls) = if level.fused.is_some() {
            let whole = part(&level.fused, 5 + classes);
            (whole, whole.shifted(2), whole.shifted(4), whole.shifted(5))
        } else {
            let (xy, wh) = (part(&level.xy, 2), part(&level.wh, 2));
            (xy, wh, part(&level.obj, 1), part(&level.cls, classes))
        };
        Self {
            stride: level.stride as f32,
            columns,
            cells: rows * columns * count,
            anchors: level.anchors.clone(),
            scale_xy: level.scale_xy,
            xy,
            wh,
            obj,
            cls,
        }
    }

    fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        let (obj, cls) = (&outputs[self.obj.tensor], &outputs[self.cls.tensor]);
        let threshold = sink.threshold;
        // A score is at most its objectness, so most cells end with one integer comparison.
        let objects = (0..self.cells).map(|cell| (cell, self.obj.at(cell, 0)));
        obj.above(objects, obj.cut(logit(threshold)), |cell| {
            let objectness = obj.get(self.obj.at(cell, 0));
            if !objectness.is_finite() {
                return;
            }
            let objectness = sigmoid(objectness);
            let cut = cls.cut(logit(threshold / objectness));
            let classes = wanted.iter().map(|&c| (c, self.cls.at(cell, c.into())));
            let mut place = None;
            cls.above(classes, cut, |class| {
                let raw = cls.get(self.cls.at(cell, class.into()));
                if raw.is_finite() {
                    let place = *place.get_or_insert_with(|| self.corners(outputs, cell));
                    sink.push(class, objectness * sigmoid(raw), place);
                }
            });
        });
    }

    fn corners(&self, outputs: &[View<'_>], cell: usize) -> [f32; 4] {
        let anchor = self.anchors[cell % self.anchors.len()];
        let place = cell / self.anchors.len();
        let (column, row) = ((place % self.columns) as f32, (place / self.columns) as f32);
        let centre = |channel: usize, cell_at: f32| {
            let raw = outputs[self.xy.tensor].get(self.xy.at(cell, channel));
            let inside = sigmoid(raw) * self.scale_xy - (self.scale_xy - 1.0) / 2.0;
            if raw.is_finite() { (inside + cell_at) * self.stride } else { f32::NAN }
        };
        let extent = |channel: usize| {
            let raw = outputs[self.wh.tensor].get(self.wh.at(cell, channel));
            bounded_exp(raw) * anchor[channel]
        };
        corners(centre(0, column), centre(1, row), extent(0), extent(1))
    }
}
