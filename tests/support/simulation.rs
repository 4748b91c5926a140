//! The real recorder and the real store on simulated time, as fast as this machine goes: a made-up stream's pictures and
//! visits go in, and the caller looks at what is kept. No socket, no decoder, no detector.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each user has its own part; a test may end at the first surprise

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use spotter::config::Config;
use spotter::detect::BBox;
use spotter::media::stream::{Publication, StreamLimits, Takeover};
use spotter::media::{
    AccessUnit, Arrival, MediaTime, StreamId, Streams, Unit, VideoCodec, VideoParams,
};
use spotter::record;
use spotter::snapshots::Portrait;
use spotter::store::Store;
use spotter::store::clock::Source;
use spotter::track::{Best, Event, EventKind, Moment, Visit};
use spotter::wire::StorageState;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// When the simulated time begins, seconds since 1970.
pub const BEGIN: u64 = 1_795_439_400;

/// What the camera sends.
#[derive(Debug, Clone, Copy)]
pub struct Camera {
    /// Milliseconds from picture to picture; every `group`th is a key frame.
    pub interval_ms: u64,
    pub group: u64,
    pub picture_bytes: usize,
}

pub struct Simulation {
    pub store: Arc<Store>,
    pub stream: StreamId,
    events: broadcast::Sender<Arc<Event>>,
    portraits: broadcast::Sender<Arc<Portrait>>,
    publication: Publication,
    streams: Arc<Streams>,
    /// Milliseconds since the beginning.
    clock: Arc<AtomicU64>,
    began: Instant,
    camera: Camera,
    data: Bytes,
    params: Arc<VideoParams>,
    pictures: u64,
    events_sent: u64,
    visits: u64,
    stop: CancellationToken,
    recorder: JoinHandle<()>,
    keeper: JoinHandle<()>,
    _settings: watch::Sender<Arc<Config>>,
}

impl Simulation {
    pub async fn start(dir: &Path, config: Config, camera: Camera) -> Self {
        let (settings, seen) = watch::channel(Arc::new(config));
        let (clock, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let now = Arc::clone(&clock);
        let source = Source::simulated(move || {
            let passed = Duration::from_millis(now.load(Ordering::Acquire));
            (began + passed, wall(passed))
        });
        let store = Store::start_by(source, dir.to_owned(), seen.clone()).unwrap();
        let mut state = store.state();
        state.wait_for(|s| s.state == StorageState::Ok).await.unwrap();
        let (events, portraits) = (broadcast::Sender::new(1024), broadcast::Sender::new(64));
        let limits = StreamLimits {
            max_streams: 4,
            gop_budget_bytes: 32 << 20,
            grace: Duration::from_secs(60),
        };
        let streams = Streams::new(limits);
        let stream = StreamId::new("garden").unwrap();
        let publication = streams.claim(&stream, Takeover::Refused).unwrap();
        let stop = CancellationToken::new();
        let context = record::Context {
            streams: Arc::clone(&streams),
            events: events.clone(),
            store: Arc::clone(&store),
            settings: seen,
        };
        let recorder = tokio::spawn(record::run(context, stop.clone()));
        let follow = Arc::clone(&store).follow(portraits.subscribe(), stop.clone());
        let keeper = tokio::spawn(follow);
        while events.receiver_count() < 1 {
            tokio::task::yield_now().await;
        }
        let params = VideoParams {
            codec: VideoCodec::H264,
            width: 1280,
            height: 720,
            record: Bytes::from_static(&[1, 0x64, 0, 0x1F, 0xFF, 0xE0, 0]),
            nal_length_size: 4,
        };
        Self {
            store,
            stream,
            events,
            portraits,
            publication,
            streams,
            clock,
            began,
            camera,
            data: vec![7; camera.picture_bytes].into(),
            params: Arc::new(params),
            pictures: 0,
            events_sent: 0,
            visits: 0,
            stop,
            recorder,
            keeper,
            _settings: settings,
        }
    }

    /// Since the beginning.
    pub fn passed(&self) -> Duration {
        Duration::from_millis(self.clock.load(Ordering::Acquire))
    }

    pub fn now_us(&self) -> i64 {
        i64::try_from((Duration::from_secs(BEGIN) + self.passed()).as_micros()).unwrap()
    }

    /// Lets time pass without anything coming.
    pub fn wait(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::AcqRel);
    }

