//! Puts a detector together: manifest, model file and engine of each way that the configuration means.

#[cfg(feature = "onnx")]
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::choose::{Way, ways};
use super::compiled;
use super::engine::Opened;
use super::fallback::Fallback;
use super::manifest::{Manifest, ModelFile};
use super::model::ModelDetector;
#[cfg(feature = "onnx")]
use super::onnx;
use super::types::{Accelerator, AcceleratorUse, Detector, DetectorInfo};
use super::{OpenError, Paths, manifest_named, self_test};
#[cfg(feature = "tflite")]
use super::{delegate, tflite};
#[cfg(feature = "accelerators")]
use super::{locate, watched};
#[cfg(feature = "accelerators")]
use crate::board;
use crate::config;
use crate::supervise::BackOff;

pub(super) fn open(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    let auto = cfg.backend == config::DetectBackend::Auto;
    let hints = if auto { paths.hints.clone() } else { Vec::new() };
    let ways = ways(cfg, &paths.accelerators);
    // What is wrong with the model is wrong on every way: said once. A delegate may have a model of its own.
    if !ways.iter().any(|way| matches!(way, Way::Delegate(own) if !own.model.is_empty())) {
        super::judge_model(cfg, paths)?;
    }
    if let ([only], true) = (ways.as_slice(), hints.is_empty()) {
        return one_way(cfg, paths, only);
    }
    let back_off = BackOff::new(paths.limits.retry, paths.limits.retry_most);
    let open = {
        let (cfg, paths) = (cfg.clone(), paths.clone());
        Arc::new(move |way: &Way| {
            let mut detector = one_way(&cfg, &paths, way)?;
            // An accelerator that answers nonsense is worse than none.
            if way.is_accelerated() {
                self_test::run(&mut *detector).map_err(OpenError::SelfTest)?;
            }
            Ok(detector)
        })
    };
    let versions = {
        let (cfg, paths) = (cfg.clone(), paths.clone());
        Box::new(move |way: &Way| versions(&cfg, &paths, way))
    };
    let detector = Fallback::open(ways, &back_off, hints, open, versions)?;
    Ok(Box::new(detector))
}

/// Opens one way, and no other when it fails.
pub(super) fn one_way(
    cfg: &config::Detect,
    paths: &Paths,
    way: &Way,
) -> Result<Box<dyn Detector>, OpenError> {
    let model = match way {
        Way::Delegate(own) if !own.model.is_empty() => &own.model,
        _ => &cfg.model,
    };
    let manifest = manifest_named(model, cfg, paths)?;
    let wanted = manifest.labels.select(&cfg.animals);
    if wanted.classes.is_empty() {
        return Err(OpenError::NoAnimals { model: manifest.name, asked: cfg.animals.clone() });
    }
    let file = model_file(way, &manifest)?;
    let bytes = read_model(&file, &manifest)?;
    let threads = match cfg.threads {
        0 => paths.default_threads.max(1),
        asked => asked,
    };
    let (opened, mut refusals) = engine(cfg, paths, way, bytes, threads)?;
    let Opened { engine, facts } =
        opened.map_err(|reason| refused(way, &file.file, &manifest, reason))?;
    refusals.extend(facts.refusals);
    let unknown = wanted.unknown.iter();
    refusals.extend(unknown.map(|label| format!("label \"{label}\": the model does not know it")));
    let accelerator = Accelerator {
        name: way.to_string(),
        state: AcceleratorUse::InUse,
        versions: versions(cfg, paths, way),
        takes: facts.takes,
        reason: None,
        failures: 0,
        retry_after_s: None,
    };
    let info = DetectorInfo {
        backend: facts.backend.into(),
        model: manifest.name.as_str().into(),
        width: manifest.input.width,
        height: manifest.input.height,
        threads,
        library: facts.library,
        refusals,
        accelerators: if way.is_accelerated() { vec![accelerator] } else { Vec::new() },
    };
    ModelDetector::new(engine, &manifest, &wanted, cfg.min_confidence, info)
        .map(|detector| Box::new(detector.with_tiles(cfg.tiles)) as Box<dyn Detector>)
        .map_err(|differences| OpenError::Mismatch {
            manifest: manifest.path.clone(),
            file: file.file.clone(),
            differences,
        })
}

/// The file that this way runs.
fn model_file(way: &Way, manifest: &Manifest) -> Result<ModelFile, OpenError> {
    let own = || ModelFile { file: manifest.file.clone(), sha256: manifest.sha256.clone() };
    match way {
        Way::Tflite | Way::Tflitec | Way::Delegate(_) => Ok(own()),
        Way::Onnx(_) if manifest.file.extension().is_some_and(|e| e == "onnx") => Ok(own()),
        Way::Onnx(_) => manifest.onnx.clone().ok_or_else(|| OpenError::NoOnnxFile {
            model: manifest.name.clone(),
            manifest: manifest.path.clone(),
        }),
    }
}

type Tried = (Result<Opened, String>, Vec<String>);

