//! H.264 facts that need no decoding (pure): picture size, key frames, frame numbers. It decodes no picture.
//!
//! Syntax after Rec. ITU-T H.264 7.3; the configuration record after ISO/IEC 14496-15 5.3.3.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bits::{BitReader, unescape};
use super::nal::{BrokenLengths, ParamsError, picture_size, split};
use super::unit::{VideoCodec, VideoParams};

const NAME: &str = "H.264";
/// A parameter set longer than this is not read to its end; what is read here comes first.
const MAX_SET_BYTES: usize = 4096;
/// The slice header fields read here take fewer bytes than this.
const MAX_SLICE_HEADER_BYTES: usize = 32;

const NAL_SLICE: u8 = 1;
const NAL_PARTITION_C: u8 = 4;
const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const NAL_DELIMITER: u8 = 9;
const NAL_FILLER: u8 = 12;

/// What is used of a sequence parameter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
    pub id: u8,
    /// Displayed size in pixels.
    pub width: u32,
    pub height: u32,
    pub log2_max_frame_num: u32,
    /// gaps_in_frame_num_value_allowed_flag: the encoder may leave numbers out on purpose.
    pub gaps_allowed: bool,
    separate_colour_plane: bool,
    frame_mbs_only: bool,
}

/// The parameter sets in force.
#[derive(Debug, Clone, Default)]
pub struct AvcSets {
    sps: BTreeMap<u8, (Sps, Bytes)>,
    /// By picture parameter set: which sequence parameter set it refers to.
    pps: BTreeMap<u8, (u8, Bytes)>,
}

/// What an access unit is, from the headers of its NAL units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AvcUnit {
    /// It has an IDR picture: decoding can begin here.
    pub idr: bool,
    /// It has a coded picture at all.
    pub picture: bool,
    /// Later pictures may refer to it (nal_ref_idc is not 0).
    pub reference: bool,
    /// `None` when the parameter sets it refers to are unknown.
    pub slice: Option<AvcSlice>,
    /// It brought parameter sets that differ from those in force; they are in force now.
    pub new_sets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvcSlice {
    pub frame_num: u32,
    pub max_frame_num: u32,
    pub gaps_allowed: bool,
    /// One field of a picture; its second field has the same frame number.
    pub field: bool,
    /// Displayed size in pixels by the slice's own parameter set.
    pub size: (u32, u32),
}

/// Reads an avcC record into parameters and the sets in it.
pub fn parse_record(record: &Bytes) -> Result<(VideoParams, AvcSets), ParamsError> {
    let broken = ParamsError::Broken(NAME);
    let header: &[u8; 6] = record.first_chunk().ok_or(broken.clone())?;
    if header[0] != 1 {
        return Err(ParamsError::Version(NAME, header[0]));
    }
    let nal_length_size = (header[4] & 3) + 1;
    if nal_length_size == 3 {
        return Err(ParamsError::LengthSize);
    }
    let mut sets = AvcSets::default();
    let mut first = None;
    let mut at = 6;
    let next = |at: &mut usize| {
        let length = record.get(*at..*at + 2).ok_or(broken.clone())?;
        let begin = *at + 2;
        *at = begin + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if *at > record.len() {
            return Err(broken.clone());
        }
        Ok(record.slice(begin..*at))
    };
    for _ in 0..header[5] & 0x1F {
        let nal = next(&mut at)?;
        let sps = parse_sps(&nal)?;
        first.get_or_insert((sps.width, sps.height));
        sets.sps.insert(sps.id, (sps, nal));
    }
    let pps_count = *record.get(at).ok_or(ParamsError::Broken(NAME))?;
    at += 1;
    for _ in 0..pps_count {
        let nal = next(&mut at)?;
        sets.add_pps(&nal);
    }
    let (width, height) = first.ok_or(ParamsError::NoSps(NAME))?;
    let record = record.clone();
    let params = VideoParams { codec: VideoCodec::H264, width, height, record, nal_length_size };
    Ok((params, sets))
}

