//! The units of coded media that every later stage reads, and the types that carry their names and times.
//! Nothing here parses or moves bytes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

/// A stream's name: 1 to 64 of `A-Z a-z 0-9 _ -`, cheap to clone, ordered by text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Arc<str>);

/// Why a text is not a stream's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream name {0:?} is not allowed: use 1 to 64 letters, digits, '-' or '_'")]
pub struct BadStreamName(pub String);

impl StreamId {
    pub const MAX_LEN: usize = 64;

    /// Checks `name` against the contract's `[A-Za-z0-9_-]{1,64}`.
    pub fn new(name: &str) -> Result<Self, BadStreamName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.bytes().all(legal) {
            // An attacker's megabyte of a name must not become a megabyte of log.
            return Err(BadStreamName(name.chars().take(80).collect()));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl serde::Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// A point on a stream's own continuous time line, in microseconds from the stream's first unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(i64);

impl MediaTime {
    pub const ZERO: Self = Self(0);

    pub const fn from_micros(us: i64) -> Self {
        Self(us)
    }

    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds, rounded towards the past.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `self - earlier`, zero when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    pub fn saturating_add(self, by: Duration) -> Self {
        let us = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(us))
    }
}

/// When the last byte of a unit reached this machine, on the clock that never jumps and on the wall.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub mono: Instant,
    pub wall: SystemTime,
}

impl Arrival {
    pub fn now() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    H264,
    H265,
}

impl VideoCodec {
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    Aac,
    Opus,
}

/// What a decoder must know before the first access unit; a change of it begins a new coded sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoParams {
    pub codec: VideoCodec,
    /// Displayed size in pixels, after the SPS's cropping.
    pub width: u32,
    pub height: u32,
    /// The decoder configuration record as published: avcC (ISO/IEC 14496-15 5.3.3) or hvcC (8.3.3).
    pub record: Bytes,
    /// Bytes of the length in front of each NAL unit of the access units: 1, 2 or 4.
    pub nal_length_size: u8,
}

impl AudioCodec {
    pub fn name(self) -> &'static str {
        match self {
            Self::Aac => "AAC",
            Self::Opus => "Opus",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioParams {
    pub codec: AudioCodec,
    pub sample_rate_hz: u32,
    pub channels: u8,
    /// AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1) or OpusHead (RFC 7845 5.1).
    pub config: Bytes,
}

/// One coded picture, as NAL units each behind its length (not Annex B).
#[derive(Debug, Clone)]
pub struct AccessUnit {
    pub stream: StreamId,
    pub pts: MediaTime,
    pub dts: MediaTime,
    /// An IDR (or HEVC IRAP): decoding can begin here.
    pub key: bool,
    /// False from the first missing reference picture to the next key frame: it decodes to a broken picture.
    pub intact: bool,
    /// True on the first unit after a publisher came (back) or its parameters changed.
    pub discontinuity: bool,
    pub data: Bytes,
    pub params: Arc<VideoParams>,
    pub arrived: Arrival,
}

/// One coded audio frame (raw AAC without ADTS, or an Opus packet), carried along for readers and recorder.
#[derive(Debug, Clone)]
pub struct AudioUnit {
    pub stream: StreamId,
    pub pts: MediaTime,
    pub data: Bytes,
    pub params: Arc<AudioParams>,
    pub arrived: Arrival,
}

#[derive(Debug, Clone)]
pub enum Unit {
    Video(AccessUnit),
    Audio(AudioUnit),
}

impl Unit {
    /// Payload bytes, for budgets.
    pub fn len(&self) -> usize {
        match self {
            Self::Video(u) => u.data.len(),
            Self::Audio(u) => u.data.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether decoding can begin at this unit.
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Video(u) if u.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        for good in ["stream", "a", "cam-1_B", &"x".repeat(64)] {
            assert_eq!(StreamId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "a b", "ä", "..", "a?token=x", &"x".repeat(65)] {
            assert!(StreamId::new(bad).is_err(), "{bad:?}");
        }
        let long = StreamId::new(&"y".repeat(1_000_000)).unwrap_err();
        assert!(long.0.len() <= 80);
    }

    #[test]
    fn time_saturates() {
        let far = MediaTime::from_micros(i64::MAX);
        assert_eq!(far.saturating_add(Duration::MAX), far);
        assert_eq!(MediaTime::ZERO.since(far), Duration::ZERO);
        assert_eq!(MediaTime::from_micros(-1).as_millis(), -1);
    }
}
