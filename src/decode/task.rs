//! One stream's decoding, from its first parameters to its last picture: feeds a decoder from the ring, and puts the
//! next one in its place when it fails. What the decoders are is known to `elements.rs` and `gst.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::elements::{Candidate, candidates};
use super::rules::{Gate, Held, STALL, Watchdog, is_spared, small};
use super::{
    DecodeError, Decoded, Decoder, DecoderState, Fit, Frame, FrameSink, Pushed, Signals, open,
};
use crate::board::BoardKind;
use crate::config;
use crate::media::ring::{Cursor, Read};
use crate::media::{AccessUnit, Stream, Unit, VideoParams};

/// A unit that waited longer than this is passed over when a newer key frame is there: news, not history.
const LATE: Duration = Duration::from_millis(1500);
/// A decoder that ran so long is tried once more before the next takes its place: the stream may be to blame.
const STEADY: Duration = Duration::from_secs(30);
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const DRAIN: Duration = Duration::from_secs(2);
/// A driver that hangs must not hold the stream with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted of a stream's pictures.
pub struct Demand {
    /// Whether anybody wants them now; asked at each unit.
    pub wanted: Box<dyn Fn(Instant) -> bool + Send>,
    /// How small they can be on their way to the detector; none: as published, for it looks closer.
    pub fit: Option<Fit>,
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").field("fit", &self.fit.is_some()).finish_non_exhaustive()
    }
}

/// Decodes one stream until its ring is closed and read to the end, or `shutdown` is cancelled.
///
/// It reads from the newest key frame at the time of the call, not of the first poll. While nobody wants them, units are
/// read and let go; when somebody does again, decoding begins at the newest key frame that the ring has, so that the pictures
/// of now need not wait for the next one, and pictures older than the wish are not shown.
/// `out` gets each picture on a decoder's thread and must not wait. `state` always holds what is in use and why.
pub fn run(
    stream: Arc<Stream>,
    cfg: config::Decode,
    board: BoardKind,
    demand: Demand,
    out: impl Fn(Frame) + Send + Sync + 'static,
    state: watch::Sender<DecoderState>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let gate = Arc::new(Mutex::new(Gate::default()));
    let sink = frame_sink(Arc::clone(&stream), Arc::clone(&gate), out);
    let feeder = Feeder {
        cursor: stream.ring.cursor(),
        stream,
        cfg,
        board,
        demand,
        resting: false,
        state,
        sink,
        gate,
        signals: Arc::default(),
        stage: Stage::Closed,
        waiting: None,
        need_key: true,
        cut: false,
        backoff: BACKOFF.0,
        watch: Watchdog::default(),
    };
    feeder.run(shutdown)
}

struct Feeder {
    stream: Arc<Stream>,
    cfg: config::Decode,
    board: BoardKind,
    cursor: Cursor,
    demand: Demand,
    resting: bool,
    state: watch::Sender<DecoderState>,
    sink: FrameSink,
    gate: Arc<Mutex<Gate>>,
    /// Those of the decoder in use; each gets its own, so that a replaced one's last words harm nobody.
    signals: Arc<Signals>,
    stage: Stage,
    /// Read, but not yet taken by the decoder.
    waiting: Option<AccessUnit>,
    /// Nothing can be decoded before the next key frame.
    need_key: bool,
    /// The next unit does not follow the one before.
    cut: bool,
    backoff: Duration,
    watch: Watchdog,
}

enum Stage {
    Closed,
    Open(Open),
    /// No decoder works; tried again then, or when the parameters change.
    Failed {
        params: Arc<VideoParams>,
        retry: Instant,
    },
}

struct Open {
    decoder: Box<dyn Decoder>,
    candidates: Vec<Candidate>,
    at: usize,
    params: Arc<VideoParams>,
    since: Instant,
}

