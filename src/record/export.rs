//! A time range of a stream as one MP4: which fragments of which files, in what order, at what time; and the bytes of any
//! part of it. Nothing is decoded, so it begins with a key frame at or before the beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::scan::{Piece, scan, shift};

/// A recorded file as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    /// When its first fragment came, microseconds since 1970.
    pub wall_us: i64,
}

/// One MP4 to be, down to the byte.
#[derive(Debug)]
pub struct Export {
    /// ftyp, moov and sidx.
    head: Bytes,
    parts: Vec<Part>,
    pub len: u64,
    /// When its first picture came, and when its last one was over; microseconds since 1970.
    pub from_us: i64,
    pub to_us: i64,
    /// Ends before the range does: from here on, pictures or sound have other parameters.
    pub cut_us: Option<i64>,
}

#[derive(Debug)]
struct Part {
    file: Arc<PathBuf>,
    piece: Piece,
    /// Added to its times.
    shift_us: i64,
    /// Where it begins in the export.
    at: u64,
}

/// Fragments that follow on each other so closely keep their distance; a hole in the recording is closed up.
const SEAM_US: i64 = 1_000_000;

impl Export {
    /// Plans `from_us..to_us` out of files in the order of time. `None`: there is nothing of it. Files that are not there
    /// or not ours are left out.
    pub fn plan(sources: &[Source], from_us: i64, to_us: i64) -> Option<Self> {
        let mut init = Bytes::new();
        let mut cut_us = None;
        let mut chosen: Vec<(Arc<PathBuf>, Piece, i64)> = Vec::new();
        for source in sources {
            let Ok(found) = File::open(&source.path).and_then(|file| scan(&file)) else { continue };
            let Some(first) = found.pieces.first() else { continue };
            let wall = |p: &Piece| source.wall_us + (p.start_us - first.start_us);
            if !chosen.is_empty() && init != found.init {
                cut_us = Some(source.wall_us);
                break;
            }
            let mut pieces = &found.pieces[..];
            if chosen.is_empty() {
                let key = pieces.iter().rposition(|p| p.key && wall(p) <= from_us);
                pieces = &pieces[key.unwrap_or(0)..];
                let reaches = pieces.iter().any(|p| wall(p) + p.duration_us > from_us);
                if !reaches {
                    continue;
                }
            }
            let path = Arc::new(source.path.clone());
            let due = pieces.iter().take_while(|p| wall(p) < to_us);
            chosen.extend(due.map(|p| (Arc::clone(&path), *p, wall(p))));
            init = found.init;
        }
        let (_, first, from_us) = chosen.first()?.clone();
        let (_, last, last_us) = chosen.last()?.clone();
        let mut parts: Vec<Part> = Vec::with_capacity(chosen.len());
        let mut shift_us = first.base_us.saturating_neg();
        let mut end_us = first.start_us;
        let mut at = 0;
        for (file, piece, _) in chosen {
            let hole = piece.start_us.saturating_sub(end_us);
            if !(-SEAM_US / 10..SEAM_US).contains(&hole) {
                shift_us = shift_us.saturating_sub(hole);
            }
            end_us = piece.start_us.saturating_add(piece.duration_us);
            parts.push(Part { file, piece, shift_us, at });
            at += u64::from(piece.len);
        }
        let mut head = init.to_vec();
        head.extend(sidx(&parts));
        let len = head.len() as u64 + at;
        let to_us = last_us + last.duration_us;
        Some(Self { head: head.into(), parts, len, from_us, to_us, cut_us })
    }

    /// The bytes from `at` on, as many as come in one go; empty at the end. Blocks on the disk.
    pub fn read(&self, at: u64) -> io::Result<Bytes> {
        let head = self.head.len() as u64;
        if at < head {
            return Ok(self.head.slice(usize::try_from(at).unwrap_or_default()..));
        }
        let at = at - head;
        let n = self.parts.partition_point(|p| p.at <= at);
        let Some(part) = n.checked_sub(1).and_then(|n| self.parts.get(n)) else {
            return Ok(Bytes::new());
        };
        let within = usize::try_from(at - part.at).unwrap_or(usize::MAX);
        let mut data = vec![0; part.piece.len as usize];
        if within >= data.len() {
            return Ok(Bytes::new());
        }
        File::open(&*part.file)?.read_exact_at(&mut data, part.piece.offset)?;
        shift(&mut data, part.piece.moof_len as usize, part.shift_us);
        Ok(Bytes::from(data).slice(within..))
    }
}

