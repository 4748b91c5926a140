//! One watched stream: a task reads its units, makes fragments of them and puts those where viewers read. It begins with
//! the first viewer and ends a while after the last.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Live;
use super::muxer::{Fragment, Muxer};
use super::segments::Segments;
use crate::health::Counter;
use crate::media::Stream;
use crate::media::ring::{Cursor, Read, Ring};

/// How often a channel asks itself whether anybody is there, and how often in vain before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 20;

/// Those who hold a channel besides its viewers: the list of channels, and the task.
const OWN_HOLDERS: usize = 2;

/// The fragments of one stream.
#[derive(Debug)]
pub struct Channel {
    stream: Arc<Stream>,
    fragments: Arc<Ring<Fragment>>,
    /// True when the past, as far as the stream's ring keeps it, is in `fragments`.
    caught_up: watch::Sender<bool>,
    /// Grows with everyone who asks for the channel.
    asked: Counter,
    hls: Mutex<Hls>,
    /// Changes whenever there is something new for HLS.
    hls_grown: watch::Sender<()>,
}

/// The segments of HLS, kept only while somebody asks for them.
#[derive(Debug, Default)]
struct Hls {
    segments: Option<Segments>,
    asked: Counter,
}

impl Channel {
    pub(super) fn new(stream: Arc<Stream>) -> Arc<Self> {
        // The same media and about 150 bytes of boxes a picture.
        let budget = stream.ring.budget_bytes() / 8 * 9;
        Arc::new(Self {
            stream,
            fragments: Ring::new(budget),
            caught_up: watch::Sender::new(false),
            asked: Counter::default(),
            hls: Mutex::default(),
            hls_grown: watch::Sender::new(()),
        })
    }

    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// A viewer's place, at the newest key frame.
    pub async fn cursor(&self) -> Cursor<Fragment> {
        // The first viewer must not be shown seconds of the past that are only just being made.
        let mut caught_up = self.caught_up.subscribe();
        let _ = caught_up.wait_for(|done| *done).await;
        self.fragments.cursor()
    }

    /// Looks into the segments of HLS; from the first look on there are some, out of the fragments that are here.
    pub fn hls<T>(&self, look: impl FnOnce(&Segments) -> T) -> T {
        let mut hls = self.hls.lock();
        hls.asked.inc();
        let begin = || {
            let mut segments = Segments::new(self.stream.ring.budget_bytes() * 2);
            for fragment in self.fragments.snapshot() {
                segments.push(fragment);
            }
            segments
        };
        look(hls.segments.get_or_insert_with(begin))
    }

    /// Wakes at every new part of HLS. To be had before the look whose outcome is waited for to change.
    pub fn hls_grown(&self) -> watch::Receiver<()> {
        self.hls_grown.subscribe()
    }

    pub(super) fn is_of(&self, stream: &Arc<Stream>) -> bool {
        Arc::ptr_eq(&self.stream, stream)
    }

    pub(super) fn want(&self) {
        self.asked.inc();
    }

    pub(super) fn is_wanted_since(self: &Arc<Self>, seen: u64) -> bool {
        self.asked.get() != seen || Arc::strong_count(self) > OWN_HOLDERS
    }

    fn push(&self, fragment: Fragment) {
        // Both under one lock, so that whoever begins with HLS misses no fragment and sees none twice.
        let mut hls = self.hls.lock();
        self.fragments.push(fragment.clone());
        if let Some(segments) = &mut hls.segments
            && segments.push(fragment)
        {
            self.hls_grown.send_replace(());
        }
    }

    fn close(&self) {
        self.fragments.close();
        self.caught_up.send_replace(true);
        if let Some(segments) = &mut self.hls.lock().segments {
            segments.end();
        }
        self.hls_grown.send_replace(());
    }
}

/// How long nobody asked, in looks.
#[derive(Debug, Default)]
struct Idle {
    seen: u64,
    looks: u32,
}

impl Idle {
    /// True when patience is at its end.
    fn look(&mut self, asked: u64, held: bool) -> bool {
        self.looks = if held || asked != self.seen { 0 } else { self.looks + 1 };
        self.seen = asked;
        self.looks >= PATIENCE
    }
}

/// Makes the fragments until the stream ends or nobody watches any more.
pub(super) async fn run(live: Arc<Live>, channel: Arc<Channel>) {
    let stream = channel.stream();
    tracing::debug!(stream = %stream.id, "live video begins");
    // From the oldest on: HLS begins with whole segments, and the ring skips what is older than viewers want.
    let mut units = stream.ring.cursor_at_oldest();
    let mut muxer = Muxer::new(Arc::clone(&live.counters));
    let mut look = tokio::time::interval(LOOK_EVERY);
    let (mut idle, mut hls_idle) = (Idle::default(), Idle::default());
    loop {
        if !*channel.caught_up.borrow() && units.is_at_end() {
            channel.caught_up.send_replace(true);
        }
        tokio::select! {
            read = units.next() => match read {
                Some(Read::Unit(unit)) => {
                    muxer.push(unit).into_iter().for_each(|fragment| channel.push(fragment));
                }
                Some(Read::Lagged { skipped }) => {
                    live.counters.units_skipped.add(skipped);
                    muxer.skip();
                }
                None => {
                    live.release(&channel, None);
                    break;
                }
            },
            _ = look.tick() => {
                let mut hls = channel.hls.lock();
                if hls_idle.look(hls.asked.get(), false) {
                    hls.segments = None;
                }
                drop(hls);
                let held = Arc::strong_count(&channel) > OWN_HOLDERS;
                if idle.look(channel.asked.get(), held) && live.release(&channel, Some(idle.seen)) {
                    break;
                }
            }
        }
    }
    channel.close();
    tracing::debug!(stream = %stream.id, "live video ends");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_anew_with_everyone_who_asks() {
        let mut idle = Idle::default();
        let ends = |idle: &mut Idle, asked| (1..100).find(|_| idle.look(asked, false));
        assert!(!idle.look(1, false));
        assert_eq!(ends(&mut idle, 1), Some(20));
        assert!(!idle.look(2, false));
        assert_eq!((1..100).find(|_| idle.look(2, true)), None);
        assert_eq!(ends(&mut idle, 2), Some(20));
    }
}
