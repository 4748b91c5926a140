//! The newest decoded picture of each stream as JPEG, made only while somebody looks and once for all who do.
//! Pictures are copied where they pass; a thread of its own encodes, so that nothing waits for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::decode::{Frame, OwnedPicture, Picture};
use crate::detect::Detection;
use crate::health::Counter;
use crate::jpeg;
use crate::media::{MediaTime, StreamId};

/// Whether what was found is drawn in. Such pictures come as often as detections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Boxes {
    Drawn,
    Left,
}

/// One encoded picture.
#[derive(Debug)]
pub struct Shot {
    pub pts: MediaTime,
    pub jpeg: Bytes,
}

#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub encoded: Counter,
    /// Pictures let go because the encoder was busy, and those it could not encode.
    pub dropped: Counter,
    pub failed: Counter,
}

/// Pictures waiting for the encoder.
const WAITING: usize = 2;

#[derive(Debug)]
pub struct Snapshots {
    wanted: Mutex<BTreeMap<Key, Wanted>>,
    encoder: SyncSender<Job>,
    pub counters: Arc<Counters>,
}

type Key = (StreamId, Boxes);
type Newest = watch::Sender<Option<Arc<Shot>>>;

#[derive(Debug)]
struct Wanted {
    newest: Newest,
    /// How often each watcher wants one, by the watcher's number.
    periods: BTreeMap<u64, Duration>,
    watchers: u64,
    due: Instant,
}

struct Job {
    picture: OwnedPicture,
    pts: MediaTime,
    found: Vec<Detection>,
    newest: Newest,
}

impl Snapshots {
    /// Starts the encoder's thread, which ends when the last owner lets go.
    pub fn start() -> io::Result<Arc<Self>> {
        let (encoder, jobs) = sync_channel(WAITING);
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let thread = std::thread::Builder::new().name("jpeg".into());
        thread.spawn(move || encode(&jobs, &counted))?;
        Ok(Arc::new(Self { wanted: Mutex::default(), encoder, counters }))
    }

    /// Begins to have pictures of `stream` made, at least `period` apart. None is kept from before.
    pub fn watch(self: &Arc<Self>, stream: &StreamId, boxes: Boxes, period: Duration) -> Watcher {
        let key = (stream.clone(), boxes);
        let mut all = self.wanted.lock();
        let wanted = all.entry(key.clone()).or_insert_with(|| Wanted {
            newest: Newest::default(),
            periods: BTreeMap::new(),
            watchers: 0,
            due: Instant::now(),
        });
        wanted.watchers += 1;
        let number = wanted.watchers;
        wanted.periods.insert(number, period);
        wanted.due = Instant::now();
        let mut seen = wanted.newest.subscribe();
        seen.mark_unchanged();
        drop(all);
        Watcher { snapshots: Arc::clone(self), key, number, seen }
    }

    /// Looks at every decoded picture on its way.
    pub fn offer(&self, frame: &Frame) {
        self.take(frame, Boxes::Left, &[]);
    }

    /// Looks at every picture that was searched, with what was found in it.
    pub fn offer_found(&self, frame: &Frame, found: &[Detection]) {
        self.take(frame, Boxes::Drawn, found);
    }

    fn take(&self, frame: &Frame, boxes: Boxes, found: &[Detection]) {
        let newest = {
            let mut all = self.wanted.lock();
            if all.is_empty() {
                return;
            }
            let Some(wanted) = all.get_mut(&(frame.stream.clone(), boxes)) else { return };
            let now = Instant::now();
            if now < wanted.due {
                return;
            }
            wanted.due = now + wanted.periods.values().min().copied().unwrap_or_default();
            wanted.newest.clone()
        };
        let view = frame.picture.view();
        if !view.is_whole() {
            self.counters.failed.inc();
            return;
        }
        let picture = OwnedPicture::copy(&view);
        let job = Job { picture, pts: frame.pts, found: found.to_vec(), newest };
        if let Err(TrySendError::Full(_)) = self.encoder.try_send(job) {
            self.counters.dropped.inc();
        }
    }
}

fn encode(jobs: &Receiver<Job>, counters: &Counters) {
    for job in jobs {
        match jpeg::encode(&job.picture.view(), &job.found, jpeg::QUALITY) {
            Ok(jpeg) => {
                counters.encoded.inc();
                job.newest.send_replace(Some(Arc::new(Shot { pts: job.pts, jpeg: jpeg.into() })));
            }
            Err(error) => {
                counters.failed.inc();
                tracing::debug!(%error, "no snapshot");
            }
        }
    }
}

/// Somebody who looks; pictures are made until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    snapshots: Arc<Snapshots>,
    key: Key,
    number: u64,
    seen: watch::Receiver<Option<Arc<Shot>>>,
}

impl Watcher {
    /// The next picture that was not seen yet; older ones are passed over. Cancel-safe.
    pub async fn next(&mut self) -> Arc<Shot> {
        loop {
            // The sender lives as long as this watcher, so there is no end to wait for.
            if self.seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(shot) = self.seen.borrow_and_update().clone() {
                return shot;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut all = self.snapshots.wanted.lock();
        if let Some(wanted) = all.get_mut(&self.key) {
            wanted.periods.remove(&self.number);
            if wanted.periods.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::RgbPicture;
    use crate::media::Arrival;

    fn frame(stream: &StreamId, ms: i64) -> Frame {
        let pixels = vec![90; 64 * 64 * 3];
        Frame {
            stream: stream.clone(),
            seq: 0,
            pts: MediaTime::from_millis(ms),
            arrived: Arrival::now(),
            decoded: Instant::now(),
            picture: Box::new(RgbPicture { width: 64, height: 64, pixels }),
        }
    }

    #[tokio::test]
    async fn pictures_are_made_for_who_looks_and_for_nobody_else() {
        let snapshots = Snapshots::start().unwrap();
        let (a, b) = (StreamId::new("a").unwrap(), StreamId::new("b").unwrap());
        snapshots.offer(&frame(&a, 0));
        assert_eq!(snapshots.counters.encoded.get(), 0);
        let mut one = snapshots.watch(&a, Boxes::Left, Duration::ZERO);
        let mut two = snapshots.watch(&a, Boxes::Left, Duration::from_secs(9));
        snapshots.offer(&frame(&b, 1));
        snapshots.offer_found(&frame(&a, 2), &[]);
        snapshots.offer(&frame(&a, 3));
        assert_eq!(one.next().await.pts.as_millis(), 3);
        let shot = two.next().await;
        assert_eq!(&shot.jpeg[..3], &[0xff, 0xd8, 0xff]);
        assert_eq!(snapshots.counters.encoded.get(), 1);
        drop(one);
        snapshots.offer(&frame(&a, 4));
        drop(two);
        assert!(snapshots.wanted.lock().is_empty());
    }
}
