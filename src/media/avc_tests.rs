use super::*;
use proptest::prelude::*;

use crate::ingest::testing::{B_FRAMES, GLASSES, OTHER, tags};

/// (record, access units) of an FLV file.
fn flv(file: &[u8]) -> (Bytes, Vec<Bytes>) {
    let tags = tags(file);
    let record = tags.iter().find(|t| t.kind == 9 && t.payload.get(1) == Some(&0));
    let units = tags.iter().filter(|t| t.is_picture()).map(|t| t.body());
    (record.unwrap().body(), units.collect())
}

#[test]
fn the_size_is_the_cropped_one() {
    let (params, _) = parse_record(&flv(GLASSES).0).unwrap();
    assert_eq!((params.width, params.height, params.nal_length_size), (214, 120, 4));
    assert_eq!(params.codec, VideoCodec::H264);
}

#[test]
fn frame_numbers_of_x264() {
    let (record, units) = flv(GLASSES);
    let (params, mut sets) = parse_record(&record).unwrap();
    for (i, unit) in units.iter().enumerate() {
        let seen = sets.look(unit, params.nal_length_size).unwrap();
        let slice = seen.slice.unwrap();
        assert!(seen.picture && seen.reference && !seen.new_sets);
        assert_eq!((seen.idr, slice.frame_num), (i % 15 == 0, i as u32 % 15));
        assert_eq!(slice.size, (214, 120));
    }
}

#[test]
fn pictures_nobody_refers_to_are_told_apart() {
    let (record, units) = flv(B_FRAMES);
    let (params, mut sets) = parse_record(&record).unwrap();
    let seen: Vec<_> =
        units.iter().map(|u| sets.look(u, params.nal_length_size).unwrap()).collect();
    assert!(seen.iter().any(|u| !u.reference) && seen[0].idr);
    for (unit, seen) in units.iter().zip(&seen) {
        assert_eq!(is_dispensable(unit, params.nal_length_size), !seen.reference);
    }
}

#[test]
fn what_outlasts_its_picture_is_not_left_out() {
    let unit = |kinds: &[u8]| -> Vec<u8> {
        kinds.iter().flat_map(|kind| [0, 0, 0, 2, *kind, 0x80]).collect()
    };
    for (kinds, dispensable) in [
        (&[0x01][..], true),
        (&[0x09, 0x06, 0x01, 0x01, 0x0C], true),
        (&[0x01, 0x41], false), // one slice that others refer to
        (&[0x65], false),       // IDR
        (&[0x67, 0x01], false), // a parameter set before the picture
        (&[0x68, 0x01], false),
        (&[0x0E, 0x01], false), // layers: not looked into
        (&[0x06], false),       // no picture
        (&[], false),
    ] {
        assert_eq!(is_dispensable(&unit(kinds), 4), dispensable, "{kinds:02x?}");
    }
    assert!(!is_dispensable(&[0, 0, 0, 9, 1], 4));
}

#[test]
fn in_band_sets_come_into_force() {
    let (record, _) = flv(GLASSES);
    let (params, mut sets) = parse_record(&record).unwrap();
    let (_, theirs) = parse_record(&flv(OTHER).0).unwrap();
    let unit: Vec<u8> = theirs
        .sps
        .values()
        .map(|(_, nal)| nal)
        .chain(theirs.pps.values().map(|(_, nal)| nal))
        .flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat())
        .collect();
    assert!(sets.look(&unit, 4).unwrap().new_sets);
    assert!(!sets.look(&unit, 4).unwrap().new_sets);
    let again = sets.record(params.nal_length_size).unwrap();
    let (again, _) = parse_record(&again).unwrap();
    assert_eq!((again.width, again.height), (318, 178));
}

#[test]
fn cut_records_are_refused_at_every_length() {
    let (record, _) = flv(GLASSES);
    for len in 0..record.len() {
        // Whole but for the optional tail is whole.
        if let Ok((params, sets)) = parse_record(&record.slice(..len)) {
            assert_eq!(params.width, 214);
            assert_eq!(sets.pps.len(), 1, "{len}");
        }
    }
    let mut three = record.to_vec();
    three[4] = 0xFE;
    assert_eq!(parse_record(&three.into()).unwrap_err(), ParamsError::LengthSize);
    let no_sps = Bytes::from_static(&[1, 66, 0, 30, 0xFF, 0xE0, 0]);
    assert_eq!(parse_record(&no_sps).unwrap_err(), ParamsError::NoSps("H.264"));
    let version = Bytes::from_static(&[9, 66, 0, 30, 0xFF, 0xE0, 0]);
    assert_eq!(parse_record(&version).unwrap_err(), ParamsError::Version("H.264", 9));
}

/// Writes a baseline SPS of the given size in macroblocks.
fn sps(width_mbs: u32, height_mbs: u32) -> Vec<u8> {
    let ue = |n: u32| {
        let code = u64::from(n) + 1;
        let len = 64 - code.leading_zeros();
        let zeros = std::iter::repeat_n(false, len as usize - 1);
        zeros.chain((0..len).rev().map(move |i| code >> i & 1 == 1)).collect::<Vec<_>>()
    };
    // id, log2_max_frame_num, POC type 2, references, gaps, size, then the flags.
    let mut bits = [0, 0, 2, 1].map(ue).concat();
    bits.push(false);
    bits.extend([width_mbs - 1, height_mbs - 1].map(ue).concat());
    bits.extend([true, true, false, false, true]);
    let bytes = bits
        .chunks(8)
        .map(|c| c.iter().enumerate().fold(0, |byte, (i, bit)| byte | u8::from(*bit) << (7 - i)));
    [0x67, 66, 0, 30].into_iter().chain(bytes).collect()
}

#[test]
fn sizes_over_the_limit_are_named() {
    let small = parse_sps(&sps(80, 45)).unwrap();
    assert_eq!((small.width, small.height), (1280, 720));
    let huge = parse_sps(&sps(3125, 3125)).unwrap_err();
    assert_eq!(huge, ParamsError::PictureSize { width: 50_000, height: 50_000 });
    assert!(matches!(parse_sps(&sps(u32::MAX, 1)), Err(ParamsError::PictureSize { .. })));
}

proptest! {
    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(sps) = parse_sps(&[&[0x67, 100][..], &data].concat()) {
            prop_assert!((1..=8192).contains(&sps.width) && (1..=8192).contains(&sps.height));
        }
        let _ = parse_record(&[&[1][..], &data].concat().into());
        let (_, mut sets) = parse_record(&flv(GLASSES).0).unwrap();
        let _ = sets.look(&data, 2);
        let _ = sets.look(&[&[0, 0, 1, 44, 0x65][..], &[0; 43], &data].concat(), 4);
        prop_assert!(sets.record(4).is_some());
    }
}
