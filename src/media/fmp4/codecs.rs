//! What a player must know of a codec before it plays: the RFC 6381 string, and the boxes of its sample entry.

use std::fmt::Write as _;

use super::boxes::{boxed, full, u32_of};
use crate::media::unit::{AudioCodec, AudioParams, VideoCodec, VideoParams};

/// As in `avc1.64001f` (RFC 6381 3.3) or `hvc1.1.6.L93.b0` (ISO/IEC 14496-15 annex E.3).
pub fn video_string(params: &VideoParams) -> String {
    let record = &params.record;
    match params.codec {
        VideoCodec::H264 => {
            let mut out = String::from("avc1.");
            for byte in record.get(1..4).unwrap_or(&[0x42, 0, 0x1E]) {
                let _ = write!(out, "{byte:02x}");
            }
            out
        }
        VideoCodec::H265 => {
            let Some(head) = record.first_chunk::<13>() else { return "hvc1.1.6.L93".into() };
            let space = ["", "A", "B", "C"][usize::from(head[1] >> 6)];
            let tier = if head[1] & 0x20 == 0 { 'L' } else { 'H' };
            let compatible = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
            let mut out = format!(
                "hvc1.{space}{}.{:x}.{tier}{}",
                head[1] & 0x1F,
                compatible.reverse_bits(),
                head[12]
            );
            let constraints = &head[6..12];
            let used = constraints.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            for byte in &constraints[..used] {
                let _ = write!(out, ".{byte:x}");
            }
            out
        }
    }
}

/// As in `mp4a.40.2` (RFC 6381 3.3) or `opus`.
pub fn audio_string(params: &AudioParams) -> String {
    match params.codec {
        AudioCodec::Aac => {
            // The audioObjectType of ISO/IEC 14496-3 1.6.2.1, 5 bits; ingest takes none that needs more.
            let kind = params.config.first().map_or(2, |b| b >> 3);
            format!("mp4a.40.{kind}")
        }
        AudioCodec::Opus => "opus".into(),
    }
}

/// The media type of a file with these tracks, as `MediaSource.isTypeSupported` takes it.
pub fn mime(video: &VideoParams, audio: Option<&AudioParams>) -> String {
    format!("video/mp4; codecs=\"{}\"", list(video, audio))
}

/// The codec strings of these tracks, by commas.
pub fn list(video: &VideoParams, audio: Option<&AudioParams>) -> String {
    let audio = audio.map(|a| format!(",{}", audio_string(a))).unwrap_or_default();
    video_string(video) + &audio
}

/// VisualSampleEntry (ISO/IEC 14496-12 12.1.3) with the record as published (-15 5.4.2.1 and 8.4.1.1).
pub(super) fn video_entry(out: &mut Vec<u8>, params: &VideoParams) {
    let (entry, config) = match params.codec {
        VideoCodec::H264 => (b"avc1", b"avcC"),
        // hvc1 and not hev1: Apple's players take no other.
        VideoCodec::H265 => (b"hvc1", b"hvcC"),
    };
    boxed(out, entry, |out| {
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]); // reserved, data_reference_index
        out.extend([0; 16]);
        for side in [params.width, params.height] {
            out.extend(u16::try_from(side).unwrap_or(u16::MAX).to_be_bytes());
        }
        out.extend([0, 0x48, 0, 0, 0, 0x48, 0, 0]); // 72 dpi
        out.extend([0, 0, 0, 0, 0, 1]); // reserved, frame_count
        out.extend([0; 32]); // compressorname
        out.extend([0, 0x18, 0xFF, 0xFF]); // depth, pre_defined
        boxed(out, config, |out| out.extend_from_slice(&params.record));
    });
}

/// AudioSampleEntry (ISO/IEC 14496-12 12.2.3).
pub(super) fn audio_entry(out: &mut Vec<u8>, params: &AudioParams) {
    let entry = match params.codec {
        AudioCodec::Aac => b"mp4a",
        AudioCodec::Opus => b"Opus",
    };
    boxed(out, entry, |out| {
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]); // reserved, data_reference_index
        out.extend([0; 8]);
        out.extend(u16::from(params.channels).to_be_bytes());
        out.extend([0, 16, 0, 0, 0, 0]); // samplesize, pre_defined, reserved
        let rate = u16::try_from(params.sample_rate_hz).unwrap_or(0);
        out.extend((u32::from(rate) << 16).to_be_bytes());
        match params.codec {
            AudioCodec::Aac => esds(out, &params.config),
            AudioCodec::Opus => dops(out, params),
        }
    });
}

/// ISO/IEC 14496-14 5.6, with the descriptors of -1 7.2.6.5 to 7.2.6.8.
fn esds(out: &mut Vec<u8>, config: &[u8]) {
    full(out, b"esds", 0, 0, |out| {
        descriptor(out, 3, |out| {
            out.extend([0, 0, 0]); // ES_ID, flags
            descriptor(out, 4, |out| {
                out.extend([0x40, 0x15]); // MPEG-4 audio; audio stream
                out.extend([0; 11]); // buffer size and bit rates: unknown
                descriptor(out, 5, |out| out.extend_from_slice(config));
            });
            descriptor(out, 6, |out| out.push(2)); // SLConfigDescriptor: as in an MP4 file
        });
    });
}

/// A descriptor with a size of four times seven bits (ISO/IEC 14496-1 8.3.3).
fn descriptor(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend([tag, 0, 0, 0, 0]);
    let begin = out.len();
    body(out);
    let size = u32_of(out.len() - begin);
    let sevens = [21, 14, 7, 0].map(|shift| (size >> shift & 0x7F) as u8);
    let marked = [sevens[0] | 0x80, sevens[1] | 0x80, sevens[2] | 0x80, sevens[3]];
    out[begin - 4..begin].copy_from_slice(&marked);
}

/// OpusSpecificBox (Opus in ISOBMFF 4.3.2): OpusHead (RFC 7845 5.1) with the bytes of its numbers turned round.
fn dops(out: &mut Vec<u8>, params: &AudioParams) {
    let head = &params.config;
    let number = |at: usize, len: usize| {
        let mut bytes = head.get(at..at + len).map_or_else(|| vec![0; len], <[u8]>::to_vec);
        bytes.reverse();
        bytes
    };
    let family = head.get(18).copied().filter(|_| head.len() > 20);
    boxed(out, b"dOps", |out| {
        out.extend([0, params.channels]);
        out.extend(number(10, 2)); // pre-skip
        out.extend(number(12, 4)); // input sample rate
        out.extend(number(16, 2)); // output gain
        out.push(family.unwrap_or(0));
        if family.is_some_and(|f| f != 0) {
            out.extend_from_slice(&head[19..]);
        }
    });
}
