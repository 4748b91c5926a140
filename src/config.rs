//! What the owner can set: one section a stage, every key with a default, unknown keys refused.
//! Reading files and environment is in `load.rs`, judging the values in `validate.rs`.

mod appliance; // the box itself: its name, network, updates
mod attached; // cameras, lamps and buttons
mod exits; // MQTT, WebSocket, HTTP, relays
mod load;
mod validate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use appliance::{Announce, Machine, Network, Password, Update};
pub use attached::{
    Button, Gpio, GpioBackend, Led, Line, Output, Pull, Source, SourceBackend, SourceFormat,
};
pub use exits::{Mqtt, MqttTls, Relay, Web, WebSocket};
pub use load::{ConfigError, Fault, Loaded, decode, load, locate, parse, placed};
pub use validate::Problem;

/// The whole configuration; `Config::default()` is a working service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub auth: Auth,
    pub ingest: Ingest,
    pub decode: Decode,
    pub detect: Detect,
    pub events: Events,
    pub record: Record,
    pub mqtt: Mqtt,
    pub websocket: WebSocket,
    pub web: Web,
    pub announce: Announce,
    pub update: Update,
    #[serde(rename = "box")]
    pub machine: Machine,
    /// Streams pushed on to other servers.
    pub relay: Vec<Relay>,
    /// Cameras of this machine.
    pub source: Vec<Source>,
    pub gpio: Gpio,
    /// Per-stream settings by stream name.
    pub stream: BTreeMap<String, StreamConfig>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The node's name in topics and messages; empty: made once from the state directory, `spotter-xxxx`.
    pub name: String,
    /// Tokens and everything that must survive a restart. Empty: /var/lib/spotter, or $XDG_STATE_HOME/spotter.
    pub state_dir: PathBuf,
    /// How long a shutdown may take to drain, seconds.
    pub shutdown_grace_s: u64,
    /// A privacy pause goes on after the machine was started anew. It always outlives the service alone.
    pub pause_outlasts_reboot: bool,
}

/// What the owner opened to callers from elsewhere than loopback without a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    Publish,
    Read,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    pub anonymous: Vec<Anonymous>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// Readers by RTMP; they have places beside those of the publishers.
    pub max_readers: usize,
    pub max_readers_per_address: usize,
    pub max_streams: usize,
    /// One RTMP message, bytes.
    pub max_message_bytes: usize,
    /// Chunk streams one connection may have open, and messages under way on all of them together, bytes.
    pub max_chunk_streams: usize,
    pub max_partial_bytes: usize,
    /// Nesting and string length of AMF0 commands and metadata.
    pub max_amf_depth: usize,
    pub max_amf_string_bytes: usize,
    pub handshake_timeout_s: u64,
    /// Silence after which a connection is closed.
    pub idle_timeout_s: u64,
    /// A reader that takes nothing for so long is closed.
    pub reader_stall_timeout_s: u64,
    /// How long a stream waits for its publisher to come back.
    pub reconnect_grace_s: u64,
    /// Coded media kept per stream, bytes.
    pub gop_budget_bytes: usize,
    pub srt: Srt,
    pub tls: Tls,
}

/// RTMPS, in and out: open where both files are named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub listen: SocketAddr,
    /// PEM: the certificate with those between it and its authority behind it, and its key.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

/// Publishers by SRT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Srt {
    pub enabled: bool,
    /// UDP.
    pub listen: SocketAddr,
    /// Empty: callers need none.
    pub passphrase: Password,
    /// What a packet that was lost has to come again; a sender may ask for more.
    pub latency_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeBackend {
    Gst,
    /// Grey pictures of the published size; for machines and tests without GStreamer.
    Fake,
}

