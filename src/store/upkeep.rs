//! What the disk's thread does beside writing: deletes what must go, watches the clock and the free space, and says how things
//! stand.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clock;
use super::db;
use super::disk::Disk;
use super::opening::probe;
use super::{pictures, reserve, segments};
use crate::record::files::Files;
use crate::record::retention::{self, Limits, Plan, What};
use crate::wire::{Storage, StorageState};

/// Room and age are looked at so often, and a disk that took nothing is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Figures alone are told so often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Entries that retention looks at in one go, and how often in a row.
const ENTRIES: usize = 500;
const ROUNDS: usize = 50;
/// Visits that are kept, however much room there is: with `keep_days = 0` nothing else bounds them. Some 600 MB of database.
const MOST_VISITS: u64 = 1_000_000;
const COUNT_EVERY: Duration = Duration::from_secs(3600);

const DAY_US: i64 = 86_400_000_000;

/// Where the upkeep stands.
#[derive(Debug)]
pub(super) struct Upkeep {
    state: StorageState,
    message: Option<String>,
    /// A database that is none of ours to touch.
    pub(super) refused: bool,
    pub(super) used_bytes: u64,
    free_bytes: u64,
    /// Days since 1970, and bytes written in that one.
    written: (i64, u64),
    pub(super) looked: Option<Instant>,
    counted: Option<Instant>,
    told: Option<Instant>,
}

/// What could still be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            state: StorageState::Off,
            message: None,
            refused: false,
            used_bytes: 0,
            free_bytes: 0,
            written: (0, 0),
            looked: None,
            counted: None,
            told: None,
        }
    }
}

impl Disk {
    pub(super) fn is_fine(&self) -> bool {
        self.upkeep.state == StorageState::Ok
    }

    /// Notices that the clock was set, also before anything is written: what comes after a jump is not to be moved by it.
    pub(super) fn watch_clock(&mut self) {
        let (now, us) = (self.source.mono(), self.source.us());
        if let Some(jump) = self.clock.look(now, us, clock::signs()) {
            self.mend(jump.by_us);
        }
    }

