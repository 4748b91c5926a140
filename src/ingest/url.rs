//! What a client's connect, publish and play say of the stream and of the credential (pure). Clients split a URL between the
//! three as they like.

use crate::media::StreamId;
use crate::media::unit::BadStreamName;

/// The application every stream is under, as in `rtmp://host/live/<stream>`.
pub(super) const APP: &str = "live";
/// The stream that is meant when a URL names none.
const DEFAULT_STREAM: &str = "stream";

/// A credential; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(super) fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The stream's name out of application and key. Clients split a URL's path between the two at different slashes,
/// so only the whole of it counts: `live/<name>`, or `live` alone for the default stream.
pub(super) fn stream_name(app: &str, key: &str) -> Result<StreamId, BadStreamName> {
    let mut parts = app.split('/').chain(key.split('/')).filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    let rest: Vec<_> = parts.collect();
    match (first == APP, rest.is_empty()) {
        (true, true) => StreamId::new(DEFAULT_STREAM),
        (true, false) => StreamId::new(&rest.join("/")),
        (false, _) => StreamId::new(&format!("{app}/{key}")),
    }
}

pub(super) fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// The value of `token` in the query of `text`.
pub(super) fn token(text: &str) -> Option<Token> {
    let (_, query) = split_query(text);
    let pairs = query.split(['&', '?']).filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == "token").map(|(_, value)| value).next_back()?;
    // With the token in the application, a client may append the stream's path behind it.
    let value = value.split('/').next().unwrap_or_default();
    (!value.is_empty()).then(|| Token(value.to_owned()))
}

/// tcUrl of a connect command that passed its check.
pub(super) fn tc_url(body: &[u8]) -> Option<String> {
    let values = rml_amf0::deserialize(&mut &body[..]).ok()?;
    let properties = values.into_iter().nth(2)?.get_object_properties()?;
    properties.into_iter().find(|(key, _)| key == "tcUrl").and_then(|(_, v)| v.get_string())
}
