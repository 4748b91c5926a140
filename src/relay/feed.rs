//! A stream's units as the messages that an RTMP or FLV reader expects (pure): metadata and codec headers first and
//! again when they change, then pictures and sound on a clock that begins at 0 for this reader.
//!
//! Tag bodies after Adobe's FLV 10.1 specification (E.4.2, E.4.3); H.265 and Opus, which that lacks, after Veovera's
//! Enhanced RTMP v2.

use std::sync::Arc;

use bytes::Bytes;
use rml_amf0::Amf0Value;

use super::outbox::{Head, Outbox};
use crate::ingest::dechunk::kind;
use crate::media::{
    AccessUnit, AudioCodec, AudioParams, AudioUnit, MediaTime, Unit, VideoCodec, VideoParams,
};

/// What one reader was told so far.
#[derive(Debug)]
pub struct Feed {
    announce: Announce,
    /// The stream's time that is this reader's 0.
    base: Option<MediaTime>,
    video: Option<Arc<VideoParams>>,
    audio: Option<Arc<AudioParams>>,
    /// Pictures are left out up to the next key frame.
    until_key: bool,
    begun: bool,
}

/// The first of the metadata's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// `onMetaData`: to a reader.
    OnMetaData,
    /// `@setDataFrame` before it: to a server, which is to keep it for its readers.
    SetDataFrame,
}

impl Feed {
    /// `audio` is what the stream's sound is known to be: players prepare for it by the metadata.
    pub fn new(announce: Announce, audio: Option<Arc<AudioParams>>) -> Self {
        Self { announce, base: None, video: None, audio, until_key: true, begun: false }
    }

    /// After a jump in the ring: pictures go on with the next key frame.
    pub fn skipped(&mut self) {
        self.until_key = true;
    }

    /// Adds the messages for one unit; false when it was left out, for want of a key frame before it.
    pub fn take(&mut self, unit: &Unit, out: &mut Outbox) -> bool {
        match unit {
            Unit::Video(unit) => {
                if self.until_key && !unit.key {
                    return false;
                }
                self.until_key = false;
                self.picture(unit, out);
            }
            Unit::Audio(unit) => self.sound(unit, out),
        }
        true
    }

    fn picture(&mut self, unit: &AccessUnit, out: &mut Outbox) {
        let time = self.time(unit.dts);
        let known = self.video.as_ref();
        let new = known.is_none_or(|p| !Arc::ptr_eq(p, &unit.params) && **p != *unit.params);
        if new {
            self.video = Some(Arc::clone(&unit.params));
        }
        self.begin(time, new, false, out);
        let offset_ms = unit.pts.as_millis() - unit.dts.as_millis();
        let offset = i32::try_from(offset_ms).unwrap_or(0).clamp(-(1 << 23), (1 << 23) - 1);
        let [_, a, b, c] = offset.to_be_bytes();
        let frame: u8 = if unit.key { 0x10 } else { 0x20 };
        let head = Head { kind: kind::VIDEO, timestamp_ms: time };
        match unit.params.codec {
            VideoCodec::H264 => out.push(head, &[frame | 7, 1, a, b, c], &unit.data),
            VideoCodec::H265 => {
                let [f, o, u, r] = *b"hvc1";
                out.push(head, &[0x80 | frame | 1, f, o, u, r, a, b, c], &unit.data);
            }
        }
    }

    fn sound(&mut self, unit: &AudioUnit, out: &mut Outbox) {
        let time = self.time(unit.pts);
        let known = self.audio.as_ref();
        let new = known.is_none_or(|p| !Arc::ptr_eq(p, &unit.params) && **p != *unit.params);
        if new {
            self.audio = Some(Arc::clone(&unit.params));
        }
        self.begin(time, false, new, out);
        let head = Head { kind: kind::AUDIO, timestamp_ms: time };
        match unit.params.codec {
            AudioCodec::Aac => out.push(head, &[0xAF, 1], &unit.data),
            AudioCodec::Opus => out.push(head, b"\x91Opus", &unit.data),
        }
    }

    /// This reader's milliseconds; they wrap as RTMP's do. Sound a little older than the first picture is at 0.
    fn time(&mut self, at: MediaTime) -> u32 {
        let base = *self.base.get_or_insert(at);
        (at.as_millis() - base.as_millis()).max(0) as u32
    }

    /// Metadata and codec headers, where they are due.
    fn begin(&mut self, time: u32, new_video: bool, new_audio: bool, out: &mut Outbox) {
        let first = !std::mem::replace(&mut self.begun, true);
        if !first && !new_video && !new_audio {
            return;
        }
        let data = Head { kind: kind::DATA_AMF0, timestamp_ms: time };
        out.push(data, &[], &self.metadata());
        if let Some(video) = self.video.as_ref().filter(|_| first || new_video) {
            let head = Head { kind: kind::VIDEO, timestamp_ms: time };
            match video.codec {
                VideoCodec::H264 => out.push(head, &[0x17, 0, 0, 0, 0], &video.record),
                VideoCodec::H265 => out.push(head, b"\x90hvc1", &video.record),
            }
        }
        if let Some(audio) = self.audio.as_ref().filter(|_| first || new_audio) {
            let head = Head { kind: kind::AUDIO, timestamp_ms: time };
            match audio.codec {
                AudioCodec::Aac => out.push(head, &[0xAF, 0], &audio.config),
                AudioCodec::Opus => out.push(head, b"\x90Opus", &audio.config),
            }
        }
    }