    /// Once a second.
    pub(super) fn tick(&mut self) {
        let now = self.source.mono();
        self.watch_clock();
        if std::mem::take(&mut self.unflushed) {
            // Visits that came or went outlive a loss of power from here on; at most one flush a second.
            match db::log(&self.shared.database()) {
                Ok(log) => log.into_iter().for_each(|file| self.shared.flusher.flush(file)),
                Err(error) => self.trouble(&error, "the database"),
            }
        }
        if let Some(error) = self.shared.flusher.take_error() {
            self.trouble(&error, "what is kept");
        }
        if self.upkeep.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY)
            && !self.upkeep.refused
        {
            if self.db.is_none() {
                self.upkeep.looked = Some(now);
                self.open();
            } else {
                self.look();
            }
        }
        self.say(self.upkeep.state, self.upkeep.message.clone());
    }

    /// The clock was set: what this run wrote under the wrong one is moved.
    fn mend(&mut self, by_us: i64) {
        let synced = self.clock.is_synced();
        if by_us != 0 {
            let by_s = by_us / 1_000_000;
            tracing::warn!(by_s, synced, "the clock was set: times from before are mended");
            self.shared.counters.times_mended.inc();
        }
        if let Some(files) = &mut self.files {
            files.shift(by_us, synced);
        }
        self.shift_waiting(by_us, synced);
        self.shared.clock.send_replace(self.clock.clone());
        self.flush();
    }

    /// Deletes what must go, and judges whether the disk takes more.
    pub(super) fn look(&mut self) {
        self.upkeep.looked = Some(self.source.mono());
        self.flush();
        if self.db.is_none() {
            return;
        }
        let limits = {
            let record = &self.settings.borrow().record;
            let (keep_days, keep_bytes) = (record.keep_days, record.keep_bytes);
            Limits { keep_days, keep_bytes, keep_free_bytes: record.keep_free_bytes }
        };
        let left = match self.forget_the_oldest().and_then(|()| self.make_room(&limits)) {
            Ok(left) => left,
            Err(error) => return self.sql_trouble(&error),
        };
        if self.upkeep.free_bytes < limits.keep_free_bytes && left == Left::Nothing {
            let message = format!(
                "less than {} MB are free and nothing that is not protected is left to delete: make room, or lower record.keep_free_bytes",
                limits.keep_free_bytes >> 20
            );
            return self.stop(StorageState::Full, message);
        }
        if !self.is_fine() {
            match probe(&self.shared.state_dir).and_then(|()| probe(&self.shared.record_dir)) {
                Ok(()) => {
                    if self.upkeep.state != StorageState::Off {
                        tracing::info!("storage takes visits, pictures and recordings again");
                    }
                    (self.upkeep.state, self.upkeep.message) = (StorageState::Ok, None);
                    self.say(StorageState::Ok, None);
                }
                Err(error) => self.trouble(&error, "a probe"),
            }
        }
        if self.is_fine()
            && self.upkeep.free_bytes > reserve::WHEN_FREE
            && let Err(error) = reserve::keep(&self.shared.state_dir)
        {
            tracing::warn!(%error, "nothing is kept back for a start on a full disk");
        }
    }

    fn make_room(&mut self, limits: &Limits) -> rusqlite::Result<Left> {
        for _ in 0..ROUNDS {
            self.upkeep.free_bytes = self.free_bytes();
            let Some(db) = &self.db else { return Ok(Left::Nothing) };
            let entries = segments::oldest(db, ENTRIES, self.margin_us())?;
            let used_bytes = self.used_bytes();
            let disk = retention::Disk { used_bytes, free_bytes: self.upkeep.free_bytes };
            let plan = retention::plan(entries, limits, self.source.us(), disk);
            if plan.gone.is_empty() {
                return Ok(Left::Nothing);
            }
            tracing::debug!(n = plan.gone.len(), "retention deletes the oldest");
            self.remove(plan)?;
        }
        Ok(Left::Some)
    }

    /// Bounds the number of rows, which else nothing does where room never becomes short.
    fn forget_the_oldest(&mut self) -> rusqlite::Result<()> {
        let now = self.source.mono();
        let is_due = |at| now.saturating_duration_since(at) >= COUNT_EVERY;
        if !self.upkeep.counted.is_none_or(is_due) {
            return Ok(());
        }
        let Some(db) = &self.db else { return Ok(()) };
        let gone = segments::beyond(db, MOST_VISITS, ENTRIES)?;
        // With the next look the others.
        self.upkeep.counted = (gone.len() < ENTRIES).then_some(now);
        let gone = gone.into_iter().map(What::Event).collect();
        self.remove(Plan { gone, room_to: None })
    }

    fn remove(&mut self, plan: Plan) -> rusqlite::Result<()> {
        let Some(db) = &self.db else { return Ok(()) };
        db.execute_batch("BEGIN")?;
        let removed = self.remove_all(plan);
        let Some(db) = &self.db else { return Ok(()) };
        let done = removed.and_then(|()| db.execute_batch("COMMIT"));
        if done.is_err() {
            // The files are gone, and their rows go the next time.
            let _ = db.execute_batch("ROLLBACK");
            if let Ok(used_bytes) = segments::used_bytes(db) {
                self.upkeep.used_bytes = used_bytes;
            }
        }
        done
    }

    fn remove_all(&mut self, plan: Plan) -> rusqlite::Result<()> {
        for what in plan.gone {
            match what {
                What::Segment(id) => self.remove_segment(id)?,
                What::Event(seq) => self.remove_event(seq)?,
            }
        }
        let (Some(db), Some(room_to)) = (&self.db, plan.room_to) else { return Ok(()) };
        for id in segments::remove_bare(db, room_to, ENTRIES)? {
            // Half of a pair can be there, after a crash.
            pictures::delete(&self.shared.state_dir, &id);
            self.shared.counters.events_deleted.inc();
        }
        Ok(())
    }

    pub(super) fn remove_segment(&mut self, id: i64) -> rusqlite::Result<()> {
        let Some(db) = &self.db else { return Ok(()) };
        let Some(path) = segments::path(db, id)? else { return Ok(()) };
        // First the file: on a disk without any room the database takes a change only after that.
        if let Some(Err(error)) = self.files.as_ref().map(|files| files.delete(&path)) {
            tracing::warn!(%error, path, "a recording cannot be deleted");
        }
        let bytes = segments::remove(db, id)?.map_or(0, |(_, bytes)| bytes);
        self.upkeep.used_bytes = self.upkeep.used_bytes.saturating_sub(bytes);
        self.shared.counters.segments_deleted.inc();
        Ok(())
    }

    pub(super) fn remove_event(&mut self, seq: i64) -> rusqlite::Result<()> {
        let Some(db) = &self.db else { return Ok(()) };
        let Some(id) = segments::event_id(db, seq)? else { return Ok(()) };
        pictures::delete(&self.shared.state_dir, &id);
        let bytes = segments::remove_event(db, seq)?.map_or(0, |(_, bytes)| bytes);
        self.upkeep.used_bytes = self.upkeep.used_bytes.saturating_sub(bytes);
        self.shared.counters.events_deleted.inc();
        Ok(())
    }

    /// How far around a visit its clip reaches.
    pub(super) fn margin_us(&self) -> i64 {
        let record = &self.settings.borrow().record;
        (record.before_s.max(record.after_s) * 1e6) as i64
    }

    /// With what is being written.
    fn used_bytes(&self) -> u64 {
        let growing: u64 = self.files.iter().flat_map(Files::open).map(|s| s.bytes).sum();
        self.upkeep.used_bytes + growing
    }

    fn free_bytes(&self) -> u64 {
        let free = |dir: &Path| {
            let stat = rustix::fs::statvfs(dir).ok()?;
            Some(stat.f_bavail.saturating_mul(stat.f_frsize))
        };
        let dirs = [&self.shared.state_dir, &self.shared.record_dir];
        dirs.into_iter().filter_map(|d| free(d)).min().unwrap_or(u64::MAX)
    }

    /// A file could not be written.
    pub(super) fn trouble(&mut self, error: &io::Error, what: &str) {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let (state, remedy) = match error.kind() {
            StorageFull | QuotaExceeded => (StorageState::Full, "make room"),
            ReadOnlyFilesystem | PermissionDenied => (
                StorageState::ReadOnly,
                "make the state directory and record.dir, with all in them, writable for the user that spotter runs as",
            ),
            _ => (StorageState::Failed, "check the disk"),
        };
        self.stop(state, format!("{what} cannot be written: {error}; {remedy}"));
    }

    /// Nothing is written any more until a look finds that it can be.
    pub(super) fn stop(&mut self, state: StorageState, message: String) {
        if self.upkeep.state != state {
            tracing::error!(
                ?state,
                message,
                "storage stops: recordings and pictures are not kept, detection goes on"
            );
        }
        let was_fine = self.is_fine();
        (self.upkeep.state, self.upkeep.message) = (state, Some(message.clone()));
        if was_fine {
            // What waits is tried again and again, which must not put the next look off.
            self.upkeep.looked = Some(self.source.mono());
            self.end_all();
        }
        self.say(state, Some(message));
    }

    pub(super) fn wrote(&mut self, bytes: u64) {
        self.shared.counters.bytes_written.add(bytes);
        let today = self.source.us() / DAY_US;
        if self.upkeep.written.0 != today {
            self.upkeep.written = (today, 0);
        }
        self.upkeep.written.1 += bytes;
        self.shared.written_today.store(self.upkeep.written.1, Ordering::Relaxed);
    }

    /// Tells how things stand: at once when that changed, figures alone once a minute.
    pub(super) fn say(&mut self, state: StorageState, message: Option<String>) {
        let new = Storage {
            state,
            message,
            free_bytes: self.upkeep.free_bytes,
            used_bytes: self.used_bytes(),
            written_today_bytes: self.upkeep.written.1,
        };
        let now = self.source.mono();
        let is_late = |at| now.saturating_duration_since(at) >= TELL_EVERY;
        let late = self.upkeep.told.is_none_or(is_late);
        let told = self.shared.state.send_if_modified(|old| {
            let differs = old.state != new.state || old.message != new.message;
            let tell = differs || late && *old != new;
            if tell {
                *old = new;
            }
            tell
        });
        if told || late {
            self.upkeep.told = Some(now);
        }
    }
}
