//! The payloads of RTMP audio and video messages, which are FLV tag bodies: which codec, configuration or coded
//! frame, where its bytes are. Pure; it looks into no bitstream.
//!
//! Classic tags after Adobe's FLV 10.1 specification (E.4.2, E.4.3), FourCC tags after Veovera's Enhanced RTMP v2.

use bytes::Bytes;

use crate::media::{AudioCodec, VideoCodec};

/// One video message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VideoTag {
    /// The decoder configuration record, avcC or hvcC.
    Config { codec: VideoCodec, record: Bytes },
    /// NAL units, each behind its length.
    Unit {
        codec: VideoCodec,
        /// Presentation after decoding, milliseconds; may be negative.
        composition_ms: i32,
        data: Bytes,
    },
    /// End of sequence, seek marks, HDR metadata: nothing a decoder needs.
    Nothing,
}

/// One audio message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AudioTag {
    /// AudioSpecificConfig or OpusHead.
    Config {
        codec: AudioCodec,
        config: Bytes,
    },
    Frame {
        codec: AudioCodec,
        data: Bytes,
    },
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    #[error("{0} is not supported: publish H.264 or H.265")]
    Video(String),
    #[error("{0} is not supported: publish AAC or Opus, or no audio")]
    Audio(String),
    #[error("a {0} message is cut off")]
    CutOff(&'static str),
}

/// Frame type 5: a command to the player in place of a picture.
const FRAME_COMMAND: u8 = 5;

pub fn parse_video(payload: &Bytes) -> Result<VideoTag, FlvError> {
    let mut at = At { payload, at: 0, what: "video" };
    // An empty message is what some encoders send to keep a connection alive.
    let Ok(first) = at.u8() else { return Ok(VideoTag::Nothing) };
    if first & 0x80 != 0 {
        return enhanced_video(first, at);
    }
    if first >> 4 == FRAME_COMMAND {
        return Ok(VideoTag::Nothing);
    }
    match first & 0x0F {
        7 => {}
        id => return Err(FlvError::Video(classic_video_name(id))),
    }
    let packet = at.u8()?;
    let composition_ms = at.i24()?;
    let codec = VideoCodec::H264;
    Ok(match packet {
        0 => VideoTag::Config { codec, record: at.rest() },
        1 => VideoTag::Unit { codec, composition_ms, data: at.rest() },
        _ => VideoTag::Nothing,
    })
}

fn enhanced_video(first: u8, mut at: At<'_>) -> Result<VideoTag, FlvError> {
    let packet = at.skip_modifiers(first & 0x0F)?;
    if first >> 4 & 7 == FRAME_COMMAND && packet != METADATA {
        return Ok(VideoTag::Nothing);
    }
    let (packet, fourcc) = at.track(packet, VIDEO_MULTITRACK).map_err(|e| match e {
        TrackError::CutOff(e) => e,
        TrackError::Many => FlvError::Video("video of several tracks (enhanced RTMP)".into()),
    })?;
    let codec = match &fourcc {
        b"avc1" => VideoCodec::H264,
        b"hvc1" => VideoCodec::H265,
        other => return Err(FlvError::Video(fourcc_name(other))),
    };
    Ok(match packet {
        SEQUENCE_START => VideoTag::Config { codec, record: at.rest() },
        CODED_FRAMES => {
            let composition_ms = at.i24()?;
            VideoTag::Unit { codec, composition_ms, data: at.rest() }
        }
        CODED_FRAMES_X => VideoTag::Unit { codec, composition_ms: 0, data: at.rest() },
        SEQUENCE_END | METADATA => VideoTag::Nothing,
        other => return Err(FlvError::Video(format!("enhanced RTMP video packet type {other}"))),
    })
}

pub fn parse_audio(payload: &Bytes) -> Result<AudioTag, FlvError> {
    let mut at = At { payload, at: 0, what: "audio" };
    let Ok(first) = at.u8() else { return Ok(AudioTag::Nothing) };
    match first >> 4 {
        9 => return enhanced_audio(first, at),
        10 => {}
        id => return Err(FlvError::Audio(classic_audio_name(id))),
    }
    let codec = AudioCodec::Aac;
    Ok(match at.u8()? {
        0 => AudioTag::Config { codec, config: at.rest() },
        1 => AudioTag::Frame { codec, data: at.rest() },
        _ => AudioTag::Nothing,
    })
}

