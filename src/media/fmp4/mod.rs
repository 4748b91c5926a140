//! Fragmented MP4 (pure): init segments and fragments out of parameters and coded samples, for live viewers and
//! recordings alike. It decides neither what belongs into a fragment nor how long the last sample lasts.
//!
//! The format is ISO/IEC 14496-12 (boxes; clause numbers of the 2015 edition), with -15 for H.264 and H.265, -14 and -1
//! for AAC, and "Encapsulation of Opus in ISO Base Media File Format" 0.8.1.

mod boxes; // sizes that add up
pub mod codecs; // RFC 6381 codec strings, the sample entries' boxes
mod init; // ftyp + moov

use std::time::Duration;

use bytes::Bytes;

use super::unit::MediaTime;
use boxes::{boxed, full, u32_of};
pub use init::init_segment;

/// Ticks a second of every track: the microseconds of [`MediaTime`], so that a time in the file *is* the stream's time,
/// without rounding. 90,000 would be off by a third of a tick at every whole millisecond that is no multiple of ten.
pub const TIMESCALE: u32 = 1_000_000;

/// A track of the file, by its track_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    Video = 1,
    Audio = 2,
}

/// One access unit or audio frame.
#[derive(Debug, Clone)]
pub struct Sample {
    pub dts: MediaTime,
    pub pts: MediaTime,
    /// To the next sample's `dts`; only the last one of a run may be a guess.
    pub duration: Duration,
    /// Decoding can begin here.
    pub key: bool,
    /// As in [`AccessUnit::data`](super::AccessUnit) or [`AudioUnit::data`](super::AudioUnit).
    pub data: Bytes,
}

/// sample_flags (8.8.3.1): sample_depends_on = 2, it depends on none.
const SYNC: u32 = 0x0200_0000;
/// sample_depends_on = 1, sample_is_non_sync_sample = 1.
const NOT_SYNC: u32 = 0x0101_0000;

/// One fragment (8.8.4): a moof with one run a track, and its mdat. Tracks without samples are left out. `sequence` grows
/// from fragment to fragment (8.8.5).
///
/// The first sample's `dts` is the fragment's decode time; those of later ones follow from the durations.
pub fn fragment(sequence: u32, tracks: &[(Track, &[Sample])]) -> Bytes {
    let tracks: Vec<_> = tracks.iter().filter(|(_, samples)| !samples.is_empty()).collect();
    let samples = tracks.iter().flat_map(|(_, samples)| samples.iter());
    let payload: usize = samples.clone().map(|s| s.data.len()).sum();
    let mut out = Vec::with_capacity(payload + 64 + 96 * tracks.len() + 16 * samples.count());
    // Where each run's data_offset stands, to be filled in when the moof's size is known.
    let mut offsets = Vec::new();
    boxed(&mut out, b"moof", |out| {
        full(out, b"mfhd", 0, 0, |out| out.extend(sequence.to_be_bytes()));
        for (track, samples) in &tracks {
            boxed(out, b"traf", |out| offsets.push(traf(out, *track, samples)));
        }
    });
    let mut data_offset = out.len() + 8;
    for (at, (_, samples)) in offsets.into_iter().zip(&tracks) {
        out[at..at + 4].copy_from_slice(&u32_of(data_offset).to_be_bytes());
        data_offset += samples.iter().map(|s| s.data.len()).sum::<usize>();
    }
    boxed(&mut out, b"mdat", |out| {
        for (_, samples) in &tracks {
            samples.iter().for_each(|s| out.extend_from_slice(&s.data));
        }
    });
    out.into()
}

/// 8.8.6 to 8.8.8 and 8.8.12; returns where the data_offset of its run stands.
fn traf(out: &mut Vec<u8>, track: Track, samples: &[Sample]) -> usize {
    // default-base-is-moof: offsets count from the moof, so that fragments can be cut out and sent alone.
    full(out, b"tfhd", 0, 0x02_0000, |out| out.extend((track as u32).to_be_bytes()));
    let start = samples.first().map_or(0, |s| s.dts.as_micros().max(0));
    full(out, b"tfdt", 1, 0, |out| out.extend(start.to_be_bytes()));
    // data-offset, sample-duration, sample-size; for pictures also sample-flags and composition-time-offset, which
    // is signed in version 1.
    let pictures = track == Track::Video;
    let (version, flags) = if pictures { (1, 0xF01) } else { (0, 0x301) };
    let mut offset_at = 0;
    full(out, b"trun", version, flags, |out| {
        out.extend(u32_of(samples.len()).to_be_bytes());
        offset_at = out.len();
        out.extend([0; 4]);
        for s in samples {
            let duration = u32::try_from(s.duration.as_micros()).unwrap_or(u32::MAX);
            out.extend(duration.to_be_bytes());
            out.extend(u32_of(s.data.len()).to_be_bytes());
            if pictures {
                let flags = if s.key { SYNC } else { NOT_SYNC };
                out.extend(flags.to_be_bytes());
                let offset = s.pts.as_micros().saturating_sub(s.dts.as_micros());
                let offset = offset.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
                out.extend(offset.to_be_bytes());
            }
        }
    });
    offset_at
}

#[cfg(test)]
mod tests;
