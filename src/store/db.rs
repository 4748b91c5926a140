//! Opens the database: makes it, judges its version, sets a damaged one aside. What is in it is known by `events.rs` and
//! `segments.rs`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// What this program writes. A database of a later one is left as it is.
pub(super) const VERSION: u32 = 1;

const SCHEMA: &str = "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, run INTEGER NOT NULL, synced INTEGER NOT NULL,
    stream TEXT NOT NULL, track_id INTEGER NOT NULL, label TEXT NOT NULL, score REAL NOT NULL, top_score REAL NOT NULL,
    start_us INTEGER NOT NULL, start_media_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL, seen_media_us INTEGER NOT NULL,
    end_us INTEGER, end_media_us INTEGER,
    width INTEGER NOT NULL, height INTEGER NOT NULL, box TEXT NOT NULL,
    best_us INTEGER NOT NULL, best_media_us INTEGER NOT NULL, best_seq INTEGER NOT NULL, best_score REAL NOT NULL,
    best_box TEXT NOT NULL, current_zones TEXT NOT NULL, entered_zones TEXT NOT NULL,
    picture_bytes INTEGER NOT NULL DEFAULT 0, protected INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX events_by_start ON events (start_us, seq);
CREATE INDEX events_by_stream ON events (stream, start_us, seq);
CREATE INDEX events_by_label ON events (label, start_us, seq);
CREATE INDEX events_by_age ON events (run, start_us);
CREATE INDEX events_protected ON events (stream, start_us) WHERE protected = 1;
CREATE INDEX events_open ON events (seq) WHERE end_us IS NULL;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, run INTEGER NOT NULL, synced INTEGER NOT NULL,
    stream TEXT NOT NULL, continuous INTEGER NOT NULL, init_hash TEXT NOT NULL,
    start_us INTEGER NOT NULL, end_us INTEGER NOT NULL, start_media_us INTEGER NOT NULL, end_media_us INTEGER NOT NULL,
    bytes INTEGER NOT NULL, keys INTEGER NOT NULL, gap INTEGER NOT NULL, open INTEGER NOT NULL
);
CREATE INDEX segments_by_stream ON segments (stream, start_us);
CREATE INDEX segments_by_age ON segments (run, start_us);
CREATE TABLE runs (run INTEGER PRIMARY KEY);
";

/// What came later; it makes questions fast and changes no answer.
const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS events_by_both ON events (stream, label, start_us, seq);
CREATE INDEX IF NOT EXISTS events_pictured ON events (run, start_us, picture_bytes) WHERE picture_bytes > 0;
CREATE INDEX IF NOT EXISTS events_bare ON events (run, start_us) WHERE picture_bytes = 0;
DROP INDEX IF EXISTS events_pictures;
";

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(
        "{} is of a newer spotter (version {found}, this one knows {VERSION}): update spotter, or move that file away", .path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot open {}: {error}", .path.display())]
    Sql { path: PathBuf, error: rusqlite::Error },
}

/// An open database.
#[derive(Debug)]
pub(super) struct Opened {
    pub db: Connection,
    /// Where a damaged one was put.
    pub set_aside: Option<PathBuf>,
    /// The last run did not end well.
    pub crashed: bool,
}

/// Opens for writing; sets a damaged database aside under a name with `stamp` and begins a new one.
pub(super) fn open(path: &Path, stamp: &str) -> Result<Opened, OpenError> {
    let found = version_in_file(path);
    if found > VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found });
    }
    let failed = |error| OpenError::Sql { path: path.to_owned(), error };
    // A log that was left over.
    let crashed = std::fs::metadata(suffixed(path, "-wal")).is_ok_and(|m| m.len() > 0);
    match prepare(path, crashed) {
        Ok(db) => Ok(Opened { db: db?, set_aside: None, crashed }),
        Err(error) if is_damage(&error) => {
            let set_aside = set_aside(path, stamp).map_err(|e| {
                let message = Some(format!("{error}; it cannot be set aside: {e}"));
                failed(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(11), message))
            })?;
            let db = prepare(path, false).map_err(failed)??;
            Ok(Opened { db, set_aside: Some(set_aside), crashed })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Opens for reading, beside the writer or where nothing can be written.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let url = url::Url::from_file_path(path).ok().filter(|_| !suffixed(path, "-wal").exists());
    let db = match url {
        // Nobody writes: without a log SQLite would want to make one, which a full or read-only disk refuses.
        Some(mut url) => {
            url.set_query(Some("immutable=1"));
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(url.as_str(), flags)?
        }
        None => Connection::open_with_flags(path, flags)?,
    };
    db.busy_timeout(Duration::from_secs(2))?;
    Ok(db)
}

/// Whether what is kept can be looked at.
pub(super) fn is_readable(path: &Path) -> bool {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM events LIMIT 1)";
    let look = |db: Connection| db.query_row(sql, [], |_| Ok(()));
    open_to_read(path).and_then(look).is_ok()
}

/// The log that commits go to, to be flushed: they only hand it to the system. None: everything is in the database, which
/// SQLite flushed.
pub(super) fn log(path: &Path) -> io::Result<Option<File>> {
    match File::options().append(true).open(suffixed(path, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Whether an error means that the file is no sound database.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Moves a database and what belongs to it out of the way.
pub(super) fn set_aside(path: &Path, stamp: &str) -> io::Result<PathBuf> {
    let aside = suffixed(path, &format!(".corrupt-{stamp}"));
    std::fs::rename(path, &aside)?;
    for end in ["-wal", "-shm"] {
        // They need not be there.
        let _ = std::fs::rename(suffixed(path, end), suffixed(&aside, end));
    }
    Ok(aside)
}

fn suffixed(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The user version as the file's header tells it (SQLite's file format, 1.3), without so much as opening the database.
fn version_in_file(path: &Path) -> u32 {
    let mut head = [0; 64];
    let whole = File::open(path).and_then(|f| f.read_exact_at(&mut head, 0));
    if whole.is_err() || !head.starts_with(b"SQLite format 3\0") {
        return 0;
    }
    let [.., a, b, c, d] = head;
    u32::from_be_bytes([a, b, c, d])
}

fn prepare(path: &Path, crashed: bool) -> rusqlite::Result<Result<Connection, OpenError>> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(2))?;
    let found: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Ok(Err(OpenError::Newer { path: path.to_owned(), found }));
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    if found == 0 {
        let made = format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;");
        db.execute_batch(&made)?;
    } else if crashed {
        let told: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if told != "ok" {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(error, Some(told)));
        }
    }
    match db.execute_batch(INDEXES) {
        // The next start with more room makes them.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(%error, "the database answers more slowly: its new indexes find no room");
        }
        done => done?,
    }
    // A table that is missing is as bad as one that cannot be read.
    for table in ["events", "segments", "runs"] {
        db.query_row(&format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1)"), [], |_| {
            Ok(())
        })?;
    }
    Ok(Ok(db))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_one_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        drop(open(&path, "t").unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, "t"), Err(OpenError::Newer { found: 99, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_one_is_set_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, [0x5A; 5000]).unwrap();
        let opened = open(&path, "then").unwrap();
        assert_eq!(opened.set_aside, Some(dir.path().join("a.db.corrupt-then")));
        assert_eq!(std::fs::read(dir.path().join("a.db.corrupt-then")).unwrap(), [0x5A; 5000]);
        let rows = |db: &Connection| db.query_row("SELECT count(*) FROM events", [], |r| r.get(0));
        assert_eq!(rows(&opened.db), Ok(0));
        assert_eq!(rows(&open_to_read(&path).unwrap()), Ok(0));
    }
}
