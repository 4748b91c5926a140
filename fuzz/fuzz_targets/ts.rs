//! Any bytes are taken as a transport stream, in pieces of any size; a packet that comes out is no longer than was allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter::ingest::srt::ts::{Demuxer, Pes};

const MAX_PES_BYTES: usize = 4096;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (data, piece) = input;
    let mut demuxer = Demuxer::new(MAX_PES_BYTES);
    for part in data.chunks(usize::from(piece).max(1) * 8) {
        for pes in demuxer.push(part) {
            let (Pes::Video { data, .. } | Pes::Audio { data, .. }) = pes;
            assert!(data.len() <= MAX_PES_BYTES);
        }
    }
    demuxer.take_tally();
});
