//! The versioned JSON of MQTT and WebSocket, held by golden files. It shapes messages; the exits carry them.

mod attached; // cameras, pins, the pause
mod demo; // the old demo's messages
mod event; // an animal's visit
mod filter; // what of all that one subscriber gets
mod pace; // how often streams are looked at
mod stats; // the statistics message

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::detect::{Detection, Detections, DetectorInfo, Timings};
use crate::media::StreamStatus;
use crate::media::stream::StreamSummary;
use crate::relay::{RelayState, RelayStatus};

pub use attached::{Attached, PauseInfo, PinInUse, SourceInUse};
pub use demo::{DemoRequest, demo_failure, demo_response, pong};
pub use event::{Kept, event, message_id, visit_as_told};
pub use filter::{BadFilter, Filter, Heard};
pub use pace::Pace;
pub use stats::{LinkStats, Load, NodeStats, StreamLatency, StreamMeter, StreamStats};

/// The version every message of this form carries.
pub const VERSION: u32 = 1;

/// One frame's detections on their way to all exits; the JSON is made by the first that needs it and shared.
#[derive(Debug)]
pub struct Encoded {
    pub node: Arc<str>,
    pub detections: Arc<Detections>,
    json: OnceLock<Bytes>,
}

impl Encoded {
    pub fn new(node: Arc<str>, detections: Arc<Detections>) -> Arc<Self> {
        Arc::new(Self { node, detections, json: OnceLock::new() })
    }

    /// The whole message; always UTF-8.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| self.encode(|_| true)).clone()
    }

    /// The message with the wanted items only. The shared bytes when nothing is left out.
    pub fn json_where(&self, wanted: impl Fn(&Detection) -> bool) -> Bytes {
        if self.detections.items.iter().all(&wanted) { self.json() } else { self.encode(wanted) }
    }

    fn encode(&self, wanted: impl Fn(&Detection) -> bool) -> Bytes {
        let d = &*self.detections;
        json(&DetectionsV1 {
            v: VERSION,
            kind: "detections",
            node: &self.node,
            stream: d.stream.as_str(),
            frame: d.seq,
            pts_ms: d.pts.as_millis(),
            captured_at: rfc3339(d.captured),
            width: d.width,
            height: d.height,
            model: &d.model,
            latency_ms: d.timings.into(),
            detections: d.items.iter().filter(|d| wanted(d)).map(Item::from).collect(),
        })
    }
}

/// `{"v":1,"type":"detections",...}`: all that was found in one frame.
#[derive(Debug, Serialize)]
struct DetectionsV1<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    node: &'a str,
    stream: &'a str,
    /// Counts the stream's decoded pictures from 0.
    frame: u64,
    pts_ms: i64,
    /// Arrival of the access unit's last byte, UTC.
    captured_at: String,
    /// Pixels of the published picture.
    width: u32,
    height: u32,
    model: &'a str,
    latency_ms: LatencyMs,
    detections: Vec<Item<'a>>,
}

/// Milliseconds to 0.1. `total` is arrival to hand-over to the exits.
#[derive(Debug, Serialize)]
struct LatencyMs {
    decode: f64,
    wait: f64,
    infer: f64,
    total: f64,
}

impl From<Timings> for LatencyMs {
    fn from(t: Timings) -> Self {
        Self { decode: ms(t.decode), wait: ms(t.wait), infer: ms(t.infer), total: ms(t.total) }
    }
}

#[derive(Debug, Serialize)]
struct Item<'a> {
    /// Which animal of the stream; null for a box that is too faint or too small to follow.
    track_id: Option<u64>,
    class_id: u16,
    label: &'a str,
    /// 0 to 1, to 0.0001.
    confidence: f64,
    #[serde(flatten)]
    place: Place,
}

impl<'a> From<&'a Detection> for Item<'a> {
    fn from(d: &'a Detection) -> Self {
        Self {
            track_id: d.track_id,
            class_id: d.class_id,
            label: &d.label,
            confidence: confidence(d.confidence),
            place: Place::of(d),
        }
    }
}