/// Loads the model's bytes into the way's runtime; beside it what was refused in finding the runtime.
fn engine(
    cfg: &config::Detect,
    paths: &Paths,
    way: &Way,
    bytes: Vec<u8>,
    threads: usize,
) -> Result<Tried, OpenError> {
    // tflitec by itself needs neither.
    let _ = (cfg, paths);
    match way {
        #[cfg(feature = "tflite")]
        Way::Tflite => {
            let found = tflite_library(cfg, paths)?;
            Ok((tflite::on_cpu(&found, bytes, threads), found.refusals))
        }
        #[cfg(feature = "tflite")]
        Way::Delegate(wanted) => {
            let (found, wanted) = (tflite_library(cfg, paths)?, wanted.clone());
            let refusals = found.refusals.clone();
            let open = move || tflite::on_delegate(&found, bytes, threads, &wanted);
            Ok((watched::open(paths.limits, open), refusals))
        }
        #[cfg(feature = "onnx")]
        Way::Onnx(provider) => {
            let places = locate::onnx_libraries(&cfg.onnx.library, &paths.state_dir);
            let runtime = onnx::Runtime::first(places)
                .map_err(|refusals| OpenError::NoOnnxRuntime { refusals })?;
            let Some(asked) = *provider else {
                let opened = onnx::open(&runtime, &bytes, threads, None, &BTreeMap::new());
                return Ok((opened, Vec::new()));
            };
            let mut options = cfg.onnx.options.get(&asked).cloned().unwrap_or_default();
            let mut limits = paths.limits;
            if way.opens_slowly() {
                limits.open *= 20;
                let cache = paths.state_dir.join("tensorrt").display().to_string();
                let keys =
                    [("trt_engine_cache_enable", "1".to_owned()), ("trt_engine_cache_path", cache)];
                keys.into_iter().for_each(|(key, value)| {
                    options.entry(key.into()).or_insert(value);
                });
            }
            let open = move || onnx::open(&runtime, &bytes, threads, Some(asked), &options);
            Ok((watched::open(limits, open), Vec::new()))
        }
        #[cfg(feature = "tflitec")]
        Way::Tflitec => Ok((super::tflitec::on_cpu(bytes, threads), Vec::new())),
        #[cfg(not(feature = "tflitec"))]
        Way::Tflitec => Err(OpenError::NotBuilt { runtime: "tflitec", feature: "tflitec" }),
        #[cfg(not(feature = "tflite"))]
        Way::Tflite | Way::Delegate(_) => {
            Err(OpenError::NotBuilt { runtime: "TensorFlow Lite", feature: "tflite" })
        }
        #[cfg(not(feature = "onnx"))]
        Way::Onnx(_) => Err(OpenError::NotBuilt { runtime: "ONNX Runtime", feature: "onnx" }),
    }
}

#[cfg(feature = "tflite")]
fn tflite_library(cfg: &config::Detect, paths: &Paths) -> Result<tflite::Found, OpenError> {
    tflite::Found::first(locate::libraries(&cfg.library, &paths.state_dir))
        .map_err(|refusals| OpenError::NoLibrary { refusals })
}

/// The reason with the thing's name, for a file that cannot be had this way.
fn refused(way: &Way, file: &Path, manifest: &Manifest, mut reason: String) -> OpenError {
    let bytes = std::fs::read(file).unwrap_or_default();
    if let Some((accelerator, library)) = compiled::compiled_for(&bytes) {
        reason = format!(
            "it was compiled for {accelerator} and runs with that one's delegate only, {library} ({reason}): name the delegate in detect.delegate.path, this model in detect.delegate.model, and in detect.model one that the CPU can run"
        );
    } else if way.is_accelerated() {
        // Whoever tries several ways names this one.
        return OpenError::Accelerator { reason };
    }
    OpenError::ModelFile { file: file.to_path_buf(), manifest: manifest.path.clone(), reason }
}

/// Runtime, accelerator and driver side by side: where they disagree, this is what one needs to know.
fn versions(cfg: &config::Detect, paths: &Paths, way: &Way) -> Vec<String> {
    let _ = (cfg, paths);
    match way {
        #[cfg(feature = "tflite")]
        Way::Delegate(wanted) => {
            let runtime = tflite_library(cfg, paths).map(|found| found.named()).into_iter();
            let own = [delegate::version(&wanted.path)];
            runtime.chain(own).chain(board::kernel_drivers(&wanted.path)).collect()
        }
        #[cfg(feature = "onnx")]
        Way::Onnx(Some(_)) => {
            let places = locate::onnx_libraries(&cfg.onnx.library, &paths.state_dir);
            let runtime = onnx::Runtime::first(places).map(|runtime| runtime.named()).into_iter();
            runtime.chain(board::nvidia_driver()).collect()
        }
        _ => Vec::new(),
    }
}

/// The model's bytes, if they are the ones the manifest means.
fn read_model(model: &ModelFile, manifest: &Manifest) -> Result<Vec<u8>, OpenError> {
    /// Beyond what any detector for such machines weighs; a mistaken path must not fill memory.
    const MOST_BYTES: u64 = 512 << 20;
    let fail = |reason: String| OpenError::ModelFile {
        file: model.file.clone(),
        manifest: manifest.path.clone(),
        reason,
    };
    let length = std::fs::metadata(&model.file).map_err(|e| fail(e.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(fail(format!("{length} bytes are more than a model has")));
    }
    let bytes = std::fs::read(&model.file).map_err(|e| fail(e.to_string()))?;
    let found = format!("{:x}", Sha256::digest(&bytes));
    if found != model.sha256 {
        let expected = &model.sha256;
        return Err(fail(format!("its sha256 is {found}, the manifest expects {expected}")));
    }
    Ok(bytes)
}
