//! How the disk's thread opens the database: makes whole what the last run left unfinished, sets aside what is damaged, and on a
//! disk without any room, or one that takes nothing, still has what is kept looked at.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::db::{self, OpenError, Opened};
use super::disk::Disk;
use super::events::Stored;
use super::{Shared, events, pictures, reserve, segments};
use crate::record::files::{self, Files};
use crate::wire::StorageState;

/// Why the database is not open.
enum Failed {
    Newer(String),
    Sql(rusqlite::Error),
    Directory(io::Error),
}

/// What the last run left, made whole.
struct Prepared {
    run: i64,
    /// The newest segment's number.
    last: i64,
    left_open: Vec<Stored>,
    recovered: u64,
    used_bytes: u64,
}

impl Disk {
    /// Opens the database and makes whole what the last run left unfinished.
    pub(super) fn open(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut opened = self.try_open(&shared);
        if let Err(Failed::Sql(error)) = &opened
            && is_full(&shared.state_dir, error)
            && reserve::give_up(&shared.state_dir)
        {
            // Enough to open it with; retention makes more room, if it may.
            opened = self.try_open(&shared);
        }
        if let Err(Failed::Sql(error)) = &opened
            && db::is_damage(error)
            && self.put_aside(error)
        {
            opened = self.try_open(&shared);
        }
        match opened {
            Ok(()) => return self.look(),
            Err(Failed::Newer(message)) => {
                self.upkeep.refused = true;
                return self.stop(StorageState::Failed, message);
            }
            Err(Failed::Directory(error)) => self.trouble(&error, "the directory"),
            Err(Failed::Sql(error)) => self.cannot(&error),
        }
        // Nothing is written, but what was kept is there to look at.
        shared.readable.store(db::is_readable(&shared.database()), Ordering::Release);
    }

    fn try_open(&mut self, shared: &Shared) -> Result<(), Failed> {
        for dir in [&shared.state_dir, &shared.record_dir] {
            std::fs::create_dir_all(dir).map_err(Failed::Directory)?;
        }
        let mut opened = db::open(&shared.database(), &stamp()).map_err(|error| match error {
            OpenError::Sql { error, .. } => Failed::Sql(error),
            newer @ OpenError::Newer { .. } => Failed::Newer(newer.to_string()),
        })?;
        if let Some(aside) = &opened.set_aside {
            tracing::error!(aside = %aside.display(), "the database was damaged: it is set aside and a new one begun");
        }
        let prepared = prepare(shared, &mut opened.db).map_err(Failed::Sql)?;
        let Prepared { run, last, left_open, recovered, mut used_bytes } = prepared;
        if opened.crashed {
            sweep(shared, &opened);
            used_bytes = segments::used_bytes(&opened.db).unwrap_or(used_bytes);
        }
        shared.counters.segments_recovered.add(recovered);
        (self.run, self.upkeep.used_bytes) = (run, used_bytes);
        let flusher = Arc::clone(&shared.flusher);
        self.files = Some(Files::new(shared.record_dir.clone(), run, last, flusher));
        self.db = Some(opened.db);
        shared.readable.store(true, Ordering::Release);
        if !left_open.is_empty() {
            let n = left_open.len();
            tracing::info!(n, "visits that the last run left open are ended");
        }
        // Later on it would be our own.
        shared
            .left_open
            .send_if_modified(|told| told.is_none() && told.replace(left_open.into()).is_none());
        tracing::debug!(run, recovered, used_bytes, "storage is open");
        Ok(())
    }

    /// Puts a database aside that turned out to be damaged, and begins a new one.
    pub(super) fn set_aside(&mut self, error: &rusqlite::Error) {
        self.shared.readable.store(false, Ordering::Release);
        self.db = None;
        self.end_all();
        // Their files are found when the new one is begun.
        self.forget_segments();
        if self.put_aside(error) {
            self.open();
        }
    }

