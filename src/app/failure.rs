//! How a command ends when it does not end well, and the exit code that says so to a service manager.

use std::fmt::Display;

use crate::config::ConfigError;

/// What stops a command; the text names the thing and the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Usage(String),
    /// A port, a file or a device cannot be had: 69 (EX_UNAVAILABLE).
    #[error("{0}")]
    Unavailable(String),
    /// A stage failed too often: 70 (EX_SOFTWARE).
    #[error("{0}")]
    GaveUp(String),
    /// Configuration, model or library is bad, and restarting will not help: 78 (EX_CONFIG).
    #[error("{0}")]
    Config(String),
}

impl Failure {
    pub fn usage(e: impl Display) -> Self {
        Self::Usage(e.to_string())
    }

    pub fn unavailable(e: impl Display) -> Self {
        Self::Unavailable(e.to_string())
    }

    pub fn gave_up(e: impl Display) -> Self {
        Self::GaveUp(e.to_string())
    }

    pub fn config(e: impl Display) -> Self {
        Self::Config(e.to_string())
    }

    /// After sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 1,
            Self::Unavailable(_) => 69,
            Self::GaveUp(_) => 70,
            Self::Config(_) => 78,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::Config(e.to_string())
    }
}
