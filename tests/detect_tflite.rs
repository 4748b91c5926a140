//! TensorFlow Lite with what an owner may get wrong: each fault named, none fatal.

#![allow(clippy::unwrap_used)]
#![cfg(feature = "tflite")]

#[path = "support/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use spotter::config;
use spotter::decode::{Picture, RgbPicture};
use spotter::detect::{OpenError, Paths, find_manifest, locate, open};
use tempfile::TempDir;

fn settings() -> config::Detect {
    let model = std::env::var("SPOTTER_TEST_MODEL").unwrap_or_else(|_| "auto".into());
    config::Detect { model, ..Default::default() }
}

fn paths() -> Paths {
    Paths::new("/nonexistent")
}

fn said(cfg: &config::Detect) -> String {
    match open(cfg, &paths()) {
        Ok(_) => panic!("opened"),
        Err(e) => e.to_string(),
    }
}

/// A copy of the default model to spoil, or nothing where there is no model or no library.
struct Copy {
    dir: TempDir,
    file: String,
    bytes: Vec<u8>,
    toml: String,
}

impl Copy {
    fn new() -> Option<Self> {
        let manifest = find_manifest(&settings(), &paths());
        let library = locate::libraries(Path::new(""), Path::new("/nonexistent"));
        let (Ok(manifest), true) = (manifest, library[0].is_file()) else {
            skip::skip("no model or no TensorFlow Lite library; run ./setup.sh");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let labels: Vec<_> = manifest.labels.iter().map(|l| l.to_string()).collect();
        fs::write(dir.path().join("coco.txt"), labels.join("\n")).unwrap();
        Some(Self {
            file: manifest.file.file_name().unwrap().to_str().unwrap().to_string(),
            bytes: fs::read(&manifest.file).unwrap(),
            toml: fs::read_to_string(&manifest.path).unwrap(),
            dir,
        })
    }

    /// Writes model and manifest, the sha256 made to match unless it is to differ.
    fn write(&self, bytes: &[u8], change: impl Fn(String) -> String) -> config::Detect {
        let old = format!("{:x}", Sha256::digest(&self.bytes));
        let new = format!("{:x}", Sha256::digest(bytes));
        fs::write(self.dir.path().join(&self.file), bytes).unwrap();
        let manifest = self.dir.path().join("m.toml");
        fs::write(&manifest, change(self.toml.replace(&old, &new))).unwrap();
        config::Detect { model: manifest.to_str().unwrap().into(), ..settings() }
    }
}

#[test]
fn a_good_copy_opens_and_detects() {
    let Some(copy) = Copy::new() else { return };
    for threads in [1, 2] {
        let cfg = config::Detect { threads, ..copy.write(&copy.bytes, |t| t) };
        let mut detector = open(&cfg, &paths()).unwrap();
        let info = detector.info();
        assert_eq!((info.backend.as_str(), info.threads), ("tflite-xnnpack", threads));
        assert!(info.library.contains("TensorFlow Lite 2."), "{info:?}");
        assert_eq!(info.refusals, [""; 0]);
        let grey = RgbPicture { width: 320, height: 200, pixels: vec![128; 320 * 200 * 3] };
        detector.detect(&grey.view()).unwrap();
    }
}

#[test]
fn a_spoiled_model_is_refused_by_name() {
    let Some(copy) = Copy::new() else { return };
    let whole = copy.bytes.len();
    for length in [0, 3, 8, 9, 100, 1000, whole / 2, whole - 1000, whole - 1] {
        let said = said(&copy.write(&copy.bytes[..length], |t| t));
        assert!(said.contains(&copy.file), "{length}: {said}");
    }
    let mut foreign = copy.bytes.clone();
    foreign[4..8].copy_from_slice(b"PK\x03\x04");
    assert!(said(&copy.write(&foreign, |t| t)).contains("not a TensorFlow Lite model"));
    let mut noise = copy.bytes.clone();
    for at in (8..4096).step_by(3) {
        noise[at] = noise[at].wrapping_mul(31).wrapping_add(at as u8);
    }
    assert!(said(&copy.write(&noise, |t| t)).contains(&copy.file));
    // Changed after the manifest was written.
    let cfg = copy.write(&copy.bytes, |t| t);
    fs::write(copy.dir.path().join(&copy.file), &noise).unwrap();
    assert!(said(&cfg).contains("sha256"));
    fs::remove_file(copy.dir.path().join(&copy.file)).unwrap();
    assert!(said(&cfg).contains(&copy.file));
}

#[test]
fn a_manifest_that_does_not_fit_is_refused_with_what_differs() {
    let Some(copy) = Copy::new() else { return };
    let cfg = copy.write(&copy.bytes, |t| t.replace("width = 416", "width = 320"));
    let said_all = said(&cfg);
    for part in ["m.toml", "[1, 416, 416, 3]", "[1, 416, 320, 3]"] {
        assert!(said_all.contains(part), "{part}: {said_all}");
    }
    fs::write(copy.dir.path().join("coco.txt"), "cat\ndog").unwrap();
    let said_all = said(&copy.write(&copy.bytes, |t| t));
    assert!(said_all.contains("expected shape"), "{said_all}");
}

#[test]
fn missing_and_foreign_libraries_are_named() {
    let Some(copy) = Copy::new() else { return };
    let good = copy.write(&copy.bytes, |t| t);
    let library = &locate::libraries(Path::new(""), Path::new("/nonexistent"))[0];
    let place = |name: &str| copy.dir.path().join(name);
    let try_with = |path: PathBuf| said(&config::Detect { library: path, ..good.clone() });

    let missing = try_with(place("missing.so"));
    assert!(missing.contains("missing.so") && missing.contains("setup.sh"), "{missing}");

    let bytes = fs::read(library).unwrap();
    for (name, length) in [("empty.so", 0), ("stub.so", 64), ("half.so", bytes.len() / 2)] {
        fs::write(place(name), &bytes[..length]).unwrap();
        let said = try_with(place(name));
        assert!(said.contains(name), "{said}");
    }
    fs::write(place("text.so"), "INPUT(nothing)").unwrap();
    assert!(try_with(place("text.so")).contains("not a shared library"));

    let mut foreign = bytes.clone();
    foreign[18] ^= 0x55;
    fs::write(place("foreign.so"), &foreign).unwrap();
    assert!(try_with(place("foreign.so")).contains("another processor"));

    // A library, but another one: any that this very program has loaded.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let other =
        maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("libc.so"));
    if let Some(other) = other {
        let said = try_with(other.into());
        assert!(said.contains("TfLite") || said.contains("symbol"), "{said}");
    }
}

