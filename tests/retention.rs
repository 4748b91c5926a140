//! Hours of recording and of deleting the oldest, on simulated time: days, bytes and free space are kept to, what is
//! protected stays, and index and files say the same all along.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mount.rs"]
mod mount;
#[path = "support/simulation.rs"]
mod simulation;
#[path = "support/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mount::Mount;
use simulation::{Camera, Simulation};
use spotter::config::{Config, RecordMode};
use spotter::store::{Deletion, Query, Segment};
use spotter::track::Visit;
use spotter::wire::StorageState;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// One picture, and so one fragment, in two seconds: what matters here is that files come and go.
const CAMERA: Camera = Camera { interval_ms: 2000, group: 1, picture_bytes: 4000 };

fn config(change: impl FnOnce(&mut spotter::config::Record)) -> Config {
    let mut config = Config::default();
    let record = &mut config.record;
    (record.mode, record.segment_s) = (RecordMode::Continuous, 60.0);
    (record.keep_days, record.keep_bytes, record.keep_free_bytes) = (0, 0, 0);
    change(record);
    config
}

/// A directory where flushing costs nothing: a day has 1440 files, and each is flushed when it ends.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Ten minutes with a visit of one minute in them.
async fn ten_minutes(sim: &mut Simulation) -> Arc<Visit> {
    sim.film(2 * MINUTE).await;
    let visit = sim.arrive("garden", "dog");
    sim.portray(&visit, 8000);
    sim.film(MINUTE).await;
    sim.leave(&visit);
    sim.film(7 * MINUTE).await;
    visit
}

/// Everything recorded, after it was found that exactly those files are there and no others.
async fn segments(sim: &Simulation, dir: &Path) -> Vec<Segment> {
    let all = sim.store.segments(None, 0, i64::MAX, 100_000).await.unwrap();
    let indexed: BTreeSet<_> = all.iter().map(|s| sim.store.file(s)).collect();
    let mut there = BTreeSet::new();
    let below = |dir: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.map(|e| e.unwrap().path()).collect()
    };
    for day in below(&dir.join("recordings/garden")) {
        there.extend(below(&day));
    }
    assert_eq!(indexed, there);
    all
}

async fn visits(sim: &Simulation) -> Vec<String> {
    let query = Query { limit: 500, ..Query::default() };
    let page = sim.store.events(query).await.unwrap();
    page.events.iter().map(|e| e.visit.id.to_string()).collect()
}

fn bytes(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| s.bytes).sum()
}

