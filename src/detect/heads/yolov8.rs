//! YOLOv8, v11 and their kin: one output of centre boxes and class scores, no objectness, either axis order.

use super::{Field, Fitting, Sink, View, corners};

#[derive(Debug)]
pub(super) struct YoloV8 {
    /// cx, cy, w, h, classes.
    row: Field,
    rows: usize,
    /// What boxes are multiplied by to give pixels of the input.
    scale: [f32; 2],
}

impl YoloV8 {
    pub(super) fn fit(output: &str, normalized: bool, fit: &mut Fitting<'_>) -> Self {
        let channels = 4 + fit.classes;
        let expected = format!("[1, {channels}, N] or [1, N, {channels}]");
        let tensor = fit.take(output, &expected, |found| {
            found.len() == 3 && found[0] == 1 && found[1..].contains(&channels)
        });
        let (row, rows) = match tensor {
            // The exporters' own order wins when both axes would fit.
            Some(at) if fit.outputs[at].shape[1] == channels => {
                let rows = fit.outputs[at].shape[2];
                (Field { tensor: at, offset: 0, cell_step: 1, channel_step: rows }, rows)
            }
            Some(at) => (Field::rows(at, channels), fit.outputs[at].shape[1]),
            None => (Field::rows(0, channels), 0),
        };
        let (width, height) = fit.size;
        let scale = if normalized { [width as f32, height as f32] } else { [1.0, 1.0] };
        Self { row, rows, scale }
    }

    pub(super) fn decode(&self, outputs: &[View<'_>], wanted: &[u16], sink: &mut Sink<'_>) {
        let view = &outputs[self.row.tensor];
        let cut = view.cut(sink.threshold);
        let [sx, sy] = self.scale;
        for &class in wanted {
            let channel = 4 + usize::from(class);
            let places = (0..self.rows).map(|row| (row, self.row.at(row, channel)));
            view.above(places, cut, |row| {
                let raw = |channel| view.get(self.row.at(row, channel));
                let area = corners(raw(0) * sx, raw(1) * sy, raw(2) * sx, raw(3) * sy);
                sink.push(class, raw(channel), area);
            });
        }
    }
}
