//! Pictures as JPEG: the newest of each stream, made only while somebody looks and once for all who do, and the best of
//! each visit, made once for all who keep it.
//! Pictures are copied where they pass; a thread of its own encodes, so that nothing waits for it.

mod wanted; // when the next picture is due, and whether it is decoded for it (pure)

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::decode::{Frame, OwnedPicture, Picture, PictureView};
use crate::detect::{BBox, Detection};
use crate::health::Counter;
use crate::jpeg::{self, JpegError};
use crate::media::{MediaTime, StreamId};
use crate::track::BetterPicture;
use wanted::Wanted;

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

/// A visit's best picture so far.
#[derive(Debug)]
pub struct Portrait {
    /// The visit's.
    pub id: Arc<str>,
    pub stream: StreamId,
    pub label: Arc<str>,
    /// 0 to 1.
    pub score: f32,
    pub pts: MediaTime,
    /// The whole picture, and the animal with a little of what is around it. JPEG, without boxes.
    pub full: Bytes,
    pub crop: Bytes,
}

/// Pictures waiting for the encoder.
const WAITING: usize = 4;
/// Portraits a reader may fall behind before it loses the oldest.
const PORTRAITS: usize = 16;
/// Around the animal's box, as a part of its size.
const MARGIN: f32 = 0.15;

#[derive(Debug)]
pub struct Snapshots {
    looking: Mutex<BTreeMap<Key, Looking>>,
    encoder: SyncSender<Job>,
    pub portraits: broadcast::Sender<Arc<Portrait>>,
    pub counters: Arc<Counters>,
}

type Key = (StreamId, Boxes);
type Newest = watch::Sender<Option<Arc<Shot>>>;

#[derive(Debug)]
struct Looking {
    newest: Newest,
    wanted: Wanted,
}

enum Job {
    Shot { picture: OwnedPicture, pts: MediaTime, found: Vec<Detection>, newest: Newest },
    Portraits { picture: OwnedPicture, stream: StreamId, pts: MediaTime, of: Vec<BetterPicture> },
}

impl Snapshots {
    /// Starts the encoder's thread, which ends when the last owner lets go.
    pub fn start() -> io::Result<Arc<Self>> {
        let (encoder, jobs) = sync_channel(WAITING);
        let counters = Arc::new(Counters::default());
        let portraits = broadcast::Sender::new(PORTRAITS);
        let (counted, out) = (Arc::clone(&counters), portraits.clone());
        let thread = std::thread::Builder::new().name("jpeg".into());
        thread.spawn(move || work(&jobs, &counted, &out))?;
        Ok(Arc::new(Self { looking: Mutex::default(), encoder, portraits, counters }))
    }

    /// Begins to have pictures of `stream` made, at least `period` apart. None is kept from before.
    pub fn watch(self: &Arc<Self>, stream: &StreamId, boxes: Boxes, period: Duration) -> Watcher {
        let (key, now) = ((stream.clone(), boxes), Instant::now());
        let mut all = self.looking.lock();
        all.retain(|_, looking| !looking.wanted.is_over(now));
        let fresh = || Looking { newest: Newest::default(), wanted: Wanted::new(now) };
        let looking = all.entry(key.clone()).or_insert_with(fresh);
        let number = looking.wanted.join(now, period);
        let mut seen = looking.newest.subscribe();
        seen.mark_unchanged();
        drop(all);
        Watcher { snapshots: Arc::clone(self), key, number, seen }
    }

    /// Whether `stream` is to be decoded for somebody who looks at it. Who wants boxes drawn in waits for detection, which
    /// has its own say in that.
    pub fn wants(&self, stream: &StreamId, now: Instant) -> bool {
        let all = self.looking.lock();
        let key = (stream.clone(), Boxes::Left);
        !all.is_empty() && all.get(&key).is_some_and(|looking| looking.wanted.is_wanted(now))
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
            let mut all = self.looking.lock();
            if all.is_empty() {
                return;
            }
            let Some(looking) = all.get_mut(&(frame.stream.clone(), boxes)) else { return };
            if !looking.wanted.take(Instant::now()) {
                return;
            }
            looking.newest.clone()
        };
        self.hand_over(frame, |picture| Job::Shot {
            picture,
            pts: frame.pts,
            found: found.to_vec(),
            newest,
        });
    }

    /// Has the portraits made of which this frame is the best so far.
    pub fn portray(&self, frame: &Frame, of: Vec<BetterPicture>) {
        if of.is_empty() || self.portraits.receiver_count() == 0 {
            return;
        }
        let (stream, pts) = (frame.stream.clone(), frame.pts);
        self.hand_over(frame, |picture| Job::Portraits { picture, stream, pts, of });
    }

    fn hand_over(&self, frame: &Frame, job: impl FnOnce(OwnedPicture) -> Job) {
        let mut copy = None;
        let looked = frame.picture.look_at_whole(&mut |view| {
            copy = view.is_whole().then(|| OwnedPicture::copy(view));
        });
        if let Err(reason) = looked {
            tracing::debug!(stream = %frame.stream, reason, "no whole picture");
        }
        let Some(copy) = copy else { return self.counters.failed.inc() };
        let job = job(copy);
        if let Err(TrySendError::Full(_)) = self.encoder.try_send(job) {
            self.counters.dropped.inc();
        }
    }
}

