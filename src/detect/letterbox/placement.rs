//! Where a picture lies inside the model's input, and the way back for boxes. Touches no pixels.

use crate::detect::manifest::{FitMode, InputSpec};
use crate::detect::types::BBox;

/// Maps between a picture and the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Width and height of the scaled picture in pixels of the input.
    pub inner: (u32, u32),
    /// Its left and upper edge there.
    pub pad: (u32, u32),
    /// The picture's own width and height.
    pub picture: (u32, u32),
}

impl Placement {
    /// Both sides of `width` x `height` must be at least 1.
    pub fn new(spec: &InputSpec, width: u32, height: u32) -> Self {
        let inner = match spec.fit {
            FitMode::Stretch => (spec.width, spec.height),
            FitMode::Letterbox => contained((spec.width, spec.height), (width, height)),
        };
        let pad = ((spec.width - inner.0) / 2, (spec.height - inner.1) / 2);
        Self { inner, pad, picture: (width, height) }
    }

    /// A box in pixels of the input to pixels of the picture, clipped; nothing if it lies in the border.
    pub fn to_picture(&self, corners: [f32; 4]) -> Option<BBox> {
        let map = |value: f32, pad: u32, inner: u32, side: u32| {
            ((value - pad as f32) * (side as f32 / inner as f32)).clamp(0.0, side as f32)
        };
        let x = |v| map(v, self.pad.0, self.inner.0, self.picture.0);
        let y = |v| map(v, self.pad.1, self.inner.1, self.picture.1);
        let found =
            BBox { x1: x(corners[0]), y1: y(corners[1]), x2: x(corners[2]), y2: y(corners[3]) };
        (found.x1 < found.x2 && found.y1 < found.y2).then_some(found)
    }
}

/// The largest size of the picture's shape inside `outer`; the shorter side is cut off to whole pixels,
/// as darknet does.
fn contained(outer: (u32, u32), picture: (u32, u32)) -> (u32, u32) {
    let [ow, oh, pw, ph] = [outer.0, outer.1, picture.0, picture.1].map(u64::from);
    // Quotients of inputs are at most the outer sides, so they fit back into 32 bits.
    if ow * ph < oh * pw {
        (outer.0, (ph * ow / pw).max(1) as u32)
    } else {
        ((pw * oh / ph).max(1) as u32, outer.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(width: u32, height: u32, fit: FitMode) -> InputSpec {
        InputSpec {
            width,
            height,
            layout: Default::default(),
            channels: Default::default(),
            fit,
            pad: 128,
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }

    #[test]
    fn letterboxes_keep_the_shape() {
        let s = spec(416, 416, FitMode::Letterbox);
        let wide = Placement::new(&s, 1280, 720);
        assert_eq!((wide.inner, wide.pad), ((416, 234), (0, 91)));
        let tall = Placement::new(&s, 480, 640);
        assert_eq!((tall.inner, tall.pad), ((312, 416), (52, 0)));
        let thin = Placement::new(&s, 50_000, 1);
        assert_eq!(thin.inner, (416, 1));
        assert_eq!(Placement::new(&s, 1, 1).inner, (416, 416));
    }

    #[test]
    fn boxes_come_back_and_are_clipped() {
        let p = Placement::new(&spec(416, 416, FitMode::Letterbox), 1280, 720);
        let b = p.to_picture([104.0, 91.0 + 117.0, 208.0, 500.0]).unwrap();
        assert_eq!((b.x1, b.y1, b.x2, b.y2), (320.0, 360.0, 640.0, 720.0));
        assert_eq!(p.to_picture([0.0, 0.0, 416.0, 90.0]), None);
        let p = Placement::new(&spec(320, 160, FitMode::Stretch), 640, 640);
        let b = p.to_picture([-5.0, 40.0, 160.0, 80.0]).unwrap();
        assert_eq!((b.x1, b.y1, b.x2, b.y2), (0.0, 160.0, 320.0, 320.0));
    }
}
