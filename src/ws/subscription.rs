//! What a client asks for and what of it reaches the client: requests read from JSON, and the filter they set up. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::wire::{self, DemoRequest, Encoded};

/// Most streams or labels one subscription names.
const MAX_NAMES: usize = 100;

/// A text message, understood.
#[derive(Debug)]
pub(super) enum Request<'a> {
    Ping,
    Picture(DemoRequest<'a>),
    Subscribe(Filter),
    Unsubscribe,
}

/// Why a text message was not understood; `code` is for programs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misunderstood {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Misunderstood {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Reads one text message.
pub(super) fn understand(text: &str) -> Result<Request<'_>, Misunderstood> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(rename = "type", borrow)]
        kind: Option<Cow<'a, str>>,
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|e| {
        if e.is_data() {
            Misunderstood::new("bad_message", "not an object with a \"type\" of text")
        } else {
            Misunderstood::new("bad_json", format!("not JSON: {e}"))
        }
    })?;
    let bad = |e: serde_json::Error| Misunderstood::new("bad_message", e.to_string());
    match envelope.kind.as_deref() {
        Some("ping") => Ok(Request::Ping),
        Some("detection_request") => serde_json::from_str(text).map(Request::Picture).map_err(bad),
        Some("subscribe") => {
            let asked: Subscribe = serde_json::from_str(text).map_err(bad)?;
            Filter::new(asked.streams, asked.labels, asked.min_confidence).map(Request::Subscribe)
        }
        Some("unsubscribe") => Ok(Request::Unsubscribe),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            let known = "detection_request, subscribe, unsubscribe and ping are known";
            Err(Misunderstood::new("unknown_type", format!("type {other:?} is not known: {known}")))
        }
        None => Err(Misunderstood::new("bad_message", "a message needs a \"type\"")),
    }
}

#[derive(Deserialize)]
struct Subscribe {
    #[serde(default)]
    streams: Vec<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    min_confidence: f32,
}

/// What a subscription lets through.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    /// `None`: every stream.
    streams: Option<Vec<StreamId>>,
    /// Empty: every label.
    labels: Vec<String>,
    /// 0 to 1.
    min_confidence: f32,
}

impl Filter {
    /// No streams, or one of them `*`: all. Likewise labels.
    pub(super) fn new(
        streams: Vec<String>,
        labels: Vec<String>,
        min_confidence: f32,
    ) -> Result<Self, Misunderstood> {
        if streams.len() > MAX_NAMES || labels.len() > MAX_NAMES {
            let text = format!("more than {MAX_NAMES} streams or labels");
            return Err(Misunderstood::new("bad_message", text));
        }
        if !(0.0..=1.0).contains(&min_confidence) {
            return Err(Misunderstood::new("bad_message", "min_confidence is from 0 to 1"));
        }
        let every = |names: &[String]| names.is_empty() || names.iter().any(|n| n == "*");
        let streams = if every(&streams) {
            None
        } else {
            let ids: Result<_, _> = streams.iter().map(|s| StreamId::new(s)).collect();
            Some(ids.map_err(|e| Misunderstood::new("bad_message", e.to_string()))?)
        };
        let labels = if every(&labels) { Vec::new() } else { labels };
        Ok(Self { streams, labels, min_confidence })
    }

    /// Narrowed to the one stream the caller may read.
    pub(super) fn only(mut self, stream: &StreamId) -> Self {
        let wanted = self.takes(stream);
        self.streams = Some(if wanted { vec![stream.clone()] } else { Vec::new() });
        self
    }

    pub(super) fn takes(&self, stream: &StreamId) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(stream))
    }

    /// The message as this subscriber gets it. A frame of a wanted stream comes even when nothing wanted is in it, so
    /// that a viewer can take its boxes away.
    pub(super) fn detections(&self, message: &Encoded) -> Option<Bytes> {
        if !self.takes(&message.detections.stream) {
            return None;
        }
        Some(message.json_where(|d| {
            d.confidence >= self.min_confidence
                && (self.labels.is_empty() || self.labels.iter().any(|l| **l == *d.label))
        }))
    }
}

