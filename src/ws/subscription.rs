//! What a client asks for: requests read from JSON. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use crate::wire::{BadFilter, DemoRequest, Filter};

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

impl From<BadFilter> for Misunderstood {
    fn from(bad: BadFilter) -> Self {
        Self::new("bad_message", bad.to_string())
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
            let filter = Filter::new(asked.streams, asked.labels, asked.min_confidence);
            Ok(Request::Subscribe(filter?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::media::StreamId;
    use crate::media::stream::StreamSummary;
    use crate::wire::Heard;
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
