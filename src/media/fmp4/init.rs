//! The init segment: what the tracks are, and no samples (ISO/IEC 14496-12 8.2 to 8.8.3).

use bytes::Bytes;

use super::boxes::{boxed, full};
use super::codecs::{audio_entry, video_entry};
use super::{NOT_SYNC, SYNC, TIMESCALE, Track};
use crate::media::unit::{AudioParams, VideoParams};

/// The unity matrix of 8.2.2.2.
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// The init segment of a file with this video track and perhaps an audio track.
pub fn init_segment(video: &VideoParams, audio: Option<&AudioParams>) -> Bytes {
    let mut out = Vec::with_capacity(1024 + video.record.len());
    boxed(&mut out, b"ftyp", |out| {
        // iso6 is the first brand that knows tfdt and default-base-is-moof.
        out.extend(b"iso6\0\0\0\0iso6mp41");
    });
    boxed(&mut out, b"moov", |out| {
        full(out, b"mvhd", 0, 0, |out| {
            words(out, &[0, 0, TIMESCALE, 0, 0x1_0000]);
            out.extend([1, 0]); // volume
            out.extend([0; 10]);
            words(out, &MATRIX);
            words(out, &[0, 0, 0, 0, 0, 0, 3]); // pre_defined, next_track_ID
        });
        let size = (video.width, video.height);
        trak(out, Track::Video, size, |out| video_entry(out, video));
        if let Some(audio) = audio {
            trak(out, Track::Audio, (0, 0), |out| audio_entry(out, audio));
        }
        boxed(out, b"mvex", |out| {
            trex(out, Track::Video, NOT_SYNC);
            if audio.is_some() {
                trex(out, Track::Audio, SYNC);
            }
        });
    });
    out.into()
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|w| out.extend(w.to_be_bytes()));
}

/// 8.8.3.
fn trex(out: &mut Vec<u8>, track: Track, flags: u32) {
    full(out, b"trex", 0, 0, |out| words(out, &[track as u32, 1, 0, 0, flags]));
}

/// 8.3.1 and below. There is no edit list: presentation begins at the stream's time, not at the file's first sample.
fn trak(
    out: &mut Vec<u8>,
    track: Track,
    (width, height): (u32, u32),
    entry: impl FnOnce(&mut Vec<u8>),
) {
    boxed(out, b"trak", |out| {
        // track_enabled, track_in_movie
        full(out, b"tkhd", 0, 3, |out| {
            words(out, &[0, 0, track as u32, 0, 0, 0, 0]);
            let volume = if track == Track::Audio { 0x0100 } else { 0 };
            out.extend([0, 0, 0, 0]); // layer, alternate_group
            words(out, &[volume << 16]);
            words(out, &MATRIX);
            words(out, &[width << 16, height << 16]);
        });
        boxed(out, b"mdia", |out| {
            full(out, b"mdhd", 0, 0, |out| {
                words(out, &[0, 0, TIMESCALE, 0]);
                out.extend([0x55, 0xC4, 0, 0]); // language "und"
            });
            full(out, b"hdlr", 0, 0, |out| {
                let (kind, name): (&[u8; 4], &[u8]) = match track {
                    Track::Video => (b"vide", b"video\0"),
                    Track::Audio => (b"soun", b"audio\0"),
                };
                out.extend([0; 4]);
                out.extend(kind);
                out.extend([0; 12]);
                out.extend_from_slice(name);
            });
            boxed(out, b"minf", |out| {
                match track {
                    Track::Video => full(out, b"vmhd", 0, 1, |out| out.extend([0; 8])),
                    Track::Audio => full(out, b"smhd", 0, 0, |out| out.extend([0; 4])),
                }
                boxed(out, b"dinf", |out| {
                    full(out, b"dref", 0, 0, |out| {
                        words(out, &[1]);
                        full(out, b"url ", 0, 1, |_| {}); // the samples are in this file
                    });
                });
                boxed(out, b"stbl", |out| {
                    full(out, b"stsd", 0, 0, |out| {
                        words(out, &[1]);
                        entry(out);
                    });
                    full(out, b"stts", 0, 0, |out| words(out, &[0]));
                    full(out, b"stsc", 0, 0, |out| words(out, &[0]));
                    full(out, b"stsz", 0, 0, |out| words(out, &[0, 0]));
                    full(out, b"stco", 0, 0, |out| words(out, &[0]));
                });
            });
        });
    });
}