/// Pixels to 0.1: corners x1, y1, x2, y2 and the middle.
#[derive(Debug, Serialize)]
struct Place {
    bbox: [f64; 4],
    center_x: f64,
    center_y: f64,
}

impl Place {
    fn of(d: &Detection) -> Self {
        let b = d.bbox;
        Self {
            bbox: [b.x1, b.y1, b.x2, b.y2].map(tenth),
            center_x: tenth((b.x1 + b.x2) / 2.0),
            center_y: tenth((b.y1 + b.y2) / 2.0),
        }
    }
}

/// `{"v":1,"type":"stream",...}`: a stream came, changed or went.
#[derive(Debug, Serialize)]
struct StreamV1<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    node: &'a str,
    stream: &'a str,
    /// "online", "waiting" for its publisher to come back, or "offline".
    status: &'static str,
    /// Absent until the first parameters came.
    #[serde(skip_serializing_if = "Option::is_none")]
    video: Option<VideoV1>,
}

#[derive(Debug, Serialize)]
struct VideoV1 {
    codec: &'static str,
    /// Pixels.
    width: u32,
    height: u32,
}

/// The push message about a stream that is there.
pub fn stream(node: &str, summary: &StreamSummary) -> Bytes {
    let video = summary.params.as_ref().map(|p| VideoV1 {
        codec: p.codec.name(),
        width: p.width,
        height: p.height,
    });
    let status = status_name(Some(summary.status));
    let stream = summary.id.as_str();
    json(&StreamV1 { v: VERSION, kind: "stream", node, stream, status, video })
}

/// The push message about a stream that ended.
pub fn stream_gone(node: &str, stream: &str) -> Bytes {
    let status = status_name(None);
    json(&StreamV1 { v: VERSION, kind: "stream", node, stream, status, video: None })
}

fn status_name(status: Option<StreamStatus>) -> &'static str {
    status.map_or("offline", StreamStatus::name)
}

/// `{"type":"error","code":..,"message":..}`: a request could not be understood or done.
pub fn error(code: &str, message: &str) -> Bytes {
    #[derive(Serialize)]
    struct ErrorV1<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        code: &'a str,
        message: &'a str,
    }
    json(&ErrorV1 { kind: "error", code, message })
}

/// `{"type":"lagged","dropped":n}`: so many messages were left out because the reader was slow.
pub fn lagged(dropped: u64) -> Bytes {
    #[derive(Serialize)]
    struct Lagged {
        #[serde(rename = "type")]
        kind: &'static str,
        dropped: u64,
    }
    json(&Lagged { kind: "lagged", dropped })
}

/// What a node is and has, retained on MQTT. Addresses carry no credentials.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NodeStatus {
    pub version: String,
    /// The board's name as `spotter probe` shows it.
    pub board: String,
    /// One entry a live stream: the decoder element in use.
    pub decoders: Vec<DecoderInUse>,
    /// Absent until a detector is open.
    pub detector: Option<DetectorInfo>,
    /// Why there is none now, or why a changed configuration was not taken.
    pub detector_error: Option<String>,
    pub pace: Pace,
    pub relays: Vec<RelayInUse>,
    pub addresses: Addresses,
    pub mqtt: LinkState,
    pub capacity: Capacity,
    pub storage: Storage,
    #[serde(flatten)]
    pub attached: Attached,
    pub config: ConfigState,
}

/// How the disk stands with visits, pictures and recordings. Whatever it says, detection goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Storage {
    pub state: StorageState,
    /// What is wrong and what to do; absent when all is well.
    pub message: Option<String>,
    /// Of the file system; and of all pictures and recordings together. Looked at once a minute.
    pub free_bytes: u64,
    pub used_bytes: u64,
    /// Since midnight UTC, or since the start.
    pub written_today_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StorageState {
    /// Nothing is kept: not yet at the start, or no more at the end.
    Off,
    Ok,
    Full,
    ReadOnly,
    Failed,
}

