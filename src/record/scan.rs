//! Reads a recorded file's own structure: its init segment and where each whole fragment lies, whatever cut it off. It
//! knows the boxes that `media::fmp4` writes (ISO/IEC 14496-12 8.8) and reads no media.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// One fragment of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// In the file; and of moof and mdat together.
    pub offset: u64,
    pub len: u32,
    pub moof_len: u32,
    /// Decode time of the earliest sample of any track, and of the first picture; microseconds.
    pub base_us: i64,
    pub start_us: i64,
    pub duration_us: i64,
    pub key: bool,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    pub init: Bytes,
    pub pieces: Vec<Piece>,
    /// The file is whole up to here.
    pub whole: u64,
}

/// Larger ones are none of ours.
const MAX_INIT: u64 = 1 << 20;
const MAX_MOOF: u64 = 1 << 20;
const MAX_MDAT: u64 = 64 << 20;

/// Reads up to the first thing that is not whole. An error only when the file cannot be read; a file without an init
/// segment is whole up to 0.
pub(super) fn scan(file: &File) -> io::Result<Scan> {
    let end = file.metadata()?.len();
    let mut found = Scan { init: Bytes::new(), pieces: Vec::new(), whole: 0 };
    let Some(ftyp) = header(file, 0, end)?.filter(|h| &h.kind == b"ftyp" && h.size < MAX_INIT)
    else {
        return Ok(found);
    };
    let moov = header(file, ftyp.size, end)?;
    let Some(moov) = moov.filter(|h| &h.kind == b"moov" && h.size < MAX_INIT) else {
        return Ok(found);
    };
    let init = ftyp.size + moov.size;
    found.init = read(file, 0, init)?;
    found.whole = init;
    loop {
        let at = found.whole;
        let Some(moof) = header(file, at, end)?.filter(|h| &h.kind == b"moof" && h.size < MAX_MOOF)
        else {
            return Ok(found);
        };
        let mdat = header(file, at + moof.size, end)?;
        let Some(mdat) = mdat.filter(|h| &h.kind == b"mdat" && h.size < MAX_MDAT) else {
            return Ok(found);
        };
        let Some(times) = times(&read(file, at, moof.size)?) else { return Ok(found) };
        let (len, moof_len) = ((moof.size + mdat.size) as u32, moof.size as u32);
        let Times { base_us, start_us, duration_us, key } = times;
        found.pieces.push(Piece { offset: at, len, moof_len, base_us, start_us, duration_us, key });
        found.whole = at + u64::from(len);
    }
}

struct Header {
    size: u64,
    kind: [u8; 4],
}

/// The box at `at`, if all of it is there.
fn header(file: &File, at: u64, end: u64) -> io::Result<Option<Header>> {
    if at + 8 > end {
        return Ok(None);
    }
    let mut head = [0; 8];
    file.read_exact_at(&mut head, at)?;
    let [a, b, c, d, kind @ ..] = head;
    let size = u64::from(u32::from_be_bytes([a, b, c, d]));
    Ok((size >= 8 && at + size <= end).then_some(Header { size, kind }))
}

fn read(file: &File, at: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}

struct Times {
    base_us: i64,
    start_us: i64,
    duration_us: i64,
    key: bool,
}

/// None for what is no moof of ours.
fn times(moof: &[u8]) -> Option<Times> {
    let mut found: Option<Times> = None;
    let mut base = i64::MAX;
    for traf in children(moof.get(8..)?).filter(|(kind, _)| kind == b"traf") {
        let body = &moof[8..][traf.1];
        let part = |kind: &[u8; 4]| children(body).find(|(k, _)| k == kind).map(|(_, r)| &body[r]);
        let start = i64::from_be_bytes(part(b"tfdt")?.get(4..12)?.try_into().ok()?);
        base = base.min(start);
        let track = word(part(b"tfhd")?, 1)?;
        if track == 1 {
            let run = part(b"trun")?;
            let samples = usize::try_from(word(run, 1)?).ok()?;
            let durations = (0..samples).map(|n| word(run, 3 + n * 4).map(i64::from));
            let duration_us = durations.sum::<Option<i64>>()?;
            let key = word(run, 5)? & 0x1_0000 == 0;
            found = Some(Times { base_us: 0, start_us: start, duration_us, key });
        }
    }
    found.map(|times| Times { base_us: base, ..times })
}

