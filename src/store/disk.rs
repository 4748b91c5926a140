//! The disk's thread: takes what is to be kept out of the queue and writes it, changes to the database many at a time. When
//! the disk takes nothing more, it says so, drops and counts, and tries again later (`upkeep.rs`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{oneshot, watch};

use super::clock::{Clock, Source, micros};
use super::db::is_damage;
use super::segments::Segment;
use super::upkeep::Upkeep;
use super::{Deletion, Shared, StoreError, events, pictures, segments};
use crate::config::Config;
use crate::media::StreamId;
use crate::record::cutter::Fragment;
use crate::record::files::{Files, Stamp};
use crate::snapshots::Portrait;
use crate::track::{Event, EventKind, Visit};
use crate::wire::StorageState;

pub(super) enum Work {
    /// With its number, if it must be found by who hears of it.
    Event(Arc<Event>, u64),
    Portrait(Arc<Portrait>),
    Fragment {
        stream: StreamId,
        fragment: Fragment,
        fresh: bool,
        continuous: bool,
    },
    End(StreamId),
    Delete {
        id: String,
        done: oneshot::Sender<Result<Deletion, StoreError>>,
    },
    Protect {
        id: String,
        protected: bool,
        done: oneshot::Sender<Result<bool, StoreError>>,
    },
    Stop,
}

/// A change of the database on its way.
enum Change {
    Visit(Arc<Visit>),
    /// `tries`: how often it may still find no visit, whose row can come after its picture.
    Picture {
        id: Arc<str>,
        bytes: u64,
        tries: u32,
    },
    Segment(Segment),
}

/// Changes are written together after this time, or when there are so many.
const BATCH: Duration = Duration::from_secs(1);
const BATCH_CHANGES: usize = 100;
/// That a visit began or ended is written at once, so that whoever hears of it finds it; together if many come.
const BATCH_TOLD: Duration = Duration::from_millis(100);
/// While nothing can be written, the oldest beyond these are given up.
const MAX_CHANGES: usize = 2000;
/// What changed of a visit under way is written so often; it is only ever needed after a crash.
const UPDATE_EVERY: Duration = Duration::from_secs(10);
/// A visit's better picture is written so often.
const PICTURE_EVERY: Duration = Duration::from_secs(5);
/// Visits whose pictures are held back; more are written at once.
const MAX_WAITING: usize = 64;
const TICK: Duration = Duration::from_secs(1);
const PICTURE_TRIES: u32 = 10;

pub(super) struct Disk {
    pub(super) shared: Arc<Shared>,
    pub(super) settings: watch::Receiver<Arc<Config>>,
    pub(super) db: Option<Connection>,
    pub(super) files: Option<Files>,
    pub(super) run: i64,
    pub(super) source: Source,
    pub(super) clock: Clock,
    pub(super) upkeep: Upkeep,
    changes: Vec<Change>,
    /// When the oldest change came.
    since: Option<Instant>,
    /// A visit that began or ended is among them.
    told: bool,
    /// The newest message that is among them, or was.
    told_to: u64,
    /// A visit was written since the last flush to the disk itself.
    pub(super) unflushed: bool,
    committed: Option<Instant>,
    /// How far rows of this run must still be moved, and whether their time is right then.
    jumps: Vec<(i64, bool)>,
    /// Updates held back, and until when.
    held: BTreeMap<Arc<str>, (Arc<Visit>, Instant)>,
    /// Better pictures held back, and until when the next may be written.
    portraits: BTreeMap<Arc<str>, (Option<Arc<Portrait>>, Instant)>,
}

