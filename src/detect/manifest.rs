//! A model's manifest: what file it is, how pictures go in and how detections come out. Loads no model.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::labels::Labels;

/// What a `models/*.toml` says; models/README.md describes every key.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Where it was read from.
    pub path: PathBuf,
    pub name: String,
    /// The model file.
    pub file: PathBuf,
    pub sha256: String,
    pub licence: String,
    pub source: String,
    pub labels: Labels,
    /// The same model for ONNX Runtime.
    pub onnx: Option<ModelFile>,
    /// The label that must be found in the self-test's picture; without one it is enough that the model runs.
    pub self_test: Option<Arc<str>>,
    pub input: InputSpec,
    pub head: HeadSpec,
}

/// A model file and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    pub file: PathBuf,
    pub sha256: String,
}

/// How a picture becomes the input tensor: real value = (pixel - mean) / std.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Pixels.
    pub width: u32,
    pub height: u32,
    #[serde(default)]
    pub layout: Layout,
    #[serde(default)]
    pub channels: Channels,
    #[serde(default)]
    pub fit: FitMode,
    /// Grey level of the letterbox's border.
    #[serde(default = "default_pad")]
    pub pad: u8,
    #[serde(default)]
    pub mean: [f32; 3],
    #[serde(default = "default_std")]
    pub std: [f32; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    #[default]
    Nhwc,
    Nchw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    #[default]
    Rgb,
    Bgr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FitMode {
    #[default]
    Letterbox,
    Stretch,
}

/// How outputs become boxes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HeadSpec {
    /// Reports only what scores higher, 0 to 1.
    #[serde(default = "default_score_threshold")]
    pub score_threshold: f32,
    /// Of two boxes of a class that overlap more than this, the better stays.
    #[serde(default = "default_nms_iou")]
    pub nms_iou: f32,
    #[serde(flatten)]
    pub kind: HeadKind,
}

/// One variant a kind of output; tensors are named as in the model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum HeadKind {
    #[serde(rename = "yolo-v3")]
    YoloV3 { levels: Vec<AnchorLevel> },
    #[serde(rename = "yolo-v4")]
    YoloV4 { levels: Vec<AnchorLevel> },
    #[serde(rename = "yolox")]
    Yolox {
        output: String,
        strides: Vec<u32>,
        /// Objectness and classes still want their sigmoid.
        #[serde(default)]
        logits: bool,
    },
    #[serde(rename = "yolo-v8")]
    YoloV8 {
        output: String,
        /// Boxes are parts of the input's size, not pixels.
        #[serde(default)]
        normalized: bool,
    },
    #[serde(rename = "gfl")]
    Gfl { levels: Vec<GflLevel>, reg_max: u32 },
    #[serde(rename = "ssd")]
    Ssd {
        boxes: String,
        classes: String,
        scores: String,
        count: String,
        /// Added to the model's class number, for labels that begin with a background entry.
        #[serde(default)]
        class_offset: i32,
    },
}

/// One stride of a YOLOv3/v4 head: either `fused` or all of `cls`, `obj`, `wh`, `xy`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorLevel {
    /// Pixels of the input per cell.
    pub stride: u32,
    /// Width and height in pixels of the input.
    pub anchors: Vec<[f32; 2]>,
    #[serde(default = "default_scale_xy")]
    pub scale_xy: f32,
    pub fused: Option<String>,
    pub cls: Option<String>,
    pub obj: Option<String>,
    pub wh: Option<String>,
    pub xy: Option<String>,
}

/// One stride of a generalized-focal-loss head.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GflLevel {
    pub stride: u32,
    pub cls: String,
    pub dis: String,
    pub obj: Option<String>,
}

