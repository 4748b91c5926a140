//! A detector made of an engine, a letterbox and a head: the way of one picture through them. Opens no files.

use std::sync::Arc;

use super::engine::Engine;
use super::heads::{Candidate, Head, Mismatch, nms};
use super::labels::{Labels, Wanted};
use super::letterbox::{Letterbox, LetterboxError};
use super::manifest::Manifest;
use super::tiles::{self, Found};
use super::types::{BBox, DetectError, Detection, Detector, DetectorInfo};
use crate::config::Tiles;
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
    closer: Option<Closer>,
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
            closer: None,
        })
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
struct Search<'a> {
    threshold: f32,
    classes: &'a [u16],
}

impl ModelDetector {
    /// Looks closer at parts of each picture.
    #[must_use]
    pub fn with_tiles(mut self, tiles: Option<Tiles>) -> Self {
        // Tiles are of one size: with a letterbox of their own, neither is measured anew for each picture.
        self.closer =
            tiles.map(|tiles| Closer { tiles, letterbox: self.letterbox.clone(), looked: 0 });
        self
    }

    /// Looks at the whole picture, and closer where tiles are asked for.
    fn look(
        &mut self,
        picture: &PictureView<'_>,
        search: Search<'_>,
    ) -> Result<Vec<Detection>, DetectError> {
        let (width, height) = (picture.width, picture.height);
        if !picture.is_whole() {
            return Err(DetectError::BrokenPicture { width, height });
        }
        self.pass(picture, search, Glance::Whole)?;
        let Some(closer) = &mut self.closer else {
            return Ok(self.candidates.iter().filter_map(|found| self.named(found)).collect());
        };
        let regions = tiles::now(&closer.tiles, closer.looked, width, height);
        closer.looked = closer.looked.wrapping_add(1);
        let whole = self.candidates.iter();
        let mut found: Vec<_> =
            whole.map(|candidate| Found { candidate: *candidate, is_part: false }).collect();
        for region in regions {
            let part = picture.crop(region.x, region.y, region.width, region.height);
            self.pass(&part, search, Glance::Tile)?;
            found.extend(self.candidates.iter().map(|candidate| {
                let [x1, y1, x2, y2] = candidate.corners;
                let (x, y) = (region.x as f32, region.y as f32);
                let corners = [x1 + x, y1 + y, x2 + x, y2 + y];
                let is_part = tiles::is_part(&corners, &region, width, height);
                Found { candidate: Candidate { corners, ..*candidate }, is_part }
            }));
        }
        let merged = tiles::merge(&found, self.nms_iou);
        Ok(merged.iter().filter_map(|found| self.named(found)).collect())
    }

    /// Runs the model once; `candidates` then holds what was found, in the view's pixels.
    fn pass(
        &mut self,
        view: &PictureView<'_>,
        search: Search<'_>,
        glance: Glance,
    ) -> Result<(), DetectError> {
        let letterbox = match (glance, &mut self.closer) {
            (Glance::Tile, Some(closer)) => &mut closer.letterbox,
            _ => &mut self.letterbox,
        };
        let (head, candidates) = (&self.head, &mut self.candidates);
        candidates.clear();
        let mut placed = Err(LetterboxError::Tensor);
        let mut decoded = Ok(());
        self.engine
            .run(&mut |input| placed = letterbox.write(view, input), &mut |outputs| {
                decoded = head.decode(outputs, search.threshold, search.classes, candidates);
            })
            .map_err(|e| DetectError::Interpreter(e.to_string()))?;
        let placement = placed.map_err(|e| DetectError::Interpreter(e.to_string()))?;
        if let Err(nan) = decoded {
            let output = self.engine.outputs()[nan.0].name.clone();
            return Err(DetectError::NotANumber { model: self.info.model.clone(), output });
        }
        nms::keep_best(candidates, head.wants_nms().then_some(self.nms_iou));
        nms::keep_one_name(candidates);
        candidates.retain_mut(|found| match placement.to_picture(found.corners) {
            Some(b) => {
                found.corners = [b.x1, b.y1, b.x2, b.y2];
                true
            }
            None => false,
        });
        Ok(())
    }

    fn named(&self, found: &Candidate) -> Option<Detection> {
        let [x1, y1, x2, y2] = found.corners;
        Some(Detection {
            class_id: found.class_id,
            label: self.labels.get(found.class_id)?.clone(),
            confidence: found.score,
            bbox: BBox { x1, y1, x2, y2 },
            track_id: None,
        })
    }
}

#[derive(Clone, Copy)]
enum Glance {
    Whole,
    Tile,
}

/// Looking closer.
struct Closer {
    tiles: Tiles,
    letterbox: Letterbox,
    /// Pictures so far.
    looked: usize,
}

impl Detector for ModelDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    fn detect(&mut self, picture: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
        let wanted = Arc::clone(&self.wanted);
        self.look(picture, Search { threshold: self.threshold, classes: &wanted })
    }

    fn self_test(&mut self, picture: &PictureView<'_>) -> Result<(), DetectError> {
        let Some((label, threshold)) = self.must_find.clone() else {
            return self.detect(picture).map(|_| ());
        };
        let classes = self.labels.select(&[label.to_string()]).classes;
        // Its animal fills the picture: the whole shows it.
        self.pass(picture, Search { threshold, classes: &classes }, Glance::Whole)?;
        match self.candidates.is_empty() {
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

    #[test]
    fn tiles_are_looked_at_beside_the_whole_and_their_boxes_lie_in_the_picture() {
        use crate::config::TileTurns;
        // In every view a dog of a fifth of the input's side, in the middle.
        let row = [50.0, 50.0, 20.0, 20.0, 0.0, 0.9];
        let tiles = |turns| Tiles { columns: 2, rows: 1, overlap: 0.0, turns };
        let boxes = |turns| {
            let mut detector = detector(&row, false).with_tiles(Some(tiles(turns)));
            let mut see = || {
                let found = detector.detect(&picture().view()).unwrap();
                let mut at: Vec<_> = found.iter().map(|d| (d.bbox.x1, d.bbox.x2)).collect();
                at.sort_by(|a, b| a.0.total_cmp(&b.0));
                at
            };
            [see(), see()]
        };
        // 40 pixels wide in the whole of 200, 20 in each half of 100.
        let (whole, left, right) = ((80.0, 120.0), (40.0, 60.0), (140.0, 160.0));
        assert_eq!(boxes(TileTurns::All), [[left, whole, right], [left, whole, right]]);
        assert_eq!(boxes(TileTurns::One), [vec![left, whole], vec![whole, right]]);
    }
}
