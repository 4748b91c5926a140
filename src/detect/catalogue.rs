//! Every backend that spotter has heard of, for those who list them: each a way that can be tried, or why there is none.

use super::choose::Way;
use super::{Detector, OpenError, Paths};
use crate::config;

/// A backend by its name, and how to try it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    /// The reason where this spotter has no way to it.
    pub way: Result<Way, &'static str>,
}

/// All backends, the accelerators of this machine first.
pub fn backends(cfg: &config::Detect, paths: &Paths) -> Vec<Backend> {
    let configured = cfg.delegate.iter().cloned().map(Way::Delegate);
    let mut ways: Vec<Way> = configured.collect();
    for found in &paths.accelerators {
        if !ways.contains(found) {
            ways.push(found.clone());
        }
    }
    ways.push(Way::Tflite);
    let tried = ways.into_iter().map(|way| Backend { name: way.to_string(), way: Ok(way) });
    let never = NEVER.iter().map(|(name, why)| Backend { name: (*name).into(), way: Err(why) });
    tried.chain(never).collect()
}

/// Looked at and left out; docs/decisions.md tells more.
const NEVER: &[(&str, &str)] = &[
    (
        "LiteRT",
        "its library runs .tflite models through TensorFlow Lite's own interface too: name libLiteRt.so in detect.library where it exports that; its newer interface is not used (docs/decisions.md)",
    ),
    (
        "Hailo",
        "there is no maintained Rust binding, and its models (HEF) come out of a closed compiler; docs/decisions.md tells what would be needed",
    ),
];

/// Opens this way and no other, and tests what it says.
pub fn open_only(
    cfg: &config::Detect,
    paths: &Paths,
    way: &Way,
) -> Result<Box<dyn Detector>, OpenError> {
    #[cfg(feature = "tflite")]
    {
        let mut detector = super::opening::one_way(cfg, paths, way)?;
        super::self_test::run(&mut *detector).map_err(OpenError::SelfTest)?;
        Ok(detector)
    }
    #[cfg(not(feature = "tflite"))]
    {
        let _ = (cfg, paths, way);
        Err(OpenError::NotBuilt)
    }
}
