//! Any message payload is parsed or refused; what comes out lies within what went in.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spotter::ingest::flv::{AudioTag, VideoTag, parse_audio, parse_video};

fuzz_target!(|data: &[u8]| {
    let payload = Bytes::copy_from_slice(data);
    match parse_video(&payload) {
        Ok(VideoTag::Unit { data: part, composition_ms, .. }) => {
            assert!(payload.ends_with(&part) && part.len() < payload.len());
            assert!((-(1 << 23)..1 << 23).contains(&composition_ms));
        }
        Ok(VideoTag::Config { record, .. }) => assert!(payload.ends_with(&record)),
        Ok(VideoTag::Nothing) | Err(_) => {}
    }
    match parse_audio(&payload) {
        Ok(AudioTag::Frame { data: part, .. } | AudioTag::Config { config: part, .. }) => {
            assert!(payload.ends_with(&part) && part.len() < payload.len());
        }
        Ok(AudioTag::Nothing) | Err(_) => {}
    }
});