    /// False: it stays where it is, which was told.
    fn put_aside(&mut self, error: &rusqlite::Error) -> bool {
        let moved = db::set_aside(&self.shared.database(), &stamp());
        let aside = moved.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        tracing::error!(%error, aside, "the database is damaged: it is set aside and a new one begun");
        moved.inspect_err(|error| self.trouble(error, "the damaged database")).is_ok()
    }
}

/// All of it or nothing, so that another try finds what this one did: that a visit was left open is told once.
fn prepare(shared: &Shared, db: &mut Connection) -> rusqlite::Result<Prepared> {
    let db = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    db.execute("INSERT INTO runs DEFAULT VALUES", [])?;
    let run = db.last_insert_rowid();
    db.execute("DELETE FROM runs WHERE run < ?1", [run])?;
    let left_open = events::close_left_open(&db, run)?;
    let mut recovered = 0;
    let sql = "SELECT coalesce(max(id), 0) FROM segments";
    let mut last = db.query_row(sql, [], |r| r.get(0))?;
    for mut segment in segments::left_open(&db, run)? {
        recovered += 1;
        match files::recover(&shared.record_dir, &mut segment) {
            Ok(true) => segments::put(&db, &segment, run)?,
            Ok(false) => drop(segments::remove(&db, segment.id)?),
            Err(error) => {
                tracing::warn!(%error, path = segment.path, "a recording stays as the last run left it")
            }
        }
    }
    // Files whose index was lost: the last second's, or with a damaged database all.
    for mut segment in files::strays(&shared.record_dir) {
        if segments::knows(&db, &segment.path)? {
            continue;
        }
        recovered += 1;
        match files::recover(&shared.record_dir, &mut segment) {
            Ok(true) => {
                last += 1;
                segment.id = last;
                segments::put(&db, &segment, run - 1)?;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, path = segment.path, "a recording cannot be read")
            }
        }
    }
    let used_bytes = segments::used_bytes(&db)?;
    db.commit()?;
    Ok(Prepared { run, last, left_open, recovered, used_bytes })
}

/// Deletes the pictures that a crash left unfinished, and those of visits that it lost.
fn sweep(shared: &Shared, opened: &Opened) {
    let db = &opened.db;
    let known = |id: &str| events::knows(db, id).unwrap_or(true);
    let swept = pictures::sweep(&shared.state_dir, known);
    if swept.gone > 0 {
        let gone = swept.gone;
        tracing::info!(gone, "pictures that the last run did not finish are deleted");
    }
    for id in swept.halved {
        let sql = "UPDATE events SET picture_bytes = 0 WHERE id = ?1";
        if let Err(error) = db.execute(sql, [&id]) {
            tracing::warn!(%error, id, "a visit's picture is gone, and it says that there is one");
        }
    }
}

fn stamp() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

impl Disk {
    /// The database cannot be written, and is not damaged.
    pub(super) fn cannot(&mut self, error: &rusqlite::Error) {
        let what = "the database cannot be written";
        let (state, remedy) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (StorageState::Full, "make room"),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
                StorageState::ReadOnly,
                "make the state directory writable, with all that is in it",
            ),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (StorageState::Failed, "another program holds it: end that")
            }
            // SQLite does not tell what failed: the same directory may.
            _ => match probe(&self.shared.state_dir) {
                Err(reason) => return self.trouble(&reason, "the database"),
                Ok(()) => (StorageState::Failed, "check the disk"),
            },
        };
        self.stop(state, format!("{what}: {error}; {remedy}"));
    }
}

/// Whether the database found no room. Its own word is not always that.
fn is_full(state_dir: &Path, error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || probe(state_dir).is_err_and(|reason| reason.kind() == io::ErrorKind::StorageFull)
}

/// Whether a few bytes can be written.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    let file = dir.join(".probe");
    let written = std::fs::write(&file, [0; 64 << 10]);
    let removed = std::fs::remove_file(&file);
    written.and(removed)
}
