//! Live video for many: each watched stream's units become fragmented MP4 once, and every viewer reads the same bytes at
//! its own pace. Nothing is decoded; how viewers are spoken to is in `web/`.

mod channel; // one watched stream
mod muxer; // units -> fragments
pub mod playlist; // the text of HLS
pub mod segments; // fragments -> parts and segments of HLS

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::health::Counter;
use crate::media::{Stream, StreamId};
pub use channel::Channel;
pub(crate) use muxer::nominal;
pub use muxer::{Fragment, Init};

/// The streams that are being watched.
#[derive(Debug, Default)]
pub struct Live {
    channels: Mutex<HashMap<StreamId, Arc<Channel>>>,
    pub counters: Arc<Counters>,
}

/// What live video counted.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Times that somebody began to watch a stream nobody watched.
    pub channels: Counter,
    pub fragments: Counter,
    /// Units the muxer never saw because it was overtaken.
    pub units_skipped: Counter,
    /// Pictures not shown because a reference is missing, or before the first key frame.
    pub pictures_left_out: Counter,
    /// Viewers by WebSocket, and how many of them are gone again.
    pub viewers: Counter,
    pub viewers_gone: Counter,
    /// Times that a viewer fell behind, and the fragments it lost.
    pub viewers_lagged: Counter,
    pub fragments_dropped: Counter,
    /// Viewers closed because they took nothing.
    pub viewers_stalled: Counter,
    pub hls_requests: Counter,
    /// Requests for parts and playlists yet to come that waited in vain.
    pub hls_timeouts: Counter,
}

impl Live {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The stream's channel, started if nobody watched it. It goes on while somebody holds it, and a while longer.
    pub fn watch(self: &Arc<Self>, stream: &Arc<Stream>) -> Arc<Channel> {
        let mut channels = self.channels.lock();
        let known = channels.get(&stream.id).filter(|c| c.is_of(stream));
        if let Some(channel) = known {
            channel.want();
            return Arc::clone(channel);
        }
        let channel = Channel::new(Arc::clone(stream));
        // One that is there is of an earlier stream of this name; its task ends with that stream.
        channels.insert(stream.id.clone(), Arc::clone(&channel));
        self.counters.channels.inc();
        tokio::spawn(channel::run(Arc::clone(self), Arc::clone(&channel)));
        channel
    }

    /// Takes a channel out of the list, unless somebody began to watch it since `seen`.
    fn release(&self, channel: &Arc<Channel>, seen: Option<u64>) -> bool {
        let mut channels = self.channels.lock();
        if seen.is_some_and(|seen| channel.is_wanted_since(seen)) {
            return false;
        }
        if channels.get(&channel.stream().id).is_some_and(|c| Arc::ptr_eq(c, channel)) {
            channels.remove(&channel.stream().id);
        }
        true
    }
}
