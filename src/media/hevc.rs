//! H.265 facts that need no decoding (pure): picture size, random access points, and a record out of parameter sets that
//! came in-band. It decodes no picture.
//!
//! Syntax after Rec. ITU-T H.265 7.3; the configuration record after ISO/IEC 14496-15 8.3.3.

use bytes::Bytes;

use super::bits::{BitReader, unescape};
use super::nal::{BrokenLengths, ParamsError, picture_size, split};
use super::unit::{VideoCodec, VideoParams};

const NAME: &str = "H.265";
const MAX_SET_BYTES: usize = 4096;
const NAL_VPS: u8 = 32;
const NAL_SPS: u8 = 33;
const NAL_PPS: u8 = 34;
const NAL_DELIMITER: u8 = 35;
const NAL_FILLER: u8 = 38;
const NAL_SEI: std::ops::RangeInclusive<u8> = 39..=40;

/// What an access unit is, from the headers of its NAL units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HevcUnit {
    /// It has an IRAP picture (types 16 to 23: BLA, IDR, CRA): decoding can begin here.
    pub irap: bool,
    /// It has a coded picture at all.
    pub picture: bool,
    /// Displayed size in pixels of a sequence parameter set in it.
    pub size: Option<(u32, u32)>,
}

/// Reads an hvcC record.
pub fn parse_record(record: &Bytes) -> Result<VideoParams, ParamsError> {
    let broken = ParamsError::Broken(NAME);
    let header: &[u8; 23] = record.first_chunk().ok_or(broken.clone())?;
    if header[0] != 1 {
        return Err(ParamsError::Version(NAME, header[0]));
    }
    let nal_length_size = (header[21] & 3) + 1;
    if nal_length_size == 3 {
        return Err(ParamsError::LengthSize);
    }
    let mut size = None;
    let mut rest = &record[23..];
    for _ in 0..header[22] {
        let (head, mut after) = rest.split_at_checked(3).ok_or(broken.clone())?;
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
            let (length, tail) = after.split_at_checked(2).ok_or(broken.clone())?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let (nal, tail) = tail.split_at_checked(length).ok_or(broken.clone())?;
            if head[0] & 0x3F == NAL_SPS && size.is_none() {
                size = Some(parse_sps(nal)?);
            }
            after = tail;
        }
        rest = after;
    }
    let (width, height) = size.ok_or(ParamsError::NoSps(NAME))?;
    let record = record.clone();
    Ok(VideoParams { codec: VideoCodec::H265, width, height, record, nal_length_size })
}

/// Looks through an access unit.
pub fn look(data: &[u8], nal_length_size: u8) -> Result<HevcUnit, BrokenLengths> {
    let mut found = HevcUnit::default();
    for nal in split(data, nal_length_size) {
        let nal = nal?;
        match nal[0] >> 1 & 0x3F {
            kind @ 0..=31 => {
                found.picture = true;
                found.irap |= (16..24).contains(&kind);
            }
            NAL_SPS => found.size = parse_sps(nal).ok().or(found.size),
            _ => {}
        }
    }
    Ok(found)
}

/// Temporal sub-layers by an hvcC record; 0: it does not say.
pub fn temporal_layers(record: &[u8]) -> u8 {
    record.get(21).map_or(0, |b| b >> 3 & 7)
}

/// Whether an access unit can be left out and every other one decodes as before: a sub-layer non-reference picture
/// (7.4.2.2) of the highest of `layers` temporal sub-layers, since higher ones may refer to it, and nothing beside it
/// that outlasts it. False when in doubt.
pub fn is_dispensable(data: &[u8], nal_length_size: u8, layers: u8) -> bool {
    let mut picture = false;
    for nal in split(data, nal_length_size) {
        let Ok([first, second, ..]) = nal else { return false };
        let (layer, temporal) = ((first & 1) << 5 | second >> 3, second & 7);
        match first >> 1 & 0x3F {
            // TRAIL_N, TSA_N, STSA_N, RADL_N, RASL_N.
            0 | 2 | 4 | 6 | 8 if layer == 0 && temporal == layers && layers > 0 => picture = true,
            NAL_DELIMITER | NAL_FILLER => {}
            kind if NAL_SEI.contains(&kind) => {}
            _ => return false,
        }
    }
    picture
}

