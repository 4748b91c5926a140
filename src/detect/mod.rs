//! Pictures in, detections out: the model behind one trait, and the thread that shares it among all streams.
//!
//! A picture's way: [`letterbox`] into the [`engine`]'s input, through the model, out through a
//! [`heads`] decoder; [`manifest`] says how for each model, [`open`] puts it all together.

pub mod catalogue;
pub mod choose;
#[cfg(feature = "engines")]
mod compiled; // model bytes -> the accelerator they were compiled for (pure)
#[cfg(feature = "tflite")]
mod delegate;
pub mod engine;
pub mod fake;
#[cfg(feature = "engines")]
mod fallback;
pub mod heads;
pub mod labels;
pub mod letterbox;
mod limits;
pub mod locate;
pub mod manifest;
pub mod model;
#[cfg(feature = "onnx")]
mod onnx;
#[cfg(feature = "engines")]
mod opening; // configuration + way -> detector
pub mod pace; // strain and time -> how often the detector looks (pure)
pub mod scheduler;
pub mod self_test;
pub mod tensor;
mod tiles; // picture -> parts to look closer at, and one list out of all (pure)
#[cfg(feature = "tflite")]
mod tflite;
#[cfg(feature = "tflitec")]
mod tflitec;
mod turns;
pub mod types;
#[cfg(feature = "accelerators")]
mod watched;
pub mod worker;

use std::path::PathBuf;

pub use choose::Way;
pub use limits::Limits;
pub use types::{
    Accelerator, AcceleratorUse, BBox, DetectError, Detection, Detections, Detector, DetectorInfo,
    Timings,
};

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
    /// Accelerators of this machine in the board's order, for `backend = "auto"`.
    pub accelerators: Vec<Way>,
    /// Accelerators that lack something, each with what.
    pub hints: Vec<String>,
    pub limits: Limits,
}

impl Paths {
    /// The model of machines without a choice of their own.
    pub const DEFAULT_MODEL: &'static str = "yolov4-tiny-416";

    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            default_model: Self::DEFAULT_MODEL.into(),
            default_threads: 1,
            accelerators: Vec::new(),
            hints: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Why there is no detector; each names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "this spotter was built without {runtime}; build with the feature {feature}, or set another detect.backend"
    )]
    NotBuilt { runtime: &'static str, feature: &'static str },
    #[error("no ONNX Runtime: {}; set detect.onnx.library to its libonnxruntime.so (docs/boards.md tells where to get one)", .refusals.join("; "))]
    NoOnnxRuntime { refusals: Vec<String> },
    #[error("model {model} has no ONNX file: add onnx = {{ file = \"...\", sha256 = \"...\" }} to {}, or set detect.backend = \"tflite\"", .manifest.display())]
    NoOnnxFile { model: String, manifest: PathBuf },
    #[error("no TensorFlow Lite library: {}; install spotter's package or image again, in a source tree run ./setup.sh, or set detect.library", .refusals.join("; "))]
    NoLibrary { refusals: Vec<String> },
    #[error("no model \"{name}\": there is no {}; {}", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" and no "), remedy(.there))]
    NoModel { name: String, looked: Vec<PathBuf>, there: Vec<String> },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("model file {}: {reason}; install spotter's package or image again, in a source tree fetch it again (git checkout or ./setup.sh), or correct {}", .file.display(), .manifest.display())]
    ModelFile { file: PathBuf, manifest: PathBuf, reason: String },
    #[error("manifest {} does not fit {}: {differences}; models/README.md describes the manifest", .manifest.display(), .file.display())]
    Mismatch { manifest: PathBuf, file: PathBuf, differences: heads::Mismatch },
    #[error("none of detect.animals ({}) is a label of model {model}; name some of its labels, or [\"*\"] for all", .asked.join(", "))]
    NoAnimals { model: String, asked: Vec<String> },
    /// Told with the accelerator's name.
    #[error("{reason}")]
    Accelerator { reason: String },
    #[error("the detector failed its self-test: {0}")]
    SelfTest(DetectError),
}

/// What to write instead of a model that is not there.
fn remedy(there: &[String]) -> String {
    match there {
        [] => "install spotter's package or image again, in a source tree run ./setup.sh, or correct detect.model_dir".into(),
        there => format!(
            "set detect.model to one of those that there are ({}), or to \"auto\"",
            there.join(", ")
        ),
    }
}

/// Threads that hang in accelerators' drivers now.
pub fn threads_left_behind() -> usize {
    #[cfg(feature = "accelerators")]
    return watched::left_behind();
    #[cfg(not(feature = "accelerators"))]
    0
}

/// Opens the detector the configuration asks for. Takes as long as loading and one inference take.
pub fn open(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    if cfg.backend == DetectBackend::Fake {
        let fake = fake::FakeDetector::new(&cfg.animals);
        return Ok(Box::new(match cfg.model.as_str() {
            "auto" => fake,
            "hang" => fake.hanging(),
            "slow" => fake.slow(),
            model => fake.named(model),
        }));
    }
    #[cfg(feature = "engines")]
    return opening::open(cfg, paths);
    #[cfg(not(feature = "engines"))]
    {
        let _ = paths;
        Err(OpenError::NotBuilt { runtime: "any runtime", feature: "tflite" })
    }
}

/// The manifest that `cfg.model` means.
pub fn find_manifest(cfg: &config::Detect, paths: &Paths) -> Result<manifest::Manifest, OpenError> {
    manifest_named(&cfg.model, cfg, paths)
}

fn manifest_named(
    model: &str,
    cfg: &config::Detect,
    paths: &Paths,
) -> Result<manifest::Manifest, OpenError> {
    let name = if model == "auto" { &paths.default_model } else { model };
    let looked = locate::manifests(name, &cfg.model_dir);
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(manifest::Manifest::load(path)?),
        None => {
            let there = locate::models(&cfg.model_dir);
            Err(OpenError::NoModel { name: name.to_owned(), looked, there })
        }
    }
}

/// Whether there is what `cfg.model` names, and whether any of `cfg.animals` is a label of it. The model itself is not opened.
pub fn judge_model(cfg: &config::Detect, paths: &Paths) -> Result<(), OpenError> {
    let manifest = find_manifest(cfg, paths)?;
    match manifest.labels.select(&cfg.animals).classes.is_empty() {
        true => Err(OpenError::NoAnimals { model: manifest.name, asked: cfg.animals.clone() }),
        false => Ok(()),
    }
}
