//! Some room that is kept back for the one moment when there is none: SQLite needs a little even to delete, so that a start on a
//! full disk could otherwise neither tell what is kept nor make room. It knows nothing of what it is for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The database's index of its log, and a log of some changes.
const BYTES: usize = 512 << 10;
/// With so much free there is room for it.
pub(super) const WHEN_FREE: u64 = 1 << 20;

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(".reserve")
}

/// Sees to it that it is there.
pub(super) fn keep(state_dir: &Path) -> io::Result<()> {
    let file = file(state_dir);
    if fs::metadata(&file).is_ok_and(|m| m.len() >= BYTES as u64) {
        return Ok(());
    }
    let write = || File::create(&file)?.write_all(&vec![0xA5; BYTES]);
    write().inspect_err(|_| drop(fs::remove_file(&file)))
}

/// Lets it go. False: there is none.
pub(super) fn give_up(state_dir: &Path) -> bool {
    fs::remove_file(file(state_dir)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_until_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!give_up(dir.path()));
        keep(dir.path()).unwrap();
        keep(dir.path()).unwrap();
        assert!(give_up(dir.path()) && !give_up(dir.path()));
        assert!(keep(&dir.path().join("nowhere")).is_err());
    }
}