/// What makes a picture as small as the detector wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaler {
    /// The board's own converter behind a hardware decoder where there is one, else the CPU.
    Auto,
    /// The detector's own scaling, from the whole picture.
    Cpu,
    /// A converter in the decoder's pipeline, also behind a software decoder.
    Board,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decode {
    pub backend: DecodeBackend,
    /// GStreamer decoder elements to try, in order; empty: the board's own order.
    pub order: Vec<String>,
    /// Threads of a software decoder. 1 costs least CPU and adds no latency; 0 lets the decoder choose.
    pub threads: u32,
    pub scaler: Scaler,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectBackend {
    /// The accelerators that this board has, then the CPU.
    Auto,
    Tflite,
    /// TensorFlow Lite linked at build time.
    Tflitec,
    /// ONNX Runtime with `Onnx::providers`, then on the CPU.
    Onnx,
    /// Finds one "dog" in the middle of every picture; for machines and tests without a model.
    Fake,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    pub backend: DetectBackend,
    /// A manifest's name in `model_dir`, or the path of a manifest (`.toml`). "auto": the board's choice.
    pub model: String,
    /// Where manifests lie. Empty: ./models, beside the program, or /usr/share/spotter/models.
    pub model_dir: PathBuf,
    /// libtensorflowlite_c.so. Empty: beside the program, ./runtime/lib/<arch>, state_dir/lib, or the system's.
    pub library: PathBuf,
    /// Interpreter threads; 0: the board's choice.
    pub threads: usize,
    pub delegate: Option<Delegate>,
    pub onnx: Onnx,
    /// Parts of the picture to look closer at, for animals far away. Absent: the whole picture only.
    pub tiles: Option<Tiles>,
    /// Detections a second and stream, at most.
    pub rate_hz: f64,
    /// What gives way while the board is hot, slowed down or busy, or the detector does not keep up.
    pub adapt: Adapt,
    /// Labels that count as animals; ["*"] takes every label of the model.
    pub animals: Vec<String>,
    /// 0 to 1; absent: the manifest's.
    pub min_confidence: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Adapt {
    /// Nothing, whatever happens.
    Off,
    /// The rate, down to half of it.
    Rate,
    /// The rate, then the model, where both it and the backend are the board's choice.
    Model,
}

/// An external TFLite delegate (Coral Edge TPU, NPU, GPU).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    pub path: PathBuf,
    /// A model made for it, as in `Detect::model`, which stays the CPU's. Empty: the same.
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// The picture in overlapping tiles, beside the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tiles {
    pub columns: u32,
    pub rows: u32,
    /// What neighbours share, as a part of a tile's side.
    pub overlap: f32,
    pub turns: TileTurns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TileTurns {
    /// All tiles in every picture.
    All,
    /// One tile a picture, in turn.
    One,
}

impl Default for Tiles {
    fn default() -> Self {
        Self { columns: 2, rows: 2, overlap: 0.2, turns: TileTurns::All }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Onnx {
    /// libonnxruntime.so. Empty: where `Detect::library` is looked for.
    pub library: PathBuf,
    /// Tried in this order, before the CPU.
    pub providers: Vec<Provider>,
    /// A provider's own, as ONNX Runtime names them.
    pub options: BTreeMap<Provider, BTreeMap<String, String>>,
}

/// What runs a model for ONNX Runtime in the CPU's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Tensorrt,
    Cuda,
    Openvino,
}

/// When an animal is real, and when it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// The median of an animal's scores that makes it real, 0 to 1.
    pub threshold: f32,
    /// The smallest box that is looked at, as a fraction of the picture's area.
    pub min_area: f32,
    /// How many newest frames the median is over; a frame without the animal counts as 0.
    pub frames: usize,
    /// In how many of these it must have been seen, and within how many seconds.
    pub seen: usize,
    pub within_s: f64,
    /// An animal not seen for so long is gone.
    pub lost_after_s: f64,
    /// What differs for a label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, LabelRules>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelRules {
    pub threshold: Option<f32>,
    pub min_area: Option<f32>,
}

/// What is recorded of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordMode {
    Off,
    /// While an animal is there, with some seconds before and after.
    Events,
    Continuous,
}

impl RecordMode {
    /// As messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Events => "events",
            Self::Continuous => "continuous",
        }
    }
}

/// Recordings, and how long they and the visits are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    pub mode: RecordMode,
    /// Around a visit, seconds.
    pub before_s: f64,
    pub after_s: f64,
    /// A file's length, seconds; it ends at the next key frame.
    pub segment_s: f64,
    /// 0: for ever, as far as room allows.
    pub keep_days: u64,
    /// Of pictures and recordings together, bytes; 0: no limit.
    pub keep_bytes: u64,
    /// Left free on the file system, bytes.
    pub keep_free_bytes: u64,
    /// Empty: `recordings` in the state directory.
    pub dir: PathBuf,
}