/// A manifest that cannot be used; each names its file.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read {path}: {reason}; a manifest and what it names lie in one folder", path = .path.display())]
    Read { path: PathBuf, reason: std::io::Error },
    #[error("{path}: {reason}; models/README.md describes the format", path = .path.display())]
    Format { path: PathBuf, reason: Box<toml::de::Error> },
    #[error("{path}: {key}: {message}", path = .path.display())]
    Value { path: PathBuf, key: String, message: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    file: PathBuf,
    sha256: String,
    #[serde(default)]
    licence: String,
    #[serde(default)]
    source: String,
    labels: RawLabels,
    self_test: Option<Arc<str>>,
    onnx: Option<ModelFile>,
    input: InputSpec,
    head: HeadSpec,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawLabels {
    File(PathBuf),
    Inline(Vec<String>),
}

/// Text files beside a manifest are a few kilobytes; more is a mistake.
const MOST_TEXT_BYTES: u64 = 1 << 20;
/// Larger than any detector's input; keeps the tensor within a few hundred megabytes.
const MOST_PIXELS_A_SIDE: u32 = 4096;

impl Manifest {
    /// Reads and checks a manifest and its labels.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let text = read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(path, &text, |name| read_text(&folder.join(name)))
    }

    /// Checks a manifest's text; `read` opens what it names beside itself.
    pub fn parse(
        path: &Path,
        text: &str,
        read: impl FnOnce(&Path) -> Result<String, ManifestError>,
    ) -> Result<Self, ManifestError> {
        let raw: Raw = toml::from_str(text).map_err(|reason| ManifestError::Format {
            path: path.to_path_buf(),
            reason: Box::new(reason),
        })?;
        let labels = match raw.labels {
            RawLabels::File(name) => Labels::from_lines(&read(&name)?),
            RawLabels::Inline(names) => Labels::new(names),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let manifest = Manifest {
            path: path.to_path_buf(),
            name: raw.name,
            onnx: raw.onnx.map(|onnx| ModelFile {
                file: folder.join(onnx.file),
                sha256: onnx.sha256.to_ascii_lowercase(),
            }),
            file: folder.join(raw.file),
            sha256: raw.sha256.to_ascii_lowercase(),
            licence: raw.licence,
            source: raw.source,
            labels,
            self_test: raw.self_test,
            input: raw.input,
            head: raw.head,
        };
        match manifest.fault() {
            None => Ok(manifest),
            Some((key, message)) => {
                Err(ManifestError::Value { path: path.to_path_buf(), key, message })
            }
        }
    }

    /// The first value that cannot be, as key and message.
    fn fault(&self) -> Option<(String, String)> {
        let say = |key: &str, message: &str| Some((key.to_string(), message.to_string()));
        if self.name.is_empty() {
            return say("name", "must not be empty");
        }
        let digest = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        for (key, sum) in
            [("sha256", Some(&self.sha256)), ("onnx.sha256", self.onnx.as_ref().map(|o| &o.sha256))]
        {
            if sum.is_some_and(|sum| !digest(sum)) {
                return say(key, "must be 64 hex digits, as sha256sum prints them");
            }
        }
        if self.labels.is_empty() || self.labels.len() > Labels::MOST {
            return say("labels", "must name 1 to 4096 classes");
        }
        if self.self_test.as_ref().is_some_and(|label| !self.labels.iter().any(|l| l == label)) {
            return say("self_test", "must be one of the labels, or be left out");
        }
        let i = &self.input;
        if ![i.width, i.height].iter().all(|side| (1..=MOST_PIXELS_A_SIDE).contains(side)) {
            return say("input", "width and height must be 1 to 4096 pixels");
        }
        if !i.mean.iter().all(|m| m.is_finite()) {
            return say("input.mean", "must be finite numbers");
        }
        if !i.std.iter().all(|s| s.is_normal()) {
            return say("input.std", "must be finite numbers other than 0");
        }
        self.head.fault()
    }
}

impl HeadSpec {
    fn fault(&self) -> Option<(String, String)> {
        let say = |key: String, message: &str| Some((key, message.to_string()));
        for (key, value) in [("score_threshold", self.score_threshold), ("nms_iou", self.nms_iou)] {
            if !(0.0..=1.0).contains(&value) {
                return say(format!("head.{key}"), "must be 0 to 1");
            }
        }
        let strides: Vec<u32> = match &self.kind {
            HeadKind::YoloV3 { levels } | HeadKind::YoloV4 { levels } => {
                for (at, level) in levels.iter().enumerate() {
                    if let Some(message) = level.fault() {
                        return say(format!("head.levels[{at}]"), message);
                    }
                }
                levels.iter().map(|l| l.stride).collect()
            }
            HeadKind::Gfl { levels, reg_max } => {
                if !(1..=64).contains(reg_max) {
                    return say("head.reg_max".into(), "must be 1 to 64");
                }
                levels.iter().map(|l| l.stride).collect()
            }
            HeadKind::Yolox { strides, .. } => strides.clone(),
            HeadKind::YoloV8 { .. } | HeadKind::Ssd { .. } => vec![1],
        };
        if strides.is_empty() || strides.len() > 16 {
            return say("head".into(), "must have 1 to 16 levels");
        }
        if !strides.iter().all(|s| (1..=1024).contains(s)) {
            return say("head".into(), "strides must be 1 to 1024 pixels");
        }
        None
    }
}

impl AnchorLevel {
    fn fault(&self) -> Option<&'static str> {
        let split = [&self.cls, &self.obj, &self.wh, &self.xy];
        let named = split.iter().filter(|name| name.is_some()).count();
        if !matches!((self.fused.is_some(), named), (true, 0) | (false, 4)) {
            return Some("must name either fused, or all of cls, obj, wh and xy");
        }
        if self.anchors.is_empty() || self.anchors.len() > 32 {
            return Some("must have 1 to 32 anchors");
        }
        if !self.anchors.iter().flatten().all(|side| side.is_normal() && *side > 0.0) {
            return Some("anchors must be positive pixels");
        }
        if !(self.scale_xy.is_normal() && self.scale_xy > 0.0) {
            return Some("scale_xy must be a positive number");
        }
        None
    }
}

