//! The answers that spotter words itself, where the session has none or others do not understand its own (pure).

use bytes::Bytes;
use rml_amf0::Amf0Value;

use super::dechunk::{Message, kind};

/// User control events 6 and 7 (7.1.7): the answer gives the same time back.
pub(super) fn ping_answer(payload: &[u8]) -> Option<Message> {
    let time = payload.strip_prefix(&[0, 6])?.first_chunk::<4>()?;
    let payload = Bytes::from([&[0, 7][..], time].concat());
    Some(Message { kind: kind::USER_CONTROL, stream: 0, timestamp_ms: 0, payload })
}

/// A `_result` to a call that wants one.
pub(super) fn result(transaction: f64, value: Amf0Value) -> Option<Message> {
    if transaction == 0.0 {
        return None;
    }
    let name = Amf0Value::Utf8String("_result".into());
    command(0, vec![name, Amf0Value::Number(transaction), Amf0Value::Null, value])
}

pub(super) fn status(stream: u32, level: &str, code: &str, text: &str) -> Option<Message> {
    let text: String = text.chars().take(1000).collect();
    let pairs = [("level", level), ("code", code), ("description", &text)];
    let info = pairs.map(|(k, v)| (k.to_owned(), Amf0Value::Utf8String(v.to_owned())));
    let name = Amf0Value::Utf8String("onStatus".into());
    let info = Amf0Value::Object(info.into_iter().collect());
    command(stream, vec![name, Amf0Value::Number(0.0), Amf0Value::Null, info])
}

pub(super) fn command(stream: u32, values: Vec<Amf0Value>) -> Option<Message> {
    let payload = rml_amf0::serialize(&values).ok()?.into();
    Some(Message { kind: kind::COMMAND_AMF0, stream, timestamp_ms: 0, payload })
}
