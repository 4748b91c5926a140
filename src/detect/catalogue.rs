//! Every backend that spotter has heard of, for those who list them: each a way that can be tried, or why there is none.

use super::choose::{Way, ways};
use super::{Detector, OpenError, Paths};
use crate::config::{self, Provider};

/// A backend by its name, and how to try it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    /// The reason where this spotter has no way to it.
    pub way: Result<Way, &'static str>,
}

/// All backends, the accelerators of this machine first.
pub fn backends(cfg: &config::Detect, paths: &Paths) -> Vec<Backend> {
    let auto = config::Detect { backend: config::DetectBackend::Auto, ..cfg.clone() };
    let mut ways = ways(&auto, &paths.accelerators);
    // Whether a provider is in the library is for the library to say.
    for provider in [Provider::Tensorrt, Provider::Cuda, Provider::Openvino] {
        let way = Way::Onnx(Some(provider));
        if cfg!(feature = "onnx") && !ways.contains(&way) {
            ways.push(way);
        }
    }
    let tried = ways.into_iter().map(|way| Backend { name: way.to_string(), way: Ok(way) });
    let mut never = NEVER.to_vec();
    if !cfg!(feature = "tflitec") {
        never.insert(0, ("TensorFlow Lite by tflitec", "not in this build: it is for firmware that loads nothing at run time (cargo feature tflitec, scripts/tflitec.sh)"));
    }
    let never = never.into_iter().map(|(name, why)| Backend { name: name.into(), way: Err(why) });
    tried.chain(never).collect()
}

/// Looked at and left out; docs/decisions.md tells more.
const NEVER: &[(&str, &str)] = &[
    (
        "LiteRT",
        "its binding has no setting for threads yet; TensorFlow Lite runs the same models (docs/decisions.md)",
    ),
    (
        "Hailo",
        "its models (HEF) come out of a closed compiler, and nobody keeps up a Rust binding; docs/decisions.md tells what it would take",
    ),
];

/// Opens this way and no other, and tests what it says.
pub fn open_only(
    cfg: &config::Detect,
    paths: &Paths,
    way: &Way,
) -> Result<Box<dyn Detector>, OpenError> {
    #[cfg(feature = "engines")]
    {
        let mut detector = super::opening::one_way(cfg, paths, way)?;
        super::self_test::run(&mut *detector).map_err(OpenError::SelfTest)?;
        Ok(detector)
    }
    #[cfg(not(feature = "engines"))]
    {
        let _ = (cfg, paths, way);
        Err(OpenError::NotBuilt { runtime: "any runtime", feature: "tflite" })
    }
}