#[test]
fn without_a_working_delegate_the_cpu_takes_over_and_says_so() {
    let Some(copy) = Copy::new() else { return };
    let good = copy.write(&copy.bytes, |t| t);
    let library = &locate::libraries(Path::new(""), Path::new("/nonexistent"))[0];
    let text = copy.dir.path().join("text.so");
    fs::write(&text, "no library").unwrap();
    for path in [Path::new("/nonexistent/libedgetpu.so"), &text, library] {
        let delegate = config::Delegate {
            path: path.into(),
            model: String::new(),
            options: Default::default(),
        };
        let cfg = config::Detect { delegate: Some(delegate), ..good.clone() };
        let mut detector = open(&cfg, &paths()).unwrap();
        let info = detector.info();
        assert_eq!(info.backend, "tflite-xnnpack");
        let why = info.refusals.join("; ");
        assert!(
            why.contains(&path.display().to_string()) && why.contains("TensorFlow Lite 2."),
            "{why}"
        );
        let grey = RgbPicture { width: 32, height: 20, pixels: vec![128; 32 * 20 * 3] };
        detector.detect(&grey.view()).unwrap();
    }
}

#[test]
fn labels_nobody_knows_are_told() {
    let Some(copy) = Copy::new() else { return };
    let good = copy.write(&copy.bytes, |t| t);
    let cfg = config::Detect { animals: vec!["dog".into(), "wolf".into()], ..good.clone() };
    let detector = open(&cfg, &paths()).unwrap();
    assert!(detector.info().refusals[0].contains("wolf"));
    let cfg = config::Detect { animals: vec!["wolf".into()], ..good };
    assert!(matches!(open(&cfg, &paths()), Err(OpenError::NoAnimals { .. })));
}

#[test]
fn a_model_that_is_not_there_is_named_with_every_place() {
    let cfg = config::Detect { model: "unicorn".into(), ..settings() };
    let said_all = said(&cfg);
    assert!(said_all.contains("models/unicorn.toml"), "{said_all}");
    let cfg = config::Detect { model: "unicorn".into(), model_dir: "/m".into(), ..settings() };
    assert!(said(&cfg).contains("/m/unicorn.toml"));
}

/// Models of users need not be int8: the tiny ones say "dog" with the score of each pixel's red.
#[test]
fn float_and_uint8_models_work() {
    let library = &locate::libraries(Path::new(""), Path::new("/nonexistent"))[0];
    if !library.is_file() {
        return skip::skip("no TensorFlow Lite library; run ./setup.sh");
    }
    for name in ["tiny-float", "tiny-uint8"] {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/models/{name}.tflite"));
        let sha256 = format!("{:x}", Sha256::digest(fs::read(&file).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("m.toml");
        let toml = format!(
            "name = \"{name}\"\nfile = \"{}\"\nsha256 = \"{sha256}\"\nlabels = [\"cat\", \"dog\"]\n\
             [input]\nwidth = 8\nheight = 8\nstd = [255.0, 255.0, 255.0]\n\
             [head]\nkind = \"yolo-v8\"\noutput = \"Identity\"\nnormalized = true\n",
            file.display()
        );
        fs::write(&manifest, toml).unwrap();
        let cfg = config::Detect { model: manifest.to_str().unwrap().into(), ..settings() };
        let mut detector = open(&cfg, &paths()).unwrap();
        let red = RgbPicture { width: 80, height: 80, pixels: [255, 0, 0].repeat(6400) };
        let found = detector.detect(&red.view()).unwrap();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let (b, confidence) = (found[0].bbox, found[0].confidence);
        assert!((confidence - 0.9).abs() < 0.01, "{name}: {found:?}");
        for (got, want) in [(b.x1, 30.0), (b.y1, 30.0), (b.x2, 50.0), (b.y2, 50.0)] {
            assert!((got - want).abs() < 0.5, "{name}: {found:?}");
        }
        let black = RgbPicture { width: 80, height: 80, pixels: vec![0; 6400 * 3] };
        assert!(detector.detect(&black.view()).unwrap().is_empty(), "{name}");
    }
}
