//! The one detector thread and what waits for it: the newest due frame of every stream, and pictures sent in by hand.
//! When a frame is due, and who comes next, is decided in `turns.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::turns::Turns;
use super::types::{DetectError, Detection, Detector};
use crate::decode::{Frame, RgbPicture};
use crate::health::{Busy, Counter};
use crate::media::{Stream, StreamId};

/// What waits for the detector. Cheap to share; every method returns at once but [`Scheduler::take`].
#[derive(Debug)]
pub struct Scheduler {
    state: Mutex<State>,
    wake: Condvar,
    max_pictures: usize,
    /// The detector thread.
    pub busy: Busy,
    /// Pictures refused because too many waited.
    pub pictures_refused: Counter,
    /// Frames of all streams that gave way to newer ones while they waited.
    pub frames_displaced: Counter,
}

#[derive(Debug, Default)]
struct State {
    turns: Turns,
    streams: BTreeMap<StreamId, Arc<Stream>>,
    /// At most one frame a stream: the newest that is due.
    frames: BTreeMap<StreamId, Frame>,
    pictures: VecDeque<PictureJob>,
    /// The round in which a picture was last served.
    pictures_served: u64,
    ready: Option<Ready>,
    reopen: bool,
    closed: bool,
}

/// A picture sent in by hand and where its answer goes.
#[derive(Debug)]
pub struct PictureJob {
    pub picture: RgbPicture,
    pub answer: oneshot::Sender<Result<PictureAnswer, DetectError>>,
}

#[derive(Debug, Clone)]
pub struct PictureAnswer {
    pub detections: Vec<Detection>,
    /// Conversion, interpreter and head, without the time in the queue.
    pub infer: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(
        "{0} pictures are waiting already: send fewer at a time, or raise websocket.max_waiting_pictures"
    )]
    Busy(usize),
    #[error("the detector is not running: {0}")]
    NotRunning(&'static str),
    #[error(transparent)]
    Detect(#[from] DetectError),
}

/// What the detector thread does next.
#[derive(Debug)]
pub enum Work {
    Frame(Frame, Arc<Stream>),
    Picture(PictureJob),
    /// Another detector, opened already.
    TakeOver(Ready),
    /// The configuration changed.
    Reopen,
}

/// A detector on its way to its thread.
pub struct Ready(pub Box<dyn Detector>);

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.info().fmt(f)
    }
}

