//! The recordings' files: written a fragment at a time, so that they play while they grow, and made whole again after a loss
//! of power. What is written and what goes is decided elsewhere; all of this is for the disk's own thread.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::cutter::Fragment;
use super::scan::scan;
use crate::media::{MediaTime, StreamId};
use crate::store::Segment;
use crate::store::flush::Flusher;

/// While a file grows, so much of it is flushed to the disk itself in one go: what a loss of power costs.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// The files that are open, one a stream.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    run: i64,
    next_id: i64,
    open: BTreeMap<StreamId, Open>,
    flusher: Arc<Flusher>,
}

#[derive(Debug)]
struct Open {
    file: File,
    segment: Segment,
    /// Flushed up to here.
    flushed: MediaTime,
}

/// What a fragment is on the disk's side.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Its wall time, mended.
    pub start_us: i64,
    pub time_synced: bool,
    pub continuous: bool,
}

impl Files {
    pub(crate) fn new(root: PathBuf, run: i64, next_id: i64, flusher: Arc<Flusher>) -> Self {
        Self { root, run, next_id, open: BTreeMap::new(), flusher }
    }

    /// Writes a fragment behind the others of its stream, or as the first of a new file. `index` gets what is to be put
    /// into the index, also when this fails; then the file ends before the fragment. Bytes written; 0 for a fragment
    /// that nothing can begin with.
    pub fn append(
        &mut self,
        stream: &StreamId,
        fragment: &Fragment,
        fresh: bool,
        stamp: Stamp,
        index: &mut Vec<Segment>,
    ) -> io::Result<u64> {
        let fits = |o: &Open| o.segment.init_hash == fragment.init.hash;
        let goes_on = !fresh && self.open.get(stream).is_some_and(fits);
        let mut written = 0;
        if !goes_on {
            self.end(stream, index);
            if !fragment.key {
                return Ok(0);
            }
            let open = self.begin(stream, fragment, stamp)?;
            written += open.segment.bytes;
            index.push(open.segment.clone());
            self.open.insert(stream.clone(), open);
        }
        let Some(open) = self.open.get_mut(stream) else { return Ok(0) };
        let mut write = || {
            open.file.write_all(&fragment.data)?;
            if fragment.end.since(open.flushed) >= FLUSH_EVERY {
                open.flushed = fragment.end;
                self.flusher.flush(open.file.try_clone()?);
            }
            Ok(())
        };
        if let Err(error) = write() {
            self.end(stream, index);
            return Err(error);
        }
        let (s, len) = (&mut open.segment, fragment.data.len() as u64);
        s.bytes += len;
        s.keys += u32::from(fragment.key);
        s.end_media_us = fragment.end.as_micros();
        s.end_us = s.start_us.saturating_add(s.end_media_us.saturating_sub(s.start_media_us));
        Ok(written + len)
    }

    fn begin(&mut self, stream: &StreamId, fragment: &Fragment, stamp: Stamp) -> io::Result<Open> {
        let path = format!("{stream}/{}-{}.mp4", name(stamp.start_us), self.run);
        let file = self.root.join(&path);
        fs::create_dir_all(file.parent().unwrap_or(&self.root))?;
        let mut out = File::create_new(&file)?;
        out.write_all(&fragment.init.segment).inspect_err(|_| drop(fs::remove_file(&file)))?;
        self.next_id += 1;
        let segment = Segment {
            id: self.next_id,
            path,
            stream: stream.to_string(),
            continuous: stamp.continuous,
            init_hash: fragment.init.hash.clone(),
            start_us: stamp.start_us,
            end_us: stamp.start_us,
            start_media_us: fragment.start.as_micros(),
            end_media_us: fragment.start.as_micros(),
            bytes: fragment.init.segment.len() as u64,
            keys: 0,
            gap: fragment.gap,
            open: true,
            time_synced: stamp.time_synced,
        };
        Ok(Open { file: out, segment, flushed: fragment.start })
    }

    /// Finishes a stream's file, if one is open.
    pub fn end(&mut self, stream: &StreamId, index: &mut Vec<Segment>) {
        let Some(Open { file, mut segment, .. }) = self.open.remove(stream) else { return };
        // A fragment that was not written to its end is cut off.
        if let Err(error) = file.set_len(segment.bytes) {
            tracing::debug!(%error, path = segment.path, "the end of a segment was not cut off");
        }
        self.flusher.flush(file);
        segment.open = false;
        index.push(segment);
    }

    pub fn end_all(&mut self, index: &mut Vec<Segment>) {
        let all: Vec<_> = self.open.keys().cloned().collect();
        all.iter().for_each(|stream| self.end(stream, index));
    }

    /// What is being written, as far as it is.
    pub fn open(&self) -> impl Iterator<Item = &Segment> {
        self.open.values().map(|o| &o.segment)
    }

    /// The clock was set: what is being written began at another time.
    pub fn shift(&mut self, by_us: i64, synced: bool) {
        for Open { segment, .. } in self.open.values_mut().filter(|o| !o.segment.time_synced) {
            segment.shift(by_us, synced);
        }
    }

