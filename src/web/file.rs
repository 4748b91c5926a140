//! Answers with a file, whole or in part (RFC 9110 14): a picture, or an MP4 that is put together while it is sent.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::error::ApiError;
use crate::record::export::Export;

/// The answer to a request for an export: 200, 206 or 416.
pub(super) fn mp4(export: Export, headers: &HeaderMap, name: &str) -> Response {
    let len = export.len;
    let asked = headers.get(header::RANGE).and_then(|r| r.to_str().ok());
    let part = match asked.map(|text| parse(text, len)) {
        None | Some(Asked::Everything) => None,
        Some(Asked::Part(part)) => Some(part),
        Some(Asked::Nothing) => {
            let message = format!("there are {len} bytes: ask for some of them");
            let refused = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", message);
            return ([(header::CONTENT_RANGE, format!("bytes */{len}"))], refused).into_response();
        }
    };
    let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let range = part.clone().unwrap_or(0..len);
    let mut all = HeaderMap::new();
    let mut put = |name: header::HeaderName, value: String| {
        // Numbers, dates and names of ours: all are legal in a header.
        value.parse().ok().and_then(|value| all.insert(name, value));
    };
    put(header::CONTENT_TYPE, "video/mp4".into());
    put(header::ACCEPT_RANGES, "bytes".into());
    put(header::CACHE_CONTROL, "no-store".into());
    put(header::CONTENT_DISPOSITION, format!("inline; filename=\"{name}\""));
    put(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    if part.is_some() {
        let Range { start, end } = range;
        put(header::CONTENT_RANGE, format!("bytes {start}-{}/{len}", end - 1));
    }
    let seconds = |us: i64| format!("{:.3}", us as f64 / 1e6);
    let own = header::HeaderName::from_static;
    put(own("x-start-time"), seconds(export.from_us));
    put(own("x-end-time"), seconds(export.to_us));
    if let Some(cut) = export.cut_us {
        // The parameters change here; the rest is had by asking from here on.
        put(own("x-cut-time"), seconds(cut));
    }
    (status, all, Body::from_stream(bytes_of(export, range))).into_response()
}

fn bytes_of(
    export: Export,
    range: Range<u64>,
) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    let begin = (Arc::new(export), range);
    stream::try_unfold(begin, |(export, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let (source, at) = (Arc::clone(&export), range.start);
        let read = tokio::task::spawn_blocking(move || source.read(at));
        let mut data = read.await.map_err(std::io::Error::other)??;
        if data.is_empty() {
            return Err(std::io::Error::other("a recording was deleted meanwhile"));
        }
        data.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        let next = range.start + data.len() as u64;
        Ok(Some((data, (export, next..range.end))))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Everything,
    Part(Range<u64>),
    /// Beyond the end.
    Nothing,
}

/// One range of bytes. Several at once, and what is none, is answered with everything, as the RFC allows.
fn parse(text: &str, len: u64) -> Asked {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Asked::Everything;
    };
    let (first, last) = (first.trim(), last.trim());
    let number = |digits: &str| digits.parse::<u64>().ok();
    let range = match (first.is_empty(), last.is_empty()) {
        (false, true) => number(first).map(|from| from..len),
        (true, false) => number(last).map(|n| len.saturating_sub(n)..len),
        (false, false) => number(first)
            .zip(number(last))
            .and_then(|(from, to)| (from <= to).then(|| from..to.saturating_add(1).min(len))),
        (true, true) => None,
    };
    match range {
        None => Asked::Everything,
        Some(range) if range.is_empty() => Asked::Nothing,
        Some(range) => Asked::Part(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, expected) in [
            ("bytes=0-", Asked::Part(0..100)),
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=90-200", Asked::Part(90..100)),
            ("bytes=-5", Asked::Part(95..100)),
            ("bytes=-500", Asked::Part(0..100)),
            ("bytes=100-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-4", Asked::Everything),
            ("bytes=0-1,5-6", Asked::Everything),
            ("bytes=-", Asked::Everything),
            ("lines=1-2", Asked::Everything),
        ] {
            assert_eq!(parse(text, 100), expected, "{text}");
        }
    }
}
