//! A stream's coded media out again as it came in, without transcoding: to RTMP and FLV readers, and to other servers.
//!
//! `feed` makes messages of units and `outbox` writes them; both serve every reader.

pub mod feed;
pub mod outbox;

use serde::Serialize;

use crate::health::Counter;

/// What was counted of all readers of coded media by RTMP and HTTP-FLV.
#[derive(Debug, Default, Serialize)]
pub struct ReaderCounters {
    pub readers: Counter,
    /// Turned away: no such stream, too many readers, by the guard.
    pub refused_no_stream: Counter,
    pub refused_busy: Counter,
    pub refused_denied: Counter,
    /// Times a reader fell so far behind that it went on at the newest key frame, and the units it lost by that.
    pub readers_lagged: Counter,
    pub units_dropped: Counter,
    /// Closed because they took nothing.
    pub readers_stalled: Counter,
}