/// The segment index (8.16.3), with which players know the length and where to jump to. Nothing where there are more
/// fragments than it can count.
fn sidx(parts: &[Part]) -> Vec<u8> {
    let Ok(count) = u16::try_from(parts.len()) else { return Vec::new() };
    let mut out = Vec::with_capacity(40 + parts.len() * 12);
    out.extend((40 + u32::from(count) * 12).to_be_bytes());
    out.extend(b"sidx");
    out.extend([1, 0, 0, 0]);
    out.extend([0, 0, 0, 1]); // reference_ID: the video track
    out.extend(crate::media::fmp4::TIMESCALE.to_be_bytes());
    let first = parts.first().map_or(0, |p| p.piece.start_us.saturating_add(p.shift_us));
    out.extend(first.max(0).to_be_bytes());
    out.extend([0; 8]); // first_offset
    out.extend([0, 0]);
    out.extend(count.to_be_bytes());
    for (n, part) in parts.iter().enumerate() {
        // Up to the next one, over whatever is between them.
        let start = part.piece.start_us.saturating_add(part.shift_us);
        let next = parts.get(n + 1).map(|p| p.piece.start_us.saturating_add(p.shift_us));
        let duration = next.map_or(part.piece.duration_us, |next| next - start);
        out.extend((part.piece.len & 0x7FFF_FFFF).to_be_bytes());
        out.extend(u32::try_from(duration).unwrap_or(0).to_be_bytes());
        let sap: u32 = if part.piece.key { 0x9000_0000 } else { 0 }; // starts_with_SAP, SAP_type 1
        out.extend(sap.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::cutter::tests::fragments;

    const WALL: i64 = 1_795_439_400_000_000;
    const S: i64 = 1_000_000;

    fn write(dir: &std::path::Path, name: &str, from_ms: i64, to_ms: i64, wall_us: i64) -> Source {
        let all = fragments(from_ms, to_ms);
        let mut bytes = all[0].init.segment.to_vec();
        all.iter().for_each(|f| bytes.extend_from_slice(&f.data));
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        Source { path, wall_us }
    }

    fn whole(export: &Export) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let more = export.read(all.len() as u64).unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend_from_slice(&more);
        }
    }

    #[test]
    fn a_range_over_files_begins_at_a_key_frame_and_at_time_zero() {
        let dir = tempfile::tempdir().unwrap();
        let a = write(dir.path(), "a", 2000, 8000, WALL);
        // A new run of the program: another time line, ten minutes later.
        let b = write(dir.path(), "b", 4000, 8000, WALL + 600 * S);
        let gone = Source { path: dir.path().join("gone"), wall_us: WALL };
        let export = Export::plan(&[gone, a, b], WALL + 3 * S, WALL + 602 * S).unwrap();
        assert_eq!((export.from_us, export.to_us), (WALL + 2 * S, WALL + 602 * S));
        assert_eq!(export.cut_us, None);
        let bytes = whole(&export);
        assert_eq!(bytes.len() as u64, export.len);
        // From any place, the same bytes.
        for at in (0..bytes.len()).step_by(97) {
            assert!(bytes[at..].starts_with(&export.read(at as u64).unwrap()), "{at}");
        }
        let file = dir.path().join("all.mp4");
        let sidx = bytes.windows(4).position(|w| w == b"sidx").unwrap() - 4;
        let size = u32::from_be_bytes(bytes[sidx..sidx + 4].try_into().unwrap()) as usize;
        std::fs::write(&file, [&bytes[..sidx], &bytes[sidx + size..]].concat()).unwrap();
        let found = scan(&File::open(&file).unwrap()).unwrap();
        let starts: Vec<_> = found.pieces.iter().map(|p| p.start_us / S).collect();
        assert_eq!(starts, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn outside_of_what_is_recorded_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let a = write(dir.path(), "a", 2000, 8000, WALL);
        assert!(Export::plan(std::slice::from_ref(&a), WALL - 9 * S, WALL).is_none());
        assert!(Export::plan(std::slice::from_ref(&a), WALL + 6 * S, WALL + 9 * S).is_none());
        assert!(Export::plan(&[a], WALL + 5 * S, WALL + 9 * S).is_some());
    }
}
