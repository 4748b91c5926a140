//! A stream's coded media out again as it came in, without transcoding: to RTMP and FLV readers, and to other servers.
//!
//! `feed` makes messages of units and `outbox` writes them; both serve every reader. `push` keeps the relays to other
//! servers going: `target` is where to, `link` one connection there, `client` what is said on it.

pub mod client;
pub mod feed;
mod link;
pub mod outbox;
pub mod push;
pub mod target;

use serde::Serialize;

use crate::health::Counter;

pub use push::{RelayState, RelayStatus, Relays};

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
