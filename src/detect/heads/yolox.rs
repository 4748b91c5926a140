//! YOLOX: anchor-free rows of all strides one after the other, x and y before the row's grid offset.
//!
//! Formula: Ge et al. 2021 (arXiv 2107.08430): centre = (t + cell) * stride, size = exp(t) * stride.

use super::{Field, Fitting, Sink, View, bounded_exp, corners, logit, sigmoid};

#[derive(Debug)]
pub(super) struct Yolox {
    levels: Vec<Level>,
    /// x, y, w, h, objectness, classes.
    row: Field,
    rows: usize,
    logits: bool,
}

#[derive(Debug)]
struct Level {
    first: usize,
    columns: usize,
    stride: f32,
}

impl Yolox {
    pub(super) fn fit(output: &str, strides: &[u32], logits: bool, fit: &mut Fitting<'_>) -> Self {
        let mut rows = 0;
        let mut levels = Vec::new();
        for &stride in strides {
            let (height, columns) = fit.grid(stride);
            levels.push(Level { first: rows, columns, stride: stride as f32 });
            rows += height * columns;
        }
        let channels = 5 + fit.classes;
        let row = Field::rows(fit.exact(output, &[1, rows, channels]), channels);
        Self { levels, row, rows, logits }
    }

    pub(super) fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        let view = &outputs[self.row.tensor];
        let threshold = sink.threshold;
        let raw_of = |p: f32| if self.logits { logit(p) } else { p };
        let score_of = |raw: f32| {
            if !raw.is_finite() {
                f32::NAN
            } else if self.logits {
                sigmoid(raw)
            } else {
                raw
            }
        };
        let objects = (0..self.rows).map(|row| (row, self.row.at(row, 4)));
        view.above(objects, view.cut(raw_of(threshold)), |row| {
            let objectness = score_of(view.get(self.row.at(row, 4)));
            let cut = view.cut(raw_of(threshold / objectness));
            let classes = wanted.iter().map(|&c| (c, self.row.at(row, 5 + usize::from(c))));
            let mut place = None;
            view.above(classes, cut, |class| {
                let score = score_of(view.get(self.row.at(row, 5 + usize::from(class))));
                let place = *place.get_or_insert_with(|| self.corners(view, row));
                sink.push(class, objectness * score, place);
            });
        });
    }

    fn corners(&self, view: &View<'_>, row: usize) -> [f32; 4] {
        let level = self.levels.iter().rfind(|l| l.first <= row);
        let level = level.expect("the first level begins with row 0");
        let cell = row - level.first;
        let (column, line) = ((cell % level.columns) as f32, (cell / level.columns) as f32);
        let raw = |channel| view.get(self.row.at(row, channel));
        corners(
            (raw(0) + column) * level.stride,
            (raw(1) + line) * level.stride,
            bounded_exp(raw(2)) * level.stride,
            bounded_exp(raw(3)) * level.stride,
        )
    }
}
