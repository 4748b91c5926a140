//! Walks AMF0 without building it, so that the parser behind, which recurses without bound and panics on short
//! commands, sees only what it can take. It judges form, depth and lengths; it gives no values but a command's name.
//!
//! Shapes after "Action Message Format -- AMF 0" (Adobe, 2007), sections 2.2 to 2.18.

/// What one AMF message may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmfLimits {
    /// Objects and arrays inside each other.
    pub max_depth: usize,
    /// One string or key, bytes.
    pub max_string_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    #[error("AMF objects nested deeper than {0}: see ingest.max_amf_depth")]
    TooDeep(usize),
    #[error(
        "an AMF string of {len} bytes is over the limit of {limit}: see ingest.max_amf_string_bytes"
    )]
    StringTooLong { len: usize, limit: usize },
    #[error("an AMF value is cut off")]
    CutOff,
    #[error("AMF type {0} is not used in RTMP commands")]
    Type(u8),
    #[error("AMF text is not UTF-8")]
    NotText,
    #[error("an AMF command needs a name, a number and an object")]
    NotACommand,
}

/// What a container still expects.
enum Open {
    /// Key and value pairs up to an empty key.
    Properties,
    /// So many values.
    Values(u32),
}

/// Checks a whole command message and gives its name. A leading 0 byte (AMF3 commands carry AMF0 behind one) must
/// be taken off before.
pub fn check_command(data: &[u8], limits: AmfLimits) -> Result<&str, AmfError> {
    let mut walk = Walk { data, limits };
    let name = match walk.next()? {
        Some(Top::Text(name)) => name,
        _ => return Err(AmfError::NotACommand),
    };
    if !matches!(walk.next()?, Some(Top::Number)) || walk.next()?.is_none() {
        return Err(AmfError::NotACommand);
    }
    while walk.next()?.is_some() {}
    Ok(name)
}

/// Checks any sequence of AMF0 values.
pub fn check_values(data: &[u8], limits: AmfLimits) -> Result<(), AmfError> {
    let mut walk = Walk { data, limits };
    while walk.next()?.is_some() {}
    Ok(())
}

/// A top-level value, as far as anyone asks.
enum Top<'a> {
    Text(&'a str),
    Number,
    Other,
}

struct Walk<'a> {
    data: &'a [u8],
    limits: AmfLimits,
}

impl<'a> Walk<'a> {
    /// The next top-level value with all that is inside it; `None` at the end.
    fn next(&mut self) -> Result<Option<Top<'a>>, AmfError> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let mut open: Vec<Open> = Vec::new();
        let top = self.value(&mut open)?;
        // A loop with its own stack: the peer's nesting never becomes ours.
        while let Some(innermost) = open.last_mut() {
            match innermost {
                Open::Values(0) => {
                    open.pop();
                    continue;
                }
                Open::Values(left) => *left -= 1,
                Open::Properties => {
                    if self.text(2)?.is_empty() {
                        match self.byte()? {
                            OBJECT_END => open.pop(),
                            other => return Err(AmfError::Type(other)),
                        };
                        continue;
                    }
                }
            }
            self.value(&mut open)?;
        }
        Ok(Some(top))
    }

    fn value(&mut self, open: &mut Vec<Open>) -> Result<Top<'a>, AmfError> {
        let container = match self.byte()? {
            0 => {
                self.take(8)?;
                return Ok(Top::Number);
            }
            1 => {
                self.take(1)?;
                return Ok(Top::Other);
            }
            2 => return Ok(Top::Text(self.text(2)?)),
            5 | 6 => return Ok(Top::Other),
            3 => Open::Properties,
            8 => {
                // The count of an ECMA array is a hint; it ends like an object (2.10).
                self.take(4)?;
                Open::Properties
            }
            10 => Open::Values(self.take(4)?.iter().fold(0, |n, b| n << 8 | u32::from(*b))),
            other => return Err(AmfError::Type(other)),
        };
        if open.len() >= self.limits.max_depth {
            return Err(AmfError::TooDeep(self.limits.max_depth));
        }
        open.push(container);
        Ok(Top::Other)
    }

    fn text(&mut self, length_bytes: usize) -> Result<&'a str, AmfError> {
        let len = self.take(length_bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let limit = self.limits.max_string_bytes;
        if len > limit {
            return Err(AmfError::StringTooLong { len, limit });
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| AmfError::NotText)
    }

    fn byte(&mut self) -> Result<u8, AmfError> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], AmfError> {
        let (taken, rest) = self.data.split_at_checked(n).ok_or(AmfError::CutOff)?;
        self.data = rest;
        Ok(taken)
    }
}

