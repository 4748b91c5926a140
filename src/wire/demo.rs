//! The demo's request and response protocol: what a client sends to have one picture looked at, and what it gets.
//! It neither decodes pictures nor looks at them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Place, confidence, json};
use crate::detect::Detection;

/// `{"type":"detection_request",...}`. Members that are not here are ignored, as the demo does.
#[derive(Debug, Deserialize)]
pub struct DemoRequest<'a> {
    /// Base64 of a JPEG or PNG file, with or without `data:...;base64,` before it.
    #[serde(borrow, default)]
    pub image_data: Option<Cow<'a, str>>,
    /// Whatever the client wants back with the answer.
    #[serde(default)]
    pub image_id: Value,
}

impl DemoRequest<'_> {
    /// The base64 text without a `data:` prefix; empty when there is none.
    pub fn base64(&self) -> &str {
        let text = self.image_data.as_deref().unwrap_or_default().trim();
        match text.strip_prefix("data:") {
            Some(rest) => rest.split_once(',').map_or("", |(_, data)| data).trim(),
            None => text,
        }
    }
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    image_id: &'a Value,
    detections: Vec<DemoItem<'a>>,
    /// Seconds.
    processing_time: f64,
    /// Seconds since 1970, UTC.
    timestamp: f64,
}

#[derive(Serialize)]
struct DemoItem<'a> {
    class_id: u16,
    class_name: &'a str,
    confidence: f64,
    #[serde(flatten)]
    place: Place,
}

impl<'a> From<&'a Detection> for DemoItem<'a> {
    fn from(d: &'a Detection) -> Self {
        Self {
            class_id: d.class_id,
            class_name: &d.label,
            confidence: confidence(d.confidence),
            place: Place::of(d),
        }
    }
}

/// The answer to a picture that was looked at; `took` is decoding the picture and detecting together.
pub fn demo_response(id: &Value, found: &[Detection], took: Duration, now: SystemTime) -> Bytes {
    let processing_time = (took.as_secs_f64() * 1e6).round() / 1e6;
    let detections = found.iter().map(DemoItem::from).collect();
    response(id, None, detections, processing_time, now)
}

/// The answer to a picture that could not be looked at.
pub fn demo_failure(id: &Value, error: &str, now: SystemTime) -> Bytes {
    response(id, Some(error), Vec::new(), 0.0, now)
}

/// The answer to `{"type":"ping"}`.
pub fn pong() -> Bytes {
    Bytes::from_static(br#"{"type":"pong"}"#)
}

fn response(
    image_id: &Value,
    error: Option<&str>,
    detections: Vec<DemoItem<'_>>,
    processing_time: f64,
    now: SystemTime,
) -> Bytes {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = (since.as_secs_f64() * 1e3).round() / 1e3;
    let data = Data { image_id, detections, processing_time, timestamp };
    json(&Response { kind: "detection_response", error, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_demo_reads_them() {
        for (text, base64, id) in [
            (r#"{"image_data":"QUJD","image_id":"a","timestamp":1.5}"#, "QUJD", Value::from("a")),
            (r#"{"image_data":"data:image/png;base64,QUJD"}"#, "QUJD", Value::Null),
            (r#"{"image_data":" QUJD\n","image_id":7}"#, "QUJD", Value::from(7)),
            (r#"{"image_data":"data:nothing"}"#, "", Value::Null),
            (r#"{"image_data":null}"#, "", Value::Null),
            (r#"{"type":"detection_request","extra":[1]}"#, "", Value::Null),
        ] {
            let request: DemoRequest<'_> = serde_json::from_str(text).unwrap();
            assert_eq!(request.base64(), base64, "{text}");
            assert_eq!(request.image_id, id, "{text}");
        }
        assert!(serde_json::from_str::<DemoRequest<'_>>(r#"{"image_data":5}"#).is_err());
    }
}
