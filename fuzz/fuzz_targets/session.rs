//! Any sequence of audio and video messages: decoding time only grows, and a picture is intact only behind a key
//! frame with nothing lost in between.
#![no_main]

use std::time::Instant;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spotter::ingest::session::Session;
use spotter::media::{Arrival, StreamId};

fuzz_target!(|data: &[u8]| {
    let id = StreamId::new("fuzz").expect("a legal name");
    let mut session = Session::new(id, None, Instant::now());
    let mut rest = data;
    let (mut last_dts, mut last_pts) = (None, None);
    let mut intact = false;
    // Kind, four bytes of timestamp, two of length, payload.
    while let Some((head, after)) = rest.split_first_chunk::<7>() {
        let len = usize::from(u16::from_be_bytes([head[5], head[6]])).min(after.len());
        let (payload, after) = after.split_at(len);
        rest = after;
        let time = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let payload = Bytes::copy_from_slice(payload);
        if head[0] & 1 == 0 {
            if let Ok(Some(unit)) = session.audio(time, &payload, Arrival::now()) {
                assert!(last_pts.is_none_or(|last| unit.pts > last));
                last_pts = Some(unit.pts);
            }
            continue;
        }
        let Ok(unit) = session.video(time, &payload, Arrival::now()) else { return };
        let lost = session.take_tally().malformed > 0;
        intact &= !lost;
        if let Some(unit) = unit {
            assert!(last_dts.is_none_or(|last| unit.dts > last));
            assert!(!unit.intact || intact || unit.key);
            assert!(!unit.key || unit.intact);
            last_dts = Some(unit.dts);
            intact = unit.intact;
        }
    }
});