/// How the connection to the broker stands. No text here holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LinkState {
    /// Switched off in the configuration.
    Disabled,
    Connecting {
        broker: String,
    },
    Up {
        broker: String,
        /// What does not go as it should there, with the remedy; absent when all is well.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Up, but another node has our name there and throws us out.
    Contested {
        broker: String,
        reason: String,
    },
    Down {
        broker: String,
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DecoderInUse {
    pub stream: String,
    pub decoder: String,
    /// Why it is given nothing to decode now; absent while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting: Option<String>,
    /// Decoders that were preferred and could not be had, each with its reason.
    pub refusals: Vec<String>,
}

/// A stream pushed to another server.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RelayInUse {
    pub name: String,
    pub stream: String,
    /// "idle" without its stream, "connecting", "live", or "failed" and about to be tried again.
    #[schema(value_type = String)]
    pub state: RelayState,
    /// `host:port` only: the rest of its URL is secret.
    pub target: String,
    /// Why the last attempt failed; absent when it did not.
    pub error: Option<String>,
    /// When it came to this state, UTC.
    pub since: String,
}

impl From<RelayStatus> for RelayInUse {
    fn from(r: RelayStatus) -> Self {
        let since = rfc3339(r.since);
        let RelayStatus { name, stream, state, target, error, .. } = r;
        Self { name, stream, state, target, error, since }
    }
}

/// `host:port` each; empty when that door is closed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct Addresses {
    pub rtmp: String,
    /// Those with TLS, and SRT's, are left out where their door is closed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rtmps: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub srt: String,
    pub websocket: String,
    pub mqtt: String,
    /// The embedded broker's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mqtts: String,
    pub web: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Capacity {
    pub max_streams: usize,
    pub streams: usize,
    /// Detections a second that the detector could do; absent until measured.
    pub detections_per_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ConfigState {
    /// Empty: built-in defaults.
    pub file: String,
    /// Why the newest change was not taken over; absent when it was.
    pub error: Option<String>,
}

/// The retained status message of `node`.
pub fn node_status(node: &str, status: &NodeStatus) -> Bytes {
    #[derive(Serialize)]
    struct StatusV1<'a> {
        v: u32,
        #[serde(rename = "type")]
        kind: &'static str,
        node: &'a str,
        #[serde(flatten)]
        status: &'a NodeStatus,
    }
    json(&StatusV1 { v: VERSION, kind: "status", node, status })
}

/// The periodic statistics message of `node`.
pub fn node_stats(node: &str, stats: &NodeStats) -> Bytes {
    #[derive(Serialize)]
    struct StatsV1<'a> {
        v: u32,
        #[serde(rename = "type")]
        kind: &'static str,
        node: &'a str,
        #[serde(flatten)]
        stats: &'a NodeStats,
    }
    json(&StatsV1 { v: VERSION, kind: "stats", node, stats })
}

fn json<T: Serialize>(message: &T) -> Bytes {
    serde_json::to_vec(message).expect("these types have string keys and no failing parts").into()
}

/// UTC with milliseconds, as in `2026-11-23T13:10:00.123Z`.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    // Printing three digits cuts the rest off, so a message never claims a later arrival than there was.
    format!("{at:.3}")
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 10_000.0).round() / 10.0
}

fn tenth(x: f32) -> f64 {
    rounded(x, 10.0)
}

fn confidence(x: f32) -> f64 {
    rounded(x, 10_000.0)
}

