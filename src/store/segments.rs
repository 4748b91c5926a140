//! The recordings' index, and what retention is told of it and of the visits. Files are opened elsewhere.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::record::retention::{Entry, What};

/// No segment is longer, microseconds: what reaches into a moment began at most so long before it.
pub(super) const REACH_US: i64 = 1_200_000_000;

/// One recorded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub id: i64,
    /// Below the recordings' directory.
    pub path: String,
    pub stream: String,
    /// Recorded without a visit.
    pub continuous: bool,
    /// The same for files that can be joined.
    pub init_hash: String,
    /// Microseconds since 1970, and on the stream's own line.
    pub start_us: i64,
    pub end_us: i64,
    pub start_media_us: i64,
    pub end_media_us: i64,
    pub bytes: u64,
    /// Fragments that begin with a key frame.
    pub keys: u32,
    /// What came before it is missing.
    pub gap: bool,
    /// It is still being written.
    pub open: bool,
    pub time_synced: bool,
}

impl Segment {
    /// The clock was set: it began at another time.
    pub(crate) fn shift(&mut self, by_us: i64, synced: bool) {
        self.start_us = self.start_us.saturating_add(by_us);
        self.end_us = self.end_us.saturating_add(by_us);
        self.time_synced = synced;
    }
}

pub(super) fn put(db: &Connection, s: &Segment, run: i64) -> rusqlite::Result<()> {
    let mut put = db.prepare_cached(
        "INSERT INTO segments (id, path, run, synced, stream, continuous, init_hash, start_us, end_us, start_media_us,
            end_media_us, bytes, keys, gap, open)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO UPDATE SET start_us = ?8, end_us = ?9, start_media_us = ?10, end_media_us = ?11, bytes = ?12,
            keys = ?13, open = ?15, synced = ?4",
    )?;
    put.execute(params![
        s.id,
        s.path,
        run,
        s.time_synced,
        s.stream,
        s.continuous,
        s.init_hash,
        s.start_us,
        s.end_us,
        s.start_media_us,
        s.end_media_us,
        s.bytes.cast_signed(),
        s.keys,
        s.gap,
        s.open
    ])?;
    Ok(())
}

const COLUMNS: &str = "id, path, stream, continuous, init_hash, start_us, end_us, start_media_us, end_media_us, bytes, keys, gap,
    open, synced";

fn segment(row: &Row<'_>) -> rusqlite::Result<Segment> {
    Ok(Segment {
        id: row.get(0)?,
        path: row.get(1)?,
        stream: row.get(2)?,
        continuous: row.get(3)?,
        init_hash: row.get(4)?,
        start_us: row.get(5)?,
        end_us: row.get(6)?,
        start_media_us: row.get(7)?,
        end_media_us: row.get(8)?,
        bytes: row.get::<_, i64>(9)?.max(0).unsigned_abs(),
        keys: row.get(10)?,
        gap: row.get(11)?,
        open: row.get(12)?,
        time_synced: row.get(13)?,
    })
}

/// The newest `limit` segments that reach into a time, oldest first. One that is being written may end later than it says.
pub(super) fn within(
    db: &Connection,
    stream: Option<&str>,
    from_us: i64,
    to_us: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Segment>> {
    let of = if stream.is_some() { "stream = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "SELECT {COLUMNS} FROM segments WHERE {of} AND start_us > ?2 AND start_us < ?3 AND (open = 1 OR end_us > ?4)
         ORDER BY start_us DESC, id DESC LIMIT ?5"
    );
    let mut select = db.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = params![stream, from_us.saturating_sub(REACH_US), to_us, from_us, limit];
    let mut found = select.query_map(values, segment)?.collect::<rusqlite::Result<Vec<_>>>()?;
    found.reverse();
    Ok(found)
}

/// Those an earlier run left unfinished.
pub(super) fn left_open(db: &Connection, run: i64) -> rusqlite::Result<Vec<Segment>> {
    let sql = format!("SELECT {COLUMNS} FROM segments WHERE open = 1 AND run < ?1");
    db.prepare(&sql)?.query_map([run], segment)?.collect()
}

/// Whether a file is in the index.
pub(super) fn knows(db: &Connection, path: &str) -> rusqlite::Result<bool> {
    let mut select = db.prepare_cached("SELECT 1 FROM segments WHERE path = ?1")?;
    Ok(select.query_row([path], |_| Ok(())).optional()?.is_some())
}

/// Bytes of all segments and pictures.
pub(super) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    // By an index of those with pictures alone: the visits themselves can be hundreds of megabytes.
    let sql = "SELECT (SELECT coalesce(sum(bytes), 0) FROM segments)
        + (SELECT coalesce(sum(picture_bytes), 0) FROM events WHERE picture_bytes > 0)";
    db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n.max(0).unsigned_abs())
}

