//! Real photographs through the real models, where setup.sh has put both.

#![allow(clippy::unwrap_used)]
#![cfg(any(feature = "tflite", feature = "tflitec"))]

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;

use spotter::config;
use spotter::decode::{Picture, RgbPicture};
use spotter::detect::heads::nms::iou;
use spotter::detect::{Detection, Detector, OpenError, Paths, open};

/// A label, and its box in parts of the picture where the animal is plain to see.
type Animal = (&'static str, Option<[f32; 4]>);

/// Files, and what must be in each.
const PHOTOS: [(&str, &[Animal]); 5] = [
    ("dog.jpg", &[("dog", Some([0.17, 0.38, 0.41, 0.94]))]),
    ("eagle.jpg", &[("bird", Some([0.14, 0.19, 0.86, 0.86]))]),
    ("giraffe.jpg", &[("giraffe", Some([0.36, 0.07, 0.88, 0.96])), ("zebra", None)]),
    ("horses.jpg", &[("horse", None)]),
    ("chelsea.png", &[("cat", None)]),
];

fn load(path: &Path) -> Option<RgbPicture> {
    let pixels = image::open(path).ok()?.into_rgb8();
    Some(RgbPicture { width: pixels.width(), height: pixels.height(), pixels: pixels.into_raw() })
}

fn look(detector: &mut dyn Detector, model: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/photos");
    for (file, animals) in PHOTOS {
        let Some(photo) = load(&folder.join(file)) else {
            skip::skip(&format!("no {file}; run ./setup.sh"));
            continue;
        };
        let found = detector.detect(&photo.view()).unwrap();
        println!("{model}, {file}: {}", told(&found));
        for (label, place) in animals {
            // The zebra stands half behind the giraffe; a small model may miss it.
            let Some(best) = found.iter().find(|d| &*d.label == *label) else {
                assert!(*label == "zebra", "{model} found no {label} in {file}: {}", told(&found));
                continue;
            };
            let Some(place) = place else { continue };
            let (w, h) = (photo.width as f32, photo.height as f32);
            let place = [place[0] * w, place[1] * h, place[2] * w, place[3] * h];
            let b = best.bbox;
            let overlap = iou(&[b.x1, b.y1, b.x2, b.y2], &place);
            assert!(overlap > 0.5, "{model}, {file}: {best:?} is not at {place:?}: {overlap}");
        }
    }
}

fn told(found: &[Detection]) -> String {
    let one = |d: &Detection| {
        let b = d.bbox;
        format!("{} {:.2} [{:.0} {:.0} {:.0} {:.0}]", d.label, d.confidence, b.x1, b.y1, b.x2, b.y2)
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn animals_in_photographs_are_named() {
    for model in ["yolov4-tiny-416", "picodet-s-416"] {
        let model = std::env::var("SPOTTER_TEST_MODEL").unwrap_or_else(|_| model.into());
        let cfg = config::Detect { model: model.clone(), ..Default::default() };
        match open(&cfg, &Paths::new("/nonexistent")) {
            Ok(mut detector) => look(&mut *detector, &model),
            Err(e @ OpenError::NoLibrary { .. }) => skip::skip(&e.to_string()),
            Err(e) => panic!("{model}: {e}"),
        }
    }
}
