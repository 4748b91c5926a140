//! What an SRT caller's stream id says it wants (pure): two forms are in use, `publish:live/<stream>?token=...` and that of
//! SRT's access control guidelines, `#!::r=live/<stream>,m=publish,u=<token>`.

use super::super::url::{Token, split_query, stream_name, token};
use crate::media::StreamId;
use crate::media::unit::BadStreamName;

/// A publication that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stream: StreamId,
    pub(crate) token: Option<Token>,
}

/// Why a stream id is of no use. The texts go to the log; a caller hears a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadStreamId {
    #[error("no stream id: give streamid=publish:live/<stream>?token=...")]
    None,
    #[error("the stream id is no text of at most 512 characters")]
    NoText,
    #[error("the stream id {0:?} names no stream: give publish:live/<stream>?token=...")]
    NoStream(String),
    #[error("this door takes publishers only (m=publish), read by RTMP, WebRTC or HLS")]
    NotPublish,
    #[error(transparent)]
    Name(#[from] BadStreamName),
}

/// SRT's own bound (SRTO_STREAMID).
const MAX_BYTES: usize = 512;
const STANDARD: &str = "#!::";

pub(crate) fn parse(id: &[u8]) -> Result<Wanted, BadStreamId> {
    let id = std::str::from_utf8(id).map_err(|_| BadStreamId::NoText)?.trim();
    if id.is_empty() {
        return Err(BadStreamId::None);
    }
    if id.len() > MAX_BYTES || id.chars().any(char::is_control) {
        return Err(BadStreamId::NoText);
    }
    match id.strip_prefix(STANDARD) {
        Some(pairs) => standard(pairs),
        None => plain(id),
    }
}

fn standard(pairs: &str) -> Result<Wanted, BadStreamId> {
    let value = |wanted: &str| {
        let mut pairs = pairs.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    // Without a mode a caller wants to read, say the guidelines.
    if value("m") != Some("publish") {
        return Err(BadStreamId::NotPublish);
    }
    let resource = value("r").ok_or_else(|| BadStreamId::NoStream(shown(pairs)))?;
    let user = value("token").or_else(|| value("u")).filter(|user| !user.is_empty());
    let stream = stream(resource)?;
    let token = token(resource).or_else(|| user.map(Token::new));
    Ok(Wanted { stream, token })
}

fn plain(id: &str) -> Result<Wanted, BadStreamId> {
    let path = match id.split_once(':') {
        Some(("publish", path)) => path,
        Some(("read" | "request", _)) => return Err(BadStreamId::NotPublish),
        _ => id,
    };
    if split_query(path).0.trim_matches('/').is_empty() {
        return Err(BadStreamId::NoStream(shown(path)));
    }
    Ok(Wanted { stream: stream(path)?, token: token(path) })
}

/// `live/<name>` as in RTMP's URL.
fn stream(path: &str) -> Result<StreamId, BadStreamName> {
    stream_name(split_query(path).0, "")
}

/// Without what may be a token.
fn shown(text: &str) -> String {
    split_query(text).0.split([',', '=']).next().unwrap_or_default().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(id: &str) -> (String, Option<String>) {
        let wanted = parse(id.as_bytes()).unwrap_or_else(|e| panic!("{id}: {e}"));
        (wanted.stream.to_string(), wanted.token.map(|t| t.secret().to_owned()))
    }

    #[test]
    fn both_forms_are_understood() {
        let with = |name: &str, token: &str| (name.to_owned(), Some(token.to_owned()));
        assert_eq!(wanted("publish:live/barn?token=abc"), with("barn", "abc"));
        assert_eq!(wanted("publish:/live/barn/?x=1&token=abc"), with("barn", "abc"));
        assert_eq!(wanted("live/barn"), ("barn".into(), None));
        assert_eq!(wanted("publish:live"), ("stream".into(), None));
        assert_eq!(wanted("#!::r=live/barn,m=publish,u=abc"), with("barn", "abc"));
        assert_eq!(wanted("#!::m=publish,r=live/barn,u=me,token=abc"), with("barn", "abc"));
        assert_eq!(wanted("#!::m=publish,r=live/barn?token=abc,u=me"), with("barn", "abc"));
        assert_eq!(wanted("#!::m=publish,r=live/barn,u="), ("barn".into(), None));
    }

    #[test]
    fn what_names_no_stream_to_publish_is_refused() {
        let refused = |id: &str| parse(id.as_bytes()).unwrap_err();
        assert_eq!(refused(""), BadStreamId::None);
        assert_eq!(refused(" "), BadStreamId::None);
        assert_eq!(refused("read:live/barn"), BadStreamId::NotPublish);
        assert_eq!(refused("#!::r=live/barn"), BadStreamId::NotPublish);
        assert_eq!(refused("#!::r=live/barn,m=request"), BadStreamId::NotPublish);
        assert!(matches!(refused("#!::m=publish,u=abc"), BadStreamId::NoStream(_)));
        assert!(matches!(refused("publish:?token=abc"), BadStreamId::NoStream(_)));
        for id in ["publish:barn", "live/a/b", "live/a b", "publish:live/ä", "nonsense"] {
            assert!(matches!(refused(id), BadStreamId::Name(_)), "{id}");
        }
        assert_eq!(refused(&"x".repeat(513)), BadStreamId::NoText);
        assert_eq!(parse(b"\xFF\xFE").unwrap_err(), BadStreamId::NoText);
        assert_eq!(refused("live/a\nb"), BadStreamId::NoText);
        // No secret is told again.
        for id in ["publish:?token=hush", "#!::m=publish,u=hush", "publish:barn?token=hush"] {
            assert!(!refused(id).to_string().contains("hush"), "{id}");
        }
    }

    proptest! {
        #[test]
        fn any_id_is_judged(id in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&id);
        }

        #[test]
        fn any_pairs_are_judged(pairs in "[rmu=,:#!?a-z/]{0,40}") {
            let _ = parse(format!("#!::{pairs}").as_bytes());
        }
    }
}