/// The protected visit is there, with its pictures and every second of its clip.
async fn is_whole(sim: &Simulation, visit: &Visit) {
    use spotter::store::{Which, clock::micros};
    let stored = sim.store.event_by_id(visit.id.to_string()).await.unwrap().unwrap();
    assert!(stored.protected && stored.kept.clip && stored.kept.snapshot);
    for which in [Which::Full, Which::Crop] {
        assert!(sim.store.picture(&visit.id, which).unwrap().exists());
    }
    let (from, to) = (micros(stored.visit.start.wall), micros(stored.visit.end.unwrap().wall));
    let margin = 5_000_000;
    let stream = Some(visit.stream.clone());
    let of = sim.store.segments(stream, from - margin, to + margin, 100).await.unwrap();
    let mut reached = from - margin;
    for segment in of {
        assert!(segment.start_us <= reached, "a hole before {}", segment.path);
        reached = segment.end_us;
    }
    assert!(reached >= to + margin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_days_the_owner_wants_everything_goes_but_what_is_protected() {
    let dir = in_memory();
    let mut sim = Simulation::start(dir.path(), config(|r| r.keep_days = 1), CAMERA).await;
    let kept = ten_minutes(&mut sim).await;
    assert!(sim.store.protect(kept.id.to_string(), true).await.unwrap());
    let mut ids = vec![kept.id.to_string()];
    for ten in 1..26 * 6u64 {
        ids.push(ten_minutes(&mut sim).await.id.to_string());
        if ten % 6 == 5 {
            let now = sim.now_us();
            // Looked at every ten seconds.
            let oldest = now - (24 * HOUR + 10_000).cast_signed() * 1000;
            let all = segments(&sim, dir.path()).await;
            let of_the_kept =
                |s: &&Segment| s.start_us < (simulation::BEGIN as i64 + 300) * 1_000_000;
            let others = all.iter().filter(|s| !of_the_kept(s));
            assert!(others.clone().all(|s| s.end_us >= oldest));
            assert!(others.count() as u64 >= (ten * 10).min(24 * 60) - 5);
            is_whole(&sim, &kept).await;
        }
    }
    let left = visits(&sim).await;
    assert_eq!(left.len(), 24 * 6 + 1, "one in ten minutes of a day, and the one that is kept");
    assert!(left.iter().all(|id| ids.contains(id)) && left.contains(&ids[0]));
    // Pictures of those that are gone are gone.
    let pictures = || walk(&dir.path().join("events"));
    assert_eq!(pictures(), left.len() * 2);
    assert!(sim.store.protect(kept.id.to_string(), false).await.unwrap());
    sim.film(MINUTE).await;
    assert!(sim.store.event_by_id(kept.id.to_string()).await.unwrap().is_none());
    assert_eq!(sim.store.delete(kept.id.to_string()).await.unwrap(), Deletion::NotFound);
    let counted = sim.store.counted();
    assert_eq!(counted.fragments_dropped.get() + counted.events_dropped.get(), 0);
    sim.finish().await;
}

fn walk(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hours_of_recording_keep_within_the_bytes_the_owner_gives() {
    const KEEP: u64 = 3 << 20;
    let dir = in_memory();
    let mut sim = Simulation::start(dir.path(), config(|r| r.keep_bytes = KEEP), CAMERA).await;
    let kept = ten_minutes(&mut sim).await;
    assert!(sim.store.protect(kept.id.to_string(), true).await.unwrap());
    for ten in 1..12 {
        ten_minutes(&mut sim).await;
        let all = segments(&sim, dir.path()).await;
        // What ten seconds bring comes on top until the next look, and pictures count too.
        let most = KEEP + 10 * 2500;
        assert!(bytes(&all) <= most, "{} bytes after {ten} times ten minutes", bytes(&all));
        assert!(ten < 4 || bytes(&all) > KEEP - 400_000, "{} bytes", bytes(&all));
        is_whole(&sim, &kept).await;
    }
    assert!(sim.store.counted().segments_deleted.get() > 80);
    assert_eq!(sim.store.counted().fragments_dropped.get(), 0);
    let used = sim.store.state().borrow().used_bytes;
    assert!(used <= KEEP + 100_000, "{used}");
    sim.finish().await;
}

/// Such as a full disk leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visits_without_pictures_keep_nothing_from_being_deleted_and_do_not_stay_for_ever() {
    const KEEP: u64 = 2 << 20;
    let dir = in_memory();
    let mut sim = Simulation::start(dir.path(), config(|r| r.keep_bytes = KEEP), CAMERA).await;
    for n in 0..700 {
        let visit = sim.arrive("garden", "dog");
        if n >= 600 {
            sim.portray(&visit, 100_000);
        }
        sim.film(2000).await;
        sim.leave(&visit);
    }
    sim.film(MINUTE).await;
    assert_eq!(sim.store.counted().pictures.get(), 100);
    let (used, left) = (sim.store.state().borrow().used_bytes, visits(&sim).await.len());
    assert!(used <= KEEP + 100_000, "{used} bytes");
    // Those whose pictures are there, and the youngest before them at most.
    assert!((15..60).contains(&left), "{left} visits");
    assert_eq!(walk(&dir.path().join("events")) / 2, (KEEP / 112_500) as usize - 1);
    sim.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hours_of_recording_leave_the_room_the_owner_wants() {
    const FREE: u64 = 8 << 20;
    let Some(disk) = Mount::tmpfs("size=16m") else {
        return skip::skip("cannot mount a tmpfs: not root");
    };
    let mut sim =
        Simulation::start(disk.path(), config(|r| r.keep_free_bytes = FREE), CAMERA).await;
    let kept = ten_minutes(&mut sim).await;
    assert!(sim.store.protect(kept.id.to_string(), true).await.unwrap());
    for _ in 1..12 {
        ten_minutes(&mut sim).await;
        segments(&sim, disk.path()).await;
        assert!(disk.free() >= FREE - (1 << 20), "{} bytes are free", disk.free());
        assert_eq!(sim.store.state().borrow().state, StorageState::Ok);
        is_whole(&sim, &kept).await;
    }
    assert!(sim.store.counted().segments_deleted.get() > 20);
    assert_eq!(sim.store.counted().fragments_dropped.get(), 0);
    sim.finish().await;
}
