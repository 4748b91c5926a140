//! What is remembered: visits in SQLite, their pictures as files, the recordings' index, and how the disk stands. One thread
//! writes all of it, out of a bounded queue, so that a slow or broken disk delays nobody; readers open the database themselves.

pub mod clock; // whether the wall clock can be believed
mod db; // the database file
mod disk; // the thread
mod events; // visits as rows
pub(crate) mod flush; // the disk itself has it
mod opening; // the database at a start, or after damage
mod pictures; // visits' pictures as files
mod reserve; // room for when there is none
mod segments; // the recordings' index
mod told; // what is still on its way
mod upkeep; // retention, clock, and the disk's state
#[cfg(test)]
mod tests; // the thread's own work, without the thread

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use events::{Cursor, Page, Query, Stored};
pub use pictures::Which;
pub use segments::Segment;
pub use told::Coming;

use crate::config::{Config, RecordMode};
use crate::health::Counter;
use crate::media::StreamId;
use crate::record::cutter::Fragment;
use crate::snapshots::Portrait;
use crate::track::{Event, EventKind, Visit};
use crate::wire::{Kept, Storage, StorageState};
use clock::Clock;
use disk::{Disk, Work};
use flush::Flusher;
use told::Told;

/// Works waiting for the disk, and media among them: some seconds of a disk that does not answer.
const QUEUE: usize = 512;
const QUEUE_BYTES: usize = 48 << 20;
/// Visits of which it is remembered whether a picture came.
const RECENT: usize = 1024;

/// What was counted on the way to the disk.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub events: Counter,
    pub pictures: Counter,
    pub fragments: Counter,
    /// What was let go because the disk did not keep up, or keeps nothing now.
    pub events_dropped: Counter,
    pub pictures_dropped: Counter,
    pub fragments_dropped: Counter,
    /// Times that a recorder fell behind its stream.
    pub recordings_lagged: Counter,
    /// Events that a stream's recorder lost because it was slow; whoever was there is taken to be gone.
    pub recordings_events_missed: Counter,
    pub segments_recovered: Counter,
    pub segments_deleted: Counter,
    pub events_deleted: Counter,
    pub commits: Counter,
    pub times_mended: Counter,
    pub bytes_written: Counter,
}

/// Why nothing could be read or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("there is no database now: {0}")]
    Unavailable(String),
    #[error("the database cannot be read: {0}")]
    Sql(String),
    #[error("the disk does not keep up: ask again")]
    Busy,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error.to_string())
    }
}

/// What came of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Done,
    NotFound,
    /// The visit is not over.
    Open,
}

/// Everyone's way to what is remembered.
#[derive(Debug)]
pub struct Store {
    queue: SyncSender<Work>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    shared: Arc<Shared>,
    settings: watch::Receiver<Arc<Config>>,
}

/// What the disk's thread shares with those who ask.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    pub(crate) state_dir: PathBuf,
    pub(crate) record_dir: PathBuf,
    flusher: Arc<Flusher>,
    state: watch::Sender<Storage>,
    clock: watch::Sender<Clock>,
    left_open: watch::Sender<Option<Arc<[Stored]>>>,
    readable: AtomicBool,
    /// What is being written, by its id: the index learns of it when it is finished.
    growing: Mutex<BTreeMap<i64, Segment>>,
    queued_bytes: AtomicUsize,
    written_today: AtomicU64,
    recent: Mutex<Recent>,
    told: Told,
}

/// The newest visits with a picture.
#[derive(Debug, Default)]
struct Recent(VecDeque<Arc<str>>);

impl Store {
    /// Starts the disk's thread, which opens the database. Whatever is wrong with it is said in [`Self::state`].
    pub fn start(
        state_dir: PathBuf,
        settings: watch::Receiver<Arc<Config>>,
    ) -> io::Result<Arc<Self>> {
        Self::start_by(clock::Source::system(), state_dir, settings)
    }

