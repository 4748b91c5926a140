//! The outbox's file: an SQLite database of one table. It keeps what it is given; the order and the bounds are the queue's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

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

impl Disk {
    /// Opens or makes the file and reads all that waits in it, the oldest first.
    pub(super) fn open(file: &Path) -> Result<(Self, Vec<Message>), DiskError> {
        match Self::try_open(file) {
            Ok(opened) => Ok(opened),
            // Without a file there is nothing to set aside: the directory is at fault.
            Err(error) if !file.exists() => Err(error),
            Err(error) => {
                let aside = set_aside(file)?;
                tracing::error!(%error, file = %file.display(), aside = %aside.display(), "the outbox cannot be read and is set aside; a new one begins");
                Self::try_open(file)
            }
        }
    }

    fn try_open(file: &Path) -> Result<(Self, Vec<Message>), DiskError> {
        let db = Connection::open(file)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // One sync a batch, at most one a second and only while events wait: what is said to be kept is kept.
        db.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(DiskError::Newer { path: file.into(), version });
        }
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS events (
                number INTEGER PRIMARY KEY, id TEXT NOT NULL, payload BLOB NOT NULL)",
        )?;
        db.pragma_update(None, "user_version", VERSION)?;
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