/// Streams as a subscriber last heard of them.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeMap<StreamId, StreamSummary>);

impl Heard {
    /// The messages that bring the subscriber up to date.
    pub(super) fn news(
        &mut self,
        node: &str,
        now: &Arc<[StreamSummary]>,
        filter: &Filter,
    ) -> Vec<Bytes> {
        let mut news = Vec::new();
        self.0.retain(|id, _| {
            let here = now.iter().any(|s| s.id == *id);
            if !here {
                news.push(wire::stream_gone(node, id.as_str()));
            }
            here
        });
        for summary in now.iter().filter(|s| filter.takes(&s.id)) {
            if self.0.get(&summary.id) != Some(summary) {
                self.0.insert(summary.id.clone(), summary.clone());
                news.push(wire::stream(node, summary));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> &'static str {
        understand(text).unwrap_err().code
    }

    #[test]
    fn messages_are_understood() {
        assert!(matches!(understand(r#"{"type":"ping","n":1}"#), Ok(Request::Ping)));
        assert!(matches!(understand(r#"{"type":"unsubscribe"}"#), Ok(Request::Unsubscribe)));
        let picture = r#"{"type":"detection_request","image_data":"QUJD","image_id":"x"}"#;
        assert!(matches!(understand(picture), Ok(Request::Picture(_))));
        let text = r#"{"type":"subscribe","streams":["a"],"labels":["dog"],"min_confidence":0.4}"#;
        let Ok(Request::Subscribe(filter)) = understand(text) else { panic!() };
        assert!(filter.takes(&StreamId::new("a").unwrap()));
        assert!(!filter.takes(&StreamId::new("b").unwrap()));
        for all in [r#"{"type":"subscribe"}"#, r#"{"type":"subscribe","streams":["a","*"]}"#] {
            let Ok(Request::Subscribe(filter)) = understand(all) else { panic!() };
            assert!(filter.takes(&StreamId::new("b").unwrap()));
        }
    }

    #[test]
    fn bad_messages_get_a_code() {
        for (text, expected) in [
            ("", "bad_json"),
            ("hello", "bad_json"),
            ("{\"type\":\"ping\"", "bad_json"),
            ("[1,2]", "bad_message"),
            ("{}", "bad_message"),
            (r#"{"type":5}"#, "bad_message"),
            (r#"{"type":"dance"}"#, "unknown_type"),
            (r#"{"type":"detection_request","image_data":5}"#, "bad_message"),
            (r#"{"type":"subscribe","streams":"a"}"#, "bad_message"),
            (r#"{"type":"subscribe","streams":["a/b"]}"#, "bad_message"),
            (r#"{"type":"subscribe","min_confidence":2}"#, "bad_message"),
            (r#"{"type":"subscribe","min_confidence":null}"#, "bad_message"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
        let deep = format!("{{\"type\":{}", "[".repeat(100_000));
        assert!(understand(&deep).is_err());
    }

    #[test]
    fn news_come_once() {
        let all = Filter::new(vec![], vec![], 0.0).unwrap();
        let summary = |id: &str| StreamSummary {
            id: StreamId::new(id).unwrap(),
            status: crate::media::StreamStatus::Online,
            params: None,
        };
        let mut heard = Heard::default();
        let two: Arc<[_]> = Arc::new([summary("a"), summary("b")]);
        assert_eq!(heard.news("n", &two, &all).len(), 2);
        assert!(heard.news("n", &two, &all).is_empty());
        let one: Arc<[_]> = Arc::new([summary("b")]);
        let news = heard.news("n", &one, &all);
        assert_eq!(news.len(), 1);
        assert!(std::str::from_utf8(&news[0]).unwrap().contains("offline"));
        let only_b = all.only(&StreamId::new("b").unwrap());
        assert_eq!(Heard::default().news("n", &two, &only_b).len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = understand(&text);
        }
    }
}