fn enhanced_audio(first: u8, mut at: At<'_>) -> Result<AudioTag, FlvError> {
    let packet = at.skip_modifiers(first & 0x0F)?;
    let (packet, fourcc) = at.track(packet, AUDIO_MULTITRACK).map_err(|e| match e {
        TrackError::CutOff(e) => e,
        TrackError::Many => FlvError::Audio("audio of several tracks (enhanced RTMP)".into()),
    })?;
    let codec = match &fourcc {
        b"mp4a" => AudioCodec::Aac,
        b"Opus" => AudioCodec::Opus,
        other => return Err(FlvError::Audio(fourcc_name(other))),
    };
    Ok(match packet {
        SEQUENCE_START => AudioTag::Config { codec, config: at.rest() },
        CODED_FRAMES => AudioTag::Frame { codec, data: at.rest() },
        SEQUENCE_END | MULTICHANNEL_CONFIG => AudioTag::Nothing,
        other => return Err(FlvError::Audio(format!("enhanced RTMP audio packet type {other}"))),
    })
}

// Packet types of enhanced RTMP; the first three are the same for audio and video.
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const SEQUENCE_END: u8 = 2;
const CODED_FRAMES_X: u8 = 3;
const METADATA: u8 = 4;
const MULTICHANNEL_CONFIG: u8 = 4;
const AUDIO_MULTITRACK: u8 = 5;
const VIDEO_MULTITRACK: u8 = 6;
const MODIFIERS: u8 = 7;

/// A place in a payload.
struct At<'a> {
    payload: &'a Bytes,
    at: usize,
    what: &'static str,
}

enum TrackError {
    CutOff(FlvError),
    Many,
}

impl At<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FlvError> {
        let found = self.payload.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        self.at += N;
        found.copied().ok_or(FlvError::CutOff(self.what))
    }

    fn u8(&mut self) -> Result<u8, FlvError> {
        Ok(self.bytes::<1>()?[0])
    }

    fn i24(&mut self) -> Result<i32, FlvError> {
        let [a, b, c] = self.bytes()?;
        // Into the upper bytes and back down, so that the sign comes along.
        Ok(i32::from_be_bytes([a, b, c, 0]) >> 8)
    }

    fn rest(&self) -> Bytes {
        self.payload.slice(self.at.min(self.payload.len())..)
    }

    /// Passes over ModEx blocks (nanosecond offsets and what may come) to the packet type behind them.
    fn skip_modifiers(&mut self, mut packet: u8) -> Result<u8, FlvError> {
        while packet == MODIFIERS {
            let mut size = usize::from(self.u8()?) + 1;
            if size == 256 {
                size = usize::from(u16::from_be_bytes(self.bytes()?)) + 1;
            }
            self.at += size;
            packet = self.u8()? & 0x0F;
        }
        Ok(packet)
    }

    /// The packet type and FourCC of the only track there is.
    fn track(&mut self, packet: u8, multitrack: u8) -> Result<(u8, [u8; 4]), TrackError> {
        if packet != multitrack {
            return Ok((packet, self.bytes().map_err(TrackError::CutOff)?));
        }
        let kind = self.u8().map_err(TrackError::CutOff)?;
        let fourcc = self.bytes().map_err(TrackError::CutOff)?;
        let track = self.u8().map_err(TrackError::CutOff)?;
        if kind >> 4 != 0 || track != 0 {
            return Err(TrackError::Many);
        }
        Ok((kind & 0x0F, fourcc))
    }
}

fn classic_video_name(id: u8) -> String {
    let name = match id {
        1 => "JPEG",
        2 => "Sorenson H.263",
        3 => "Screen video",
        4 => "On2 VP6",
        5 => "On2 VP6 with alpha",
        6 => "Screen video 2",
        12 => "H.265 outside enhanced RTMP",
        _ => "video",
    };
    format!("{name} (FLV codec id {id})")
}

fn classic_audio_name(id: u8) -> String {
    let name = match id {
        0 | 3 => "uncompressed PCM",
        1 => "ADPCM",
        2 | 14 => "MP3",
        4..=6 => "Nellymoser",
        7 | 8 => "G.711",
        11 => "Speex",
        _ => "audio",
    };
    format!("{name} (FLV sound format {id})")
}

