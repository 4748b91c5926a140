//! A detector made of an engine, a letterbox and a head: the way of one picture through them. Opens no files.

use super::engine::Engine;
use super::heads::{Candidate, Head, Mismatch, nms};
use super::labels::{Labels, Wanted};
use super::letterbox::{Letterbox, LetterboxError};
use super::manifest::Manifest;
use super::types::{DetectError, Detection, Detector, DetectorInfo};
use crate::decode::PictureView;

/// A model that runs in some engine.
pub struct ModelDetector {
    engine: Box<dyn Engine>,
    letterbox: Letterbox,
    head: Head,
    threshold: f32,
    nms_iou: f32,
    wanted: Vec<u16>,
    labels: Labels,
    info: DetectorInfo,
    /// Kept between pictures for its memory.
    candidates: Vec<Candidate>,
}

impl ModelDetector {
    /// Puts the parts together if the engine's tensors are what the manifest describes.
    ///
    /// `threshold` replaces the manifest's; `info` comes from whoever opened the engine.
    pub fn new(
        engine: Box<dyn Engine>,
        manifest: &Manifest,
        wanted: &Wanted,
        threshold: Option<f32>,
        info: DetectorInfo,
    ) -> Result<Self, Mismatch> {
        let size = (manifest.input.width, manifest.input.height);
        let letterbox = Letterbox::new(&manifest.input, engine.input());
        let head = Head::new(&manifest.head, size, manifest.labels.len(), engine.outputs());
        let (letterbox, head) = match (letterbox, head) {
            (Ok(letterbox), Ok(head)) => (letterbox, head),
            (letterbox, head) => {
                let differences = [letterbox.err(), head.err()].into_iter().flatten();
                return Err(Mismatch(differences.flat_map(|m| m.0).collect()));
            }
        };
        Ok(Self {
            engine,
            letterbox,
            head,
            threshold: threshold.unwrap_or(manifest.head.score_threshold),
            nms_iou: manifest.head.nms_iou,
            wanted: wanted.classes.clone(),
            labels: manifest.labels.clone(),
            info,
            candidates: Vec::new(),
        })
    }
}

impl Detector for ModelDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
        let (width, height) = (picture.width, picture.height);
        if !picture.is_whole() {
            return Err(DetectError::BrokenPicture { width, height });
        }
        let (letterbox, head, candidates) = (&mut self.letterbox, &self.head, &mut self.candidates);
        let (threshold, wanted) = (self.threshold, &self.wanted);
        candidates.clear();
        let mut placed = Err(LetterboxError::Tensor);
        let mut decoded = Ok(());
        self.engine
            .run(&mut |input| placed = letterbox.write(picture, input), &mut |outputs| {
                decoded = head.decode(outputs, threshold, wanted, candidates)
            })
            .map_err(|e| DetectError::Interpreter(e.to_string()))?;
        let placement = placed.map_err(|e| DetectError::Interpreter(e.to_string()))?;
        if let Err(nan) = decoded {
            let output = self.engine.outputs()[nan.0].name.clone();
            return Err(DetectError::NotANumber { model: self.info.model.clone(), output });
        }
        nms::keep_best(candidates, head.wants_nms().then_some(self.nms_iou));
        nms::keep_one_name(candidates);
        let detections = candidates.iter().filter_map(|found| {
            Some(Detection {
                class_id: found.class_id,
                label: self.labels.get(found.class_id)?.clone(),
                confidence: found.score,
                bbox: placement.to_picture(found.corners)?,
            })
        });
        Ok(detections.collect())
    }
}

impl std::fmt::Debug for ModelDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelDetector").field("info", &self.info).finish_non_exhaustive()
    }
}