impl Feeder {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let signals = Arc::clone(&self.signals);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break self.close().await,
                () = signals.wake.notified() => {}
                _ = tick.tick() => {}
                read = self.cursor.next(), if self.waiting.is_none() => match read {
                    None => break self.finish().await,
                    Some(Read::Lagged { skipped }) => self.skipped(skipped),
                    Some(Read::Unit(Unit::Audio(_))) => continue,
                    Some(Read::Unit(Unit::Video(unit))) => self.waiting = Some(unit),
                },
            }
            if let Some(reason) = self.trouble() {
                self.replace(reason).await;
            }
            self.feed().await;
        }
    }

    /// Gives the waiting unit to the decoder, which is opened or changed for it first.
    async fn feed(&mut self) {
        let Some(mut unit) = self.waiting.take() else { return };
        if !unit.intact {
            // Held back and counted where the gap was found.
            self.need_key = true;
            return;
        }
        let now = Instant::now();
        match ((self.demand.wanted)(now), self.resting) {
            (false, _) => return self.rest(),
            (true, true) => return self.rise(unit.arrived.mono),
            (true, false) => {}
        }
        if now.saturating_duration_since(unit.arrived.mono) > LATE {
            let skipped = self.cursor.skip_ahead();
            if skipped > 0 {
                return self.skipped(skipped + 1);
            }
        }
        let changed = self.params().is_none_or(|p| *p != unit.params);
        if !unit.key && (self.need_key || changed) {
            return self.skipped(1);
        }
        self.make_ready(&unit.params).await;
        let Stage::Open(open) = &mut self.stage else { return self.skipped(1) };
        let wanted = self.gate.lock().wanted();
        if is_spared(&unit, now, open.since, wanted) {
            self.stream.counters.units_unreferenced.inc();
            return;
        }
        unit.discontinuity |= self.cut;
        match open.decoder.push(&unit) {
            Ok(Pushed::Taken) => {
                self.watch.fed(Instant::now(), self.signals.pictures.get());
                self.need_key = false;
                self.cut = false;
            }
            Ok(Pushed::Full) => self.waiting = Some(unit),
            Err(e) => self.replace(e.to_string()).await,
        }
    }

    /// Lets a unit go that nobody wants decoded.
    fn rest(&mut self) {
        self.stream.counters.units_unwanted.inc();
        if !self.resting {
            tracing::debug!(stream = %self.stream.id, "detection is off and nobody asks for pictures: decoding rests");
            self.resting = true;
            self.state.send_modify(|s| s.resting = true);
        }
    }

    /// Goes back to the newest key frame, since pictures are wanted again: those that came from then on.
    fn rise(&mut self, from: Instant) {
        tracing::debug!(stream = %self.stream.id, "pictures are wanted: decoding goes on");
        self.resting = false;
        self.state.send_modify(|s| s.resting = false);
        self.gate.lock().wanted_from(from);
        self.cursor.restart();
        if self.cursor.is_at_end() {
            // No key frame is kept.
            self.stream.counters.units_skipped.inc();
        }
        // What it was fed before tells nothing of what it is fed now.
        self.watch = Watchdog::default();
        (self.need_key, self.cut) = (true, true);
    }

    fn params(&self) -> Option<&Arc<VideoParams>> {
        match &self.stage {
            Stage::Closed => None,
            Stage::Open(open) => Some(&open.params),
            Stage::Failed { params, .. } => Some(params),
        }
    }

    fn skipped(&mut self, units: u64) {
        self.stream.counters.units_skipped.add(units);
        self.need_key = true;
        self.cut = true;
    }

    /// Why the decoder in use cannot stay.
    fn trouble(&self) -> Option<String> {
        if !matches!(self.stage, Stage::Open(_)) {
            return None;
        }
        let blocked = self.waiting.is_some();
        let stalled = || {
            let pictures = self.signals.pictures.get();
            self.watch
                .stalled(Instant::now(), pictures, blocked)
                .then(|| format!("gives no picture for {} s although it is fed", STALL.as_secs()))
        };
        self.signals.failure().or_else(stalled)
    }

    /// Has a decoder for these parameters, if one works.
    async fn make_ready(&mut self, params: &Arc<VideoParams>) {
        let same = self.params() == Some(params);
        let first = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Open(open) if same => {
                self.stage = Stage::Open(open);
                return;
            }
            Stage::Failed { params, retry } if same && Instant::now() < retry => {
                self.stage = Stage::Failed { params, retry };
                return;
            }
            // Not every hardware decoder survives a change of size, and a new one costs some milliseconds.
            Stage::Open(open) => {
                let name = &open.candidates[open.at].name;
                let at = self.candidates(params).iter().position(|c| c.name == *name);
                drain(open.decoder).await;
                at.unwrap_or(0)
            }
            Stage::Failed { .. } | Stage::Closed => 0,
        };
        self.open_from(first, params).await;
    }

    /// Opens the first candidate from `first` on that will.
    async fn open_from(&mut self, first: usize, params: &Arc<VideoParams>) {
        let candidates = self.candidates(params);
        self.watch = Watchdog::default();
        self.state.send_modify(|s| {
            (s.codec, s.width, s.height) = (Some(params.codec.name()), params.width, params.height);
        });
        for (at, candidate) in candidates.iter().enumerate().skip(first) {
            let signals = Arc::new(Signals::default());
            match self.open_one(candidate, params, &signals).await {
                Ok(decoder) => {
                    tracing::info!(
                        stream = %self.stream.id, element = candidate.name,
                        hardware = candidate.hardware, codec = params.codec.name(),
                        width = params.width, height = params.height, "decoder in use"
                    );
                    self.state.send_modify(|s| {
                        s.element = Some(candidate.name.clone());
                        s.hardware = candidate.hardware;
                        s.error = None;
                    });
                    self.signals = signals;
                    let (params, since) = (Arc::clone(params), Instant::now());
                    self.stage = Stage::Open(Open { decoder, candidates, at, params, since });
                    return;
                }
                Err(e) => self.refuse(&candidate.name, &e.to_string()),
            }
        }
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF.1);
        let error = format!(
            "no decoder for {} works, tried again in {} s; see the refusals, and run `spotter probe`",
            params.codec.name(),
            wait.as_secs()
        );
        tracing::error!(stream = %self.stream.id, "{error}");
        self.state.send_modify(|s| {
            s.element = None;
            s.hardware = false;
            s.error = Some(error);
        });
        self.stage = Stage::Failed { params: Arc::clone(params), retry: Instant::now() + wait };
    }

    /// What to try for these parameters, best first.
    fn candidates(&self, params: &VideoParams) -> Vec<Candidate> {
        let mut all = candidates(self.board, params.codec, &self.cfg);
        if self.small(params).is_none() {
            all.retain(|c| c.scaler.is_none());
        }
        all
    }

    fn small(&self, params: &VideoParams) -> Option<(u32, u32)> {
        let published = (params.width, params.height);
        small(self.demand.fit.as_ref()?(published), published)
    }

    async fn open_one(
        &mut self,
        candidate: &Candidate,
        params: &Arc<VideoParams>,
        signals: &Arc<Signals>,
    ) -> Result<Box<dyn Decoder>, DecodeError> {
        let (candidate, cfg) = (candidate.clone(), self.cfg.clone());
        let (params, sink) = (Arc::clone(params), Arc::clone(&self.sink));
        let signals = Arc::clone(signals);
        let small = self.small(&params);
        let opening = tokio::task::spawn_blocking(move || {
            open(&candidate, &cfg, &params, small, sink, signals)
        });
        match timeout(PATIENCE, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(e)) => Err(DecodeError::Open(format!("opening it failed: {e}"))),
            Err(_) => {
                let late = format!("does not open within {} s", PATIENCE.as_secs());
                Err(DecodeError::Open(late))
            }
        }
    }

    /// Puts another decoder in the place of the one in use and feeds it from the newest key frame.
    async fn replace(&mut self, reason: String) {
        let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) else { return };
        self.stream.counters.decoder_errors.inc();
        let steady = open.since.elapsed() > STEADY && self.signals.pictures.get() > 0;
        self.refuse(&open.candidates[open.at].name, &reason);
        stop(open.decoder).await;
        self.gate.lock().seen();
        self.cursor.restart();
        self.waiting = None;
        (self.need_key, self.cut) = (true, true);
        if steady {
            self.backoff = BACKOFF.0;
        }
        self.open_from(if steady { open.at } else { open.at + 1 }, &open.params).await;
    }

    fn refuse(&self, name: &str, reason: &str) {
        tracing::warn!(stream = %self.stream.id, element = name, reason, "decoder refused");
        let about = format!("{name}: ");
        self.state.send_modify(|s| {
            s.refusals.retain(|r| !r.starts_with(&about));
            s.refusals.push(format!("{about}{reason}"));
        });
    }

    async fn finish(&mut self) {
        if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) {
            drain(open.decoder).await;
        }
    }

    async fn close(&mut self) {
        if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) {
            stop(open.decoder).await;
        }
    }
}

