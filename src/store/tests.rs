//! What the disk's thread does when its database turns out to be damaged, is held by another program, or has no room.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::watch;

use super::clock::Source;
use super::disk::{Disk, Work};
use super::events::tests::{T, visit};
use super::{Shared, db, events};
use crate::config::Config;
use crate::media::StreamId;
use crate::record::cutter::tests::fragments;
use crate::track::{Event, EventKind};
use crate::wire::StorageState;

fn disk(dir: &std::path::Path) -> (Disk, watch::Sender<Arc<Config>>) {
    let mut config = Config::default();
    config.record.keep_free_bytes = 0;
    let (settings, seen) = watch::channel(Arc::new(config));
    let source = Source::system();
    let shared = Shared::new(&source, dir.to_owned(), &seen.borrow()).unwrap();
    let mut disk = Disk::new(Arc::new(shared), seen, source);
    disk.open();
    assert!(disk.is_fine());
    (disk, settings)
}

fn arrive(disk: &mut Disk, id: &str) {
    let after = Arc::new(visit(id, "a", "dog", T));
    let event = Event { kind: EventKind::New, before: Arc::clone(&after), after };
    disk.take(Work::Event(Arc::new(event), 1));
}

fn rows(dir: &std::path::Path, table: &str) -> i64 {
    let db = db::open_to_read(&dir.join("spotter.db")).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap()
}

/// Two files, whose index does not number them as a new one would.
fn record_two(disk: &mut Disk) {
    let stream = StreamId::new("a").unwrap();
    for start in [0, 2000, 4000] {
        let fragment = fragments(start, start + 2000).remove(0);
        let fragment =
            Work::Fragment { stream: stream.clone(), fragment, fresh: true, continuous: true };
        disk.take(fragment);
    }
    disk.flush();
    disk.remove_segment(1).unwrap();
}

#[test]
fn a_database_that_turns_out_to_be_damaged_is_replaced_while_it_records() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _settings) = disk(dir.path());
    record_two(&mut disk);
    arrive(&mut disk, "1.0-lost");
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    disk.sql_trouble(&rusqlite::Error::SqliteFailure(code, None));
    assert!(disk.is_fine());
    disk.flush();
    // What waited is in the new one, and the files that are there are, each once.
    assert_eq!((rows(dir.path(), "events"), rows(dir.path(), "segments")), (1, 2));
    arrive(&mut disk, "2.0-next");
    disk.flush();
    assert!(disk.is_fine());
    assert_eq!(rows(dir.path(), "events"), 2);
}

#[test]
fn while_another_program_holds_the_database_rows_wait_and_recording_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _settings) = disk(dir.path());
    let dawn = visit("1.0-dawn", "a", "dog", 5_000_000);
    events::put(disk.db.as_ref().unwrap(), &dawn, disk.run, false, |us| us).unwrap();
    let other = Connection::open(dir.path().join("spotter.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    arrive(&mut disk, "2.0-next");
    // The clock is set meanwhile.
    disk.shift_waiting(T, false);
    disk.shift_waiting(1_000_000, true);
    disk.flush();
    assert!(disk.is_fine());
    record_two(&mut disk);
    assert_eq!(rows(dir.path(), "events"), 1);
    other.execute_batch("COMMIT").unwrap();
    disk.flush();
    assert_eq!(rows(dir.path(), "events"), 2);
    let mended = events::get(&other, "1.0-dawn").unwrap().unwrap();
    assert_eq!(super::clock::micros(mended.visit.start.wall), T + 6_000_000);
    assert!(mended.time_synced);
    // It is moved once.
    disk.flush();
    assert_eq!(events::get(&other, "1.0-dawn").unwrap().unwrap().visit, mended.visit);
}

#[test]
fn what_waits_on_a_full_disk_does_not_put_the_next_look_off() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _settings) = disk(dir.path());
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    let full = rusqlite::Error::SqliteFailure(code, None);
    disk.sql_trouble(&full);
    let looked = disk.upkeep.looked;
    assert!(!disk.is_fine() && looked.is_some());
    std::thread::sleep(std::time::Duration::from_millis(2));
    disk.sql_trouble(&full);
    assert_eq!(disk.upkeep.looked, looked);
    let state = disk.shared.state.borrow().clone();
    assert_eq!(state.state, StorageState::Full);
    assert!(state.message.unwrap().contains("make room"));
}