    fn metadata(&self) -> Bytes {
        let mut values = Vec::new();
        let number = |n: f64| Amf0Value::Number(n);
        let fourcc = |code: &[u8; 4]| f64::from(u32::from_be_bytes(*code));
        if let Some(video) = &self.video {
            let codec = match video.codec {
                VideoCodec::H264 => 7.0,
                VideoCodec::H265 => fourcc(b"hvc1"),
            };
            values.extend([
                ("width", number(f64::from(video.width))),
                ("height", number(f64::from(video.height))),
                ("videocodecid", number(codec)),
            ]);
        }
        if let Some(audio) = &self.audio {
            let codec = match audio.codec {
                AudioCodec::Aac => 10.0,
                AudioCodec::Opus => fourcc(b"Opus"),
            };
            values.extend([
                ("audiocodecid", number(codec)),
                ("audiosamplerate", number(f64::from(audio.sample_rate_hz))),
                ("audiochannels", number(f64::from(audio.channels))),
                ("stereo", Amf0Value::Boolean(audio.channels > 1)),
            ]);
        }
        let properties = values.into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut message = vec![
            Amf0Value::Utf8String("onMetaData".into()),
            Amf0Value::Object(properties.collect()),
        ];
        if self.announce == Announce::SetDataFrame {
            message.insert(0, Amf0Value::Utf8String("@setDataFrame".into()));
        }
        rml_amf0::serialize(&message).expect("short strings and numbers").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::flv::{AudioTag, VideoTag, parse_audio, parse_video};
    use crate::ingest::session::Session;
    use crate::ingest::testing::{GLASSES, OTHER, tags};
    use crate::media::{Arrival, StreamId};
    use crate::relay::outbox::Framing;

    /// What a file's messages become on the way through the stream, `from_ms` after its start.
    fn units(file: &[u8], from_ms: i64) -> Vec<Unit> {
        let now = Arrival::now();
        let start = Some((MediaTime::from_millis(from_ms), now.mono));
        let mut session = Session::new(StreamId::new("s").unwrap(), start, now.mono);
        let mut units = Vec::new();
        for tag in tags(file) {
            match tag.kind {
                9 => units.extend(
                    session.video(tag.timestamp_ms, &tag.payload, now).unwrap().map(Unit::Video),
                ),
                8 => units.extend(
                    session.audio(tag.timestamp_ms, &tag.payload, now).unwrap().map(Unit::Audio),
                ),
                _ => {}
            }
        }
        units
    }

    /// The tags of an FLV outbox.
    fn written(out: &mut Outbox) -> Vec<crate::ingest::testing::Tag> {
        tags(&[&[0; 13][..], &out.take()].concat())
    }

    #[test]
    fn a_late_reader_gets_headers_then_a_key_frame_at_zero() {
        let units = units(GLASSES, 60_000);
        let audio = units.iter().find_map(|u| match u {
            Unit::Audio(u) => Some(Arc::clone(&u.params)),
            Unit::Video(_) => None,
        });
        let mut out = Outbox::new(Framing::Flv);
        let mut feed = Feed::new(Announce::OnMetaData, audio);
        let middle = units.iter().position(|u| !u.is_key() && matches!(u, Unit::Video(_))).unwrap();
        for unit in &units[middle..] {
            if out.is_empty() && matches!(unit, Unit::Audio(_)) {
                continue;
            }
            feed.take(unit, &mut out);
        }
        let tags = written(&mut out);
        assert_eq!(tags.iter().take(4).map(|t| t.kind).collect::<Vec<_>>(), [18, 9, 8, 9]);
        assert!(tags[..4].iter().all(|t| t.timestamp_ms == 0));
        assert!(matches!(parse_video(&tags[1].payload), Ok(VideoTag::Config { .. })));
        assert!(matches!(parse_audio(&tags[2].payload), Ok(AudioTag::Config { .. })));
        assert_eq!(tags[3].payload[..2], [0x17, 1]);
        assert!(tags.windows(2).all(|w| w[0].timestamp_ms <= w[1].timestamp_ms + 100));
        assert!(String::from_utf8_lossy(&tags[0].payload).contains("audiocodecid"));
    }

    #[test]
    fn new_parameters_are_told_and_time_goes_on() {
        let mut out = Outbox::new(Framing::Flv);
        let mut feed = Feed::new(Announce::SetDataFrame, None);
        for unit in units(GLASSES, 0).iter().chain(&units(OTHER, 5000)) {
            feed.take(unit, &mut out);
        }
        let tags = written(&mut out);
        let configs: Vec<_> = tags
            .iter()
            .filter(|t| t.kind == 9)
            .filter_map(|t| match parse_video(&t.payload) {
                Ok(VideoTag::Config { record, .. }) => Some((t.timestamp_ms, record)),
                _ => None,
            })
            .collect();
        assert_eq!(configs.len(), 2, "{configs:?}");
        // Sound may be first in a file.
        assert!(configs[0].0 < 100 && (5000..5100).contains(&configs[1].0), "{configs:?}");
        assert_ne!(configs[0].1, configs[1].1);
        assert!(String::from_utf8_lossy(&tags[0].payload).contains("@setDataFrame"));
    }

    #[test]
    fn after_a_jump_pictures_wait_for_a_key_frame() {
        let units = units(GLASSES, 0);
        let mut out = Outbox::new(Framing::Rtmp { stream: 1 });
        let mut feed = Feed::new(Announce::OnMetaData, None);
        let mut sent = units.iter().filter(|u| matches!(u, Unit::Video(_)));
        assert!(feed.take(sent.next().unwrap(), &mut out));
        feed.skipped();
        let next = sent.next().unwrap();
        assert!(!next.is_key() && !feed.take(next, &mut out));
        assert!(feed.take(sent.find(|u| u.is_key()).unwrap(), &mut out));
        assert!(feed.take(sent.next().unwrap(), &mut out));
    }
}
