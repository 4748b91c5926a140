//! The message about an animal's visit, with the names Frigate's users know.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{VERSION, confidence, json, tenth};
use crate::detect::BBox;
use crate::track::{Event, EventKind, Visit};

/// What is kept of a visit, as those who keep it know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    pub snapshot: bool,
    pub clip: bool,
}

/// `{"v":1,"type":"new"|"update"|"end",...}`: the visit before and after.
#[derive(Debug, Serialize)]
struct EventV1<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The same however often and by whatever way this message comes, and no other message's.
    message_id: String,
    node: &'a str,
    before: VisitV1<'a>,
    after: VisitV1<'a>,
}

/// Times are seconds since 1970 to the millisecond, `*pts_ms` milliseconds on the stream's own line; boxes are pixels.
#[derive(Debug, Serialize)]
struct VisitV1<'a> {
    id: &'a str,
    camera: &'a str,
    track_id: u64,
    frame_time: f64,
    pts_ms: i64,
    label: &'a str,
    sub_label: Option<&'a str>,
    score: f64,
    top_score: f64,
    false_positive: bool,
    start_time: f64,
    start_pts_ms: i64,
    /// Null while it lasts.
    end_time: Option<f64>,
    end_pts_ms: Option<i64>,
    #[serde(rename = "box")]
    corners: [f64; 4],
    area: u64,
    ratio: f64,
    /// Pixels of the picture the boxes are of.
    width: u32,
    height: u32,
    current_zones: Vec<&'a str>,
    entered_zones: Vec<&'a str>,
    has_snapshot: bool,
    has_clip: bool,
    thumbnail: Option<&'a str>,
    /// The best picture.
    snapshot: Snapshot,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    frame_time: f64,
    pts_ms: i64,
    frame: u64,
    score: f64,
    #[serde(rename = "box")]
    corners: [f64; 4],
}

/// The message about one event of `node`.
pub fn event(node: &str, event: &Event, kept: Kept) -> Bytes {
    json(&EventV1 {
        v: VERSION,
        kind: event.kind.name(),
        message_id: message_id(event),
        node,
        before: visit(&event.before, kept),
        after: visit(&event.after, kept),
    })
}

/// Names one message about a visit: its id and kind, and for updates, of which there are many, the media time.
pub fn message_id(event: &Event) -> String {
    let (id, kind) = (&event.after.id, event.kind.name());
    match event.kind {
        EventKind::Update => format!("{id}-{kind}-{}", event.after.seen.media.as_millis()),
        EventKind::New | EventKind::End => format!("{id}-{kind}"),
    }
}

/// The visit alone, as it stands in a list.
pub fn visit_as_told<S: Serializer>(v: &Visit, kept: Kept, s: S) -> Result<S::Ok, S::Error> {
    visit(v, kept).serialize(s)
}

fn visit(v: &Visit, kept: Kept) -> VisitV1<'_> {
    let (w, h) = (f64::from(v.bbox.x2 - v.bbox.x1), f64::from(v.bbox.y2 - v.bbox.y1));
    VisitV1 {
        id: &v.id,
        camera: v.stream.as_str(),
        track_id: v.track_id,
        frame_time: unix(v.seen.wall),
        pts_ms: v.seen.media.as_millis(),
        label: &v.label,
        sub_label: None,
        score: confidence(v.score),
        top_score: confidence(v.top_score),
        false_positive: false,
        start_time: unix(v.start.wall),
        start_pts_ms: v.start.media.as_millis(),
        end_time: v.end.map(|end| unix(end.wall)),
        end_pts_ms: v.end.map(|end| end.media.as_millis()),
        corners: corners(&v.bbox),
        area: (w * h).round() as u64,
        ratio: if h > 0.0 { (w / h * 100.0).round() / 100.0 } else { 0.0 },
        width: v.width,
        height: v.height,
        current_zones: v.current_zones.iter().map(|z| &**z).collect(),
        entered_zones: v.entered_zones.iter().map(|z| &**z).collect(),
        has_snapshot: kept.snapshot,
        has_clip: kept.clip,
        thumbnail: None,
        snapshot: Snapshot {
            frame_time: unix(v.best.at.wall),
            pts_ms: v.best.at.media.as_millis(),
            frame: v.best.seq,
            score: confidence(v.best.score),
            corners: corners(&v.best.bbox),
        },
    }
}

fn corners(b: &BBox) -> [f64; 4] {
    [b.x1, b.y1, b.x2, b.y2].map(tenth)
}

fn unix(at: SystemTime) -> f64 {
    let ms = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    ms as f64 / 1000.0
}