    /// The same by a time of one's own.
    pub fn start_by(
        source: clock::Source,
        state_dir: PathBuf,
        settings: watch::Receiver<Arc<Config>>,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::new(&source, state_dir, &settings.borrow())?);
        let (queue, works) = sync_channel(QUEUE);
        let disk = Disk::new(Arc::clone(&shared), settings.clone(), source);
        let thread = std::thread::Builder::new().name("disk".into());
        let thread = thread.spawn(move || disk.run(&works))?;
        Ok(Arc::new(Self { queue, thread: Mutex::new(Some(thread)), shared, settings }))
    }

    /// The clock as it is judged; a new one whenever times from before are mended.
    pub fn clock(&self) -> watch::Receiver<Clock> {
        self.shared.clock.subscribe()
    }

    /// The visits that the last run left open, once they are known; they are over now, when they were last seen.
    pub fn left_open(&self) -> watch::Receiver<Option<Arc<[Stored]>>> {
        self.shared.left_open.subscribe()
    }

    pub fn state(&self) -> watch::Receiver<Storage> {
        self.shared.state.subscribe()
    }

    /// The counters, with the storage's figures of the moment.
    pub fn counters(&self) -> serde_json::Value {
        let mut all = serde_json::to_value(&self.shared.counters).unwrap_or_default();
        all["flushes_skipped"] = self.shared.flusher.skipped.get().into();
        all["written_today_bytes"] = self.shared.written_today.load(Ordering::Relaxed).into();
        all
    }

    pub fn counted(&self) -> &Counters {
        &self.shared.counters
    }

    /// What is kept of a visit, for messages about it: before its end what will be, at its end what is.
    pub fn kept(&self, visit: &Visit) -> Kept {
        if self.shared.state.borrow().state != StorageState::Ok {
            return Kept::default();
        }
        let clip = mode(&self.settings.borrow(), &visit.stream) != RecordMode::Off;
        let has = || self.shared.recent.lock().0.iter().any(|id| *id == visit.id);
        Kept { snapshot: visit.end.is_none() || has(), clip }
    }

    /// Hands what is known of a visit to the disk, whatever that is busy with. To be called before anybody else hears of it:
    /// then whoever does finds it.
    pub fn event(&self, event: &Arc<Event>) {
        let (shared, id) = (&self.shared, &event.after.id);
        let send = |number| self.queue.try_send(Work::Event(Arc::clone(event), number)).is_ok();
        let sent = match event.kind {
            // What becomes known of a visit under way is written later.
            EventKind::Update => send(0),
            EventKind::New | EventKind::End => shared.told.message(id, send),
        };
        if !sent {
            shared.counters.events_dropped.inc();
        }
    }

    /// Hands visits' pictures to the disk until `stop`, and then what is still waiting.
    pub async fn follow(
        self: Arc<Self>,
        mut portraits: broadcast::Receiver<Arc<Portrait>>,
        stop: CancellationToken,
    ) {
        use broadcast::error::{RecvError, TryRecvError};
        let lost = |n| self.shared.counters.pictures_dropped.add(n);
        while let Some(portrait) = stop.run_until_cancelled(portraits.recv()).await {
            match portrait {
                Ok(portrait) => self.portrait(portrait),
                Err(RecvError::Lagged(n)) => lost(n),
                Err(RecvError::Closed) => return,
            }
        }
        loop {
            match portraits.try_recv() {
                Ok(portrait) => self.portrait(portrait),
                Err(TryRecvError::Lagged(n)) => lost(n),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn portrait(&self, portrait: Arc<Portrait>) {
        if self.queue.try_send(Work::Portrait(Arc::clone(&portrait))).is_err() {
            self.shared.counters.pictures_dropped.inc();
            return;
        }
        let mut recent = self.shared.recent.lock();
        if !recent.0.contains(&portrait.id) {
            recent.0.push_front(Arc::clone(&portrait.id));
            recent.0.truncate(RECENT);
        }
    }

    /// Hands a fragment over. False: the disk does not keep up, it is lost.
    pub(crate) fn fragment(
        &self,
        stream: &StreamId,
        fragment: Fragment,
        fresh: bool,
        continuous: bool,
    ) -> bool {
        let len = fragment.data.len();
        let queued = self.shared.queued_bytes.fetch_add(len, Ordering::Relaxed);
        let work = Work::Fragment { stream: stream.clone(), fragment, fresh, continuous };
        let taken = queued < QUEUE_BYTES && self.queue.try_send(work).is_ok();
        if !taken {
            self.shared.queued_bytes.fetch_sub(len, Ordering::Relaxed);
            self.shared.counters.fragments_dropped.inc();
        }
        taken
    }

    /// A stream's recording ends here for now.
    pub(crate) fn end(&self, stream: &StreamId) {
        // When there is no room, the file stays open until the next one of the stream, or the end.
        let _ = self.queue.try_send(Work::End(stream.clone()));
    }

    /// A page of visits; who was told of one finds it.
    pub async fn events(self: &Arc<Self>, query: Query) -> Result<Page, StoreError> {
        self.rows().await;
        self.read(move |db| events::page(db, &query)).await
    }

    pub async fn event_by_id(self: &Arc<Self>, id: String) -> Result<Option<Stored>, StoreError> {
        self.rows().await;
        self.read(move |db| events::get(db, &id)).await
    }

    async fn rows(&self) {
        // A disk that takes nothing has nothing on its way.
        if self.shared.state.borrow().state == StorageState::Ok {
            self.shared.told.rows().await;
        }
    }

    /// Whether something of a visit may still come that messages about it promise, though it is not there yet.
    pub fn coming(&self, visit: &Visit, promised: impl FnOnce(Kept) -> bool) -> Coming {
        if promised(self.kept(visit)) {
            self.shared.told.coming(&visit.id)
        } else {
            Coming::nothing()
        }
    }

    /// The newest `limit` recorded files that reach into a time (microseconds since 1970), oldest first.
    pub async fn segments(
        self: &Arc<Self>,
        stream: Option<StreamId>,
        from_us: i64,
        to_us: i64,
        limit: usize,
    ) -> Result<Vec<Segment>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.read(move |db| {
            let name = stream.as_ref().map(StreamId::as_str);
            let mut found = segments::within(db, name, from_us, to_us, limit)?;
            // What began in the last second is not in the index yet; and of what grows the index knows the beginning.
            let growing = shared.growing.lock();
            found.retain(|s| !growing.contains_key(&s.id));
            let own = |s: &&Segment| name.is_none_or(|n| n == s.stream);
            let within = |s: &&Segment| s.start_us < to_us && s.end_us > from_us;
            found.extend(growing.values().filter(own).filter(within).cloned());
            drop(growing);
            found.sort_by_key(|s| (s.start_us, s.id));
            Ok(found)
        })
        .await
    }

    /// Where a recorded file lies.
    pub fn file(&self, segment: &Segment) -> PathBuf {
        self.shared.record_dir.join(&segment.path)
    }

    /// Where a visit's picture lies, if `id` can be one.
    pub fn picture(&self, id: &str, which: Which) -> Option<PathBuf> {
        pictures::path(&self.shared.state_dir, id, which)
    }

    /// Deletes a visit with its pictures, and what was recorded for it alone.
    pub async fn delete(&self, id: String) -> Result<Deletion, StoreError> {
        self.change(|done| Work::Delete { id, done }).await
    }

    /// Keeps a visit and its clip whatever becomes short, or no longer. False: there is no such visit.
    pub async fn protect(&self, id: String, protected: bool) -> Result<bool, StoreError> {
        self.change(|done| Work::Protect { id, protected, done }).await
    }

    async fn change<T>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.queue.try_send(work(done)).map_err(|e| match e {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => self.unavailable(),
        })?;
        answer.await.map_err(|_| self.unavailable())?
    }

    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.shared.readable.load(Ordering::Acquire) {
            return Err(self.unavailable());
        }
        let path = self.shared.database();
        let read = move || read(&db::open_to_read(&path)?);
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.unavailable()),
        }
    }

    fn unavailable(&self) -> StoreError {
        let state = self.shared.state.borrow();
        StoreError::Unavailable(state.message.clone().unwrap_or_else(|| "ask again".into()))
    }

    /// Writes what is waiting and ends the thread.
    pub async fn finish(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        let queue = self.queue.clone();
        let joined = tokio::task::spawn_blocking(move || {
            // The thread may have ended by itself.
            let _ = queue.send(Work::Stop);
            thread.join()
        });
        let _ = joined.await;
    }
}

impl Shared {
    fn new(source: &clock::Source, state_dir: PathBuf, config: &Config) -> io::Result<Self> {
        let dir = config.record.dir.clone();
        let record_dir =
            if dir.as_os_str().is_empty() { state_dir.join("recordings") } else { dir };
        let state = Storage {
            state: StorageState::Off,
            message: Some("spotter is starting".into()),
            free_bytes: 0,
            used_bytes: 0,
            written_today_bytes: 0,
        };
        Ok(Self {
            counters: Counters::default(),
            state_dir,
            record_dir,
            flusher: Flusher::start()?,
            state: watch::Sender::new(state),
            clock: watch::Sender::new(Clock::new(source.mono(), source.us(), clock::signs())),
            left_open: watch::Sender::new(None),
            readable: AtomicBool::new(false),
            growing: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            written_today: AtomicU64::new(0),
            recent: Mutex::default(),
            told: Told::default(),
        })
    }

    fn database(&self) -> PathBuf {
        self.state_dir.join("spotter.db")
    }
}

/// How a stream is recorded.
pub fn mode(config: &Config, stream: &StreamId) -> RecordMode {
    let own = config.stream.get(stream.as_str()).and_then(|s| s.record);
    own.unwrap_or(config.record.mode)
}