/// A part of the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// Corners of a polygon, each x and y from 0 to 1; 0, 0 is the upper left.
    pub points: Vec<[f32; 2]>,
    /// The labels it concerns; empty: all.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// What can differ from stream to stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    pub detect: bool,
    /// Absent: `detect.rate_hz`.
    pub rate_hz: Option<f64>,
    /// Absent: those of `[events]`.
    pub threshold: Option<f32>,
    pub min_area: Option<f32>,
    pub labels: BTreeMap<String, LabelRules>,
    /// Places by name. An animal stands in one with the middle of its box's lower edge.
    pub zones: BTreeMap<String, Area>,
    /// Animals are told of once they were in one of these; empty: wherever they are.
    pub required_zones: Vec<String>,
    /// Where nothing is looked for.
    pub masks: Vec<Area>,
    /// Absent: `record.mode`.
    pub record: Option<RecordMode>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: String::new(),
            state_dir: PathBuf::new(),
            shutdown_grace_s: 10,
            pause_outlasts_reboot: false,
        }
    }
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            listen: any(1935),
            max_connections: 64,
            max_connections_per_address: 16,
            max_readers: 256,
            max_readers_per_address: 128,
            max_streams: 16,
            max_message_bytes: 4 << 20,
            max_chunk_streams: 64,
            max_partial_bytes: 8 << 20,
            max_amf_depth: 16,
            max_amf_string_bytes: 16 << 10,
            handshake_timeout_s: 10,
            idle_timeout_s: 20,
            reader_stall_timeout_s: 5,
            reconnect_grace_s: 30,
            gop_budget_bytes: 8 << 20,
            srt: Srt::default(),
            tls: Tls::default(),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { listen: any(1936), certificate: PathBuf::new(), key: PathBuf::new() }
    }
}

impl Default for Srt {
    fn default() -> Self {
        let passphrase = Password::default();
        Self { enabled: false, listen: any(8890), passphrase, latency_ms: 120 }
    }
}

impl Default for Decode {
    fn default() -> Self {
        let backend = if cfg!(feature = "gst") { DecodeBackend::Gst } else { DecodeBackend::Fake };
        Self { backend, order: Vec::new(), threads: 1, scaler: Scaler::Auto }
    }
}

/// The ten animals among COCO's 80 classes.
pub const COCO_ANIMALS: [&str; 10] =
    ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"];

impl Default for Detect {
    fn default() -> Self {
        let backend =
            if cfg!(feature = "engines") { DetectBackend::Auto } else { DetectBackend::Fake };
        Self {
            backend,
            model: "auto".into(),
            model_dir: PathBuf::new(),
            library: PathBuf::new(),
            threads: 0,
            delegate: None,
            onnx: Onnx::default(),
            tiles: None,
            rate_hz: 10.0,
            adapt: Adapt::Rate,
            animals: COCO_ANIMALS.map(String::from).to_vec(),
            min_confidence: None,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            min_area: 0.0,
            frames: 5,
            seen: 3,
            within_s: 5.0,
            lost_after_s: 5.0,
            labels: BTreeMap::new(),
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            mode: RecordMode::Events,
            before_s: 5.0,
            after_s: 5.0,
            segment_s: 60.0,
            keep_days: 7,
            keep_bytes: 0,
            keep_free_bytes: 1 << 30,
            dir: PathBuf::new(),
        }
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            detect: true,
            rate_hz: None,
            threshold: None,
            min_area: None,
            labels: BTreeMap::new(),
            zones: BTreeMap::new(),
            required_zones: Vec::new(),
            masks: Vec::new(),
            record: None,
        }
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

// The defaults of a build without them differ.
#[cfg(all(test, feature = "gst", feature = "tflite"))]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_real_ones() {
        let text = include_str!("../docs/spotter.toml");
        assert_eq!(parse("docs/spotter.toml", text).unwrap(), Config::default());
        // Every key is there: what the program knows and the file does not would be missed above.
        let known = toml::Table::try_from(Config::default()).unwrap();
        let written: toml::Table = text.parse().unwrap();
        for (section, keys) in &known {
            for key in keys.as_table().into_iter().flat_map(|t| t.keys()) {
                assert!(written[section].get(key).is_some(), "{section}.{key} is not documented");
            }
        }
    }
}
