//! What the demo clip shows when: hand-drawn boxes on the photographs, moved as demo/make-clip.sh moves its camera.

/// One animal of one photograph.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    pub label: &'static str,
    /// x1, y1, x2, y2 in pixels of the photograph.
    pub bbox: [f64; 4],
}

/// A photograph of the clip: its file, size and camera, as in the table of demo/make-clip.sh.
#[derive(Debug)]
pub struct Photo {
    pub file: &'static str,
    pub size: [f64; 2],
    camera: [f64; 2],
    zooms_in: bool,
    /// Hand-drawn; the first stands in the open, others may be half hidden.
    pub animals: &'static [Truth],
}

const fn truth(label: &'static str, bbox: [f64; 4]) -> Truth {
    Truth { label, bbox }
}

pub const PHOTOS: [Photo; 5] = [
    Photo {
        file: "dog.jpg",
        size: [768.0, 576.0],
        camera: [0.30, 0.60],
        zooms_in: true,
        animals: &[truth("dog", [133.0, 222.0, 310.0, 540.0])],
    },
    Photo {
        file: "eagle.jpg",
        size: [773.0, 512.0],
        camera: [0.50, 0.40],
        zooms_in: false,
        animals: &[truth("bird", [135.0, 85.0, 598.0, 450.0])],
    },
    Photo {
        file: "giraffe.jpg",
        size: [500.0, 500.0],
        camera: [0.50, 0.40],
        zooms_in: true,
        animals: &[
            truth("giraffe", [169.0, 29.0, 449.0, 441.0]),
            truth("zebra", [249.0, 205.0, 424.0, 428.0]),
        ],
    },
    Photo {
        file: "horses.jpg",
        size: [773.0, 512.0],
        camera: [0.50, 0.60],
        zooms_in: false,
        animals: &[
            truth("horse", [0.0, 195.0, 314.0, 410.0]),
            truth("horse", [171.0, 196.0, 417.0, 362.0]),
            truth("horse", [436.0, 214.0, 594.0, 345.0]),
        ],
    },
    Photo {
        file: "chelsea.png",
        size: [451.0, 300.0],
        camera: [0.50, 0.50],
        zooms_in: true,
        animals: &[truth("cat", [0.0, 0.0, 400.0, 300.0])],
    },
];

const FRAMES: i64 = 150;
const FPS: f64 = 30.0;

/// The photograph shown at `pts_ms` of the clip's first round; `None` near a cut, where a frame's time may be off by one.
pub fn shown(pts_ms: i64) -> Option<(&'static Photo, f64)> {
    let frame = (pts_ms as f64 * FPS / 1000.0).round() as i64;
    let (photo, n) = (frame.div_euclid(FRAMES), frame.rem_euclid(FRAMES));
    if !(3..FRAMES - 3).contains(&n) {
        return None;
    }
    let photo = PHOTOS.get(usize::try_from(photo).ok()?)?;
    Some((photo, n as f64))
}

impl Photo {
    /// Where `truth` stands in frame `n` of the photograph's part, in a picture of this size.
    pub fn place(&self, truth: &Truth, n: f64, width: f64, height: f64) -> [f64; 4] {
        let (w, h) = (1280.0, 720.0);
        let s = (w / self.size[0]).min(h / self.size[1]);
        let margin = [(w - self.size[0] * s) / 2.0, (h - self.size[1] * s) / 2.0];
        let ramp = n / (FRAMES - 1) as f64;
        let z = 1.0 + 0.15 * if self.zooms_in { ramp } else { 1.0 - ramp };
        let x = |v: f64| (z * (v * s + margin[0]) - w * self.camera[0] * (z - 1.0)).clamp(0.0, w);
        let y = |v: f64| (z * (v * s + margin[1]) - h * self.camera[1] * (z - 1.0)).clamp(0.0, h);
        let b = truth.bbox;
        let (kx, ky) = (width / w, height / h);
        [x(b[0]) * kx, y(b[1]) * ky, x(b[2]) * kx, y(b[3]) * ky]
    }
}

/// Intersection over union.
pub fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let shared = area(both);
    shared / (area(a) + area(b) - shared)
}
