//! What every detector owes its callers, asked of each one this machine can open.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "tflite")]
#[path = "support/delegate.rs"]
mod delegate;
#[path = "support/skip.rs"]
mod skip;

use std::collections::HashSet;

use spotter::config::{self, DetectBackend};
use spotter::decode::{
    Colour, Matrix, Picture, PictureView, PixelFormat, Plane, Range, RgbPicture,
};
use spotter::detect::{DetectError, Detector, OpenError, Paths, open};

/// Asks a detector everything the trait promises; `labels` are those it was told to look for.
fn comply(detector: &mut dyn Detector, labels: &HashSet<&str>) {
    let info = detector.info().clone();
    assert!(!info.backend.is_empty() && !info.model.is_empty());
    assert!(info.width > 0 && info.height > 0 && info.threads > 0);

    let bytes: Vec<u8> =
        (0..3 * 1300 * 800).map(|i: u32| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
    for format in [PixelFormat::Nv12, PixelFormat::I420, PixelFormat::Rgb] {
        for (width, height) in [(1, 1), (2, 1), (3, 5), (640, 360), (1279, 719), (9, 700)] {
            for range in [Range::Limited, Range::Full] {
                let picture = picture(&bytes, format, width, height, range);
                assert!(picture.is_whole());
                let found = detector.detect(&picture).expect("a whole picture");
                for one in &found {
                    assert!(labels.contains(&*one.label), "{one:?}");
                    assert!(one.confidence > 0.0 && one.confidence <= 1.0, "{one:?}");
                    let b = one.bbox;
                    assert!(0.0 <= b.x1 && b.x1 <= b.x2 && b.x2 <= width as f32, "{one:?}");
                    assert!(0.0 <= b.y1 && b.y1 <= b.y2 && b.y2 <= height as f32, "{one:?}");
                }
                let best_first = found.windows(2).all(|w| w[0].confidence >= w[1].confidence);
                assert!(best_first, "{found:?}");
                assert_eq!(detector.detect(&picture).unwrap(), found, "the same picture again");
            }
        }
    }

    let grey = RgbPicture { width: 64, height: 48, pixels: vec![128; 64 * 48 * 3] };
    let before = detector.detect(&grey.view()).unwrap();
    let mut broken = grey.view();
    broken.planes[0].data = &broken.planes[0].data[..100];
    let refused = detector.detect(&broken);
    assert!(matches!(refused, Err(DetectError::BrokenPicture { width: 64, height: 48 })));
    let none = PictureView { width: 0, height: 0, ..grey.view() };
    assert!(detector.detect(&none).is_err());
    assert_eq!(detector.detect(&grey.view()).unwrap(), before, "a refused picture leaves no trace");
}

/// A view of `bytes` with rows a little longer than needed, as decoders align them.
fn picture(
    bytes: &[u8],
    format: PixelFormat,
    width: u32,
    height: u32,
    range: Range,
) -> PictureView<'_> {
    let (w, h) = (width as usize, height as usize);
    let half = w.div_ceil(2);
    let strides = match format {
        PixelFormat::Rgb => [w * 3 + 8, 0, 0],
        PixelFormat::Nv12 => [w + 8, half * 2 + 8, 0],
        PixelFormat::I420 => [w + 8, half + 8, half + 8],
    };
    let empty = Plane { data: &bytes[..0], stride: 0 };
    let planes =
        strides.map(|stride| if stride == 0 { empty } else { Plane { data: bytes, stride } });
    let colour = Colour { matrix: Matrix::Bt709, range };
    assert!(strides.iter().all(|stride| stride * h <= bytes.len()));
    PictureView { width, height, format, colour, planes }
}

#[test]
fn the_fake_complies() {
    let cfg = config::Detect { backend: DetectBackend::Fake, ..Default::default() };
    let mut detector = open(&cfg, &Paths::new("/nonexistent")).unwrap();
    comply(&mut *detector, &config::COCO_ANIMALS.into());
    let grey = RgbPicture { width: 64, height: 48, pixels: vec![128; 64 * 48 * 3] };
    assert_eq!(&*detector.detect(&grey.view()).unwrap()[0].label, "dog");
}

/// Every shipped model in one runtime.
fn shipped_models_comply(backend: DetectBackend) {
    for model in ["yolov4-tiny-416", "picodet-s-416", "picodet-s-320"] {
        // A low threshold, so that noise gives boxes to look at.
        let cfg = config::Detect {
            backend,
            model: std::env::var("SPOTTER_TEST_MODEL").unwrap_or_else(|_| model.into()),
            min_confidence: Some(0.02),
            ..Default::default()
        };
        match open(&cfg, &Paths::new("/nonexistent")) {
            Ok(mut detector) => {
                println!("asking {:?}", detector.info());
                comply(&mut *detector, &config::COCO_ANIMALS.into());
            }
            Err(
                e @ (OpenError::NoLibrary { .. }
                | OpenError::NoOnnxRuntime { .. }
                | OpenError::NotBuilt { .. }),
            ) => skip::skip(&e.to_string()),
            Err(e) => panic!("{model}: {e}"),
        }
    }
}

#[test]
fn every_shipped_model_complies() {
    shipped_models_comply(DetectBackend::Tflite);
}

#[cfg(feature = "tflitec")]
#[test]
fn every_shipped_model_complies_by_tflitec() {
    shipped_models_comply(DetectBackend::Tflitec);
}

#[test]
fn every_shipped_model_complies_in_onnx_runtime() {
    shipped_models_comply(DetectBackend::Onnx);
}

#[cfg(feature = "tflite")]
#[test]
fn a_model_on_a_delegate_complies() {
    let bench = match delegate::Bench::new() {
        Ok(bench) => bench,
        Err(why) => return skip::skip(&why),
    };
    let cfg = config::Detect {
        model: "picodet-s-320".into(),
        min_confidence: Some(0.02),
        animals: config::Detect::default().animals,
        ..bench.settings(&[])
    };
    let mut detector = open(&cfg, &Paths::new("/nonexistent")).unwrap();
    comply(&mut *detector, &config::COCO_ANIMALS.into());
    assert_eq!(detector.info().backend, "tflite-delegate", "{:?}", detector.info());
}
