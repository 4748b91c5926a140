//! How often every stream is looked at, as status and statistics tell it. What decides it is in `detect/pace.rs`.

use serde::Serialize;
use utoipa::ToSchema;

/// How often every stream is looked at, and why that is less than was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct Pace {
    /// Detections a second and stream now, and as `detect.rate_hz` asks; a stream's own rate is lowered likewise.
    pub rate_hz: f64,
    pub of_hz: f64,
    /// The smaller model that works meanwhile; absent while the configured one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller_model: Option<String>,
    /// Absent while all is done that was asked for.
    pub reason: Option<String>,
    /// When it came to this, UTC; absent while it never changed.
    pub since: Option<String>,
}

/// What the golden files hold.
#[cfg(test)]
pub(super) fn example() -> Pace {
    Pace {
        rate_hz: 5.0,
        of_hz: 10.0,
        smaller_model: Some("picodet-s-320".into()),
        reason: Some("the board is hot, 81 °C".into()),
        since: Some("2026-11-23T13:10:00.123Z".into()),
    }
}
