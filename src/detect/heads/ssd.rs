//! SSD and EfficientDet with suppression inside the graph: rows of normalised y1, x1, y2, x2, best first.

use super::{Fitting, Sink, View};

#[derive(Debug)]
pub(super) struct Ssd {
    boxes: usize,
    classes: usize,
    scores: usize,
    count: usize,
    class_offset: i32,
    /// Rows the tensors have; the model's count says how many mean something.
    rows: usize,
    size: [f32; 2],
}

impl Ssd {
    /// Tensor names in the order boxes, classes, scores, count.
    pub(super) fn fit(names: [&str; 4], class_offset: i32, fit: &mut Fitting<'_>) -> Self {
        let boxes = fit.take(names[0], "[1, N, 4]", |s| s.len() == 3 && s[0] == 1 && s[2] == 4);
        let rows = boxes.map_or(0, |at| fit.outputs[at].shape[1]);
        let mut column = |name| match boxes {
            Some(_) => fit.exact(name, &[1, rows]),
            // Without boxes the number of rows is unknown, but a missing name can still be told.
            None => fit.take(name, "[1, N]", |s| s.len() == 2 && s[0] == 1).unwrap_or(0),
        };
        let (classes, scores) = (column(names[1]), column(names[2]));
        let count = fit.take(names[3], "[1]", |s| s.iter().product::<usize>() == 1).unwrap_or(0);
        let size = [fit.size.0 as f32, fit.size.1 as f32];
        Self { boxes: boxes.unwrap_or(0), classes, scores, count, class_offset, rows, size }
    }

    pub(super) fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        let [width, height] = self.size;
        // `as` saturates, so no count leads outside the tensors.
        let rows = (outputs[self.count].get(0).round() as usize).min(self.rows);
        for row in 0..rows {
            let number = outputs[self.classes].get(row).round_ties_even() as i64;
            let class = u16::try_from(number.saturating_add(self.class_offset.into())).ok();
            let Some(class) = class.filter(|c| wanted.binary_search(c).is_ok()) else { continue };
            let at = |side: usize| outputs[self.boxes].get(row * 4 + side);
            let corners = [at(1) * width, at(0) * height, at(3) * width, at(2) * height];
            sink.push(class, outputs[self.scores].get(row), corners);
        }
    }
}