const OBJECT_END: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: AmfLimits = AmfLimits { max_depth: 16, max_string_bytes: 1000 };

    fn text(s: &str) -> Vec<u8> {
        [&[2, (s.len() >> 8) as u8, s.len() as u8], s.as_bytes()].concat()
    }

    fn command(name: &str, object: &[u8]) -> Vec<u8> {
        [&text(name)[..], &[0; 9], object].concat()
    }

    #[test]
    fn a_command_gives_its_name() {
        let object = [&[3, 0, 3][..], b"app", &text("live"), &[0, 0, 9]].concat();
        assert_eq!(check_command(&command("connect", &object), LIMITS), Ok("connect"));
        assert_eq!(check_command(&command("createStream", &[5]), LIMITS), Ok("createStream"));
    }

    #[test]
    fn short_commands_are_not_commands() {
        for data in [vec![], text("connect"), command("x", &[]), vec![5, 5, 5]] {
            assert_eq!(check_command(&data, LIMITS), Err(AmfError::NotACommand));
        }
    }

    #[test]
    fn ten_thousand_nested_objects_cost_nothing() {
        let nested = [3, 0, 1, b'a'].repeat(10_000);
        assert_eq!(check_command(&command("connect", &nested), LIMITS), Err(AmfError::TooDeep(16)));
        let arrays = [10, 0, 0, 0, 1].repeat(10_000);
        assert_eq!(check_values(&arrays, LIMITS), Err(AmfError::TooDeep(16)));
    }

    #[test]
    fn lengths_are_judged_before_bytes() {
        let long = text(&"x".repeat(1001));
        let limit = AmfError::StringTooLong { len: 1001, limit: 1000 };
        assert_eq!(check_values(&long, LIMITS), Err(limit));
        assert_eq!(check_values(&[2, 0, 9, b'x'], LIMITS), Err(AmfError::CutOff));
        // A strict array that claims four thousand million values and has one.
        assert_eq!(check_values(&[10, 255, 255, 255, 255, 5], LIMITS), Err(AmfError::CutOff));
    }

    fn value() -> impl Strategy<Value = rml_amf0::Amf0Value> {
        use rml_amf0::Amf0Value::*;
        let leaf = prop_oneof![
            any::<f64>().prop_map(Number),
            any::<bool>().prop_map(Boolean),
            "[a-z]{0,20}".prop_map(Utf8String),
            Just(Null),
            Just(Undefined),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(StrictArray),
                prop::collection::hash_map("[a-z]{1,8}", inner, 0..6).prop_map(Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_library_writes_is_accepted(values in prop::collection::vec(value(), 0..5)) {
            let bytes = rml_amf0::serialize(&values).unwrap();
            prop_assert_eq!(check_values(&bytes, LIMITS), Ok(()));
        }

        #[test]
        fn what_is_accepted_the_library_reads(data in prop::collection::vec(any::<u8>(), 0..200)) {
            if check_values(&data, LIMITS).is_ok() {
                prop_assert!(rml_amf0::deserialize(&mut &data[..]).is_ok());
            }
        }

        #[test]
        fn commands_that_are_accepted_have_three_values(
            // Bytes that are mostly AMF markers and small lengths reach deeper than any bytes.
            data in prop::collection::vec(prop_oneof![0u8..12, Just(b'a')], 0..60),
        ) {
            if check_command(&data, LIMITS).is_ok() {
                prop_assert!(rml_amf0::deserialize(&mut &data[..]).is_ok_and(|v| v.len() >= 3));
            }
        }
    }
}
