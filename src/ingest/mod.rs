//! The front door: RTMP connections in, access units out.
//!
//! Bytes flow through these in order; only `connection`, `play` and `server` touch sockets, the rest are pure:
//! `dechunk` (bytes -> messages), `protocol` (commands -> who wants to publish what), `flv` (message payload ->
//! coded picture or sound), `session` (that -> [`crate::media::Unit`] on the stream's own time line). A connection that
//! plays instead goes on in `play`. `srt` is another way in; `entry` is what the ways share.

pub mod amf;
pub mod dechunk;
pub mod flv;
pub mod protocol;
pub mod session;
pub mod srt;

mod answers;
mod connection;
mod counters;
mod end;
pub mod entry;
mod gaps;
mod play;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;
mod url;

pub use counters::IngestCounters;
pub use entry::Entry;
pub use server::{Context, Gate, run};