fn work(jobs: &Receiver<Job>, counters: &Counters, portraits: &broadcast::Sender<Arc<Portrait>>) {
    for job in jobs {
        let done = match job {
            Job::Shot { picture, pts, found, newest } => encode(&picture.view(), &found, counters)
                .map(|jpeg| drop(newest.send_replace(Some(Arc::new(Shot { pts, jpeg }))))),
            Job::Portraits { picture, stream, pts, of } => {
                let view = picture.view();
                encode(&view, &[], counters).and_then(|full| {
                    of.into_iter().try_for_each(|better| {
                        let crop = encode(&around(&view, better.best.bbox), &[], counters)?;
                        let (id, label, score) = (better.id, better.label, better.best.score);
                        let (stream, full) = (stream.clone(), full.clone());
                        // Nobody keeps them: nothing is lost that anyone wanted.
                        let _ = portraits.send(Arc::new(Portrait {
                            id,
                            stream,
                            label,
                            score,
                            pts,
                            full,
                            crop,
                        }));
                        Ok(())
                    })
                })
            }
        };
        if let Err(error) = done {
            counters.failed.inc();
            tracing::debug!(%error, "no snapshot");
        }
    }
}

fn encode(
    view: &PictureView<'_>,
    found: &[Detection],
    counters: &Counters,
) -> Result<Bytes, JpegError> {
    let jpeg = jpeg::encode(view, found, jpeg::QUALITY)?;
    counters.encoded.inc();
    Ok(jpeg.into())
}

fn around<'a>(view: &PictureView<'a>, bbox: BBox) -> PictureView<'a> {
    let (mx, my) = ((bbox.x2 - bbox.x1) * MARGIN, (bbox.y2 - bbox.y1) * MARGIN);
    // A float out of range becomes the nearest number there is, and what is none becomes 0.
    let [x1, y1] = [bbox.x1 - mx, bbox.y1 - my].map(|v| v.max(0.0) as u32);
    let [x2, y2] = [bbox.x2 + mx, bbox.y2 + my].map(|v| v.max(0.0) as u32);
    view.crop(x1, y1, x2.saturating_sub(x1), y2.saturating_sub(y1))
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
        let mut all = self.snapshots.looking.lock();
        if let Some(looking) = all.get_mut(&self.key) {
            looking.wanted.leave(self.number);
            // Nobody is shown a picture of before.
            if looking.newest.receiver_count() <= 1 {
                looking.newest.send_replace(None);
            }
            if looking.wanted.is_over(Instant::now()) {
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
    use crate::track::{Best, Moment};
    use std::time::SystemTime;

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
    async fn a_visit_s_best_picture_is_made_whole_and_cut_out() {
        let snapshots = Snapshots::start().unwrap();
        let a = StreamId::new("a").unwrap();
        let mut kept = snapshots.portraits.subscribe();
        let bbox = BBox { x1: 20.0, y1: 20.0, x2: 40.0, y2: f32::INFINITY };
        let best = Best {
            at: Moment { media: MediaTime::ZERO, wall: SystemTime::UNIX_EPOCH },
            seq: 0,
            score: 0.9,
            bbox,
        };
        let better = BetterPicture { id: "v".into(), label: "dog".into(), best };
        snapshots.portray(&frame(&a, 5), vec![better]);
        let portrait = kept.recv().await.unwrap();
        let size = |jpeg: &[u8]| {
            let picture = image::load_from_memory(jpeg).unwrap();
            (picture.width(), picture.height())
        };
        assert_eq!(size(&portrait.full), (64, 64));
        assert_eq!(size(&portrait.crop), (27, 64));
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
        // Kept for who asks again soon, and thrown away when the next one comes after that.
        let now = Instant::now();
        assert!(snapshots.wants(&a, now) && !snapshots.wants(&b, now));
        assert!(!snapshots.wants(&a, now + Duration::from_secs(9)));
        for looking in snapshots.looking.lock().values_mut() {
            looking.wanted = Wanted::new(now);
        }
        let drawn = snapshots.watch(&b, Boxes::Drawn, Duration::ZERO);
        assert_eq!(snapshots.looking.lock().len(), 1);
        assert!(!snapshots.wants(&b, now), "what detection must find first");
        drop(drawn);
        assert!(snapshots.looking.lock().is_empty());
    }
}
