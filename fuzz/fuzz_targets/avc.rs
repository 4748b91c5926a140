//! Any configuration record and access unit of H.264 and H.265: sizes keep within the limit, a record made of the
//! sets in force reads back, NAL units survive the way to start codes and back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spotter::media::nal::{MAX_SIDE_PX, from_annex_b, split, to_annex_b};
use spotter::media::{VideoParams, avc, hevc};

fn sane(params: &VideoParams) {
    let side = 1..=MAX_SIDE_PX;
    assert!(side.contains(&params.width) && side.contains(&params.height));
    assert!(matches!(params.nal_length_size, 1 | 2 | 4));
}

fuzz_target!(|data: &[u8]| {
    let Some((at, data)) = data.split_first() else { return };
    let (record, unit) = data.split_at(usize::from(*at).min(data.len()));
    let record = Bytes::copy_from_slice(record);
    if let Ok(params) = hevc::parse_record(&record) {
        sane(&params);
        let _ = hevc::look(unit, params.nal_length_size);
    }
    if let Ok((params, mut sets)) = avc::parse_record(&record) {
        sane(&params);
        let _ = sets.look(unit, params.nal_length_size);
        let again = sets.record(params.nal_length_size).expect("there is an SPS");
        let (again, _) = avc::parse_record(&again).expect("our own record reads back");
        sane(&again);
    }
    // NAL units end in a byte that is not 0 (7.4.1) and hold no start code; only such come back unchanged.
    let units: Result<Vec<_>, _> = split(unit, 4).collect();
    let whole =
        |nal: &&[u8]| nal.last() != Some(&0) && !nal.windows(3).any(|w| matches!(w, [0, 0, 0 | 1]));
    if let Ok(units) = units
        && units.iter().all(whole)
    {
        let back = from_annex_b(&to_annex_b(unit, 4).expect("it was split before"));
        let back: Result<Vec<_>, _> = split(&back, 4).collect();
        assert_eq!(back.as_ref(), Ok(&units));
    }
});
