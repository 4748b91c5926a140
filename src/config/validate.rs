//! Judges a configuration's values: each fault names its key, the value and the remedy.

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted, as in `detect.rate_hz`.
    pub key: String,
    pub message: String,
}
