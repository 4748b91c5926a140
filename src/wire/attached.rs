//! What is attached to the machine, as the node's status tells it: cameras, pins, the pause, what slows the processor.

use serde::Serialize;
use utoipa::ToSchema;

use super::rfc3339;
use crate::board::hands::PinStatus;
use crate::pause::Paused;
use crate::source::{SourceState, SourceStatus};

/// How everything stands that hangs on this machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct Attached {
    /// The privacy pause under way; absent while there is none.
    pub pause: Option<PauseInfo>,
    /// The cameras of `[[source]]`.
    pub sources: Vec<SourceInUse>,
    /// The pins of `[gpio]`.
    pub pins: Vec<PinInUse>,
    /// What slows the processor now, in words; empty when nothing does or the machine does not tell.
    pub throttled: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PauseInfo {
    /// UTC.
    pub since: String,
    /// "button", "http" or "mqtt".
    pub by: String,
}

impl From<Paused> for PauseInfo {
    fn from(p: Paused) -> Self {
        Self { since: rfc3339(p.since), by: p.by }
    }
}

/// A camera of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceInUse {
    /// The stream it publishes.
    pub stream: String,
    /// As the configuration names it, and the node it was found at.
    pub device: String,
    pub node: Option<String>,
    /// "starting", "live", "absent" until it is plugged in, "busy", "failed" and about to be tried again, "paused".
    #[schema(value_type = String)]
    pub state: SourceState,
    /// What it gives, as in "MJPG 1280x720 at 30/s"; absent until it is open.
    pub format: Option<String>,
    /// What makes H.264 of it; absent where the camera does.
    pub encoder: Option<String>,
    /// Why it is not live and what to do.
    pub error: Option<String>,
    /// When it came to this state, UTC.
    pub since: String,
}

impl From<SourceStatus> for SourceInUse {
    fn from(s: SourceStatus) -> Self {
        let since = rfc3339(s.since);
        let SourceStatus { stream, device, node, state, format, encoder, error, .. } = s;
        Self { stream, device, node, state, format, encoder, error, since }
    }
}

/// A lamp, an output or a button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PinInUse {
    /// "led", "button", or the output's name.
    pub name: String,
    /// As the configuration names it, and as it was found.
    pub line: String,
    pub found: Option<String>,
    /// Why it does not work and what to do; absent when it does.
    pub error: Option<String>,
}

impl From<PinStatus> for PinInUse {
    fn from(p: PinStatus) -> Self {
        let PinStatus { name, line, found, error } = p;
        Self { name, line, found, error }
    }
}

/// What the golden file holds.
#[cfg(test)]
pub(super) fn example() -> Attached {
    use std::time::{Duration, SystemTime};

    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_439_400_123);
    Attached {
        pause: Some(Paused { since, by: "button".into() }.into()),
        sources: vec![SourceInUse::from(SourceStatus {
            stream: "porch".into(),
            device: "HD Webcam".into(),
            node: Some("/dev/video0".into()),
            state: SourceState::Live,
            format: Some("MJPG 1280x720 at 30/s".into()),
            encoder: Some("x264enc".into()),
            error: None,
            since,
        })],
        pins: vec![PinInUse::from(PinStatus {
            name: "led".into(),
            line: "GPIO17".into(),
            found: Some("gpiochip0 17 (GPIO17)".into()),
            error: None,
        })],
        throttled: vec!["supply voltage too low".into()],
    }
}