    /// Lets so much time pass in which pictures come, and waits until the disk's thread has them.
    pub async fn film(&mut self, ms: u64) {
        let end = self.passed() + Duration::from_millis(ms);
        while self.passed() < end {
            let passed = self.passed();
            let at = MediaTime::from_millis(i64::try_from(passed.as_millis()).unwrap());
            let unit = AccessUnit {
                stream: self.stream.clone(),
                pts: at,
                dts: at,
                key: self.pictures.is_multiple_of(self.camera.group),
                intact: true,
                discontinuity: self.pictures == 0,
                data: self.data.clone(),
                params: Arc::clone(&self.params),
                arrived: Arrival { mono: self.began + passed, wall: wall(passed) },
            };
            self.publication.push(Unit::Video(unit)).unwrap();
            self.pictures += 1;
            self.wait(self.camera.interval_ms);
            // A fragment is complete with the picture after it; the recorder must not be overtaken.
            if self.pictures.is_multiple_of(self.camera.group) {
                let groups = self.pictures / self.camera.group;
                self.until(move |c| c.fragments.get() + c.fragments_dropped.get() + 1 >= groups)
                    .await;
            }
        }
        let sent = self.events_sent;
        self.until(move |c| c.events.get() >= sent).await;
    }

    async fn until(&self, holds: impl Fn(&spotter::store::Counters) -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !holds(self.store.counted()) {
            assert!(Instant::now() < patience, "stuck: {}", self.store.counters());
            tokio::time::sleep(Duration::from_micros(20)).await;
        }
    }

    /// An animal comes.
    pub fn arrive(&mut self, stream: &str, label: &str) -> Arc<Visit> {
        let now = self.moment();
        let bbox = BBox { x1: 100.0, y1: 120.0, x2: 480.5, y2: 600.25 };
        self.visits += 1;
        let since = now.wall.duration_since(UNIX_EPOCH).unwrap();
        let visit = Arc::new(Visit {
            id: format!("{}.{:06}-{:06}", since.as_secs(), since.subsec_micros(), self.visits)
                .into(),
            stream: StreamId::new(stream).unwrap(),
            track_id: self.visits,
            label: label.into(),
            score: 0.8,
            top_score: 0.9,
            start: now,
            seen: now,
            end: None,
            width: 1280,
            height: 720,
            bbox,
            best: Best { at: now, seq: self.visits, score: 0.9, bbox },
            current_zones: vec![],
            entered_zones: vec!["lawn".into()],
        });
        self.tell(EventKind::New, &visit);
        visit
    }

    /// It goes.
    pub fn leave(&mut self, visit: &Visit) {
        let now = self.moment();
        let over = Visit { seen: now, end: Some(now), ..visit.clone() };
        self.tell(EventKind::End, &Arc::new(over));
    }

    /// The best picture of it.
    pub fn portray(&self, visit: &Visit, bytes: usize) {
        let portrait = Portrait {
            id: Arc::clone(&visit.id),
            stream: visit.stream.clone(),
            label: Arc::clone(&visit.label),
            score: 0.9,
            pts: visit.best.at.media,
            full: vec![1; bytes].into(),
            crop: vec![2; bytes / 8].into(),
        };
        self.portraits.send(Arc::new(portrait)).unwrap();
    }

    fn tell(&mut self, kind: EventKind, visit: &Arc<Visit>) {
        let event = Event { kind, before: Arc::clone(visit), after: Arc::clone(visit) };
        let event = Arc::new(event);
        self.store.event(&event);
        self.events.send(event).unwrap();
        self.events_sent += 1;
    }

    fn moment(&self) -> Moment {
        let passed = self.passed();
        let media = MediaTime::from_millis(i64::try_from(passed.as_millis()).unwrap());
        Moment { media, wall: wall(passed) }
    }

    /// Ends in good order, with everything written.
    pub async fn finish(self) {
        drop(self.publication);
        self.streams.close_all();
        self.stop.cancel();
        self.recorder.await.unwrap();
        self.keeper.await.unwrap();
        self.store.finish().await;
    }
}

fn wall(passed: Duration) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BEGIN) + passed
}