fn fourcc_name(fourcc: &[u8; 4]) -> String {
    let name = match fourcc {
        b"av01" => "AV1",
        b"vp08" => "VP8",
        b"vp09" => "VP9",
        b"vvc1" => "H.266",
        b"fLaC" => "FLAC",
        b".mp3" => "MP3",
        b"ac-3" => "AC-3",
        b"ec-3" => "E-AC-3",
        _ => "codec",
    };
    format!("{name} (FourCC {:?})", fourcc.escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn video(bytes: &[u8]) -> Result<VideoTag, FlvError> {
        parse_video(&Bytes::copy_from_slice(bytes))
    }

    fn audio(bytes: &[u8]) -> Result<AudioTag, FlvError> {
        parse_audio(&Bytes::copy_from_slice(bytes))
    }

    fn unit(codec: VideoCodec, composition_ms: i32, data: &'static [u8]) -> VideoTag {
        VideoTag::Unit { codec, composition_ms, data: Bytes::from_static(data) }
    }

    #[test]
    fn classic_h264() {
        let config =
            VideoTag::Config { codec: VideoCodec::H264, record: Bytes::from_static(b"rec") };
        assert_eq!(video(b"\x17\x00\x00\x00\x00rec"), Ok(config));
        let plus = unit(VideoCodec::H264, 40, b"nal");
        assert_eq!(video(b"\x27\x01\x00\x00\x28nal"), Ok(plus));
        let minus = unit(VideoCodec::H264, -1, b"nal");
        assert_eq!(video(b"\x27\x01\xff\xff\xffnal"), Ok(minus));
        assert_eq!(video(b"\x17\x02\x00\x00\x00"), Ok(VideoTag::Nothing));
        assert_eq!(video(b"\x57\x00"), Ok(VideoTag::Nothing));
        assert_eq!(video(b""), Ok(VideoTag::Nothing));
        assert_eq!(video(b"\x17\x01\x00"), Err(FlvError::CutOff("video")));
    }

    #[test]
    fn enhanced_h265() {
        let h265 = VideoCodec::H265;
        let config = VideoTag::Config { codec: h265, record: Bytes::from_static(b"rec") };
        assert_eq!(video(b"\x90hvc1rec"), Ok(config));
        assert_eq!(video(b"\xa1hvc1\x00\x00\x05nal"), Ok(unit(h265, 5, b"nal")));
        assert_eq!(video(b"\xa3hvc1nal"), Ok(unit(h265, 0, b"nal")));
        assert_eq!(video(b"\x94hvc1whatever"), Ok(VideoTag::Nothing));
        // A nanosecond modifier of three bytes in front of CodedFramesX.
        assert_eq!(video(b"\xa7\x02abc\x03hvc1nal"), Ok(unit(h265, 0, b"nal")));
        assert_eq!(video(b"\x96\x03avc1\x00nal"), Ok(unit(VideoCodec::H264, 0, b"nal")));
    }

    #[test]
    fn others_are_refused_by_name() {
        let text = |e: FlvError| e.to_string();
        assert_eq!(
            video(b"\x22abc").map_err(text).unwrap_err(),
            "Sorenson H.263 (FLV codec id 2) is not supported: publish H.264 or H.265"
        );
        for (bytes, named) in [
            (&b"\x90av01"[..], "AV1 (FourCC \"av01\")"),
            (b"\x90\xff\x00ab", "codec (FourCC"),
            (b"\x1cabc", "H.265 outside enhanced RTMP"),
            (b"\x96\x11hvc1\x00", "several tracks"),
            (b"\x98hvc1", "packet type 8"),
        ] {
            let said = video(bytes).map_err(text).unwrap_err();
            assert!(said.contains(named), "{said}");
        }
        let said = audio(b"\x2fabc").map_err(text).unwrap_err();
        assert!(said.starts_with("MP3 (FLV sound format 2) is not supported"), "{said}");
    }

    #[test]
    fn aac_and_opus() {
        let (aac, opus) = (AudioCodec::Aac, AudioCodec::Opus);
        let bytes = Bytes::from_static;
        let config = AudioTag::Config { codec: aac, config: bytes(b"\x12\x08") };
        assert_eq!(audio(b"\xaf\x00\x12\x08"), Ok(config));
        assert_eq!(audio(b"\xaf\x01raw"), Ok(AudioTag::Frame { codec: aac, data: bytes(b"raw") }));
        assert_eq!(audio(b"\x91Opusx"), Ok(AudioTag::Frame { codec: opus, data: bytes(b"x") }));
        assert_eq!(audio(b"\x94Opusx"), Ok(AudioTag::Nothing));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(data in prop::collection::vec(any::<u8>(), 0..64)) {
            let data = Bytes::from(data);
            if let Ok(VideoTag::Unit { data: part, composition_ms, .. }) = parse_video(&data) {
                prop_assert!(part.len() < data.len());
                prop_assert!((-(1 << 23)..1 << 23).contains(&composition_ms));
            }
            let _ = parse_audio(&data);
        }
    }
}