/// Lets the last pictures out, then stops.
async fn drain(mut decoder: Box<dyn Decoder>) {
    off_runtime(move || decoder.finish(DRAIN)).await;
}

async fn stop(decoder: Box<dyn Decoder>) {
    off_runtime(move || drop(decoder)).await;
}

/// Decoders wait for their own threads when they stop.
async fn off_runtime(work: impl FnOnce() + Send + 'static) {
    match timeout(PATIENCE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = %e, "stopping a decoder failed"),
        Err(_) => tracing::warn!("a decoder hangs as it stops and is left behind"),
    }
}

fn frame_sink(
    stream: Arc<Stream>,
    gate: Arc<Mutex<Gate>>,
    out: impl Fn(Frame) + Send + Sync + 'static,
) -> FrameSink {
    Arc::new(move |Decoded { pts, arrived, decoded, picture }| {
        let passed = gate.lock().pass(pts, arrived.mono);
        let seq = match passed {
            Ok(seq) => seq,
            Err(Held::Past) => return stream.counters.frames_caught_up.inc(),
            Err(Held::ShownBefore) => return,
        };
        stream.counters.frames_decoded.inc();
        stream.counters.decode.record(decoded.saturating_duration_since(arrived.mono));
        out(Frame { stream: stream.id.clone(), seq, pts, arrived, decoded, picture });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecodeBackend;
    use crate::health::Counter;
    use crate::media::stream::{Publication, StreamCounters, StreamLimits, Takeover};
    use crate::media::{Arrival, MediaTime, StreamId, Streams, VideoCodec};
    use bytes::Bytes;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A stream with its decoding by the fake decoder.
    struct Rig {
        streams: Arc<Streams>,
        publication: Publication,
        stream: Arc<Stream>,
        wanted: Arc<AtomicBool>,
        seen: Arc<Mutex<Vec<(u64, i64, u32)>>>,
        state: watch::Receiver<DecoderState>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Rig {
        fn start() -> Self {
            let streams = Streams::new(StreamLimits {
                max_streams: 1,
                gop_budget_bytes: 1 << 20,
                grace: Duration::ZERO,
            });
            let id = StreamId::new("s").unwrap();
            let publication = streams.claim(&id, Takeover::Refused).unwrap();
            let stream = Arc::clone(publication.stream());
            let seen = Arc::new(Mutex::new(Vec::new()));
            let out = {
                let seen = Arc::clone(&seen);
                move |f: Frame| seen.lock().push((f.seq, f.pts.as_millis(), f.picture.view().width))
            };
            let (sender, state) = watch::channel(DecoderState::default());
            let backend = DecodeBackend::Fake;
            let cfg = config::Decode { backend, ..config::Decode::default() };
            let (board, shutdown) = (BoardKind::X86, CancellationToken::new());
            let wanted = Arc::new(AtomicBool::new(true));
            let asked = {
                let wanted = Arc::clone(&wanted);
                Box::new(move |_| wanted.load(Ordering::SeqCst))
            };
            let demand = Demand { wanted: asked, fit: None };
            let run = run(Arc::clone(&stream), cfg, board, demand, out, sender, shutdown);
            let task = tokio::spawn(run);
            Self { streams, publication, stream, wanted, seen, state, task }
        }

        fn push(&self, ms: i64, key: bool, intact: bool, params: &Arc<VideoParams>) {
            let time = MediaTime::from_millis(ms);
            let unit = AccessUnit {
                stream: self.stream.id.clone(),
                pts: time,
                dts: time,
                key,
                intact,
                discontinuity: false,
                data: Bytes::from_static(&[0]),
                params: Arc::clone(params),
                arrived: Arrival::now(),
            };
            self.publication.push(Unit::Video(unit)).unwrap();
        }

        /// Lets the task go on until a counter has come so far.
        async fn until(&self, counter: impl Fn(&StreamCounters) -> &Counter, n: u64) {
            let far = async {
                while counter(&self.stream.counters).get() < n {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(20), far).await.expect("the counter comes so far");
        }

        /// The pictures: number, milliseconds, width.
        async fn end(self) -> Vec<(u64, i64, u32)> {
            self.streams.close_all();
            self.task.await.unwrap();
            std::mem::take(&mut *self.seen.lock())
        }
    }

    fn params(width: u32) -> Arc<VideoParams> {
        let (codec, record) = (VideoCodec::H264, Bytes::new());
        Arc::new(VideoParams { codec, width, height: 8, record, nal_length_size: 4 })
    }

    #[tokio::test]
    async fn a_stream_is_decoded_from_its_first_key_frame_to_its_end() {
        let mut rig = Rig::start();
        let (small, large) = (params(16), params(32));
        for (ms, key, intact, params) in [
            (0, false, true, &small), // before the first key frame
            (1, true, true, &small),
            (2, false, true, &small),
            (3, false, false, &small), // held
            (4, false, true, &small),  // of no use without the one before
            (5, true, true, &small),
            (6, false, true, &large), // new parameters need a key frame
            (7, true, true, &large),
        ] {
            rig.push(ms, key, intact, params);
        }
        rig.until(|c| &c.frames_decoded, 4).await;
        assert_eq!(rig.stream.counters.units_skipped.get(), 3);
        let state = rig.state.borrow_and_update().clone();
        assert_eq!((state.element.as_deref(), state.width), (Some("fake"), 32));
        assert_eq!(rig.end().await, [(0, 1, 16), (1, 2, 16), (2, 5, 16), (3, 7, 32)]);
    }

    #[tokio::test]
    async fn what_nobody_wants_is_not_decoded_and_a_wish_goes_back_to_the_newest_key_frame() {
        let rig = Rig::start();
        let small = params(16);
        rig.wanted.store(false, Ordering::SeqCst);
        rig.push(0, true, true, &small);
        rig.until(|c| &c.units_unwanted, 1).await;
        assert!(rig.state.borrow().resting && rig.state.borrow().element.is_none());
        rig.push(1, false, true, &small);
        rig.push(2, true, true, &small);
        rig.push(3, false, true, &small);
        rig.until(|c| &c.units_unwanted, 4).await;
        rig.wanted.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        rig.push(4, false, true, &small);
        rig.until(|c| &c.frames_decoded, 1).await;
        // 2 and 3 led there; 0 and 1 nobody ever looks at.
        assert_eq!(rig.stream.counters.frames_caught_up.get(), 2);
        assert!(!rig.state.borrow().resting);
        rig.wanted.store(false, Ordering::SeqCst);
        rig.push(5, false, true, &small);
        rig.until(|c| &c.units_unwanted, 5).await;
        assert_eq!(rig.stream.counters.units_skipped.get(), 0);
        assert_eq!(rig.end().await, [(0, 4, 16)]);
    }
}
