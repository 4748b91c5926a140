//! ONNX Runtime beside TensorFlow Lite: the same animals in the same places, and what an owner may get wrong named.

#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "onnx", feature = "tflite"))]

#[path = "support/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};

use spotter::config::{self, DetectBackend, Provider};
use spotter::decode::{Picture, RgbPicture};
use spotter::detect::{AcceleratorUse, Detection, OpenError, Paths, locate, open, self_test};

/// The shipped pairs of files hold the same weights and scales; what differs is how each runtime rounds. The most that was seen
/// on the photographs is .064 and .955 (x86-64); other processors round otherwise again.
const MOST_SCORE_APART: f32 = 0.1;
const LEAST_OVERLAP: f32 = 0.9;

fn settings(backend: DetectBackend, model: &str) -> config::Detect {
    config::Detect { backend, model: model.into(), ..Default::default() }
}

fn paths() -> Paths {
    Paths::new("/nonexistent")
}

/// Whether both runtimes are here.
fn present() -> bool {
    let here = |places: Vec<PathBuf>| places[0].is_file();
    let (none, state) = (Path::new(""), Path::new("/nonexistent"));
    let both = here(locate::libraries(none, state)) && here(locate::onnx_libraries(none, state));
    if !both {
        skip::skip("no TensorFlow Lite or no ONNX Runtime; run ./setup.sh --test");
    }
    both
}

fn photos() -> Vec<(String, RgbPicture)> {
    let Ok(folder) = fs::read_dir("demo/photos") else { return Vec::new() };
    let photos = folder.flatten().map(|entry| {
        let rgb = image::open(entry.path()).unwrap().into_rgb8();
        let (width, height) = rgb.dimensions();
        let name = entry.file_name().into_string().unwrap();
        (name, RgbPicture { width, height, pixels: rgb.into_raw() })
    });
    photos.collect()
}

fn overlap(a: &Detection, b: &Detection) -> f32 {
    let (a, b) = (a.bbox, b.bbox);
    let side = |low: f32, high: f32| (high - low).max(0.0);
    let shared = side(a.x1.max(b.x1), a.x2.min(b.x2)) * side(a.y1.max(b.y1), a.y2.min(b.y2));
    let area = |c: spotter::detect::BBox| side(c.x1, c.x2) * side(c.y1, c.y2);
    shared / (area(a) + area(b) - shared)
}

#[test]
fn both_runtimes_find_the_same_animals() {
    if !present() {
        return;
    }
    let mut photos = photos();
    let cat = self_test::picture();
    photos.push(("cat".into(), RgbPicture { pixels: cat.pixels.clone(), ..*cat }));
    let (mut compared, mut apart, mut least) = (0, 0f32, 1f32);
    for model in ["yolov4-tiny-416", "picodet-s-416", "picodet-s-320"] {
        let mut tflite = open(&settings(DetectBackend::Tflite, model), &paths()).unwrap();
        let mut onnx =
            self_test::open_tested(&settings(DetectBackend::Onnx, model), &paths()).unwrap();
        assert_eq!(onnx.info().backend, "onnx");
        assert!(onnx.info().library.contains("ONNX Runtime 1."), "{:?}", onnx.info());
        for (name, picture) in &photos {
            let expected = tflite.detect(&picture.view()).unwrap();
            let found = onnx.detect(&picture.view()).unwrap();
            for one in expected.iter().filter(|d| d.confidence > 0.4) {
                let same = found.iter().filter(|d| d.label == one.label);
                let best = same.max_by(|a, b| overlap(a, one).total_cmp(&overlap(b, one)));
                let best =
                    best.unwrap_or_else(|| panic!("{model}, {name}: no {one:?} in {found:?}"));
                apart = apart.max((best.confidence - one.confidence).abs());
                least = least.min(overlap(best, one));
                compared += 1;
            }
        }
    }
    println!(
        "{compared} animals: scores {apart:.3} apart at most, boxes overlap {least:.3} at least"
    );
    assert!(compared >= 3);
    assert!(apart <= MOST_SCORE_APART, "{apart}");
    assert!(least >= LEAST_OVERLAP, "{least}");
}

