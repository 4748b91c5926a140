//! Any bytes after the handshake: neither our side nor the session behind it panics, not even where it is caught.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spotter::ingest::amf::AmfLimits;
use spotter::ingest::dechunk::{Dechunker, Limits};
use spotter::ingest::protocol::{Protocol, ProtocolError, Step};

fuzz_target!(|data: &[u8]| {
    let limits =
        Limits { max_message_bytes: 64 << 10, max_chunk_streams: 64, max_partial_bytes: 64 << 10 };
    let mut dechunker = Dechunker::new(limits);
    let amf = AmfLimits { max_depth: 16, max_string_bytes: 16 << 10 };
    let (mut protocol, _) = Protocol::new(amf).expect("a conversation begins");
    let mut input = BytesMut::from(data);
    while let Ok(Some(message)) = dechunker.next(&mut input) {
        let steps = match protocol.handle(&message) {
            Ok(steps) => steps,
            Err(error) => {
                assert!(error != ProtocolError::SessionPanicked);
                return;
            }
        };
        for step in steps {
            match step {
                Step::Publish(request) => {
                    if protocol.accept(&request).is_err() {
                        return;
                    }
                }
                Step::Play(request) => drop(protocol.refuse(&request, "code", "text")),
                _ => {}
            }
        }
    }
});
