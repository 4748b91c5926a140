//! Pictures in, detections out: the model behind one trait, and the thread that shares it among all streams.
//!
//! A picture's way: [`letterbox`] into the [`engine`]'s input, through the model, out through a
//! [`heads`] decoder; [`manifest`] says how for each model, [`open`] puts it all together.

pub mod engine;
pub mod fake;
pub mod heads;
pub mod labels;
pub mod letterbox;
pub mod locate;
pub mod manifest;
pub mod model;
pub mod scheduler;
pub mod self_test;
pub mod tensor;
#[cfg(feature = "tflite")]
mod tflite;
mod turns;
pub mod types;
pub mod worker;

use std::path::PathBuf;

pub use types::{BBox, DetectError, Detection, Detections, Detector, DetectorInfo, Timings};

use crate::config::{self, DetectBackend};
use manifest::ManifestError;

/// What opening a detector needs beside its configuration: the machine's answers to "auto" and 0.
#[derive(Debug, Clone)]
pub struct Paths {
    /// May hold the TFLite library in `lib/`.
    pub state_dir: PathBuf,
    /// The board's choice for `model = "auto"`.
    pub default_model: String,
    /// The board's choice for `threads = 0`.
    pub default_threads: usize,
}

impl Paths {
    /// The model of machines without a choice of their own.
    pub const DEFAULT_MODEL: &'static str = "yolov4-tiny-416";

    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            default_model: Self::DEFAULT_MODEL.into(),
            default_threads: 1,
        }
    }
}

/// Why there is no detector; each names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "this spotter was built without TensorFlow Lite; set detect.backend = \"fake\" or build with the feature tflite"
    )]
    NotBuilt,
    #[error("no TensorFlow Lite library: {}; run ./setup.sh to fetch it, or set detect.library", .refusals.join("; "))]
    NoLibrary { refusals: Vec<String> },
    #[error("no model \"{name}\": there is no {}; run ./setup.sh, or correct detect.model or detect.model_dir", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" and no "))]
    NoModel { name: String, looked: Vec<PathBuf> },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("model file {}: {reason}; fetch it again (git checkout or ./setup.sh), or correct {}", .file.display(), .manifest.display())]
    ModelFile { file: PathBuf, manifest: PathBuf, reason: String },
    #[error("manifest {} does not fit {}: {differences}; models/README.md describes the manifest", .manifest.display(), .file.display())]
    Mismatch { manifest: PathBuf, file: PathBuf, differences: heads::Mismatch },
    #[error("none of detect.animals ({}) is a label of model {model}; name some of its labels, or [\"*\"] for all", .asked.join(", "))]
    NoAnimals { model: String, asked: Vec<String> },
    #[error("the detector failed its self-test: {0}")]
    SelfTest(DetectError),
}

/// Opens the detector the configuration asks for. Takes as long as loading and one inference take.
pub fn open(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    match cfg.backend {
        DetectBackend::Fake => {
            let fake = fake::FakeDetector::new(&cfg.animals);
            Ok(Box::new(if cfg.model == "hang" { fake.hanging() } else { fake }))
        }
        #[cfg(feature = "tflite")]
        DetectBackend::Tflite => open_tflite(cfg, paths),
        #[cfg(not(feature = "tflite"))]
        DetectBackend::Tflite => {
            let _ = paths;
            Err(OpenError::NotBuilt)
        }
    }
}

/// The manifest that `cfg.model` means.
pub fn find_manifest(cfg: &config::Detect, paths: &Paths) -> Result<manifest::Manifest, OpenError> {
    let name = if cfg.model == "auto" { &paths.default_model } else { &cfg.model };
    let looked = locate::manifests(name, &cfg.model_dir);
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(manifest::Manifest::load(path)?),
        None => Err(OpenError::NoModel { name: name.clone(), looked }),
    }
}

#[cfg(feature = "tflite")]
fn open_tflite(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    let manifest = find_manifest(cfg, paths)?;
    let wanted = manifest.labels.select(&cfg.animals);
    if wanted.classes.is_empty() {
        return Err(OpenError::NoAnimals { model: manifest.name, asked: cfg.animals.clone() });
    }
    let bytes = read_model(&manifest)?;
    let mut refusals = Vec::new();
    let candidates = locate::libraries(&cfg.library, &paths.state_dir);
    let library = candidates.into_iter().find_map(|path| match tflite::library(&path) {
        Ok(library) => Some((path, library)),
        Err(reason) => {
            refusals.push(format!("{}: {reason}", path.display()));
            None
        }
    });
    let Some((library_path, library)) = library else {
        return Err(OpenError::NoLibrary { refusals });
    };
    let threads = match cfg.threads {
        0 => paths.default_threads.max(1),
        asked => asked,
    };
    let opened =
        tflite::open(library, bytes, threads, cfg.delegate.as_ref()).map_err(|reason| {
            OpenError::ModelFile {
                file: manifest.file.clone(),
                manifest: manifest.path.clone(),
                reason,
            }
        })?;
    refusals.extend(opened.refusals);
    let unknown = wanted.unknown.iter();
    refusals.extend(unknown.map(|label| format!("label \"{label}\": the model does not know it")));
    let version = tflite::version(library).map_or(String::new(), |v| format!(" {v}"));
    let info = DetectorInfo {
        backend: opened.backend.into(),
        model: manifest.name.as_str().into(),
        width: manifest.input.width,
        height: manifest.input.height,
        threads,
        library: format!("TensorFlow Lite{version} ({})", library_path.display()),
        refusals,
    };
    let engine = Box::new(opened.engine);
    model::ModelDetector::new(engine, &manifest, &wanted, cfg.min_confidence, info)
        .map(|detector| Box::new(detector) as Box<dyn Detector>)
        .map_err(|differences| OpenError::Mismatch {
            manifest: manifest.path.clone(),
            file: manifest.file.clone(),
            differences,
        })
}

/// The model's bytes, if they are the ones the manifest means.
#[cfg(feature = "tflite")]
fn read_model(manifest: &manifest::Manifest) -> Result<Vec<u8>, OpenError> {
    use sha2::{Digest, Sha256};

    /// Beyond what any detector for such machines weighs; a mistaken path must not fill memory.
    const MOST_BYTES: u64 = 512 << 20;
    let fail = |reason: String| OpenError::ModelFile {
        file: manifest.file.clone(),
        manifest: manifest.path.clone(),
        reason,
    };
    let length = std::fs::metadata(&manifest.file).map_err(|e| fail(e.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(fail(format!("{length} bytes are more than a model has")));
    }
    let bytes = std::fs::read(&manifest.file).map_err(|e| fail(e.to_string()))?;
    let found = format!("{:x}", Sha256::digest(&bytes));
    if found != manifest.sha256 {
        let expected = &manifest.sha256;
        return Err(fail(format!("its sha256 is {found}, the manifest expects {expected}")));
    }
    Ok(bytes)
}