impl Scheduler {
    pub fn new(max_pictures: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            max_pictures,
            busy: Busy::default(),
            pictures_refused: Counter::default(),
            frames_displaced: Counter::default(),
        })
    }

    /// Takes a stream in, or changes its rate; `None` switches its detection off.
    pub fn attach(&self, stream: &Arc<Stream>, rate_hz: Option<f64>) {
        let mut state = self.state.lock();
        state.turns.set_rate(&stream.id, rate_hz);
        state.streams.insert(stream.id.clone(), Arc::clone(stream));
    }

    pub fn detach(&self, id: &StreamId) {
        let mut state = self.state.lock();
        state.turns.remove(id);
        state.streams.remove(id);
        state.frames.remove(id);
    }

    /// Whether detection is on for a stream, and its pictures are wanted for that.
    pub fn wants(&self, id: &StreamId) -> bool {
        self.state.lock().turns.is_on(id)
    }

    /// Keeps the frame if it is due, in place of an older one; lets it go at once if not.
    pub fn offer(&self, frame: Frame) {
        let mut state = self.state.lock();
        let Some(stream) = state.streams.get(&frame.stream).cloned() else { return };
        if !state.turns.is_due(&frame.stream, frame.decoded) {
            stream.counters.frames_not_due.inc();
            return;
        }
        let displaced = state.frames.insert(frame.stream.clone(), frame);
        drop(state);
        if displaced.is_some() {
            stream.counters.frames_displaced.inc();
            self.frames_displaced.inc();
        }
        self.wake.notify_one();
    }

    /// Queues a picture and waits for what was found in it.
    pub async fn picture(&self, picture: RgbPicture) -> Result<PictureAnswer, PictureError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(PictureError::NotRunning("spotter is shutting down"));
            }
            if state.pictures.len() >= self.max_pictures {
                self.pictures_refused.inc();
                return Err(PictureError::Busy(state.pictures.len()));
            }
            state.pictures.push_back(PictureJob { picture, answer });
        }
        self.wake.notify_one();
        match answered.await {
            Ok(done) => Ok(done?),
            Err(_) => {
                Err(PictureError::NotRunning("it was stopped or failed to open; see the log"))
            }
        }
    }

    /// Gives this share of every stream's rate from now on.
    pub fn set_share(&self, share: f64) {
        self.state.lock().turns.set_share(share);
    }

    /// Hands over a detector that passed its self-test, for everything from now on.
    pub fn take_over(&self, detector: Box<dyn Detector>) {
        self.state.lock().ready = Some(Ready(detector));
        self.wake.notify_one();
    }

    /// Asks the detector thread to open its model anew.
    pub fn reopen(&self) {
        self.state.lock().reopen = true;
        self.wake.notify_one();
    }

    /// Ends the detector thread after the work at hand.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    /// Lets go of everything that waits, as when no detector can be opened: who waits is told at once.
    pub fn discard(&self) {
        let mut state = self.state.lock();
        state.frames.clear();
        state.pictures.clear();
    }

    /// Sleeps until `at_most` has passed or the scheduler is closed or asked to reopen.
    pub fn pause(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut state = self.state.lock();
        self.busy.end();
        while !state.closed && !state.reopen {
            if self.wake.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        self.busy.begin();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// The next work, waiting for it; `None` once closed. For the detector thread.
    pub fn take(&self) -> Option<Work> {
        let mut state = self.state.lock();
        self.busy.end();
        loop {
            if state.closed {
                // Who waits for a picture is told by the dropped sender.
                state.pictures.clear();
                return None;
            }
            let reopen = std::mem::take(&mut state.reopen).then_some(Work::Reopen);
            // What was opened before the configuration changed is not wanted any more.
            let ready = state.ready.take().map(Work::TakeOver);
            if let Some(work) = reopen.or(ready).or_else(|| state.next(Instant::now())) {
                self.busy.begin();
                return Some(work);
            }
            self.wake.wait(&mut state);
        }
    }
}

impl State {
    fn next(&mut self, now: Instant) -> Option<Work> {
        let frame = self.turns.next(self.frames.keys()).cloned();
        // All pictures together take turns as one stream does, so that neither can starve the other.
        let picture_first = match &frame {
            Some(id) => self.pictures_served <= self.turns.served(id),
            None => true,
        };
        if picture_first && let Some(job) = self.pictures.pop_front() {
            self.pictures_served = self.turns.serve_other();
            return Some(Work::Picture(job));
        }
        let id = frame?;
        let frame = self.frames.remove(&id)?;
        let stream = self.streams.get(&id).cloned()?;
        self.turns.serve(&id, now);
        Some(Work::Frame(frame, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::stream::{StreamLimits, Takeover};
    use crate::media::{Arrival, MediaTime, Streams};

    fn rgb() -> RgbPicture {
        RgbPicture { width: 1, height: 1, pixels: vec![0; 3] }
    }

    fn frame(id: &StreamId, seq: u64) -> Frame {
        Frame {
            stream: id.clone(),
            seq,
            pts: MediaTime::ZERO,
            arrived: Arrival::now(),
            decoded: Instant::now(),
            picture: Box::new(rgb()),
        }
    }

    fn stream(name: &str) -> Arc<Stream> {
        let limits = StreamLimits { max_streams: 9, gop_budget_bytes: 1, grace: Duration::ZERO };
        let claim = Streams::new(limits).claim(&StreamId::new(name).unwrap(), Takeover::Refused);
        Arc::clone(claim.unwrap().stream())
    }

    #[test]
    fn the_newest_frame_wins_and_the_rest_is_counted() {
        let s = Scheduler::new(1);
        let a = stream("a");
        s.attach(&a, Some(10.0));
        (0..3).for_each(|seq| s.offer(frame(&a.id, seq)));
        let Some(Work::Frame(taken, _)) = s.take() else { panic!("no frame") };
        assert_eq!(taken.seq, 2);
        assert_eq!(a.counters.frames_displaced.get(), 2);
        s.offer(frame(&a.id, 3));
        assert_eq!(a.counters.frames_not_due.get(), 1);
    }

    #[tokio::test]
    async fn pictures_and_streams_take_turns_and_the_queue_is_bounded() {
        let s = Scheduler::new(2);
        let a = stream("a");
        s.attach(&a, Some(1e9));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let s = Arc::clone(&s);
                tokio::spawn(async move { s.picture(rgb()).await })
            })
            .collect();
        while s.pictures_refused.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut order = Vec::new();
        for seq in 0..4 {
            s.offer(frame(&a.id, seq));
            match s.take() {
                Some(Work::Frame(..)) => order.push('f'),
                Some(Work::Picture(job)) => {
                    order.push('p');
                    let answer = PictureAnswer { detections: vec![], infer: Duration::ZERO };
                    assert!(job.answer.send(Ok(answer)).is_ok());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order.iter().collect::<String>(), "pfpf");
        let mut busy = 0;
        for w in waiting {
            busy += usize::from(matches!(w.await.unwrap(), Err(PictureError::Busy(2))));
        }
        assert_eq!(busy, 1);
    }

    #[test]
    fn closing_ends_the_thread() {
        let s = Scheduler::new(1);
        s.close();
        assert!(s.take().is_none());
    }
}