/// Displayed size in pixels out of a sequence parameter set NAL unit (7.3.2.2.1).
pub fn parse_sps(nal: &[u8]) -> Result<(u32, u32), ParamsError> {
    if !(2..=MAX_SET_BYTES).contains(&nal.len()) || nal[0] >> 1 & 0x3F != NAL_SPS {
        return Err(ParamsError::Broken(NAME));
    }
    let payload = unescape(&nal[2..], MAX_SET_BYTES);
    let sps = read_sps(&mut BitReader::new(&payload)).ok_or(ParamsError::Broken(NAME))?;
    picture_size(sps.coded, sps.crop, NAME)
}

/// The newest parameter sets of a stream that has no record beside it: VPS, SPS, PPS.
#[derive(Debug, Clone, Default)]
pub struct HevcSets([Bytes; 3]);

impl HevcSets {
    /// Keeps the sets in an access unit. True when one of them is new.
    pub fn look(&mut self, data: &[u8], nal_length_size: u8) -> Result<bool, BrokenLengths> {
        let mut new = false;
        for nal in split(data, nal_length_size) {
            let nal = nal?;
            let kind = nal[0] >> 1 & 0x3F;
            if !(NAL_VPS..=NAL_PPS).contains(&kind) || nal.len() > MAX_SET_BYTES {
                continue;
            }
            let kept = &mut self.0[usize::from(kind - NAL_VPS)];
            if *kept != nal {
                *kept = Bytes::copy_from_slice(nal);
                new = true;
            }
        }
        Ok(new)
    }

    /// An hvcC record (ISO/IEC 14496-15 8.3.3.1.2) for access units with lengths of four bytes, once there is one set of
    /// each kind.
    pub fn record(&self) -> Option<Bytes> {
        let [_, sps, _] = &self.0;
        let payload = unescape(sps.get(2..)?, MAX_SET_BYTES);
        let facts = read_sps(&mut BitReader::new(&payload))?;
        let (first, profile_and_level) = (payload.first()?, payload.get(1..13)?);
        // The SPS begins with vps id (4 bits), sub-layers (3) and temporal nesting (1).
        let (layers, nested) = ((first >> 1 & 7) + 1, first & 1);
        let mut out = vec![1];
        out.extend_from_slice(profile_and_level);
        out.extend([0xF0, 0, 0xFC, 0xFC | facts.chroma]);
        out.extend(facts.depths.map(|depth| 0xF8 | depth));
        out.extend([0, 0, layers << 3 | nested << 2 | 3, 3]);
        for (kind, nal) in (NAL_VPS..).zip(&self.0) {
            if nal.is_empty() {
                return None;
            }
            out.extend([0x80 | kind, 0, 1]);
            out.extend_from_slice(&u16::try_from(nal.len()).ok()?.to_be_bytes());
            out.extend_from_slice(nal);
        }
        Some(out.into())
    }
}

/// What is used of a sequence parameter set.
struct Sps {
    coded: Size,
    crop: Size,
    /// chroma_format_idc, and the bit depths of luma and chroma over 8.
    chroma: u8,
    depths: [u8; 2],
}

type Size = (u64, u64);

fn read_sps(r: &mut BitReader<'_>) -> Option<Sps> {
    r.skip(4)?;
    let sub_layers = r.bits(3).filter(|n| *n <= 6)?;
    r.skip(1)?;
    skip_profile_tier_level(r, sub_layers)?;
    let _id = r.ue()?;
    let chroma = r.ue().filter(|c| *c <= 3)?;
    let separate_colour_plane = chroma == 3 && r.flag()?;
    let coded = (u64::from(r.ue()?), u64::from(r.ue()?));
    let mut crop = (0, 0);
    if r.flag()? {
        let [left, right, top, bottom] = [r.ue()?, r.ue()?, r.ue()?, r.ue()?].map(u64::from);
        // SubWidthC and SubHeightC, table 6-1.
        let (unit_x, unit_y) = match (chroma, separate_colour_plane) {
            (1, _) => (2, 2),
            (2, _) => (2, 1),
            _ => (1, 1),
        };
        crop = ((left + right) * unit_x, (top + bottom) * unit_y);
    }
    let [luma, chroma_depth] = [r.ue()?, r.ue()?].map(|depth| u8::try_from(depth.min(8)));
    let depths = [luma.ok()?, chroma_depth.ok()?];
    Some(Sps { coded, crop, chroma: chroma as u8, depths })
}