    /// Deletes a file, and its day's directory with the last one.
    pub fn delete(&self, path: &str) -> io::Result<()> {
        let file = self.root.join(path);
        let gone = fs::remove_file(&file);
        if let Some(day) = file.parent() {
            // Refused while there is something in it.
            let _ = fs::remove_dir(day);
        }
        gone.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    }
}

/// Makes a file whole that a crash cut off, and says of `segment` what it holds. False: nothing; it is deleted.
pub fn recover(root: &Path, segment: &mut Segment) -> io::Result<bool> {
    let path = root.join(&segment.path);
    let file = match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let found = scan(&file)?;
    let (Some(first), Some(last)) = (found.pieces.first(), found.pieces.last()) else {
        fs::remove_file(&path)?;
        return Ok(false);
    };
    if file.metadata()?.len() > found.whole {
        file.set_len(found.whole)?;
    }
    segment.start_media_us = first.start_us;
    segment.end_media_us = last.start_us.saturating_add(last.duration_us);
    let length = segment.end_media_us.saturating_sub(segment.start_media_us);
    segment.end_us = segment.start_us.saturating_add(length);
    segment.bytes = found.whole;
    segment.keys = found.pieces.iter().filter(|p| p.key).count().try_into().unwrap_or(u32::MAX);
    if segment.init_hash.is_empty() {
        segment.init_hash = super::cutter::hash(&found.init);
    }
    segment.open = false;
    Ok(true)
}

/// Every recorded file below `root`, as an index entry that knows only what its name tells.
pub fn strays(root: &Path) -> impl Iterator<Item = Segment> + '_ {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let files = below(root.to_owned()).flat_map(below).flat_map(below);
    files.filter_map(move |file| {
        let path = file.strip_prefix(root).ok()?.to_str()?.to_owned();
        let (stream, rest) = path.split_once('/')?;
        let (time, run) = rest.strip_suffix(".mp4")?.rsplit_once('-')?;
        run.parse::<u32>().ok()?;
        let start_us = begun(time)?;
        Some(Segment {
            id: 0,
            stream: StreamId::new(stream).ok()?.to_string(),
            path,
            continuous: false,
            init_hash: String::new(),
            start_us,
            end_us: start_us,
            start_media_us: 0,
            end_media_us: 0,
            bytes: 0,
            keys: 0,
            gap: true,
            open: false,
            time_synced: true,
        })
    })
}

const NAME: &str = "%Y-%m-%d/%H%M%S%.6f";

/// A file's name by its beginning, as in `2026-11-23/140322.123456`, UTC.
fn name(us: i64) -> String {
    let at = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime(NAME).to_string()
}

fn begun(name: &str) -> Option<i64> {
    let at = DateTime::strptime(NAME, name).ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(at.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::cutter::tests::fragments;

    const T: i64 = 1_795_439_400_123_456;

    fn stamp() -> Stamp {
        Stamp { start_us: T, time_synced: true, continuous: false }
    }

    #[test]
    fn files_grow_end_and_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let stream = StreamId::new("garden").unwrap();
        let mut files = Files::new(dir.path().to_owned(), 3, 10, Flusher::start().unwrap());
        let mut index = Vec::new();
        let all = fragments(2000, 8000);
        let mut write =
            |f: &Fragment, fresh| files.append(&stream, f, fresh, stamp(), &mut index).unwrap();
        assert_eq!(write(&all[1], false), 0, "nothing begins without a key frame");
        assert!(write(&all[0], true) > all[0].data.len() as u64);
        assert_eq!(write(&all[1], false), all[1].data.len() as u64);
        files.end_all(&mut index);
        let [begun, ended] = &index[..] else { panic!("{index:?}") };
        assert_eq!((begun.id, begun.open, ended.open, ended.keys), (11, true, false, 1));
        assert_eq!(ended.end_us - ended.start_us, 2_000_000);
        assert_eq!(ended.path, "garden/2026-11-23/131000.123456-3.mp4");

        // Without its index, and with its last fragment cut off.
        let path = dir.path().join(&ended.path);
        let cut = path.metadata().unwrap().len() - 5;
        File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        std::fs::write(dir.path().join("garden/2026-11-23/other.txt"), "x").unwrap();
        let mut found: Vec<_> = strays(dir.path()).collect();
        assert_eq!(found.len(), 1);
        assert!(recover(dir.path(), &mut found[0]).unwrap());
        let s = &found[0];
        assert_eq!((s.start_us, s.end_us), (T, T + 1_000_000));
        assert_eq!(s.init_hash, ended.init_hash);
        assert_eq!(path.metadata().unwrap().len(), s.bytes);
        files.delete(&s.path).unwrap();
        files.delete(&s.path).unwrap();
        // Cut before the first fragment's end, nothing is left.
        std::fs::write(&path, &all[0].init.segment).unwrap();
        assert!(!recover(dir.path(), &mut found[0]).unwrap());
        assert!(!path.exists());
    }
}
