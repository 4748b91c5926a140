//! Visits as rows: one a visit, written again as more becomes known. What happens on the disk beside the database is not
//! known here.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::clock::{micros, wall};
use super::segments::REACH_US;
use crate::detect::BBox;
use crate::media::{MediaTime, StreamId};
use crate::track::{Best, Moment, Visit};
use crate::wire::Kept;

/// A visit as it is kept.
#[derive(Debug, Clone)]
pub struct Stored {
    pub visit: Visit,
    pub kept: Kept,
    /// Never deleted for want of room.
    pub protected: bool,
    /// False where the clock was not yet set when it began; such times are mended once it is.
    pub time_synced: bool,
    /// Bytes of its pictures.
    pub picture_bytes: u64,
}

/// What is asked of the list; everything left out is everything.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub stream: Option<String>,
    pub label: Option<String>,
    /// Begun later, or earlier, than so many microseconds since 1970.
    pub after_us: Option<i64>,
    pub before_us: Option<i64>,
    pub limit: usize,
    pub cursor: Option<Cursor>,
}

/// A place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    start_us: i64,
    seq: i64,
}

impl Cursor {
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (start, seq) = bytes.split_first_chunk::<8>()?;
        let seq = i64::from_be_bytes(seq.try_into().ok()?);
        Some(Self { start_us: i64::from_be_bytes(*start), seq })
    }

    pub fn text(self) -> String {
        let bytes = [self.start_us.to_be_bytes(), self.seq.to_be_bytes()].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub events: Vec<Stored>,
    /// Where it goes on.
    pub next: Option<Cursor>,
}

/// Writes a visit, new or known. Its times go through `mend` first.
pub(super) fn put(
    db: &Connection,
    visit: &Visit,
    run: i64,
    synced: bool,
    mend: impl Fn(i64) -> i64,
) -> rusqlite::Result<()> {
    let us = |at: Moment| mend(micros(at.wall));
    let text = |zones: &[Arc<str>]| serde_json::to_string(zones).unwrap_or_default();
    // A visit that was begun under a wrong clock stays marked, though its end is not: `synced` is of the beginning.
    let mut put = db.prepare_cached(
        "INSERT INTO events (id, run, synced, stream, track_id, label, score, top_score, start_us, start_media_us,
            seen_us, seen_media_us, end_us, end_media_us, width, height, box, best_us, best_media_us, best_seq, best_score,
            best_box, current_zones, entered_zones)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)
         ON CONFLICT (id) DO UPDATE SET label = ?6, score = ?7, top_score = ?8, start_us = ?9, seen_us = ?11,
            seen_media_us = ?12, end_us = ?13, end_media_us = ?14, width = ?15, height = ?16, box = ?17, best_us = ?18,
            best_media_us = ?19, best_seq = ?20, best_score = ?21, best_box = ?22, current_zones = ?23, entered_zones = ?24",
    )?;
    put.execute(params![
        &*visit.id,
        run,
        synced,
        visit.stream.as_str(),
        visit.track_id.cast_signed(),
        &*visit.label,
        f64::from(visit.score),
        f64::from(visit.top_score),
        us(visit.start),
        visit.start.media.as_micros(),
        us(visit.seen),
        visit.seen.media.as_micros(),
        visit.end.map(us),
        visit.end.map(|e| e.media.as_micros()),
        visit.width,
        visit.height,
        corners(&visit.bbox),
        us(visit.best.at),
        visit.best.at.media.as_micros(),
        visit.best.seq.cast_signed(),
        f64::from(visit.best.score),
        corners(&visit.best.bbox),
        text(&visit.current_zones),
        text(&visit.entered_zones),
    ])?;
    Ok(())
}

/// Ends the visits that an earlier run left open, when they were last seen. Those, as they were left.
pub(super) fn close_left_open(db: &Connection, run: i64) -> rusqlite::Result<Vec<Stored>> {
    let open = format!(
        "SELECT {COLUMNS}, {} FROM events e WHERE e.end_us IS NULL AND e.run < ?1 ORDER BY e.seq",
        has_clip()
    );
    let mut open = db.prepare(&open)?;
    let left = open.query_map([run], stored)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let close = "UPDATE events SET end_us = seen_us, end_media_us = seen_media_us WHERE end_us IS NULL AND run < ?1";
    db.execute(close, [run])?;
    Ok(left.into_iter().filter_map(|(_, stored)| stored).collect())
}

/// Whether a visit is kept.
pub(super) fn knows(db: &Connection, id: &str) -> rusqlite::Result<bool> {
    let mut select = db.prepare_cached("SELECT 1 FROM events WHERE id = ?1")?;
    Ok(select.query_row([id], |_| Ok(())).optional()?.is_some())
}

