//! Puts a detector together: manifest, model file and engine of each way that the configuration means.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::choose::{Way, ways};
use super::compiled;
use super::engine::Opened;
use super::fallback::Fallback;
use super::manifest::Manifest;
use super::model::ModelDetector;
use super::types::{Accelerator, AcceleratorUse, Detector, DetectorInfo};
use super::{OpenError, Paths, delegate, locate, manifest_named, self_test, tflite, watched};
use crate::board;
use crate::config;
use crate::supervise::BackOff;

pub(super) fn open(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    let auto = cfg.backend == config::DetectBackend::Auto;
    let hints = if auto { paths.hints.clone() } else { Vec::new() };
    let ways = ways(cfg, &paths.accelerators);
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
        Way::Delegate(delegate) if !delegate.model.is_empty() => &delegate.model,
        _ => &cfg.model,
    };
    let manifest = manifest_named(model, cfg, paths)?;
    let wanted = manifest.labels.select(&cfg.animals);
    if wanted.classes.is_empty() {
        return Err(OpenError::NoAnimals { model: manifest.name, asked: cfg.animals.clone() });
    }
    let bytes = read_model(&manifest)?;
    let threads = match cfg.threads {
        0 => paths.default_threads.max(1),
        asked => asked,
    };
    let found = tflite::Found::first(locate::libraries(&cfg.library, &paths.state_dir))
        .map_err(|refusals| OpenError::NoLibrary { refusals })?;
    let mut refusals = found.refusals.clone();
    let opened = match way {
        Way::Tflite => tflite::on_cpu(&found, bytes, threads),
        Way::Delegate(wanted) => {
            let wanted = wanted.clone();
            let open = move || tflite::on_delegate(&found, bytes, threads, &wanted);
            watched::open(paths.limits, open)
        }
    };
    let Opened { engine, facts } = opened.map_err(|reason| refused(way, &manifest, reason))?;
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
        .map(|detector| Box::new(detector) as Box<dyn Detector>)
        .map_err(|differences| OpenError::Mismatch {
            manifest: manifest.path.clone(),
            file: manifest.file.clone(),
            differences,
        })
}

/// The reason with the thing's name, for a file that cannot be had this way.
fn refused(way: &Way, manifest: &Manifest, mut reason: String) -> OpenError {
    let bytes = std::fs::read(&manifest.file).unwrap_or_default();
    if let Some((accelerator, library)) = compiled::compiled_for(&bytes) {
        reason = format!(
            "it was compiled for {accelerator} and runs with that one's delegate only, {library} ({reason}): name the delegate in detect.delegate.path, this model in detect.delegate.model, and in detect.model one that the CPU can run"
        );
    } else if way.is_accelerated() {
        // Whoever tries several ways names this one.
        return OpenError::Accelerator { reason };
    }
    let (file, manifest) = (manifest.file.clone(), manifest.path.clone());
    OpenError::ModelFile { file, manifest, reason }
}

/// Runtime, accelerator and driver side by side: where they disagree, this is what one needs to know.
fn versions(cfg: &config::Detect, paths: &Paths, way: &Way) -> Vec<String> {
    let runtime = || tflite::Found::first(locate::libraries(&cfg.library, &paths.state_dir));
    match way {
        Way::Tflite => Vec::new(),
        Way::Delegate(wanted) => {
            let runtime = runtime().map(|found| found.named()).into_iter();
            let own = [delegate::version(&wanted.path)];
            runtime.chain(own).chain(board::kernel_drivers(&wanted.path)).collect()
        }
    }
}

/// The model's bytes, if they are the ones the manifest means.
fn read_model(manifest: &Manifest) -> Result<Vec<u8>, OpenError> {
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