/// 7.3.3: 88 bits of profile and 8 of level, then what each sub-layer says of its own.
fn skip_profile_tier_level(r: &mut BitReader<'_>, sub_layers: u32) -> Option<()> {
    r.skip(96)?;
    let mut present = Vec::new();
    for _ in 0..sub_layers {
        present.push((r.flag()?, r.flag()?));
    }
    if sub_layers > 0 {
        r.skip(2 * (8 - sub_layers as usize))?;
    }
    for (profile, level) in present {
        r.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 })?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The SPS of `ffmpeg -f lavfi -i testsrc=size=426x240 -c:v libx265`: 432x240 coded, cropped to 426x240.
    const SPS: &[u8] = include_bytes!("../../tests/data/ingest/x265-426x240.sps");

    fn record(sps: &[u8]) -> Bytes {
        let mut out = vec![1; 1];
        out.extend([0; 20]);
        out.extend([0xFF, 1, 0x21, 0, 1]);
        out.extend((sps.len() as u16).to_be_bytes());
        out.extend(sps);
        out.into()
    }

    #[test]
    fn the_size_is_the_cropped_one() {
        assert_eq!(parse_sps(SPS), Ok((426, 240)));
        let params = parse_record(&record(SPS)).unwrap();
        assert_eq!((params.width, params.height, params.nal_length_size), (426, 240, 4));
    }

    #[test]
    fn cut_records_are_refused_at_every_length() {
        let whole = record(SPS);
        for len in 0..whole.len() {
            assert!(parse_record(&whole.slice(..len)).is_err(), "{len}");
        }
    }

    #[test]
    fn a_record_is_made_of_sets_in_band() {
        let unit = |nals: &[&[u8]]| {
            let one = |nal: &&[u8]| [&(nal.len() as u32).to_be_bytes()[..], nal].concat();
            nals.iter().flat_map(one).collect::<Vec<u8>>()
        };
        let (vps, pps): ([u8; 3], [u8; 3]) = ([NAL_VPS << 1, 1, 9], [NAL_PPS << 1, 1, 7]);
        let mut sets = HevcSets::default();
        assert!(sets.look(&unit(&[&vps, SPS]), 4).unwrap());
        assert_eq!(sets.record(), None, "no PPS yet");
        let whole = unit(&[&vps, SPS, &pps, &[2, 1, 0x80]]);
        assert!(sets.look(&whole, 4).unwrap() && !sets.look(&whole, 4).unwrap());
        let record = sets.record().unwrap();
        let params = parse_record(&record).unwrap();
        assert_eq!((params.width, params.height, params.nal_length_size), (426, 240, 4));
        // 4:4:4 with 8 bits, of the range extensions' profile.
        assert_eq!(
            (record[16] & 3, record[17] & 7, record[18] & 7, record[1] & 0x1F),
            (3, 0, 0, 4)
        );
    }

    #[test]
    fn random_access_points() {
        let unit = |kind: u8| [0, 0, 0, 3, kind << 1, 1, 0x80];
        assert!(look(&unit(19), 4).unwrap().irap);
        assert!(look(&unit(21), 4).unwrap().irap);
        let trail = look(&unit(1), 4).unwrap();
        assert!(trail.picture && !trail.irap);
        assert!(!look(&unit(35), 4).unwrap().picture);
    }

    #[test]
    fn only_what_no_sub_layer_refers_to_can_be_left_out() {
        // nuh_temporal_id_plus1 is `temporal`.
        let unit = |kinds: &[u8], temporal: u8| -> Vec<u8> {
            kinds.iter().flat_map(|kind| [0, 0, 0, 3, kind << 1, temporal, 0x80]).collect()
        };
        for (kinds, temporal, layers, dispensable) in [
            (&[0][..], 1, 1, true),
            (&[35, 39, 8, 8, 40], 1, 1, true),
            (&[2], 3, 3, true),
            (&[0], 1, 2, false), // the layer above may refer to it
            (&[0], 1, 0, false), // the record does not say
            (&[1], 1, 1, false), // TRAIL_R
            (&[19], 1, 1, false),
            (&[0, 1], 1, 1, false),
            (&[34, 0], 1, 1, false), // a parameter set before the picture
            (&[10], 1, 1, false),    // reserved
            (&[39], 1, 1, false),
            (&[], 1, 1, false),
        ] {
            assert_eq!(is_dispensable(&unit(kinds, temporal), 4, layers), dispensable, "{kinds:?}");
        }
        assert_eq!(temporal_layers(&[0x0F; 23]), 1);
        assert_eq!(temporal_layers(&[]), 0);
    }

    proptest! {
        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = is_dispensable(&data, 4, 1);
            let _ = parse_sps(&[&[NAL_SPS << 1, 1][..], &data].concat());
            let _ = parse_record(&[&[1][..], &data].concat().into());
            let _ = look(&data, 4);
            let mut sets = HevcSets::default();
            let _ = sets.look(&data, 4);
            let _ = sets.record();
        }
    }
}
