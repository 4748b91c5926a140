//! The best pictures of visits as files: where they lie, and how they are replaced so that nobody reads half of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Which picture of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The whole picture.
    Full,
    /// The animal with a little of what is around it.
    Crop,
}

/// Where a visit's picture lies below the state directory; none for what is no visit's id.
pub(super) fn path(state_dir: &Path, id: &str, which: Which) -> Option<PathBuf> {
    let (seconds, rest) = id.split_once('.')?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if id.len() > 64 || !rest.bytes().all(fine) {
        return None;
    }
    // The id is the day's witness: times may be mended later.
    let day = Timestamp::from_second(seconds.parse().ok()?).ok()?.strftime("%Y-%m-%d").to_string();
    let end = if which == Which::Full { "jpg" } else { "crop.jpg" };
    Some(state_dir.join("events").join(day).join(format!("{id}.{end}")))
}

/// Writes both pictures of a visit in place of earlier ones. Bytes written.
pub(super) fn write(state_dir: &Path, id: &str, full: &[u8], crop: &[u8]) -> io::Result<u64> {
    for (which, jpeg) in [(Which::Full, full), (Which::Crop, crop)] {
        let Some(path) = path(state_dir, id, which) else { return Ok(0) };
        if let Some(day) = path.parent() {
            fs::create_dir_all(day)?;
        }
        let new = path.with_extension("tmp");
        fs::write(&new, jpeg).and_then(|()| fs::rename(&new, &path)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
    }
    Ok((full.len() + crop.len()) as u64)
}

/// Deletes a visit's pictures, and their day's directory with the last ones.
pub(super) fn delete(state_dir: &Path, id: &str) {
    for which in [Which::Full, Which::Crop] {
        let Some(path) = path(state_dir, id, which) else { return };
        let _ = fs::remove_file(&path);
        if let Some(day) = path.parent() {
            // Refused while there is something in it.
            let _ = fs::remove_dir(day);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_replaced_and_only_ids_have_any() {
        let dir = tempfile::tempdir().unwrap();
        let id = "1795439400.123456-k3x9ab";
        assert_eq!(write(dir.path(), id, b"full", b"crop").unwrap(), 8);
        write(dir.path(), id, b"better", b"crop").unwrap();
        let full = dir.path().join("events/2026-11-23/1795439400.123456-k3x9ab.jpg");
        assert_eq!(path(dir.path(), id, Which::Full).as_ref(), Some(&full));
        assert_eq!(fs::read(&full).unwrap(), b"better");
        assert_eq!(fs::read_dir(full.parent().unwrap()).unwrap().count(), 2);
        delete(dir.path(), id);
        assert!(!full.parent().unwrap().exists());
        for bad in ["", "1.", "../1.a", "1./a", "1..", "x.1-a", "99999999999999.1-a"] {
            assert!(bad == "1." || path(dir.path(), bad, Which::Full).is_none(), "{bad}");
        }
    }
}