/// JSON knows no infinity, and -0.0 puzzles readers.
fn rounded(x: f32, steps: f64) -> f64 {
    let r = (f64::from(x) * steps).round() / steps;
    if r.is_finite() && r != 0.0 { r } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::BBox;
    use crate::detect::{Accelerator, AcceleratorUse};
    use crate::media::{MediaTime, StreamId, VideoCodec, VideoParams};

    fn dog(confidence: f32, bbox: [f32; 4]) -> Detection {
        let [x1, y1, x2, y2] = bbox;
        let bbox = BBox { x1, y1, x2, y2 };
        Detection { class_id: 16, label: "dog".into(), confidence, bbox, track_id: None }
    }

    fn message(items: Vec<Detection>) -> Arc<Encoded> {
        let detections = Detections {
            stream: StreamId::new("garden").unwrap(),
            seq: 1234,
            pts: MediaTime::from_millis(41_133),
            captured: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_439_400_123_999),
            width: 1280,
            height: 720,
            model: "yolov4-tiny-416".into(),
            timings: Timings {
                decode: Duration::from_micros(8_123),
                wait: Duration::from_micros(960),
                infer: Duration::from_micros(9_700),
                total: Duration::from_micros(21_449),
            },
            items: items.into(),
        };
        Encoded::new("spotter-3f2a".into(), Arc::new(detections))
    }

    /// `SPOTTER_BLESS=1` writes the files anew; look at the difference before committing it.
    #[track_caller]
    fn golden(name: &str, got: &Bytes) {
        let file = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let got = format!("{}\n", std::str::from_utf8(got).unwrap());
        if std::env::var_os("SPOTTER_BLESS").is_some() {
            std::fs::write(&file, &got).unwrap();
        }
        assert_eq!(got, std::fs::read_to_string(&file).unwrap(), "{file}");
    }

    #[test]
    fn detections_keep_their_form() {
        let two = vec![
            dog(0.830_04, [12.34, 50.05, 301.96, 400.0]),
            dog(0.4, [0.0, 0.0, 1279.99, 719.0]),
        ];
        golden("detections", &message(two).json());
        golden("detections-empty", &message(vec![]).json());
    }

    #[test]
    fn bytes_are_made_once_and_shared_unless_items_are_left_out() {
        let m = message(vec![dog(0.8, [0.0; 4]), dog(0.3, [0.0; 4])]);
        assert_eq!(m.json().as_ptr(), m.json().as_ptr());
        assert_eq!(m.json_where(|_| true).as_ptr(), m.json().as_ptr());
        let some: serde_json::Value =
            serde_json::from_slice(&m.json_where(|d| d.confidence > 0.5)).unwrap();
        assert_eq!(some["detections"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn numbers_json_cannot_hold_become_zero() {
        let m = message(vec![dog(f32::NAN, [f32::INFINITY, -0.0, f32::NEG_INFINITY, -0.01])]);
        let v: serde_json::Value = serde_json::from_slice(&m.json()).unwrap();
        assert_eq!(v["detections"][0]["confidence"], 0.0);
        assert_eq!(v["detections"][0]["bbox"], serde_json::json!([0.0, 0.0, 0.0, 0.0]));
        assert!(!std::str::from_utf8(&m.json()).unwrap().contains("-0"));
    }

    #[test]
    fn streams_errors_and_lag_keep_their_form() {
        let mut summary = StreamSummary {
            id: StreamId::new("garden").unwrap(),
            status: StreamStatus::Online,
            params: None,
        };
        golden("stream-new", &stream("spotter-3f2a", &summary));
        summary.status = StreamStatus::Waiting;
        summary.params = Some(Arc::new(VideoParams {
            codec: VideoCodec::H264,
            width: 1280,
            height: 720,
            record: Bytes::new(),
            nal_length_size: 4,
        }));
        golden("stream-waiting", &stream("spotter-3f2a", &summary));
        golden("stream-gone", &stream_gone("spotter-3f2a", "garden"));
        golden("error", &error("bad_json", "not JSON: \"quoted\""));
        golden("lagged", &lagged(17));
    }

    #[test]
    fn events_keep_their_form() {
        use crate::track::{Best, Event, EventKind, Moment, Visit};
        let at = |ms: u64| Moment {
            media: MediaTime::from_millis(41_000 + ms as i64),
            wall: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_439_400_000 + ms),
        };
        let bbox = BBox { x1: 12.34, y1: 50.05, x2: 301.96, y2: 400.0 };
        let begun = Visit {
            id: "1795439400.000000-k3x9ab".into(),
            stream: StreamId::new("garden").unwrap(),
            track_id: 7,
            label: "dog".into(),
            score: 0.830_04,
            top_score: 0.8,
            start: at(0),
            seen: at(200),
            end: None,
            width: 1280,
            height: 720,
            bbox,
            best: Best { at: at(200), seq: 6, score: 0.830_04, bbox },
            current_zones: vec![],
            entered_zones: vec![],
        };
        let lawn: Vec<Arc<str>> = vec!["lawn".into()];
        let over = Visit {
            seen: at(2133),
            end: Some(at(2133)),
            top_score: 0.85,
            current_zones: lawn.clone(),
            entered_zones: lawn,
            ..begun.clone()
        };
        let (begun, over) = (Arc::new(begun), Arc::new(over));
        let new = Event { kind: EventKind::New, before: Arc::clone(&begun), after: begun.clone() };
        golden("event-new", &event("spotter-3f2a", &new, Kept::default()));
        let end = Event { kind: EventKind::End, before: begun, after: over };
        golden("event-end", &event("spotter-3f2a", &end, Kept { snapshot: true, clip: true }));
    }

    #[test]
    fn status_and_stats_keep_their_form() {
        let status = NodeStatus {
            version: "0.1.0".into(),
            board: "Raspberry Pi 5 Model B".into(),
            decoders: vec![DecoderInUse {
                stream: "garden".into(),
                decoder: "avdec_h264".into(),
                resting: None,
                refusals: vec!["v4l2h264dec: not installed".into()],
            }],
            detector: Some(DetectorInfo {
                backend: "tflite-xnnpack".into(),
                model: "yolov4-tiny-416".into(),
                width: 416,
                height: 416,
                threads: 1,
                library: "2.17.1".into(),
                refusals: vec![],
                accelerators: vec![Accelerator {
                    name: "delegate /usr/lib/libedgetpu.so.1".into(),
                    state: AcceleratorUse::Dropped,
                    versions: vec!["TensorFlow Lite 2.17.1".into(), "libedgetpu.so.1.0".into()],
                    takes: Some("57 of 60 operations".into()),
                    reason: Some("did not answer within 2.0 s".into()),
                    failures: 1,
                    retry_after_s: Some(5),
                }],
            }),
            detector_error: None,
            pace: pace::example(),
            relays: vec![RelayInUse::from(RelayStatus {
                name: "cloud".into(),
                stream: "garden".into(),
                state: RelayState::Failed,
                target: "live.example.com:443".into(),
                error: Some("live.example.com:443 closed the connection".into()),
                since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_439_400_123),
            })],
            addresses: Addresses {
                rtmp: "0.0.0.0:1935".into(),
                rtmps: String::new(),
                srt: String::new(),
                websocket: "0.0.0.0:8765".into(),
                mqtt: String::new(),
                mqtts: String::new(),
                web: "0.0.0.0:8080".into(),
            },
            mqtt: LinkState::Up { broker: "mqtt://192.0.2.9:1883".into(), reason: None },
            capacity: Capacity { max_streams: 16, streams: 1, detections_per_s: Some(38.5) },
            storage: Storage {
                state: StorageState::Full,
                message: Some("no room".into()),
                free_bytes: 1_000_000,
                used_bytes: 5_000_000_000,
                written_today_bytes: 300_000_000,
            },
            attached: attached::example(),
            config: ConfigState { file: "/etc/spotter/spotter.toml".into(), error: None },
        };
        golden("status", &node_status("spotter-3f2a", &status));
        golden("stats", &node_stats("spotter-3f2a", &stats::example()));
    }

    #[test]
    fn the_demo_s_answers_keep_their_form() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_439_400_250);
        let id = serde_json::json!("img-7");
        let found = [dog(0.830_04, [12.34, 50.05, 301.96, 400.0])];
        golden("demo-response", &demo_response(&id, &found, Duration::from_micros(12_345), at));
        golden("demo-failure", &demo_failure(&serde_json::Value::Null, "not a picture", at));
        golden("pong", &pong());
    }
}