impl Disk {
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: watch::Receiver<Arc<Config>>,
        source: Source,
    ) -> Self {
        let clock = shared.clock.borrow().clone();
        Self {
            shared,
            settings,
            db: None,
            files: None,
            run: 0,
            clock,
            source,
            upkeep: Upkeep::default(),
            changes: Vec::new(),
            since: None,
            told: false,
            told_to: 0,
            unflushed: false,
            committed: None,
            jumps: Vec::new(),
            held: BTreeMap::new(),
            portraits: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self, works: &Receiver<Work>) {
        self.open();
        let mut ticked = self.source.mono();
        loop {
            let mut wait = TICK.saturating_sub(self.passed(ticked));
            if self.told {
                let since = self.committed.map_or(BATCH_TOLD, |at| self.passed(at));
                wait = wait.min(BATCH_TOLD.saturating_sub(since));
            }
            // What waits already is taken first, so that it is written together.
            let work = works.try_recv().or_else(|empty| match empty {
                TryRecvError::Empty => works.recv_timeout(wait),
                TryRecvError::Disconnected => Err(RecvTimeoutError::Disconnected),
            });
            match work {
                Ok(Work::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(work) => {
                    self.watch_clock();
                    self.take(work);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.passed(ticked) >= TICK {
                ticked = self.source.mono();
                self.release(false);
                self.tick();
            }
            if self.is_due() {
                self.flush();
            }
        }
        self.release(true);
        self.end_all();
        self.flush();
        self.shared.readable.store(false, Ordering::Release);
        self.say(StorageState::Off, Some("spotter ends".into()));
        tracing::debug!("the disk's thread ends");
    }

    /// On the clock that never jumps.
    fn passed(&self, since: Instant) -> Duration {
        self.source.mono().saturating_duration_since(since)
    }

    fn is_due(&self) -> bool {
        let old = self.since.is_some_and(|since| self.passed(since) >= BATCH);
        let told = self.told && self.committed.is_none_or(|at| self.passed(at) >= BATCH_TOLD);
        old || told || self.changes.len() >= BATCH_CHANGES
    }

    pub(super) fn take(&mut self, work: Work) {
        let counters = &self.shared.counters;
        match work {
            Work::Event(event, number) => {
                self.event(&event);
                self.told_to = self.told_to.max(number);
            }
            Work::Portrait(portrait) => self.portrait(portrait),
            Work::Fragment { stream, fragment, fresh, continuous } => {
                self.shared.queued_bytes.fetch_sub(fragment.data.len(), Ordering::Relaxed);
                if self.is_fine() {
                    self.fragment(&stream, &fragment, fresh, continuous);
                } else {
                    counters.fragments_dropped.inc();
                }
            }
            Work::End(stream) => {
                let mut index = Vec::new();
                if let Some(files) = &mut self.files {
                    files.end(&stream, &mut index);
                }
                self.index(index);
            }
            // Who asked may have gone.
            Work::Delete { id, done } => drop(done.send(self.delete(&id))),
            Work::Protect { id, protected, done } => drop(done.send(self.protect(&id, protected))),
            Work::Stop => {}
        }
    }

    fn event(&mut self, event: &Event) {
        let visit = Arc::clone(&event.after);
        match event.kind {
            EventKind::Update => {
                let due = self.source.mono() + UPDATE_EVERY;
                let id = Arc::clone(&visit.id);
                let newest = Arc::clone(&visit);
                self.held.entry(id).or_insert((visit, due)).0 = newest;
            }
            EventKind::New => {
                self.visit(visit);
                self.told = true;
            }
            EventKind::End => {
                self.held.remove(&visit.id);
                if let Some((Some(portrait), _)) = self.portraits.remove(&visit.id) {
                    self.write_portrait(&portrait);
                }
                self.visit(visit);
                self.told = true;
            }
        }
    }

    fn visit(&mut self, visit: Arc<Visit>) {
        self.shared.counters.events.inc();
        self.change(Change::Visit(visit));
    }

    fn portrait(&mut self, portrait: Arc<Portrait>) {
        let now = self.source.mono();
        let full = self.portraits.len() >= MAX_WAITING;
        match self.portraits.get_mut(&portrait.id) {
            Some((waiting, due)) if now < *due => *waiting = Some(portrait),
            _ => {
                if !full {
                    let next = (None, now + PICTURE_EVERY);
                    self.portraits.insert(Arc::clone(&portrait.id), next);
                }
                self.write_portrait(&portrait);
            }
        }
    }

    fn write_portrait(&mut self, portrait: &Portrait) {
        if !self.is_fine() {
            self.shared.counters.pictures_dropped.inc();
            return;
        }
        let dir = &self.shared.state_dir;
        match pictures::write(dir, &portrait.id, &portrait.full, &portrait.crop) {
            Ok(bytes) => {
                self.shared.counters.pictures.inc();
                self.shared.told.wrote();
                self.wrote(bytes);
                let id = Arc::clone(&portrait.id);
                self.change(Change::Picture { id, bytes, tries: PICTURE_TRIES });
            }
            Err(error) => {
                self.shared.counters.pictures_dropped.inc();
                self.trouble(&error, "a picture");
            }
        }
    }

    fn fragment(&mut self, stream: &StreamId, fragment: &Fragment, fresh: bool, continuous: bool) {
        let start_us = self.clock.mend(micros(fragment.wall));
        let stamp = Stamp { start_us, time_synced: self.clock.is_synced(), continuous };
        let Some(files) = &mut self.files else { return };
        let mut index = Vec::new();
        let written = files.append(stream, fragment, fresh, stamp, &mut index);
        self.index(index);
        match written {
            Ok(0) => self.shared.counters.fragments_dropped.inc(),
            Ok(bytes) => {
                self.shared.counters.fragments.inc();
                self.shared.told.wrote();
                self.wrote(bytes);
            }
            Err(error) => {
                self.shared.counters.fragments_dropped.inc();
                self.trouble(&error, "a recording");
            }
        }
    }

    /// Takes changes of the recordings' index over.
    fn index(&mut self, index: Vec<Segment>) {
        for segment in index {
            if !segment.open {
                self.upkeep.used_bytes = self.upkeep.used_bytes.saturating_add(segment.bytes);
            }
            self.change(Change::Segment(segment));
        }
        let open = self.files.iter().flat_map(Files::open);
        *self.shared.growing.lock() = open.map(|s| (s.id, s.clone())).collect();
    }

    pub(super) fn end_all(&mut self) {
        let mut index = Vec::new();
        if let Some(files) = &mut self.files {
            files.end_all(&mut index);
        }
        self.index(index);
    }

    fn change(&mut self, change: Change) {
        if let Change::Visit(visit) = &change {
            let id = &visit.id;
            self.changes.retain(|c| !matches!(c, Change::Visit(visit) if visit.id == *id));
        }
        if self.changes.len() >= MAX_CHANGES {
            self.changes.remove(0);
            self.shared.counters.events_dropped.inc();
        }
        self.changes.push(change);
        self.since.get_or_insert(self.source.mono());
    }

    /// The clock was set: what is in the database and segments on their way there began at another time. Visits are mended
    /// when they are written.
    pub(super) fn shift_waiting(&mut self, by_us: i64, synced: bool) {
        match self.jumps.last_mut() {
            Some((by, right)) if !*right => (*by, *right) = (by.saturating_add(by_us), synced),
            _ => self.jumps.push((by_us, synced)),
        }
        for change in &mut self.changes {
            if let Change::Segment(segment) = change
                && !segment.time_synced
            {
                segment.shift(by_us, synced);
            }
        }
    }

    pub(super) fn forget_segments(&mut self) {
        self.changes.retain(|change| !matches!(change, Change::Segment(_)));
    }

    /// Lets go what was held back long enough; at the end, all of it.
    fn release(&mut self, all: bool) {
        let now = self.source.mono();
        let due = |at: Instant| all || now >= at;
        let updates = self.held.extract_if(.., |_, (_, at)| due(*at));
        let updates: Vec<_> = updates.map(|(_, (visit, _))| visit).collect();
        updates.into_iter().for_each(|visit| self.visit(visit));
        let mut waiting = Vec::new();
        self.portraits.retain(|_, (portrait, at)| {
            if due(*at) {
                waiting.extend(portrait.take());
            }
            // The visit's end takes it out, unless its last picture came after that.
            now < *at + UPDATE_EVERY
        });
        waiting.iter().for_each(|portrait| self.write_portrait(portrait));
    }

    /// Writes all changes as one transaction; those that cannot be written wait.
    pub(super) fn flush(&mut self) {
        self.told = false;
        if self.db.is_none() {
            // Of this run nothing is in it.
            self.jumps.clear();
            return;
        }
        if self.changes.is_empty() && self.jumps.is_empty() {
            return;
        }
        let before = thread_wrote();
        self.committed = Some(self.source.mono());
        let mut again = Vec::new();
        match self.commit(&mut again) {
            Ok(()) => {
                self.shared.counters.commits.inc();
                self.unflushed |= self.changes.iter().any(|c| matches!(c, Change::Visit(_)));
                self.since = None;
                self.jumps.clear();
                self.changes.clear();
                self.shared.told.committed(self.told_to);
                for change in again {
                    self.change(change);
                }
                self.wrote(thread_wrote().saturating_sub(before));
            }
            Err(error) => {
                self.since = Some(self.source.mono());
                self.sql_trouble(&error);
            }
        }
    }

    fn commit(&mut self, again: &mut Vec<Change>) -> rusqlite::Result<()> {
        let Some(db) = &mut self.db else { return Ok(()) };
        let (clock, run) = (&self.clock, self.run);
        let mut pictures_bytes = 0i64;
        let transaction = db.transaction()?;
        for (by_us, synced) in &self.jumps {
            events::mend(&transaction, run, *by_us, *synced)?;
        }
        // Visits first: a picture needs its visit's row.
        for change in &self.changes {
            match change {
                Change::Visit(visit) => {
                    let synced = clock.is_synced();
                    events::put(&transaction, visit, run, synced, |us| clock.mend(us))?;
                }
                Change::Segment(segment) => segments::put(&transaction, segment, run)?,
                Change::Picture { .. } => {}
            }
        }
        for change in &self.changes {
            let Change::Picture { id, bytes, tries } = change else { continue };
            let sql = "SELECT picture_bytes FROM events WHERE id = ?1";
            let old = transaction.prepare_cached(sql)?.query_row([&**id], |r| r.get::<_, i64>(0));
            match old {
                Ok(old) => {
                    let sql = "UPDATE events SET picture_bytes = ?2 WHERE id = ?1";
                    transaction.execute(sql, params![&**id, bytes.cast_signed()])?;
                    pictures_bytes += bytes.cast_signed() - old;
                }
                Err(rusqlite::Error::QueryReturnedNoRows) => match tries.checked_sub(1) {
                    Some(tries) => {
                        let (id, bytes) = (Arc::clone(id), *bytes);
                        again.push(Change::Picture { id, bytes, tries });
                    }
                    None => pictures::delete(&self.shared.state_dir, id),
                },
                Err(error) => return Err(error),
            }
        }
        transaction.commit()?;
        self.upkeep.used_bytes = self.upkeep.used_bytes.saturating_add_signed(pictures_bytes);
        Ok(())
    }

    /// The database answered with an error: sets it aside if it is damaged, else waits for a better time.
    pub(super) fn sql_trouble(&mut self, error: &rusqlite::Error) {
        if is_damage(error) {
            return self.set_aside(error);
        }
        let busy = [Some(ErrorCode::DatabaseBusy), Some(ErrorCode::DatabaseLocked)];
        if !busy.contains(&error.sqlite_error_code()) {
            return self.cannot(error);
        }
        // Somebody looks into it by other means. Recordings and pictures need no database; rows wait.
        tracing::warn!(%error, "the database is held by another program: what is to be written waits");
    }

    fn delete(&mut self, id: &str) -> Result<Deletion, StoreError> {
        self.flush();
        let margin_us = self.margin_us();
        let Some(db) = &self.db else { return Err(self.no_database()) };
        let Some(stored) = events::get(db, id)? else { return Ok(Deletion::NotFound) };
        if stored.visit.end.is_none() {
            return Ok(Deletion::Open);
        }
        let alone = segments::only_of(db, id, margin_us)?;
        let sql = "SELECT seq FROM events WHERE id = ?1";
        let seq = db.query_row(sql, [id], |row| row.get(0))?;
        self.remove_event(seq)?;
        for segment in alone {
            self.remove_segment(segment)?;
        }
        Ok(Deletion::Done)
    }

    fn protect(&mut self, id: &str, protected: bool) -> Result<bool, StoreError> {
        self.flush();
        let Some(db) = &self.db else { return Err(self.no_database()) };
        let sql = "UPDATE events SET protected = ?2 WHERE id = ?1";
        Ok(db.execute(sql, params![id, protected])? > 0)
    }

    fn no_database(&self) -> StoreError {
        let message = self.shared.state.borrow().message.clone();
        StoreError::Unavailable(message.unwrap_or_default())
    }
}

/// Bytes this thread sent towards a disk (proc(5), io), to learn what SQLite writes; 0 where the kernel does not count.
fn thread_wrote() -> u64 {
    let io = std::fs::read_to_string(Path::new("/proc/thread-self/io")).unwrap_or_default();
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}
