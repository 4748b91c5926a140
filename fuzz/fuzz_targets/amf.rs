//! What the check lets through, the library behind it parses, and finds three values in a command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter::ingest::amf::{AmfLimits, check_command, check_values};

const LIMITS: AmfLimits = AmfLimits { max_depth: 16, max_string_bytes: 1000 };

fuzz_target!(|data: &[u8]| {
    let values = check_values(data, LIMITS).is_ok();
    let command = check_command(data, LIMITS).is_ok();
    assert!(values || !command);
    if values {
        let parsed = rml_amf0::deserialize(&mut &data[..]).expect("what was checked is parsed");
        assert!(!command || parsed.len() >= 3);
    }
});
