//! Boxes and areas as fractions of the picture, so that nothing changes when its size does; plain geometry, no rules.

use crate::detect::BBox;

/// A box by its middle and size, 0 to 1 of the picture's width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub cx: f32,
    pub cy: f32,
    pub w: f32,
    pub h: f32,
}

impl Place {
    /// A box in pixels of a picture of `width` x `height`; none for what has no size or is not a number.
    pub(super) fn of(b: &BBox, width: u32, height: u32) -> Option<Self> {
        let (width, height) = (width as f32, height as f32);
        let place = Self {
            cx: (b.x1 + b.x2) / 2.0 / width,
            cy: (b.y1 + b.y2) / 2.0 / height,
            w: (b.x2 - b.x1) / width,
            h: (b.y2 - b.y1) / height,
        };
        let sound = |v: f32| v.is_finite() && v.abs() < 100.0;
        let sane = [place.cx, place.cy, place.w, place.h].into_iter().all(sound);
        (sane && place.w > 1e-4 && place.h > 1e-4).then_some(place)
    }

    pub(super) fn area(&self) -> f32 {
        self.w * self.h
    }

    /// Where the animal stands: the middle of the lower edge.
    pub(super) fn foot(&self) -> [f32; 2] {
        [self.cx, self.cy + self.h / 2.0]
    }

    /// Whether the picture's edge cuts the box off.
    pub(super) fn is_cut(&self) -> bool {
        let edge = 0.004;
        let (left, top) = (self.cx - self.w / 2.0, self.cy - self.h / 2.0);
        left < edge || top < edge || left + self.w > 1.0 - edge || top + self.h > 1.0 - edge
    }

    /// Intersection over union.
    pub(super) fn iou(&self, other: &Self) -> f32 {
        let overlap = |a: f32, aw: f32, b: f32, bw: f32| {
            ((a + aw / 2.0).min(b + bw / 2.0) - (a - aw / 2.0).max(b - bw / 2.0)).max(0.0)
        };
        let shared = overlap(self.cx, self.w, other.cx, other.w)
            * overlap(self.cy, self.h, other.cy, other.h);
        shared / (self.area() + other.area() - shared).max(1e-9)
    }

    /// Distance of the middles in mean box sizes: 1 is one box away.
    pub(super) fn distance(&self, other: &Self) -> f32 {
        let dx = (self.cx - other.cx) * 2.0 / (self.w + other.w);
        let dy = (self.cy - other.cy) * 2.0 / (self.h + other.h);
        dx.hypot(dy)
    }

    /// How many times the larger area is the smaller one, from 1 on.
    pub(super) fn size_ratio(&self, other: &Self) -> f32 {
        let ratio = self.area() / other.area();
        ratio.max(1.0 / ratio)
    }
}

/// Whether a closed polygon holds a point, by the even-odd rule.
pub(super) fn holds(polygon: &[[f32; 2]], [x, y]: [f32; 2]) -> bool {
    let mut inside = false;
    for (at, a) in polygon.iter().enumerate() {
        let b = &polygon[(at + 1) % polygon.len()];
        if (a[1] > y) != (b[1] > y) && x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0] {
            inside = !inside;
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_without_size_or_number_are_no_places() {
        let of = |x1, y1, x2, y2| Place::of(&BBox { x1, y1, x2, y2 }, 100, 50);
        let place = of(10.0, 5.0, 30.0, 45.0).unwrap();
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(place.cx, 0.2) && near(place.cy, 0.5) && near(place.area(), 0.16));
        for bad in [(5.0, 5.0, 5.0, 9.0), (9.0, 5.0, 5.0, 9.0), (f32::NAN, 0.0, 1.0, 1.0)] {
            assert_eq!(of(bad.0, bad.1, bad.2, bad.3), None);
        }
        assert_eq!(of(0.0, 0.0, f32::INFINITY, 9.0), None);
        assert_eq!(Place::of(&BBox { x1: 0.0, y1: 0.0, x2: 1.0, y2: 1.0 }, 0, 0), None);
    }

    #[test]
    fn overlap_and_distance_count_in_boxes() {
        let a = Place { cx: 0.3, cy: 0.5, w: 0.2, h: 0.4 };
        let b = Place { cx: 0.4, ..a };
        assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-5);
        assert!((a.distance(&b) - 0.5).abs() < 1e-5);
        assert!((a.size_ratio(&Place { w: 0.1, ..a }) - 2.0).abs() < 1e-5);
    }

    #[test]
    fn a_polygon_holds_what_is_inside() {
        let l = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 1.0]];
        assert!(holds(&l, [0.25, 0.75]) && holds(&l, [0.75, 0.25]));
        assert!(!holds(&l, [0.75, 0.75]) && !holds(&l, [1.5, 0.2]) && !holds(&[], [0.0, 0.0]));
        assert!(!holds(&l, [f32::NAN, 0.2]));
    }
}