/// A big-endian word of a full box's body, counted from its version and flags.
fn word(body: &[u8], n: usize) -> Option<u32> {
    Some(u32::from_be_bytes(body.get(n * 4..n * 4 + 4)?.try_into().ok()?))
}

/// The boxes in `body`: kind and where the content lies.
fn children(body: &[u8]) -> impl Iterator<Item = ([u8; 4], std::ops::Range<usize>)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = body.get(at..at + 8)?;
        let size = u32::from_be_bytes(head[..4].try_into().ok()?) as usize;
        let kind = head[4..].try_into().ok()?;
        let content = at + 8..at.checked_add(size)?;
        if size < 8 || content.end > body.len() {
            return None;
        }
        at += size;
        Some((kind, content))
    })
}

/// Moves all decode times of a fragment by so many microseconds. `moof_len` bytes of it are its moof.
pub(super) fn shift(fragment: &mut [u8], moof_len: usize, by_us: i64) {
    let Some(moof) = fragment.get(8..moof_len) else { return };
    let mut places = Vec::new();
    for (_, traf) in children(moof).filter(|(kind, _)| kind == b"traf") {
        let tfdt = children(&moof[traf.clone()]).find(|(kind, _)| kind == b"tfdt");
        places
            .extend(tfdt.filter(|(_, r)| r.len() >= 12).map(|(_, r)| 8 + traf.start + r.start + 4));
    }
    for at in places {
        let Ok(time) = fragment[at..at + 8].try_into().map(i64::from_be_bytes) else { continue };
        let moved = time.saturating_add(by_us).max(0);
        fragment[at..at + 8].copy_from_slice(&moved.to_be_bytes());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::cutter::tests::fragments;
    use std::io::Write;

    pub(in crate::record) fn recorded(from_ms: i64, to_ms: i64) -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let all = fragments(from_ms, to_ms);
        file.write_all(&all[0].init.segment).unwrap();
        all.iter().for_each(|f| file.write_all(&f.data).unwrap());
        let len = file.metadata().unwrap().len();
        (file, len)
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let (file, len) = recorded(2000, 6000);
        let found = scan(&file).unwrap();
        assert_eq!(found.whole, len);
        let told: Vec<_> =
            found.pieces.iter().map(|p| (p.start_us, p.duration_us, p.key)).collect();
        let s = 1_000_000;
        assert_eq!(told[..3], [(2 * s, s, true), (3 * s, s, false), (4 * s, s, true)]);
    }

    #[test]
    fn cut_anywhere_it_is_whole_up_to_the_last_whole_fragment() {
        let (file, len) = recorded(2000, 6000);
        let whole = scan(&file).unwrap();
        let mut ends: Vec<u64> = whole.pieces.iter().map(|p| p.offset + u64::from(p.len)).collect();
        ends.insert(0, whole.init.len() as u64);
        for cut in (0..len).rev().step_by(7) {
            file.set_len(cut).unwrap();
            let expected = ends.iter().rev().find(|e| **e <= cut).copied().unwrap_or(0);
            assert_eq!(scan(&file).unwrap().whole, expected, "cut at {cut}");
        }
        // What a file system leaves after a loss of power: the length without the bytes.
        let (file, len) = recorded(2000, 4000);
        file.set_len(len + 5000).unwrap();
        assert_eq!(scan(&file).unwrap().whole, len);
    }

    #[test]
    fn times_are_moved_and_nothing_else() {
        let fragment = &fragments(2000, 3000)[0];
        let moof_len = u32::from_be_bytes(fragment.data[..4].try_into().unwrap()) as usize;
        let mut moved = fragment.data.to_vec();
        shift(&mut moved, moof_len, -2_000_000);
        assert_eq!(times(&moved[..moof_len]).unwrap().start_us, 0);
        assert_eq!(moved.iter().zip(&fragment.data).filter(|(a, b)| a != b).count(), 3);
        shift(&mut [0; 20], 30, 5);
        shift(&mut [0xFF; 20], 20, 5);
    }
}