/// Moves the times of this run's rows from before the clock was set.
pub(super) fn mend(db: &Connection, run: i64, by_us: i64, synced: bool) -> rusqlite::Result<()> {
    for (table, set) in [
        (
            "events",
            "start_us = start_us + ?2, seen_us = seen_us + ?2, end_us = end_us + ?2, best_us = best_us + ?2",
        ),
        ("segments", "start_us = start_us + ?2, end_us = end_us + ?2"),
    ] {
        let sql = format!("UPDATE {table} SET {set}, synced = ?3 WHERE run = ?1 AND synced = 0");
        db.execute(&sql, params![run, by_us, synced])?;
    }
    Ok(())
}

const COLUMNS: &str = "e.seq, e.id, e.stream, e.track_id, e.label, e.score, e.top_score, e.start_us, e.start_media_us, e.seen_us,
    e.seen_media_us, e.end_us, e.end_media_us, e.width, e.height, e.box, e.best_us, e.best_media_us, e.best_seq, e.best_score,
    e.best_box, e.current_zones, e.entered_zones, e.picture_bytes, e.protected, e.synced";

/// Whether something is recorded of it. The newest file that can be is looked at first, for it is the likeliest.
fn has_clip() -> String {
    format!(
        "(SELECT 1 FROM segments s WHERE s.stream = e.stream AND s.start_us > e.start_us - {REACH_US}
            AND s.start_us <= coalesce(e.end_us, e.seen_us)
            AND (s.open = 1 OR s.end_us > e.start_us) ORDER BY s.start_us DESC LIMIT 1) IS NOT NULL"
    )
}

/// One visit by its id.
pub(super) fn get(db: &Connection, id: &str) -> rusqlite::Result<Option<Stored>> {
    let sql = format!("SELECT {COLUMNS}, {} FROM events e WHERE e.id = ?1", has_clip());
    let mut get = db.prepare_cached(&sql)?;
    let found = get.query_row([id], stored).optional()?;
    Ok(found.and_then(|(_, stored)| stored))
}

/// A page of visits, the newest first.
pub(super) fn page(db: &Connection, query: &Query) -> rusqlite::Result<Page> {
    let mut conditions = String::from("1");
    let mut values: Vec<&dyn ToSql> = Vec::new();
    if let Some(stream) = &query.stream {
        conditions.push_str(" AND e.stream = ?");
        values.push(stream);
    }
    if let Some(label) = &query.label {
        conditions.push_str(" AND e.label = ?");
        values.push(label);
    }
    if let Some(after) = &query.after_us {
        conditions.push_str(" AND e.start_us > ?");
        values.push(after);
    }
    if let Some(before) = &query.before_us {
        conditions.push_str(" AND e.start_us < ?");
        values.push(before);
    }
    if let Some(Cursor { start_us, seq }) = &query.cursor {
        conditions.push_str(" AND (e.start_us, e.seq) < (?, ?)");
        values.extend([start_us as &dyn ToSql, seq]);
    }
    // One more than asked for tells whether it goes on.
    let limit = i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX);
    values.push(&limit);
    let sql = format!(
        "SELECT {COLUMNS}, {} FROM events e WHERE {conditions} ORDER BY e.start_us DESC, e.seq DESC LIMIT ?",
        has_clip()
    );
    let mut select = db.prepare_cached(&sql)?;
    let rows = select.query_map(&values[..], stored)?;
    let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next = rows.last().filter(|_| more).map(|(cursor, _)| *cursor);
    Ok(Page { events: rows.into_iter().filter_map(|(_, stored)| stored).collect(), next })
}

/// A row as a visit; none where it cannot be one.
fn stored(row: &Row<'_>) -> rusqlite::Result<(Cursor, Option<Stored>)> {
    let moment = |at: usize| -> rusqlite::Result<Moment> {
        let (us, media) = (row.get(at)?, row.get(at + 1)?);
        Ok(Moment { wall: wall(us), media: MediaTime::from_micros(media) })
    };
    let bbox = |at: usize| -> rusqlite::Result<BBox> {
        let text: String = row.get(at)?;
        let [x1, y1, x2, y2] = serde_json::from_str(&text).unwrap_or_default();
        Ok(BBox { x1, y1, x2, y2 })
    };
    let zones = |at: usize| -> rusqlite::Result<Vec<Arc<str>>> {
        let text: String = row.get(at)?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    };
    let cursor = Cursor { seq: row.get(0)?, start_us: row.get(7)? };
    let (id, stream, label): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(4)?);
    let Ok(stream) = StreamId::new(&stream) else { return Ok((cursor, None)) };
    let ended: Option<i64> = row.get(11)?;
    let best = Best {
        at: moment(16)?,
        seq: row.get::<_, i64>(18)?.cast_unsigned(),
        score: row.get(19)?,
        bbox: bbox(20)?,
    };
    let visit = Visit {
        id: id.into(),
        stream,
        track_id: row.get::<_, i64>(3)?.cast_unsigned(),
        label: label.into(),
        score: row.get(5)?,
        top_score: row.get(6)?,
        start: moment(7)?,
        seen: moment(9)?,
        end: ended.map(|_| moment(11)).transpose()?,
        width: row.get(13)?,
        height: row.get(14)?,
        bbox: bbox(15)?,
        best,
        current_zones: zones(21)?,
        entered_zones: zones(22)?,
    };
    let picture_bytes = row.get::<_, i64>(23)?.max(0).unsigned_abs();
    let kept = Kept { snapshot: picture_bytes > 0, clip: row.get(26)? };
    let (protected, time_synced) = (row.get(24)?, row.get(25)?);
    Ok((cursor, Some(Stored { visit, kept, protected, time_synced, picture_bytes })))
}

