//! A detector without a model: one "dog" in the middle of every picture, for machines and tests that have none.

use std::sync::Arc;
use std::time::Duration;

use super::types::{BBox, DetectError, Detection, Detector, DetectorInfo};
use crate::decode::PictureView;

#[derive(Debug)]
pub struct FakeDetector {
    info: DetectorInfo,
    /// Nothing when the owner wants no dogs.
    label: Option<Arc<str>>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    AtOnce,
    /// For so long at each picture.
    For(Duration),
    /// Like a delegate's driver that never answers.
    Never,
}

impl FakeDetector {
    /// A dog's number in COCO's labels, so that clients see what they would see of a real model.
    const DOG: u16 = 16;

    /// `animals` as in the configuration.
    pub fn new(animals: &[String]) -> Self {
        let wanted = animals.iter().any(|a| a == "dog" || a == "*");
        let info = DetectorInfo {
            backend: "fake".into(),
            model: "fake".into(),
            width: 416,
            height: 416,
            threads: 1,
            ..DetectorInfo::default()
        };
        Self { info, label: wanted.then(|| "dog".into()), work: Work::AtOnce }
    }

    /// Says that it is this model.
    #[must_use]
    pub fn named(mut self, model: &str) -> Self {
        self.info.model = model.into();
        self
    }

    /// Does no more than five or six pictures a second.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.work = Work::For(Duration::from_millis(180));
        self
    }

    /// Passes its self-test and then hangs at the first picture, to show what that looks like.
    #[must_use]
    pub fn hanging(mut self) -> Self {
        self.work = Work::Never;
        self
    }
}

impl Detector for FakeDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
        let (width, height) = (picture.width, picture.height);
        if !picture.is_whole() {
            return Err(DetectError::BrokenPicture { width, height });
        }
        match self.work {
            Work::AtOnce => {}
            Work::For(time) => std::thread::sleep(time),
            Work::Never => loop {
                std::thread::park();
            },
        }
        let (w, h) = (width as f32, height as f32);
        let bbox = BBox { x1: w * 0.25, y1: h * 0.25, x2: w * 0.75, y2: h * 0.75 };
        Ok(self
            .label
            .iter()
            .map(|label| Detection {
                class_id: Self::DOG,
                label: label.clone(),
                confidence: 0.9,
                bbox,
                track_id: None,
            })
            .collect())
    }

    fn self_test(&mut self, _: &PictureView<'_>) -> Result<(), DetectError> {
        Ok(())
    }
}