fn read_text(path: &Path) -> Result<String, ManifestError> {
    let fail = |reason| ManifestError::Read { path: path.to_path_buf(), reason };
    if fs::metadata(path).map_err(fail)?.len() > MOST_TEXT_BYTES {
        return Err(fail(std::io::Error::other("larger than a megabyte")));
    }
    fs::read_to_string(path).map_err(fail)
}

fn default_pad() -> u8 {
    128
}

fn default_std() -> [f32; 3] {
    [1.0; 3]
}

fn default_score_threshold() -> f32 {
    0.25
}

fn default_nms_iou() -> f32 {
    0.45
}

fn default_scale_xy() -> f32 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "m"
file = "m.tflite"
sha256 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
licence = "MIT"
source = "somewhere"
labels = ["cat", "dog"]

[input]
width = 96
height = 64
layout = "nhwc"
channels = "rgb"
fit = "letterbox"
pad = 128
mean = [0.0, 0, 0.0]
std = [255.0, 255.0, 255.0]

[head]
kind = "yolo-v4"
score_threshold = 0.25
nms_iou = 0.45
[[head.levels]]
stride = 16
anchors = [[23, 27], [37.5, 58]]
scale_xy = 1.05
fused = "out"
"#;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(Path::new("models/m.toml"), text, |_| Ok("a\nb\nc\n".into()))
    }

    #[test]
    fn reads_every_key() {
        let m = parse(GOOD).unwrap();
        assert_eq!(m.file, Path::new("models/m.tflite"));
        assert_eq!(m.sha256, "a".repeat(64));
        assert_eq!(m.labels.len(), 2);
        let HeadKind::YoloV4 { levels } = m.head.kind else { panic!() };
        assert_eq!(levels[0].anchors, [[23.0, 27.0], [37.5, 58.0]]);
        assert_eq!(levels[0].scale_xy, 1.05);
    }

    #[test]
    fn labels_may_be_a_file() {
        let m = parse(&GOOD.replace(r#"["cat", "dog"]"#, r#""coco.txt""#)).unwrap();
        assert_eq!(m.labels.len(), 3);
    }

    #[test]
    fn faults_name_the_key() {
        for (from, to, said) in [
            ("licence", "license", "license"),
            ("pad = 128", "pad = 300", "pad"),
            ("pad = 128", "padding = 1", "padding"),
            ("width = 96", "width = 0", "input"),
            ("std = [255.0", "std = [0.0", "input.std"),
            ("kind = \"yolo-v4\"", "kind = \"yolo-v9\"", "yolo-v9"),
            ("nms_iou", "nms", "nms"),
            ("scale_xy", "scale", "scale"),
            ("score_threshold = 0.25", "score_threshold = 2", "head.score_threshold"),
            ("fused = \"out\"", "cls = \"out\"", "head.levels[0]"),
            ("stride = 16", "stride = 0", "strides"),
            ("sha256 = \"A", "sha256 = \"G", "sha256"),
            ("name = \"m\"", "name = 3", "name"),
            ("[\"cat\", \"dog\"]", "[]", "labels"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("m.toml"), "{to}: {error}");
        }
    }

    #[test]
    fn every_kind_parses() {
        for (kind, keys) in [
            ("yolox", "output = \"o\"\nstrides = [8, 16, 32]\nlogits = true"),
            ("yolo-v8", "output = \"o\"\nnormalized = true"),
            (
                "gfl",
                "reg_max = 7\n[[head.levels]]\nstride = 8\ncls = \"c\"\ndis = \"d\"\nobj = \"o\"",
            ),
            (
                "ssd",
                "boxes = \"b\"\nclasses = \"c\"\nscores = \"s\"\ncount = \"n\"\nclass_offset = -1",
            ),
        ] {
            let head = GOOD.split("[head]").next().unwrap();
            let text = format!("{head}[head]\nkind = \"{kind}\"\nscore_threshold = 0.3\n{keys}\n");
            let m = parse(&text).unwrap();
            assert_eq!(m.head.score_threshold, 0.3);
            assert!(parse(&text.replace("score_threshold", "strange")).is_err(), "{kind}");
        }
    }
}