/// The oldest finished segments, visits with pictures and visits without, `limit` of each, as retention wants to know them:
/// any number of one kind must not keep the others from it. A segment that a protected visit needs, with `margin_us` before
/// and after it, is left out as protected visits are.
pub(super) fn oldest(
    db: &Connection,
    limit: usize,
    margin_us: i64,
) -> rusqlite::Result<Vec<Entry>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let entry = |row: &Row<'_>, what: fn(i64) -> What| -> rusqlite::Result<Entry> {
        Ok(Entry {
            what: what(row.get(0)?),
            run: row.get(1)?,
            start_us: row.get(2)?,
            end_us: row.get(3)?,
            bytes: row.get::<_, i64>(4)?.max(0).unsigned_abs(),
            protected: false,
        })
    };
    let mut select = db.prepare_cached(
        "SELECT id, run, start_us, end_us, bytes FROM segments s WHERE open = 0 AND NOT EXISTS (
            SELECT 1 FROM events e WHERE e.protected = 1 AND e.stream = s.stream AND e.start_us - ?2 < s.end_us
            AND coalesce(e.end_us, e.seen_us) + ?2 > s.start_us)
         ORDER BY run, start_us LIMIT ?1",
    )?;
    let rows = select.query_map([limit, margin_us], |r| entry(r, What::Segment))?;
    let mut all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    for pictures in [PICTURED, BARE] {
        let mut select = db.prepare_cached(&format!(
            "SELECT seq, run, start_us, end_us, picture_bytes FROM events
             WHERE {pictures} AND protected = 0 AND end_us IS NOT NULL ORDER BY run, start_us LIMIT ?1"
        ))?;
        let rows = select.query_map([limit], |r| entry(r, What::Event))?;
        all.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// Visits with pictures and without, as the indexes of each have it.
const PICTURED: &str = "picture_bytes > 0";
const BARE: &str = "picture_bytes = 0";

/// Takes out up to `limit` visits without pictures that were over before this moment of this run; their ids.
pub(super) fn remove_bare(
    db: &Connection,
    (run, us): (i64, i64),
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = format!(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events
         WHERE {BARE} AND protected = 0 AND end_us IS NOT NULL AND (run, start_us) < (?1, ?2) AND (run < ?1 OR end_us <= ?2)
         ORDER BY run, start_us LIMIT ?3) RETURNING id"
    );
    db.prepare_cached(&sql)?.query_map(params![run, us, limit], |row| row.get(0))?.collect()
}

/// The oldest visits beyond the newest `most`, `limit` at once.
pub(super) fn beyond(db: &Connection, most: u64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let number = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0));
    let too_many = |n: i64| u64::try_from(n).unwrap_or(0).saturating_sub(most);
    // Rows are numbered as they come, so that there are no more than this; counting them reads a whole index.
    let span = number("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM events")?;
    if too_many(span) == 0 {
        return Ok(Vec::new());
    }
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let over = too_many(number("SELECT count(*) FROM events")?).min(limit);
    let sql = "SELECT seq FROM events WHERE protected = 0 AND end_us IS NOT NULL ORDER BY run, start_us LIMIT ?1";
    let mut select = db.prepare_cached(sql)?;
    select.query_map([over.cast_signed()], |row| row.get(0))?.collect()
}

/// A segment's path, and a visit's id.
pub(super) fn path(db: &Connection, id: i64) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT path FROM segments WHERE id = ?1";
    db.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()
}

pub(super) fn event_id(db: &Connection, seq: i64) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT id FROM events WHERE seq = ?1";
    db.prepare_cached(sql)?.query_row([seq], |row| row.get(0)).optional()
}

/// Takes a segment out of the index; its path and size.
pub(super) fn remove(db: &Connection, id: i64) -> rusqlite::Result<Option<(String, u64)>> {
    let sql = "DELETE FROM segments WHERE id = ?1 RETURNING path, bytes";
    let gone = |r: &Row<'_>| Ok((r.get(0)?, r.get::<_, i64>(1)?.max(0).unsigned_abs()));
    db.prepare_cached(sql)?.query_row([id], gone).optional()
}

/// Takes a visit out; its id and the size of its pictures.
pub(super) fn remove_event(db: &Connection, seq: i64) -> rusqlite::Result<Option<(String, u64)>> {
    let sql = "DELETE FROM events WHERE seq = ?1 RETURNING id, picture_bytes";
    let gone = |r: &Row<'_>| Ok((r.get(0)?, r.get::<_, i64>(1)?.max(0).unsigned_abs()));
    db.prepare_cached(sql)?.query_row([seq], gone).optional()
}

