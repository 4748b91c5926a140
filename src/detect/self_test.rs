//! Shows a freshly opened detector one picture with a known animal, so that none goes to work that sees nothing.
//!
//! The picture is Chelsea, the cat of scikit-image, released to the public (CC0) by its photographer Stefan van der Walt.

use std::sync::OnceLock;

use super::types::{DetectError, Detector};
use super::{OpenError, Paths, open};
use crate::config;
use crate::decode::{Picture, RgbPicture};

const JPEG: &[u8] = include_bytes!("self-test.jpg");

/// What the picture shows; a manifest's `self_test` names a label that must be found in it.
pub fn picture() -> &'static RgbPicture {
    static PICTURE: OnceLock<RgbPicture> = OnceLock::new();
    PICTURE.get_or_init(|| {
        let rgb =
            image::load_from_memory(JPEG).expect("the embedded picture is a JPEG").into_rgb8();
        RgbPicture { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() }
    })
}

/// Lets the detector look at the picture.
///
/// # Errors
/// When it cannot, or does not find what its manifest says it must.
pub fn run(detector: &mut dyn Detector) -> Result<(), DetectError> {
    detector.self_test(&picture().view())
}

/// Opens the detector the configuration asks for and tests it.
pub fn open_tested(cfg: &config::Detect, paths: &Paths) -> Result<Box<dyn Detector>, OpenError> {
    let mut detector = open(cfg, paths)?;
    run(&mut *detector).map_err(OpenError::SelfTest)?;
    Ok(detector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_whole_and_the_fake_passes() {
        let p = picture();
        assert_eq!((p.width, p.height), (451, 300));
        assert!(p.view().is_whole());
        run(&mut crate::detect::fake::FakeDetector::new(&[])).unwrap();
    }
}
