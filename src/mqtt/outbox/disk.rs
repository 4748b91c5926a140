//! The outbox's file: an SQLite database of one table. It keeps what it is given; the order and the bounds are the queue's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode};

use super::Message;

/// Of the table's form, in the database's `user_version`.
const VERSION: i64 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{path} is of a newer version of spotter ({version})")]
    Newer { path: PathBuf, version: i64 },
    #[error("cannot set {path} aside: {source}")]
    Aside { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub(super) struct Disk(Connection);

impl DiskError {
    /// Whether the file can never be used as it is; anything else may pass.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Newer { .. } => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            Self::Aside { .. } => false,
        }
    }

    /// What somebody can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        let Self::Sqlite(error) = self else { return "look at the files in node.state_dir" };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "make room on the disk",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another program has it open: end that"
            }
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                "make node.state_dir a directory that spotter may write to"
            }
            _ => "look at the disk: it may be full or broken",
        }
    }
}

impl Disk {
    /// Opens or makes the file and reads all that waits in it, the oldest first. What can never be read is set aside; a
    /// file that cannot be had now, on a full disk say, stays where it is for the next time.
    pub(super) fn open(file: &Path) -> Result<(Self, Vec<Message>), DiskError> {
        match Self::try_open(file) {
            Err(error) if error.is_for_good() => {
                let aside = set_aside(file)?;
                tracing::error!(%error, file = %file.display(), aside = %aside.display(), "the outbox cannot be read and is set aside; a new one begins");
                Self::try_open(file)
            }
            opened => opened,
        }
    }

    /// The same later in a run, when others wait already: all that is read is numbered before `first`.
    pub(super) fn open_late(file: &Path, first: u64) -> Result<(Self, Vec<Message>), DiskError> {
        let (mut disk, mut messages) = Self::open(file)?;
        if messages.last().is_some_and(|m| m.number >= first) {
            let before: Vec<u64> = messages.iter().map(|m| m.number).collect();
            let least = first.saturating_sub(messages.len() as u64);
            (least..).zip(&mut messages).for_each(|(number, m)| m.number = number);
            let is_free = |number: &u64| !messages.iter().any(|m| m.number == *number);
            let gone: Vec<u64> = before.into_iter().filter(is_free).collect();
            disk.apply(&messages, &gone)?;
        }
        Ok((disk, messages))
    }

    fn try_open(file: &Path) -> Result<(Self, Vec<Message>), DiskError> {
        let db = Connection::open(file)?;
        db.busy_timeout(Duration::from_secs(1))?;
        // Alone with its file it needs no memory beside it that others could see, which a full disk would not give.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // One sync a batch, at most one a second and only while events wait: what is said to be kept is kept.
        db.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(DiskError::Newer { path: file.into(), version });
        }
        // What is there already is not written to: that must go with no room on the disk.
        if version == 0 {
            db.execute_batch(&format!(
                "BEGIN;
                CREATE TABLE IF NOT EXISTS events (
                    number INTEGER PRIMARY KEY, id TEXT NOT NULL, payload BLOB NOT NULL);
                PRAGMA user_version = {VERSION}; COMMIT;"
            ))?;
        }
        let all = read(&db)?;
        Ok((Self(db), all))
    }

    /// All of it or nothing.
    pub(super) fn apply(&mut self, add: &[Message], remove: &[u64]) -> Result<(), DiskError> {
        let change = self.0.transaction()?;
        {
            let mut insert = change.prepare_cached(
                "INSERT OR REPLACE INTO events (number, id, payload) VALUES (?1, ?2, ?3)",
            )?;
            for m in add {
                insert.execute((m.number as i64, &*m.id, &*m.payload))?;
            }
            let mut delete = change.prepare_cached("DELETE FROM events WHERE number = ?1")?;
            for number in remove {
                delete.execute([*number as i64])?;
            }
        }
        Ok(change.commit()?)
    }
}

fn read(db: &Connection) -> Result<Vec<Message>, rusqlite::Error> {
    let mut all = db.prepare("SELECT number, id, payload FROM events ORDER BY number")?;
    let rows = all.query_map([], |row| {
        let (number, id, payload): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Message {
            number: number.max(0) as u64,
            id: Arc::from(id),
            payload: Bytes::from(payload),
        })
    })?;
    rows.collect()
}

fn set_aside(file: &Path) -> Result<PathBuf, DiskError> {
    let with = |end: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    // The tenth overwrites: a disk must not fill with what nobody reads.
    let number = (1..10).find(|n| !with(&format!(".aside{n}")).exists()).unwrap_or(10);
    let aside = with(&format!(".aside{number}"));
    for end in ["-wal", "-shm"] {
        let _ = std::fs::rename(with(end), with(&format!(".aside{number}{end}")));
    }
    std::fs::rename(file, &aside)
        .map_err(|source| DiskError::Aside { path: file.into(), source })?;
    Ok(aside)
}
