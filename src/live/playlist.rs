//! The text of HLS (pure): the multivariant and the media playlist, and the names of the files they list.
//!
//! After draft-pantos-hls-rfc8216bis-18.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use super::segments::{PART_TARGET, Segment, Segments};
use crate::media::fmp4::codecs;
use crate::wire::rfc3339;

/// Newest complete segments whose parts are listed too; older ones are joined from whole segments.
const SEGMENTS_IN_PARTS: usize = 2;
/// Declared when nothing was measured, bits a second.
const UNKNOWN_BANDWIDTH: u64 = 2_500_000;

/// A file below `/hls/<stream>/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Index,
    Media,
    Init { id: u64 },
    Segment { number: u64 },
    Part { number: u64, part: usize },
}

impl File {
    /// The file of this name; `None` for any other name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "index.m3u8" => return Some(Self::Index),
            "media.m3u8" => return Some(Self::Media),
            _ => {}
        }
        if let Some(id) = name.strip_prefix("init-") {
            return Some(Self::Init { id: number(id.strip_suffix(".mp4")?)? });
        }
        let name = name.strip_suffix(".m4s")?;
        if let Some(segment) = name.strip_prefix("seg-") {
            return Some(Self::Segment { number: number(segment)? });
        }
        let (segment, part) = name.strip_prefix("part-")?.split_once('-')?;
        Some(Self::Part { number: number(segment)?, part: number(part)? })
    }

    /// As it stands in a playlist.
    pub fn name(self) -> String {
        match self {
            Self::Index => "index.m3u8".into(),
            Self::Media => "media.m3u8".into(),
            Self::Init { id } => format!("init-{id}.mp4"),
            Self::Segment { number } => format!("seg-{number}.m4s"),
            Self::Part { number, part } => format!("part-{number}-{part}.m4s"),
        }
    }
}

/// A number as we write it: no sign, no leading zeros, so that a file has one name only.
fn number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|n: &T| n.to_string() == text)
}

/// What is put behind each address: the visitor's token, so that its player can come back with it.
fn suffix(token: Option<&str>) -> String {
    let Some(token) = token else { return String::new() };
    let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
    format!("?token={encoded}")
}

/// The multivariant playlist: one variant, there is no transcoding.
pub fn index(segments: &Segments, token: Option<&str>) -> String {
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:9\n");
    let newest = segments.open.as_ref().or(segments.complete.back());
    let rate = |s: &Segment| {
        let seconds = s.duration().as_secs_f64();
        (seconds > 0.0).then(|| (s.bytes() as f64 * 8.0 / seconds) as u64)
    };
    let bandwidth =
        segments.complete.iter().filter_map(rate).max().unwrap_or(UNKNOWN_BANDWIDTH).max(1);
    let _ = write!(out, "#EXT-X-STREAM-INF:BANDWIDTH={bandwidth}");
    if let Some(Segment { init, .. }) = newest {
        let codecs = codecs::list(&init.video, init.audio.as_deref());
        let (width, height) = (init.video.width, init.video.height);
        let _ = write!(out, ",CODECS=\"{codecs}\",RESOLUTION={width}x{height}");
    }
    let _ = write!(out, "\n{}{}\n", File::Media.name(), suffix(token));
    out
}

/// The media playlist.
pub fn media(segments: &Segments, token: Option<&str>) -> String {
    let suffix = suffix(token);
    let uri = |file: File| format!("{}{suffix}", file.name());
    let part_target = PART_TARGET.as_secs_f64();
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:9\n");
    let _ = write!(
        out,
        "#EXT-X-TARGETDURATION:{}\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={:.3}\n\
         #EXT-X-PART-INF:PART-TARGET={part_target:.3}\n\
         #EXT-X-MEDIA-SEQUENCE:{}\n\
         #EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
        target(segments.longest),
        part_target * 3.0,
        segments.first,
        segments.discontinuities_gone,
    );
    let starts_at_key = |s: &Segment| s.parts.first().is_none_or(|p| p.independent);
    if segments.complete.iter().all(starts_at_key) {
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    let mut init = None;
    let in_parts = segments.complete.len().saturating_sub(SEGMENTS_IN_PARTS);
    let all = segments.complete.iter().map(|s| (s, true));
    let all = all.chain(segments.open.iter().map(|s| (s, false)));
    for (at, (segment, complete)) in all.enumerate() {
        let number = segments.first + at as u64;
        if segment.discontinuity {
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if init.replace(segment.init.id) != Some(segment.init.id) {
            let id = segment.init.id;
            let _ = writeln!(out, "#EXT-X-MAP:URI=\"{}\"", uri(File::Init { id }));
        }
        // By it a page finds the boxes of a picture.
        let _ = writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", rfc3339(segment.taken));
        let parts = segment.parts.iter().enumerate().filter(|_| at >= in_parts);
        for (n, part) in parts {
            let uri = uri(File::Part { number, part: n });
            let seconds = part.duration.as_secs_f64();
            let _ = write!(out, "#EXT-X-PART:DURATION={seconds:.5},URI=\"{uri}\"");
            out.push_str(if part.independent { ",INDEPENDENT=YES\n" } else { "\n" });
        }
        if complete {
            let seconds = segment.duration().as_secs_f64();
            let _ = writeln!(out, "#EXTINF:{seconds:.5},\n{}", uri(File::Segment { number }));
        }
    }
    if segments.ended {
        out.push_str("#EXT-X-ENDLIST\n");
    } else if let Some(open) = &segments.open {
        let next = uri(File::Part { number: segments.open_number(), part: open.parts.len() });
        let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{next}\"");
    }
    out
}

/// EXT-X-TARGETDURATION: no segment, rounded to seconds, is longer (4.4.3.1).
fn target(longest: Duration) -> u64 {
    longest.as_secs_f64().ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_goes_along_and_cannot_break_out() {
        assert_eq!(suffix(Some("a\"\n#EXT b&c")), "?token=a%22%0A%23EXT+b%26c");
        assert_eq!(suffix(None), "");
    }

    #[test]
    fn odd_names_are_no_files() {
        for odd in ["", "index.m3u8/", "../index.m3u8", "init-.mp4", "init-+1.mp4", "seg-01.m4s"] {
            assert_eq!(File::parse(odd), None, "{odd}");
        }
        for odd in ["part-1.m4s", "part-1-2-3.m4s", "part--1-2.m4s", "seg-99999999999999999999.m4s"]
        {
            assert_eq!(File::parse(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn names_there_and_back(number: u64, part: usize) {
            let all = [File::Init { id: number }, File::Segment { number }, File::Part { number, part }];
            for file in all {
                prop_assert_eq!(File::parse(&file.name()), Some(file));
            }
        }

        #[test]
        fn any_name_is_a_file_or_none(name in "[a-z0-9.+/-]{0,40}|(init|seg|part)-[0-9-]{0,30}\\.(mp4|m4s)|\\PC*") {
            if let Some(file) = File::parse(&name) {
                prop_assert_eq!(file.name(), name);
            }
        }
    }
}