#[test]
fn a_provider_that_the_library_lacks_is_refused_and_the_cpu_takes_over() {
    if !present() {
        return;
    }
    // The library of PyPI's package has none of these.
    let mut cfg = settings(DetectBackend::Onnx, "picodet-s-320");
    cfg.onnx.providers = vec![Provider::Cuda, Provider::Openvino];
    let mut detector = open(&cfg, &paths()).unwrap();
    let info = detector.info().clone();
    assert_eq!(info.backend, "onnx", "{info:?}");
    let [cuda, openvino] = info.accelerators.as_slice() else { panic!("{info:?}") };
    for (accelerator, name) in [(cuda, "CUDA"), (openvino, "OpenVINO")] {
        assert!(accelerator.name.contains(name), "{accelerator:?}");
        assert_eq!(accelerator.state, AcceleratorUse::Refused);
        assert!(accelerator.versions[0].contains("ONNX Runtime 1."), "{accelerator:?}");
        assert!(accelerator.reason.as_ref().unwrap().contains("detect.onnx.library"), "{info:?}");
    }
    let grey = RgbPicture { width: 32, height: 20, pixels: vec![128; 32 * 20 * 3] };
    detector.detect(&grey.view()).unwrap();
    // The one that takes minutes is opened beside the work, which does not wait for it.
    cfg.onnx.providers = vec![Provider::Tensorrt];
    let mut detector = open(&cfg, &paths()).unwrap();
    assert!(detector.info().refusals[0].contains("being prepared"), "{:?}", detector.info());
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while detector.info().refusals[0].contains("being prepared") {
        assert!(std::time::Instant::now() < patience);
        detector.detect(&grey.view()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(detector.info().refusals[0].contains("TensorRT"), "{:?}", detector.info());
}

#[test]
fn what_is_no_onnx_model_is_named() {
    if !present() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    fs::copy("models/coco.txt", place("coco.txt")).unwrap();
    let whole = fs::read("models/picodet-s-320.onnx").unwrap();
    let toml = fs::read_to_string("models/picodet-s-320.toml").unwrap();
    let said = |bytes: &[u8], change: &dyn Fn(String) -> String| {
        use sha2::{Digest, Sha256};
        let sha256 = format!("{:x}", Sha256::digest(bytes));
        fs::write(place("model.onnx"), bytes).unwrap();
        let start = toml.find("onnx = ").unwrap();
        let end = start + toml[start..].find('\n').unwrap();
        let line = format!("onnx = {{ file = \"model.onnx\", sha256 = \"{sha256}\" }}");
        fs::write(place("m.toml"), change(format!("{}{line}{}", &toml[..start], &toml[end..])))
            .unwrap();
        let cfg = settings(DetectBackend::Onnx, place("m.toml").to_str().unwrap());
        open(&cfg, &paths()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(said(&whole, &|t| t), "");
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let said = said(&whole[..length], &|t| t);
        assert!(said.contains("model.onnx"), "{length}: {said}");
    }
    let mut noise = whole.clone();
    for at in (0..whole.len()).step_by(997) {
        noise[at] = noise[at].wrapping_mul(31).wrapping_add(at as u8);
    }
    // Weights may change without harm to the form: opened or named, but never a crash.
    let _ = said(&noise, &|t| t);
    let tflite = fs::read("models/picodet-s-320.tflite").unwrap();
    assert!(said(&tflite, &|t| t).contains("TensorFlow Lite model"));
    assert!(said(b"\x01HEF....", &|t| t).contains("Hailo"));
    assert!(
        said(&whole, &|t| t.replace("width = 320", "width = 416")).contains("[1, 320, 320, 3]")
    );
    let without = said(&whole, &|t| {
        t.lines().filter(|l| !l.starts_with("onnx")).collect::<Vec<_>>().join("\n")
    });
    assert!(without.contains("has no ONNX file"), "{without}");
}

#[test]
fn a_missing_or_foreign_runtime_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let with = |path: PathBuf| {
        let mut cfg = settings(DetectBackend::Onnx, "picodet-s-320");
        cfg.onnx.library = path;
        match open(&cfg, &paths()) {
            Err(e @ OpenError::NoOnnxRuntime { .. }) => e.to_string(),
            other => panic!("{:?}", other.map(|d| d.info().clone())),
        }
    };
    let text = dir.path().join("libonnxruntime.so");
    fs::write(&text, "no library").unwrap();
    // Where another test opened one already, that is the reason.
    let said = with(text);
    assert!(said.contains("not a shared library") || said.contains("open already"), "{said}");
    let said = with("/nonexistent/libonnxruntime.so".into());
    assert!(said.contains("No such file") || said.contains("open already"), "{said}");
    assert!(said.contains("detect.onnx.library"), "{said}");
}
