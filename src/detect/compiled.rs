//! Tells from a model file's bytes which accelerator it was compiled for (pure). Judges nothing else of it.

/// Operations that compilers put into a TFLite model, which only one accelerator's delegate can run.
const MARKS: &[(&str, &str, &str)] = &[
    ("edgetpu-custom-op", "a Coral Edge TPU", "libedgetpu.so.1"),
    ("ethos-u", "an Arm Ethos-U", "libethosu_delegate.so"),
    ("vsi-npu", "a VeriSilicon NPU (NXP i.MX 8M Plus)", "libvx_delegate.so"),
    ("NeutronGraph", "an NXP Neutron NPU (i.MX 95)", "libneutron_delegate.so"),
];

/// For whom a TFLite model was compiled: the accelerator, and the delegate that runs it.
pub(super) fn compiled_for(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let found = MARKS.iter().find(|(mark, ..)| {
        // As the format stores a string: its length before it and a zero behind it.
        let mut stored = u32::try_from(mark.len()).unwrap_or(0).to_le_bytes().to_vec();
        stored.extend_from_slice(mark.as_bytes());
        stored.push(0);
        let (first, rest) = (stored[0], &stored[1..]);
        let mut at = 0;
        // Most bytes are not the first one: looked for by itself, which is quick in debug builds too.
        while let Some(step) = bytes[at..].iter().position(|b| *b == first) {
            at += step + 1;
            if bytes[at..].starts_with(rest) {
                return true;
            }
        }
        false
    });
    found.map(|(_, accelerator, delegate)| (*accelerator, *delegate))
}

/// Whether it is a TFLite model at all, by the format's identifier. What follows that is for the library to verify.
pub(super) fn is_tflite(bytes: &[u8]) -> Result<(), String> {
    match (bytes.get(4..8), foreign(bytes)) {
        (Some(b"TFL3"), _) => Ok(()),
        (_, Some(what)) => Err(format!("not a TensorFlow Lite model but {what}")),
        (_, None) => Err("not a TensorFlow Lite model".into()),
    }
}

/// What a file that is no TFLite model looks like.
pub(super) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x01, b'H', b'E', b'F', ..] => {
            Some("one compiled for Hailo (HEF), which spotter cannot run")
        }
        [b'R', b'K', b'N', b'N', ..] => {
            Some("one compiled for Rockchip (RKNN), which spotter cannot run")
        }
        [b'P', b'K', 3, 4, ..] => Some("a ZIP archive"),
        // An ONNX file begins with its format's version and then its producer.
        [0x08, version, 0x12, ..] if *version < 32 => Some("an ONNX model"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_as_strings_of_the_format_only() {
        let stored = |text: &str| {
            let mut bytes = b"\x1c\0\0\0TFL3........".to_vec();
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(b"\0\0\0");
            bytes
        };
        let coral = compiled_for(&stored("edgetpu-custom-op"));
        assert_eq!(coral, Some(("a Coral Edge TPU", "libedgetpu.so.1")));
        assert_eq!(compiled_for(&stored("my ethos-u notes")), None);
        assert_eq!(compiled_for(b"ethos-u"), None);
        assert_eq!(compiled_for(b""), None);
    }

    #[test]
    fn other_formats_have_names() {
        assert!(foreign(b"\x01HEF....").unwrap().contains("Hailo"));
        assert!(foreign(b"\x08\x0a\x12\x07pytorch").unwrap().contains("ONNX"));
        assert_eq!(foreign(b"nothing"), None);
    }
}
