//! Any bytes, however they are split into reads, give the same messages and the same end, within the limits.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spotter::ingest::dechunk::{DechunkError, Dechunker, Limits, Message};

const LIMITS: Limits =
    Limits { max_message_bytes: 5000, max_chunk_streams: 5, max_partial_bytes: 9000 };

fn run(bytes: &[u8], read: usize) -> (Vec<Message>, Option<DechunkError>) {
    let mut dechunker = Dechunker::new(LIMITS);
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for part in bytes.chunks(read) {
        input.extend_from_slice(part);
        loop {
            match dechunker.next(&mut input) {
                Ok(Some(message)) => {
                    assert!(message.payload.len() <= LIMITS.max_message_bytes);
                    messages.push(message);
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(input.len() < 18, "only part of a header may stay");
        assert!(dechunker.under_way() <= LIMITS.max_partial_bytes);
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((read, bytes)) = data.split_first() else { return };
    assert_eq!(run(bytes, usize::from(*read).max(1)), run(bytes, usize::MAX));
});