fn corners(b: &BBox) -> String {
    serde_json::to_string(&[b.x1, b.y1, b.x2, b.y2]).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::db;

    pub(in crate::store) const T: i64 = 1_795_439_400_000_000;

    pub(in crate::store) fn visit(id: &str, stream: &str, label: &str, start_us: i64) -> Visit {
        let at = |us: i64| Moment { media: MediaTime::from_micros(us - T), wall: wall(us) };
        let bbox = BBox { x1: 1.5, y1: 2.0, x2: 30.25, y2: 40.0 };
        Visit {
            id: id.into(),
            stream: StreamId::new(stream).unwrap(),
            track_id: 7,
            label: label.into(),
            score: 0.5,
            top_score: 0.75,
            start: at(start_us),
            seen: at(start_us + 1_000_000),
            end: None,
            width: 1280,
            height: 720,
            bbox,
            best: Best { at: at(start_us), seq: 3, score: 0.75, bbox },
            current_zones: vec![],
            entered_zones: vec!["lawn".into()],
        }
    }

    fn open() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let db = db::open(&dir.path().join("a.db"), "t").unwrap().db;
        (dir, db)
    }

    #[test]
    fn a_visit_comes_back_as_it_went_in_and_is_written_again() {
        let (_dir, db) = open();
        let mut v = visit("a", "garden", "dog", T);
        put(&db, &v, 1, true, |us| us).unwrap();
        assert_eq!(get(&db, "a").unwrap().unwrap().visit, v);
        v.end = Some(v.seen);
        v.label = "cat".into();
        put(&db, &v, 1, true, |us| us).unwrap();
        let found = get(&db, "a").unwrap().unwrap();
        assert_eq!((found.visit, found.kept), (v, Kept::default()));
        assert!(get(&db, "b").unwrap().is_none());
    }

    #[test]
    fn pages_follow_each_other_without_holes() {
        let (_dir, db) = open();
        for n in 0..10 {
            let (stream, label) = if n % 2 == 0 { ("a", "dog") } else { ("b", "cat") };
            // Two of each time.
            put(&db, &visit(&n.to_string(), stream, label, T + n / 2), 1, true, |us| us).unwrap();
        }
        let mut query = Query { limit: 3, ..Query::default() };
        let mut ids = String::new();
        loop {
            let found = page(&db, &query).unwrap();
            found.events.iter().for_each(|e| ids.push_str(&e.visit.id));
            query.cursor = found.next.map(|c| Cursor::parse(&c.text()).unwrap());
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(ids, "9876543210");
        let only = |query| -> String {
            page(&db, &query).unwrap().events.iter().map(|e| e.visit.id.to_string()).collect()
        };
        let all = Query { limit: 100, ..Query::default() };
        assert_eq!(only(Query { stream: Some("a".into()), ..all.clone() }), "86420");
        assert_eq!(only(Query { label: Some("cat".into()), ..all.clone() }), "97531");
        let (after_us, before_us) = (Some(T + 1), Some(T + 4));
        assert_eq!(only(Query { after_us, before_us, ..all }), "7654");
        for bad in ["", "x", "AAAA", "!!!"] {
            assert_eq!(Cursor::parse(bad), None);
        }
    }

    #[test]
    fn what_an_earlier_run_left_open_is_ended_and_wrong_times_are_mended() {
        let (_dir, db) = open();
        put(&db, &visit("old", "a", "dog", T), 1, true, |us| us).unwrap();
        put(&db, &visit("new", "a", "dog", 5_000_000), 2, false, |us| us).unwrap();
        let left = close_left_open(&db, 2).unwrap();
        assert_eq!((left.len(), &*left[0].visit.id, left[0].visit.end), (1, "old", None));
        let old = get(&db, "old").unwrap().unwrap().visit;
        assert_eq!(old.end, Some(old.seen));
        mend(&db, 2, T, true).unwrap();
        let new = get(&db, "new").unwrap().unwrap();
        assert_eq!(micros(new.visit.start.wall), T + 5_000_000);
        assert!(new.time_synced && new.visit.end.is_none());
        assert_eq!(micros(get(&db, "old").unwrap().unwrap().visit.start.wall), T);
    }
}