impl AvcSets {
    /// Looks through an access unit; parameter sets in it come into force.
    pub fn look(&mut self, data: &[u8], nal_length_size: u8) -> Result<AvcUnit, BrokenLengths> {
        let mut found = AvcUnit::default();
        for nal in split(data, nal_length_size) {
            let nal = nal?;
            match nal[0] & 0x1F {
                NAL_SPS => found.new_sets |= self.add_sps(nal),
                NAL_PPS => found.new_sets |= self.add_pps(nal),
                kind @ (NAL_SLICE..=NAL_IDR) => {
                    found.idr |= kind == NAL_IDR;
                    found.reference |= nal[0] & 0x60 != 0;
                    if !found.picture && matches!(kind, NAL_SLICE | NAL_IDR) {
                        found.slice = self.slice(nal);
                    }
                    found.picture = true;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// An avcC record of the sets in force, for streams that change them in-band. The optional High-profile tail is
    /// left out: the same facts are in the SPS.
    pub fn record(&self, nal_length_size: u8) -> Option<Bytes> {
        let (_, (_, first)) = self.sps.first_key_value()?;
        let mut out = vec![1];
        out.extend_from_slice(first.get(1..4)?);
        out.push(0xFC | (nal_length_size.clamp(1, 4) - 1));
        let sps: Vec<_> = self.sps.values().take(31).map(|(_, nal)| nal).collect();
        let pps: Vec<_> = self.pps.values().take(255).map(|(_, nal)| nal).collect();
        for (mask, nals) in [(0xE0, sps), (0, pps)] {
            out.push(mask | nals.len() as u8);
            for nal in nals {
                out.extend_from_slice(&u16::try_from(nal.len()).ok()?.to_be_bytes());
                out.extend_from_slice(nal);
            }
        }
        Some(out.into())
    }

    /// True when it is new. A broken one is passed over: the decoder will say what it thinks of it.
    fn add_sps(&mut self, nal: &[u8]) -> bool {
        if self.sps.values().any(|(_, known)| known == nal) {
            return false;
        }
        let Ok(sps) = parse_sps(nal) else { return false };
        self.sps.insert(sps.id, (sps, Bytes::copy_from_slice(nal)));
        true
    }

    fn add_pps(&mut self, nal: &[u8]) -> bool {
        if nal.len() > MAX_SET_BYTES || self.pps.values().any(|(_, known)| known == nal) {
            return false;
        }
        let payload = unescape(&nal[nal.len().min(1)..], MAX_SLICE_HEADER_BYTES);
        let mut r = BitReader::new(&payload);
        let ids = (r.ue().and_then(|n| u8::try_from(n).ok()), r.ue().filter(|n| *n < 32));
        let (Some(id), Some(sps)) = ids else { return false };
        self.pps.insert(id, (sps as u8, Bytes::copy_from_slice(nal)));
        true
    }

    /// Reads a slice header as far as frame_num and field_pic_flag (7.3.3).
    fn slice(&self, nal: &[u8]) -> Option<AvcSlice> {
        let payload = unescape(&nal[1..], MAX_SLICE_HEADER_BYTES);
        let mut r = BitReader::new(&payload);
        let (_first_mb, _type, pps) = (r.ue()?, r.ue()?, r.ue()?);
        let (sps, _) = self.pps.get(&u8::try_from(pps).ok()?)?;
        let (sps, _) = self.sps.get(sps)?;
        if sps.separate_colour_plane {
            r.skip(2)?;
        }
        let frame_num = r.bits(sps.log2_max_frame_num)?;
        let field = !sps.frame_mbs_only && r.flag()?;
        Some(AvcSlice {
            frame_num,
            max_frame_num: 1 << sps.log2_max_frame_num,
            gaps_allowed: sps.gaps_allowed,
            field,
            size: (sps.width, sps.height),
        })
    }
}

/// Whether an access unit can be left out and every other one decodes as before: a picture that none refers to
/// (nal_ref_idc 0), and nothing beside it that outlasts it, such as parameter sets. False when in doubt.
pub fn is_dispensable(data: &[u8], nal_length_size: u8) -> bool {
    let mut picture = false;
    for nal in split(data, nal_length_size) {
        let Ok(nal) = nal else { return false };
        match nal[0] & 0x1F {
            NAL_SLICE..=NAL_PARTITION_C if nal[0] & 0x60 == 0 => picture = true,
            NAL_SEI | NAL_DELIMITER | NAL_FILLER => {}
            _ => return false,
        }
    }
    picture
}

/// Reads a sequence parameter set NAL unit (7.3.2.1.1).
pub fn parse_sps(nal: &[u8]) -> Result<Sps, ParamsError> {
    if nal.len() > MAX_SET_BYTES || nal.first().is_none_or(|b| b & 0x1F != NAL_SPS) {
        return Err(ParamsError::Broken(NAME));
    }
    let payload = unescape(&nal[1..], MAX_SET_BYTES);
    let raw = read_sps(&mut BitReader::new(&payload)).ok_or(ParamsError::Broken(NAME))?;
    let (width, height) = picture_size(raw.coded, raw.crop, NAME)?;
    Ok(Sps { width, height, ..raw.sps })
}

struct RawSps {
    sps: Sps,
    /// Pixels.
    coded: (u64, u64),
    crop: (u64, u64),
}

/// Profiles whose SPS has chroma format, bit depths and scaling lists.
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

fn read_sps(r: &mut BitReader<'_>) -> Option<RawSps> {
    let profile = r.bits(8)?;
    r.skip(16)?;
    let id = u8::try_from(r.ue()?).ok().filter(|id| *id < 32)?;
    let mut chroma = 1;
    let mut separate_colour_plane = false;
    if HIGH_PROFILES.contains(&profile) {
        chroma = r.ue().filter(|c| *c <= 3)?;
        separate_colour_plane = chroma == 3 && r.flag()?;
        let (_luma_depth, _chroma_depth, _bypass) = (r.ue()?, r.ue()?, r.flag()?);
        if r.flag()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if r.flag()? {
                    skip_scaling_list(r, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    let log2_max_frame_num = r.ue().filter(|n| *n <= 12)? + 4;
    match r.ue()? {
        0 => drop(r.ue()?),
        1 => {
            r.skip(1)?;
            let (_non_ref, _top_bottom) = (r.se()?, r.se()?);
            for _ in 0..r.ue().filter(|n| *n <= 255)? {
                r.se()?;
            }
        }
        2 => {}
        _ => return None,
    }
    let _max_num_ref_frames = r.ue()?;
    let gaps_allowed = r.flag()?;
    let width_mbs = u64::from(r.ue()?) + 1;
    let height_units = u64::from(r.ue()?) + 1;
    let frame_mbs_only = r.flag()?;
    if !frame_mbs_only {
        r.skip(1)?;
    }
    r.skip(1)?;
    let fields = if frame_mbs_only { 1 } else { 2 };
    let mut crop = (0, 0);
    if r.flag()? {
        let [left, right, top, bottom] = [r.ue()?, r.ue()?, r.ue()?, r.ue()?].map(u64::from);
        // CropUnitX and CropUnitY, table 6-1 and equations 7-19 to 7-22.
        let (unit_x, unit_y) = match (chroma, separate_colour_plane) {
            (1, _) => (2, 2),
            (2, _) => (2, 1),
            _ => (1, 1),
        };
        crop = ((left + right) * unit_x, (top + bottom) * unit_y * fields);
    }
    Some(RawSps {
        sps: Sps {
            id,
            width: 0,
            height: 0,
            log2_max_frame_num,
            gaps_allowed,
            separate_colour_plane,
            frame_mbs_only,
        },
        coded: (width_mbs * 16, height_units * 16 * fields),
        crop,
    })
}

/// 7.3.2.1.1.1.
fn skip_scaling_list(r: &mut BitReader<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            next = (last + r.se().filter(|d| (-128..=127).contains(d))? + 256) % 256;
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

#[cfg(test)]
#[path = "avc_tests.rs"]
mod tests;
