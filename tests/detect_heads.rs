//! Every head against vectors from an independent reference (models/make_head_vectors.py).

#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use spotter::detect::heads::{Candidate, Head, nms};
use spotter::detect::manifest::HeadSpec;
use spotter::detect::tensor::{Element, Quant, TensorMeta, Values, View};

#[derive(Deserialize)]
struct Case {
    input: Size,
    classes: usize,
    head: HeadSpec,
    outputs: Vec<Output>,
    candidates: Vec<Expected>,
    kept: Vec<Expected>,
}

#[derive(Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    data: Vec<f32>,
}

#[derive(Deserialize)]
struct Expected {
    class_id: u16,
    score: f32,
    r#box: [f32; 4],
}

const CASES: [&str; 10] = [
    "yolo-v3",
    "yolo-v4",
    "yolox",
    "yolox-logits",
    "yolo-v8",
    "yolo-v8-transposed",
    "gfl",
    "gfl-no-obj",
    "ssd",
    "ssd-offset",
];

fn load(name: &str) -> Case {
    let path = format!("{}/tests/data/heads/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

impl Case {
    fn metas(&self) -> Vec<TensorMeta> {
        let meta = |o: &Output| TensorMeta {
            name: o.name.clone(),
            shape: o.shape.clone(),
            element: Element::F32,
            quant: Quant::NONE,
        };
        self.outputs.iter().map(meta).collect()
    }

    fn fit(&self, metas: &[TensorMeta]) -> Head {
        Head::new(&self.head, (self.input.width, self.input.height), self.classes, metas).unwrap()
    }

    fn decode(&self, wanted: &[u16]) -> Vec<Candidate> {
        let views: Vec<_> = self
            .outputs
            .iter()
            .map(|o| View { values: Values::F32(&o.data), quant: Quant::NONE })
            .collect();
        let mut found = Vec::new();
        let threshold = self.head.score_threshold;
        self.fit(&self.metas()).decode(&views, threshold, wanted, &mut found).unwrap();
        found
    }

    fn all(&self) -> Vec<u16> {
        (0..self.classes as u16).collect()
    }
}

fn sorted(mut found: Vec<Candidate>) -> Vec<Candidate> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found
}

/// The reference's scores are written with six digits, its boxes with four.
fn compare(name: &str, found: &[Candidate], expected: &[Expected]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (f, e) in found.iter().zip(expected) {
        assert_eq!(f.class_id, e.class_id, "{name}");
        assert!((f.score - e.score).abs() < 1e-5, "{name}: {f:?} but score {}", e.score);
        for (got, want) in f.corners.iter().zip(e.r#box) {
            assert!((got - want).abs() < 1e-2, "{name}: {f:?} but box {:?}", e.r#box);
        }
    }
}

#[test]
fn every_head_agrees_with_the_reference() {
    for name in CASES {
        let case = load(name);
        let mut found = case.decode(&case.all());
        compare(name, &sorted(found.clone()), &case.candidates);
        let limit = case.fit(&case.metas()).wants_nms().then_some(case.head.nms_iou);
        nms::keep_best(&mut found, limit);
        compare(name, &found, &case.kept);
    }
}

#[test]
fn only_wanted_classes_are_found() {
    for name in CASES {
        let case = load(name);
        let wanted: Vec<u16> = case.all().into_iter().filter(|c| c % 2 == 1).collect();
        let found = case.decode(&wanted);
        let expected = case.candidates.iter().filter(|e| e.class_id % 2 == 1).count();
        assert_eq!(found.len(), expected, "{name}");
        assert!(found.iter().all(|f| f.class_id % 2 == 1), "{name}");
        assert!(case.decode(&[]).is_empty(), "{name}");
    }
}

/// Quantizes an output over its own range, as a converter would.
fn quantized(output: &Output, unsigned: bool) -> (Vec<u8>, Quant) {
    let low = output.data.iter().copied().fold(0.0f32, f32::min);
    let high = output.data.iter().copied().fold(0.0f32, f32::max);
    let scale = (high - low) / 255.0;
    let limits = if unsigned { (0, 255) } else { (-128, 127) };
    let quant = Quant { scale, zero_point: limits.0 - (low / scale).round() as i32 };
    (output.data.iter().map(|&v| quant.store(v, limits) as u8).collect(), quant)
}

#[test]
fn quantized_outputs_decode_as_their_real_values_do() {
    for name in CASES {
        for unsigned in [false, true] {
            let case = load(name);
            let stored: Vec<_> = case.outputs.iter().map(|o| quantized(o, unsigned)).collect();
            let signed: Vec<Vec<i8>> =
                stored.iter().map(|(v, _)| v.iter().map(|&b| b as i8).collect()).collect();
            let views: Vec<_> = stored
                .iter()
                .zip(&signed)
                .map(|((bytes, quant), signed)| View {
                    values: if unsigned { Values::U8(bytes) } else { Values::I8(signed) },
                    quant: *quant,
                })
                .collect();
            // The same values as float32: what quantization did to them is not the head's matter.
            let reals: Vec<Vec<f32>> = views
                .iter()
                .zip(&case.outputs)
                .map(|(view, o)| (0..o.data.len()).map(|i| view.get(i)).collect())
                .collect();
            let floats: Vec<_> =
                reals.iter().map(|v| View { values: Values::F32(v), quant: Quant::NONE }).collect();
            let mut metas = case.metas();
            let head = case.fit(&metas);
            for (meta, (_, quant)) in metas.iter_mut().zip(&stored) {
                meta.element = if unsigned { Element::U8 } else { Element::I8 };
                meta.quant = *quant;
            }
            let quantized_head = case.fit(&metas);
            // A little off the manifest's, so that no score of the coarse grid lies on it.
            let threshold = case.head.score_threshold + 1.7e-4;
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            quantized_head.decode(&views, threshold, &case.all(), &mut found).unwrap();
            head.decode(&floats, threshold, &case.all(), &mut expected).unwrap();
            assert_eq!(found, expected, "{name}");
            assert!(!found.is_empty(), "{name}");
        }
    }
}

#[test]
fn outputs_that_are_not_numbers_are_an_error_and_infinite_ones_nothing() {
    for name in CASES {
        let mut case = load(name);
        let metas = case.metas();
        let head = case.fit(&metas);
        for (output, value) in (0..case.outputs.len())
            .flat_map(|o| [(o, f32::NAN), (o, f32::INFINITY), (o, f32::NEG_INFINITY)])
        {
            let before = std::mem::take(&mut case.outputs[output].data);
            case.outputs[output].data = vec![value; before.len()];
            let views: Vec<_> = case
                .outputs
                .iter()
                .map(|o| View { values: Values::F32(&o.data), quant: Quant::NONE })
                .collect();
            let mut found = Vec::new();
            let result = head.decode(&views, 0.01, &case.all(), &mut found);
            assert_eq!(result.is_err(), value.is_nan(), "{name}");
            for f in &found {
                let finite = f.score.is_finite() && f.corners.iter().all(|c| c.is_finite());
                assert!(finite, "{name}: {f:?}");
            }
            case.outputs[output].data = before;
        }
    }
}

#[test]
fn what_does_not_fit_is_told_completely() {
    let case = load("yolo-v4");
    let size = (case.input.width, case.input.height);
    let mut metas = case.metas();
    metas[0].name = "elsewhere".into();
    metas[1].shape[3] += 1;
    metas[2].element = Element::Other("int32");
    metas[3].element = Element::I8;
    metas[3].quant.scale = 0.0;
    let said = Head::new(&case.head, size, case.classes, &metas).unwrap_err();
    assert_eq!(said.0.len(), 4, "{said}");
    for part in ["elsewhere", "expected shape", "int32", "quantization scale"] {
        assert!(said.to_string().contains(part), "{part}: {said}");
    }
    // Another number of classes, another input: every kind but SSD ties shapes to them.
    for name in CASES.iter().filter(|n| !n.starts_with("ssd")) {
        let case = load(name);
        let metas = case.metas();
        assert!(Head::new(&case.head, size, case.classes + 1, &metas).is_err(), "{name}");
        if !name.starts_with("yolo-v8") {
            assert!(Head::new(&case.head, (512, 512), case.classes, &metas).is_err(), "{name}");
        }
    }
}
