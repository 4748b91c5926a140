//! NAL units as they lie in access units: each behind its length, or behind start codes (pure). What is in them is
//! the business of `avc` and `hevc`.

/// Longest side of a picture in pixels; larger ones only mean harm to the decoder's memory.
pub const MAX_SIDE_PX: u32 = 8192;

/// Why a decoder configuration is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    #[error("the {0} decoder configuration is cut off or broken")]
    Broken(&'static str),
    #[error("the {0} decoder configuration has version {1} where 1 is known")]
    Version(&'static str, u8),
    #[error("NAL units with lengths of 3 bytes are not allowed")]
    LengthSize,
    #[error("the {0} decoder configuration has no usable sequence parameter set")]
    NoSps(&'static str),
    #[error("a picture of {width}x{height} is over the limit of {MAX_SIDE_PX}x{MAX_SIDE_PX}")]
    PictureSize { width: u64, height: u64 },
}

/// A displayed size within the limits, from coded size and cropping in pixels.
pub(super) fn picture_size(
    (width, height): (u64, u64),
    (crop_x, crop_y): (u64, u64),
    codec: &'static str,
) -> Result<(u32, u32), ParamsError> {
    let limit = u64::from(MAX_SIDE_PX);
    // Coded sizes are whole blocks of at most 64; one block of slack admits a cropped 8192.
    if width > limit + 64 || height > limit + 64 {
        return Err(ParamsError::PictureSize { width, height });
    }
    if crop_x >= width || crop_y >= height {
        return Err(ParamsError::Broken(codec));
    }
    let (width, height) = (width - crop_x, height - crop_y);
    if width > limit || height > limit {
        return Err(ParamsError::PictureSize { width, height });
    }
    Ok((width as u32, height as u32))
}

/// The NAL units' lengths do not fit the access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lengths of the NAL units do not fit the access unit")]
pub struct BrokenLengths;

/// The NAL units of an access unit, each behind `length_size` (1 to 4) bytes of length; empty ones are passed over.
pub fn split(data: &[u8], length_size: u8) -> impl Iterator<Item = Result<&[u8], BrokenLengths>> {
    let size = usize::from(length_size.clamp(1, 4));
    let mut rest = data;
    let units = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let unit = rest.split_at_checked(size).and_then(|(length, after)| {
            let length = length.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
            after.split_at_checked(length)
        });
        let Some((unit, after)) = unit else {
            rest = &[];
            return Some(Err(BrokenLengths));
        };
        rest = after;
        Some(Ok(unit))
    });
    units.filter(|unit| unit.is_err() || unit.is_ok_and(|u| !u.is_empty()))
}

/// The same access unit with a start code before each NAL unit (H.264 and H.265 Annex B).
pub fn to_annex_b(data: &[u8], length_size: u8) -> Result<Vec<u8>, BrokenLengths> {
    let mut out = Vec::with_capacity(data.len() + 16);
    for unit in split(data, length_size) {
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(unit?);
    }
    Ok(out)
}

/// The same access unit with four bytes of length before each NAL unit. What precedes the first start code is
/// dropped, as Annex B has it.
pub fn from_annex_b(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 16);
    let mut begin = None;
    let mut at = 0;
    let mut put = |unit: &[u8]| {
        let end = unit.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        if end > 0 {
            out.extend_from_slice(&(end as u32).to_be_bytes());
            out.extend_from_slice(&unit[..end]);
        }
    };
    while at + 3 <= data.len() {
        if data[at..at + 3] == [0, 0, 1] {
            if let Some(begin) = begin {
                put(&data[begin..at]);
            }
            at += 3;
            begin = Some(at);
        } else {
            at += 1;
        }
    }
    if let Some(begin) = begin {
        put(&data[begin..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_must_fit() {
        let good: Vec<_> = split(&[0, 1, 7, 0, 0, 0, 2, 8, 9], 2).collect();
        assert_eq!(good, [Ok(&[7][..]), Ok(&[8, 9][..])]);
        assert_eq!(split(&[0, 9, 7], 2).last(), Some(Err(BrokenLengths)));
        assert_eq!(split(&[255, 255, 255, 255, 7], 4).last(), Some(Err(BrokenLengths)));
        assert_eq!(split(&[0], 2).last(), Some(Err(BrokenLengths)));
    }

    #[test]
    fn sizes_have_a_limit() {
        assert_eq!(picture_size((8192, 4096), (0, 0), "x"), Ok((8192, 4096)));
        let big = picture_size((50_000, 50_000), (0, 0), "x").unwrap_err();
        assert_eq!(big.to_string(), "a picture of 50000x50000 is over the limit of 8192x8192");
        assert!(picture_size((16, 16), (16, 0), "x").is_err());
    }

    proptest! {
        #[test]
        fn there_and_back(units in prop::collection::vec(prop::collection::vec(1u8..=255, 1..20), 0..6)) {
            let avcc: Vec<u8> = units
                .iter()
                .flat_map(|u| [&(u.len() as u32).to_be_bytes()[..], u].concat())
                .collect();
            prop_assert_eq!(from_annex_b(&to_annex_b(&avcc, 4).unwrap()), avcc);
        }

        #[test]
        fn any_bytes_split_or_break(data in prop::collection::vec(any::<u8>(), 0..80), size in 0u8..6) {
            let total: usize = split(&data, size).flatten().map(<[u8]>::len).sum();
            prop_assert!(total <= data.len());
            let _ = from_annex_b(&data);
        }
    }
}
