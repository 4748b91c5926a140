//! The best pictures of visits as files: where they lie, and how they are replaced so that nobody reads half of one.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
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
///
/// Neither is flushed to the disk, nor is the directory: the system does that within half a minute, and several blocks for each
/// better picture would wear a card for what a loss of power costs otherwise, the last visits' pictures or the better of two.
/// Who reads finds the old one or the new one; what is half after a loss of power, [`sweep`] deletes.
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

/// What a crash left of pictures.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Files that were deleted.
    pub gone: usize,
    /// Visits whose pictures were not whole.
    pub halved: Vec<String>,
}

/// Deletes pictures that are not whole, and those of visits that are not known.
pub(super) fn sweep(state_dir: &Path, known: impl Fn(&str) -> bool) -> Swept {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut swept = Swept::default();
    for day in below(state_dir.join("events")) {
        for file in below(day.clone()) {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let id = name.strip_suffix(".crop.jpg").or_else(|| name.strip_suffix(".jpg"));
            let whole = id.is_none() || is_whole(&file);
            if !whole {
                swept.halved.extend(id.map(str::to_owned));
            }
            let stray = !whole || id.map_or(name.ends_with(".tmp"), |id| !known(id));
            if stray && fs::remove_file(&file).is_ok() {
                swept.gone += 1;
            }
        }
        // Refused while there is something in it.
        let _ = fs::remove_dir(day);
    }
    swept
}

/// Whether a file ends as a JPEG does. After a loss of power it can have its length and not its bytes, or be empty.
fn is_whole(file: &Path) -> bool {
    let end = || -> io::Result<[u8; 2]> {
        let file = fs::File::open(file)?;
        let len = file.metadata()?.len();
        let mut end = [0; 2];
        file.read_exact_at(&mut end, len.saturating_sub(2))?;
        Ok(end)
    };
    end().is_ok_and(|end| end == [0xFF, 0xD9])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_replaced_and_only_ids_have_any() {
        let dir = tempfile::tempdir().unwrap();
        let id = "1795439400.123456-k3x9ab";
        assert_eq!(write(dir.path(), id, b"full", b"crop").unwrap(), 8);
        write(dir.path(), id, b"better\xFF\xD9", b"crop\xFF\xD9").unwrap();
        let full = dir.path().join("events/2026-11-23/1795439400.123456-k3x9ab.jpg");
        assert_eq!(path(dir.path(), id, Which::Full).as_ref(), Some(&full));
        assert_eq!(fs::read(&full).unwrap(), b"better\xFF\xD9");
        assert_eq!(fs::read_dir(full.parent().unwrap()).unwrap().count(), 2);
        std::fs::write(full.with_extension("tmp"), b"ha").unwrap();
        write(dir.path(), "1795439401.000000-abcdef", b"of none", b"x").unwrap();
        std::fs::write(full.with_file_name("notes.txt"), b"not ours").unwrap();
        write(dir.path(), "1795439402.000000-abcdef", b"", b"x\xFF\xD9").unwrap();
        let swept = sweep(dir.path(), |id| !id.starts_with("1795439401"));
        assert_eq!((swept.gone, swept.halved.len()), (4, 3));
        assert!(!swept.halved.iter().any(|halved| halved == id));
        delete(dir.path(), "1795439402.000000-abcdef");
        assert!(full.exists());
        fs::remove_file(full.with_file_name("notes.txt")).unwrap();
        delete(dir.path(), id);
        assert!(!full.parent().unwrap().exists());
        for bad in ["", "1.", "../1.a", "1./a", "1..", "x.1-a", "99999999999999.1-a"] {
            assert!(bad == "1." || path(dir.path(), bad, Which::Full).is_none(), "{bad}");
        }
    }
}
