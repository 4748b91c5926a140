//! The HTTP request before a WebSocket: its head read, judged where it came from, and answered. Pure.

use crate::auth::{Origin, bearer};

/// Longest request head, bytes.
pub(super) const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// Why a request gets no WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("not an HTTP request")]
    NotHttp,
    #[error("the request's head is over {MAX_HEAD} bytes")]
    TooLong,
    #[error("this is a WebSocket: connect with ws://, or open the viewer for pages")]
    NotWebSocket,
}

/// What is needed of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) path: String,
    /// Decoded `name=value` pairs in order.
    pub(super) query: Vec<(String, String)>,
    /// Sec-WebSocket-Key.
    pub(super) key: String,
    /// `Authorization: Bearer`.
    bearer: Option<String>,
    origin: Origin,
}

/// Reads a head that ends in an empty line; `None` when it has not ended yet. The second value is its length.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => {
            return Err(BadRequest::TooLong);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadRequest::NotHttp),
    };
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request =
        Request { path: decode(path, Plus::IsPlus), query: pairs(query), ..Request::default() };
    let (mut upgrade, mut connection, mut version) = (false, false, false);
    for header in head.headers.iter() {
        // A header that is not text says nothing we would act on, except that it is there.
        let value = std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim();
        let name = header.name.to_ascii_lowercase();
        match name.as_str() {
            "upgrade" => upgrade |= has_word(value, "websocket"),
            "connection" => connection |= has_word(value, "upgrade"),
            "sec-websocket-version" => version |= value == "13",
            "sec-websocket-key" => request.key = value.into(),
            "authorization" => request.bearer = bearer(value).map(String::from),
            _ => request.origin.header(&name, value),
        }
    }
    let is_get = head.method == Some("GET") && head.version == Some(1);
    if !(is_get && upgrade && connection && version && !request.key.is_empty()) {
        return Err(BadRequest::NotWebSocket);
    }
    Ok(Some((request, len)))
}

impl Request {
    /// `?token=`, or else `Authorization: Bearer`.
    pub(super) fn token(&self) -> Option<&str> {
        self.values("token").next().or(self.bearer.as_deref())
    }

    /// All values of one query parameter.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.query.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the request must not count as from this machine even when its connection is.
    pub(super) fn is_from_elsewhere(&self) -> bool {
        self.origin.is_from_elsewhere()
    }
}

fn has_word(list: &str, word: &str) -> bool {
    list.split(',').any(|w| w.trim().eq_ignore_ascii_case(word))
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pair = |p: &str| {
        let (name, value) = p.split_once('=').unwrap_or((p, ""));
        (decode(name, Plus::IsSpace), decode(value, Plus::IsSpace))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Plus {
    IsPlus,
    IsSpace,
}

/// Percent-decoding (RFC 3986 section 2.1); what is no valid escape stays as it is.
fn decode(text: &str, plus: Plus) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        out.push(match (byte, tail) {
            (b'%', [hi, lo, ..]) => match (hex(*hi), hex(*lo)) {
                (Some(hi), Some(lo)) => {
                    rest = &tail[2..];
                    hi << 4 | lo
                }
                _ => byte,
            },
            (b'+', _) if plus == Plus::IsSpace => b' ',
            _ => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// A refusal a person can read.
pub(super) fn refusal(status: &str, text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
    .into_bytes()
}

/// The answer after which both sides speak WebSocket; `accept` is derived from the request's key.
pub(super) fn switching(accept: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n";

    fn request(target: &str, headers: &str) -> Request {
        let text = format!("GET {target} HTTP/1.1\r\n{UPGRADE}{headers}\r\nrest");
        let (request, len) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(len, text.len() - 4);
        request
    }

    #[test]
    fn path_query_and_token_are_read() {
        let r = request("/live?stream=a&label=teddy%20bear&label=cat+x&token=t%2Bt&x", "");
        assert_eq!(r.path, "/live");
        assert_eq!(r.values("label").collect::<Vec<_>>(), ["teddy bear", "cat x"]);
        assert_eq!(r.token(), Some("t+t"));
        assert_eq!(r.values("x").next(), Some(""));
        let r = request("/", "Authorization: bearer  abc \r\n");
        assert_eq!(r.token(), Some("abc"));
        assert_eq!(request("/", "Authorization: Basic abc\r\n").token(), None);
        assert_eq!(decode("%zz%4", Plus::IsSpace), "%zz%4");
    }

    #[test]
    fn what_is_no_websocket_is_told_so() {
        let page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(parse(page), Err(BadRequest::NotWebSocket));
        let post = format!("POST / HTTP/1.1\r\n{UPGRADE}\r\n");
        assert_eq!(parse(post.as_bytes()), Err(BadRequest::NotWebSocket));
        assert_eq!(parse(b"\x16\x03\x01\x02"), Err(BadRequest::NotHttp));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost:"), Ok(None));
        let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MAX_HEAD));
        assert_eq!(parse(long.as_bytes()), Err(BadRequest::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = decode(&String::from_utf8_lossy(&bytes), Plus::IsSpace);
        }
    }
}