/// Segments that were recorded for the visit `id` and that no other visit needs.
pub(super) fn only_of(db: &Connection, id: &str, margin_us: i64) -> rusqlite::Result<Vec<i64>> {
    let mut select = db.prepare_cached(
        "SELECT s.id FROM segments s JOIN events e ON e.id = ?1 WHERE s.stream = e.stream AND s.open = 0 AND s.continuous = 0
            AND s.start_us < coalesce(e.end_us, e.seen_us) + ?2 AND s.end_us > e.start_us - ?2
            AND NOT EXISTS (SELECT 1 FROM events o WHERE o.id <> e.id AND o.stream = s.stream
                AND o.start_us BETWEEN s.start_us - 86400000000 AND s.end_us + ?2 AND coalesce(o.end_us, o.seen_us) + ?2 > s.start_us)",
    )?;
    select.query_map(params![id, margin_us], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::super::events::tests::{T, visit};
    use super::super::{db, events};
    use super::*;

    const S: i64 = 1_000_000;

    fn made(id: i64, start_s: i64, end_s: i64) -> Segment {
        Segment {
            id,
            path: format!("a/{id}.mp4"),
            stream: "a".into(),
            continuous: false,
            init_hash: "x".into(),
            start_us: T + start_s * S,
            end_us: T + end_s * S,
            start_media_us: 0,
            end_media_us: 0,
            bytes: 10,
            keys: 1,
            gap: false,
            open: false,
            time_synced: true,
        }
    }

    #[test]
    fn segments_are_found_by_time_and_kept_for_protected_visits() {
        let dir = tempfile::tempdir().unwrap();
        let db = db::open(&dir.path().join("a.db"), "t").unwrap().db;
        for (id, start, end) in [(1, 0, 60), (2, 60, 120), (3, 300, 360)] {
            put(&db, &made(id, start, end), 1).unwrap();
        }
        let found = |from, to| -> Vec<i64> {
            let all = within(&db, Some("a"), T + from * S, T + to * S, 10).unwrap();
            all.iter().map(|s| s.id).collect()
        };
        assert_eq!(found(59, 61), [1, 2]);
        assert_eq!(found(120, 300), [0; 0]);
        assert_eq!(within(&db, None, T, T + 999 * S, 10).unwrap()[0], made(1, 0, 60));
        assert_eq!(used_bytes(&db).unwrap(), 30);

        events::put(&db, &visit("v", "a", "dog", T + 61 * S), 1, true, |us| us).unwrap();
        assert!(events::get(&db, "v").unwrap().unwrap().kept.clip);
        db.execute("UPDATE events SET protected = 1", []).unwrap();
        let can_go = |margin| -> Vec<What> {
            oldest(&db, 10, margin).unwrap().iter().map(|e| e.what).collect()
        };
        assert_eq!(can_go(0), [What::Segment(1), What::Segment(3)]);
        assert_eq!(can_go(5 * S), [What::Segment(3)]);
        assert_eq!(only_of(&db, "v", 0).unwrap(), [2]);
        assert_eq!(remove(&db, 2).unwrap(), Some(("a/2.mp4".into(), 10)));
        assert_eq!(remove(&db, 2).unwrap(), None);
        assert!(!events::get(&db, "v").unwrap().unwrap().kept.clip);
    }

    #[test]
    fn visits_without_pictures_hide_none_with_and_go_with_what_is_left_of_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let db = db::open(&dir.path().join("a.db"), "t").unwrap().db;
        for n in 0..20 {
            let mut v = visit(&format!("v{n:02}"), "a", "dog", T + n * S);
            // One that lasts.
            v.end = Some(v.seen).filter(|_| n != 3);
            events::put(&db, &v, 1, true, |us| us).unwrap();
        }
        db.execute("UPDATE events SET picture_bytes = 5 WHERE id >= 'v15'", []).unwrap();
        db.execute("UPDATE events SET protected = 1 WHERE id = 'v05'", []).unwrap();
        let bytes: Vec<u64> = oldest(&db, 3, 0).unwrap().iter().map(|e| e.bytes).collect();
        assert_eq!(bytes, [5, 5, 5, 0, 0, 0]);
        assert_eq!(used_bytes(&db).unwrap(), 25);
        // Without reading all visits, or sorting them.
        for with in [PICTURED, BARE] {
            let sql = format!(
                "EXPLAIN QUERY PLAN SELECT seq FROM events WHERE {with} AND protected = 0 AND end_us IS NOT NULL
                 ORDER BY run, start_us LIMIT 5"
            );
            let plan: String = db.query_row(&sql, [], |r| r.get(3)).unwrap();
            assert!(plan.contains("events_pictured") || plan.contains("events_bare"), "{plan}");
        }

        // Each lasts a second: the one that begins at 10 is not over then.
        let gone = remove_bare(&db, (1, T + 10 * S), 100).unwrap();
        assert_eq!(gone.len(), 8, "{gone:?}");
        assert!(!gone.iter().any(|id| id == "v03" || id == "v05" || id == "v10"));
        assert_eq!(remove_bare(&db, (2, 0), 2).unwrap().len(), 2, "of an earlier run");

        // Ten are left: one lasts, one is protected.
        assert_eq!(beyond(&db, 10, 100).unwrap(), [0; 0]);
        let oldest = beyond(&db, 8, 100).unwrap();
        let ids: Vec<_> = oldest.iter().map(|n| event_id(&db, *n).unwrap().unwrap()).collect();
        assert_eq!(ids, ["v12", "v13"]);
        assert_eq!(beyond(&db, 0, 3).unwrap().len(), 3);
    }
}
