//! A detector made of an engine, a letterbox and a head: the way of one picture through them. Opens no files.

use std::sync::Arc;

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
    wanted: Arc<[u16]>,
    labels: Labels,
    /// What must be found in the self-test's picture, and from which score on, whatever the owner set.
    must_find: Option<(Arc<str>, f32)>,
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
            wanted: wanted.classes.as_slice().into(),
            labels: manifest.labels.clone(),
            must_find: manifest.self_test.clone().map(|l| (l, manifest.head.score_threshold)),
            info,
            candidates: Vec::new(),
        })
    }
}

impl ModelDetector {
    /// Finds the classes of `wanted` that score higher than `threshold`.
    fn look(
        &mut self,
        picture: &PictureView<'_>,
        threshold: f32,
        wanted: &[u16],
    ) -> Result<Vec<Detection>, DetectError> {
        let (width, height) = (picture.width, picture.height);
        if !picture.is_whole() {
            return Err(DetectError::BrokenPicture { width, height });
        }
        let (letterbox, head, candidates) = (&mut self.letterbox, &self.head, &mut self.candidates);
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
                track_id: None,
            })
        });
        Ok(detections.collect())
    }
}

impl Detector for ModelDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
        let wanted = Arc::clone(&self.wanted);
        self.look(picture, self.threshold, &wanted)
    }

    fn self_test(&mut self, picture: &PictureView<'_>) -> Result<(), DetectError> {
        let Some((label, threshold)) = self.must_find.clone() else {
            return self.detect(picture).map(|_| ());
        };
        let classes = self.labels.select(&[label.to_string()]).classes;
        match self.look(picture, threshold, &classes)?.is_empty() {
            false => Ok(()),
            true => Err(DetectError::SelfTest { model: Arc::clone(&self.info.model), label }),
        }
    }
}

impl std::fmt::Debug for ModelDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelDetector").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::decode::{Picture, RgbPicture};
    use crate::detect::engine::EngineError;
    use crate::detect::tensor::{Element, Quant, TensorMeta, TensorMut, Values, View};

    /// Gives the same output whatever it is shown.
    struct Scripted {
        input: TensorMeta,
        outputs: [TensorMeta; 1],
        values: Vec<f32>,
        fails: bool,
    }

    impl Engine for Scripted {
        fn input(&self) -> &TensorMeta {
            &self.input
        }

        fn outputs(&self) -> &[TensorMeta] {
            &self.outputs
        }

        fn run(
            &mut self,
            fill: &mut dyn FnMut(TensorMut<'_>),
            read: &mut dyn FnMut(&[View<'_>]),
        ) -> Result<(), EngineError> {
            if self.fails {
                return Err(EngineError("out of order".into()));
            }
            fill(TensorMut::F32(&mut vec![0.0; self.input.volume()]));
            read(&[View { values: Values::F32(&self.values), quant: Quant::NONE }]);
            Ok(())
        }
    }

    fn detector(values: &[f32], fails: bool) -> ModelDetector {
        let text = format!(
            "name = \"m\"\nfile = \"m\"\nsha256 = \"{}\"\nlabels = [\"cat\", \"dog\"]\n\
             [input]\nwidth = 100\nheight = 100\n[head]\nkind = \"yolo-v8\"\noutput = \"o\"\n",
            "0".repeat(64)
        );
        let manifest =
            Manifest::parse(Path::new("m.toml"), &text, |_| unreachable!("labels are inline"));
        let manifest = manifest.unwrap();
        let meta = |name: &str, shape: &[usize]| TensorMeta {
            name: name.into(),
            shape: shape.into(),
            element: Element::F32,
            quant: Quant::NONE,
        };
        let engine = Scripted {
            input: meta("i", &[1, 100, 100, 3]),
            outputs: [meta("o", &[1, values.len() / 6, 6])],
            values: values.into(),
            fails,
        };
        let wanted = manifest.labels.select(&["dog".into()]);
        let info = DetectorInfo {
            backend: "scripted".into(),
            model: "m".into(),
            width: 100,
            height: 100,
            threads: 1,
            ..DetectorInfo::default()
        };
        ModelDetector::new(Box::new(engine), &manifest, &wanted, None, info).unwrap()
    }

    fn picture() -> RgbPicture {
        RgbPicture { width: 200, height: 100, pixels: vec![0; 200 * 100 * 3] }
    }

    #[test]
    fn boxes_reach_the_picture_through_suppression() {
        // The picture lies in rows 25 to 75 of the input. Two boxes on one dog, a cat nobody asked
        // for, and a dog in the border.
        let rows = [
            [50.0, 50.0, 20.0, 20.0, 0.0, 0.8],
            [51.0, 50.0, 20.0, 20.0, 0.0, 0.9],
            [20.0, 50.0, 10.0, 10.0, 0.9, 0.0],
            [20.0, 10.0, 10.0, 10.0, 0.0, 0.9],
        ];
        let found = detector(rows.as_flattened(), false).detect(&picture().view()).unwrap();
        assert_eq!(found.len(), 1);
        let b = found[0].bbox;
        assert_eq!((&*found[0].label, found[0].confidence), ("dog", 0.9));
        assert_eq!((b.x1, b.y1, b.x2, b.y2), (82.0, 30.0, 122.0, 70.0));
    }

    #[test]
    fn outputs_that_are_not_numbers_are_named() {
        let said = detector(&[f32::NAN; 12], false).detect(&picture().view()).unwrap_err();
        assert!(matches!(&said, DetectError::NotANumber { output, .. } if output == "o"), "{said}");
        let said = detector(&[0.0; 12], true).detect(&picture().view()).unwrap_err();
        assert!(matches!(&said, DetectError::Interpreter(why) if why.contains("out of order")));
    }
}
