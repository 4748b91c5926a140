//! Events on their way to a broker: in order, bounded, until it acknowledged them. The truth is in memory; what waits
//! for longer is also on disk, written in batches, so that a node without power goes on where it stopped.
//!
//! With the broker there an event is acknowledged within milliseconds and never touches the disk, which spares SD cards.
//! What is not acknowledged is written by the next tick while the broker is away, and after [`GRACE`] while it is slow:
//! a power cut loses at most what came in that time.

mod disk;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use super::Counters;
use disk::{Disk, DiskError};

/// How long an event may wait for its acknowledgement before it is written.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often is looked what must be written; everything of that time is one transaction.
pub const TICK: Duration = Duration::from_secs(1);

/// The first number of a run that could not open its file; there is room for all numbers of earlier ones below it.
const LATE: u64 = 1 << 48;

/// How much may wait; over it the oldest goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub events: usize,
    pub bytes: usize,
}

/// One event's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Grows with each message and names it here; never used again.
    pub number: u64,
    /// The stable `message_id` for subscribers.
    pub id: Arc<str>,
    pub payload: Bytes,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    since: Instant,
    on_disk: bool,
    /// The disk has it in an earlier form.
    stale: bool,
}

/// Events that wait.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    place: Mutex<Place>,
    /// Whether it is to outlive the process.
    lasting: bool,
    writing: AtomicBool,
    limits: Limits,
    /// The first number of this run.
    own: u64,
    counters: Arc<Counters>,
    /// Something was added or acknowledged.
    pub changed: Notify,
}

/// Where the outbox outlives the process.
#[derive(Debug)]
enum Place {
    /// Nowhere.
    Memory,
    /// In this file, which could not be opened yet.
    Shut(PathBuf),
    Open(Disk),
}

/// How far a connection has been given what waits: of this run, and of those before it, which may turn up later.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    earlier: Option<u64>,
    own: Option<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    next: u64,
    /// On disk and no longer wanted there.
    gone: Vec<u64>,
    error: Option<String>,
}

/// How the outbox stands, for the statistics.
#[derive(Debug, Clone, Serialize)]
pub struct OutboxState {
    pub waiting: usize,
    pub waiting_bytes: usize,
    pub on_disk: usize,
    /// 1 while the disk takes nothing.
    pub disk_failing: u8,
}

/// What one writing does.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    add: Vec<Message>,
    remove: Vec<u64>,
}

impl Outbox {
    /// An outbox that does not outlive the process.
    pub fn in_memory(limits: Limits, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self::new(Queue::default(), Place::Memory, limits, counters))
    }

    /// Takes up what waits in `file`. A file that is damaged or a newer version's is set aside; one that cannot be had now
    /// is left alone and tried again with each writing. Both are said loudly.
    pub fn open(file: &Path, limits: Limits, counters: Arc<Counters>) -> Arc<Self> {
        let mut queue = Queue::default();
        let place = match Disk::open(file) {
            Ok((disk, messages)) => {
                queue.next = messages.last().map_or(0, |m| m.number + 1);
                queue.take_up(messages);
                queue.bound(limits, &counters);
                Place::Open(disk)
            }
            Err(error) => {
                // Whatever turns up in the file goes before what comes now.
                queue.next = LATE;
                queue.failed(&error, &counters);
                Place::Shut(file.into())
            }
        };
        Arc::new(Self::new(queue, place, limits, counters))
    }

    fn new(queue: Queue, place: Place, limits: Limits, counters: Arc<Counters>) -> Self {
        Self {
            own: queue.next,
            queue: Mutex::new(queue),
            lasting: !matches!(place, Place::Memory),
            place: Mutex::new(place),
            writing: AtomicBool::new(false),
            limits,
            counters,
            changed: Notify::new(),
        }
    }

    /// Adds an event's message at the end.
    pub fn push(&self, id: Arc<str>, payload: Bytes) {
        let mut queue = self.queue.lock();
        let number = queue.next;
        queue.next += 1;
        queue.bytes += payload.len();
        let message = Message { number, id, payload };
        let since = Instant::now();
        queue.entries.push_back(Entry { message, since, on_disk: false, stale: false });
        queue.bound(self.limits, &self.counters);
        drop(queue);
        self.changed.notify_one();
    }

    /// Gives what waits since this run began a new form, where there is one.
    pub fn rewrite(&self, form: impl Fn(&Bytes) -> Option<Bytes>) {
        let mut queue = self.queue.lock();
        let Queue { entries, bytes, .. } = &mut *queue;
        for entry in entries.iter_mut().filter(|e| e.message.number >= self.own) {
            let Some(new) = form(&entry.message.payload) else { continue };
            *bytes = *bytes + new.len() - entry.message.payload.len();
            entry.message.payload = new;
            entry.stale = entry.on_disk;
        }
    }

    /// The first message that was not given yet.
    pub fn next(&self, given: Given) -> Option<Message> {
        let queue = self.queue.lock();
        // Numbers grow, so this is where it stands.
        let after = |n: Option<u64>| {
            n.map_or(0, |n| queue.entries.partition_point(|e| e.message.number <= n))
        };
        let earlier = queue.entries.get(after(given.earlier));
        let own = || queue.entries.get(after(given.own.or(self.own.checked_sub(1))));
        let entry = earlier.filter(|e| e.message.number < self.own).or_else(own);
        entry.map(|e| e.message.clone())
    }

    /// The first of all that waits, if a connection has it.
    pub fn first_given(&self, given: Given) -> Option<Message> {
        let first = self.queue.lock().entries.front()?.message.clone();
        let at = if first.number < self.own { given.earlier } else { given.own };
        at.is_some_and(|n| n >= first.number).then_some(first)
    }

    /// Notes that a connection has this one.
    pub fn give(&self, given: &mut Given, number: u64) {
        let at = if number < self.own { &mut given.earlier } else { &mut given.own };
        *at = (*at).max(Some(number));
    }

    /// The broker has it.
    pub fn acknowledged(&self, number: u64) {
        let mut queue = self.queue.lock();
        if let Ok(at) = queue.entries.binary_search_by_key(&number, |e| e.message.number) {
            self.counters.events_published.inc();
            queue.remove(at);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The broker will never take it.
    pub fn let_go(&self, number: u64) {
        let mut queue = self.queue.lock();
        if let Ok(at) = queue.entries.binary_search_by_key(&number, |e| e.message.number) {
            queue.remove(at);
        }
        drop(queue);
        self.changed.notify_one();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().entries.is_empty()
    }

    pub fn state(&self) -> OutboxState {
        let queue = self.queue.lock();
        OutboxState {
            waiting: queue.entries.len(),
            waiting_bytes: queue.bytes,
            on_disk: queue.entries.iter().filter(|e| e.on_disk).count(),
            disk_failing: u8::from(queue.error.is_some()),
        }
    }

    /// Brings the disk up to date in the background if something is due; `older` is how old an event must be to be written.
    pub fn tick(self: &Arc<Self>, older: Duration) {
        if self.lasting && !self.writing.swap(true, Ordering::AcqRel) {
            let outbox = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                outbox.write(older);
                outbox.writing.store(false, Ordering::Release);
            });
        }
    }

    /// Brings the disk up to date. Blocks for as long as the disk takes.
    pub fn write(&self, older: Duration) {
        let mut place = self.place.lock();
        if let Place::Shut(file) = &*place {
            match Disk::open_late(file, self.own) {
                Ok((disk, messages)) => {
                    *place = Place::Open(disk);
                    let mut queue = self.queue.lock();
                    queue.works();
                    queue.take_up(messages);
                    queue.bound(self.limits, &self.counters);
                    drop(queue);
                    self.changed.notify_one();
                }
                Err(error) => return self.queue.lock().failed(&error, &self.counters),
            }
        }
        let Place::Open(disk) = &mut *place else { return };
        let batch = self.queue.lock().due(Instant::now(), older);
        if batch == Batch::default() {
            return;
        }
        let written = disk.apply(&batch.add, &batch.remove);
        let mut queue = self.queue.lock();
        match written {
            Ok(()) => {
                queue.works();
                queue.written(&batch);
            }
            Err(error) => {
                queue.gone.extend(batch.remove);
                queue.failed(&error, &self.counters);
            }
        }
    }
}

impl Serialize for Outbox {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.state().serialize(s)
    }
}

impl Queue {
    /// What the disk had waits before all others.
    fn take_up(&mut self, messages: Vec<Message>) {
        if !messages.is_empty() {
            tracing::info!(events = messages.len(), "events of before wait for the broker");
        }
        let since = Instant::now();
        for message in messages.into_iter().rev() {
            self.bytes += message.payload.len();
            self.entries.push_front(Entry { message, since, on_disk: true, stale: false });
        }
    }

    fn works(&mut self) {
        if self.error.take().is_some() {
            tracing::info!("the outbox is on disk again");
        }
    }

    fn failed(&mut self, error: &DiskError, counters: &Counters) {
        counters.outbox_failures.inc();
        let said = error.to_string();
        if self.error.as_ref() != Some(&said) {
            tracing::error!(
                error = said,
                remedy = error.remedy(),
                "the outbox cannot be had on disk; tried again, and until then events that wait are lost with the power"
            );
            self.error = Some(said);
        }
    }

    fn bound(&mut self, limits: Limits, counters: &Counters) {
        while self.entries.len() > limits.events || self.bytes > limits.bytes {
            counters.events_dropped.inc();
            self.remove(0);
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.remove(at) else { return };
        self.bytes -= entry.message.payload.len();
        if entry.on_disk {
            self.gone.push(entry.message.number);
        }
    }

    fn due(&mut self, now: Instant, older: Duration) -> Batch {
        let is_due =
            |e: &&Entry| e.stale || !e.on_disk && now.saturating_duration_since(e.since) >= older;
        let add = self.entries.iter().filter(is_due).map(|e| e.message.clone()).collect();
        Batch { add, remove: std::mem::take(&mut self.gone) }
    }

    fn written(&mut self, batch: &Batch) {
        for message in &batch.add {
            match self.entries.binary_search_by_key(&message.number, |e| e.message.number) {
                Ok(at) => {
                    let entry = &mut self.entries[at];
                    entry.on_disk = true;
                    // It may have been given a new form while it was written.
                    entry.stale = entry.message.payload != message.payload;
                }
                // Acknowledged while it was written.
                Err(_) => self.gone.push(message.number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Limits = Limits { events: 100, bytes: 10_000 };

    fn waiting(outbox: &Outbox) -> Vec<String> {
        let mut all = Vec::new();
        let mut given = Given::default();
        while let Some(m) = outbox.next(given) {
            outbox.give(&mut given, m.number);
            all.push(m.id.to_string());
        }
        all
    }

    fn push(outbox: &Outbox, ids: &[&str]) {
        ids.iter().for_each(|id| outbox.push((*id).into(), Bytes::from(format!("<{id}>"))));
    }

    #[test]
    fn what_waits_is_there_again_after_a_crash_and_what_was_acknowledged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outbox.db");
        let counters = Arc::<Counters>::default();
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        push(&outbox, &["a", "b", "c"]);
        outbox.write(GRACE);
        assert_eq!(outbox.state().on_disk, 0, "nothing is written before its time");
        outbox.write(Duration::ZERO);
        push(&outbox, &["d"]);
        outbox.acknowledged(1);
        outbox.acknowledged(1);
        outbox.write(Duration::ZERO);
        assert_eq!((outbox.state().waiting, outbox.state().on_disk), (3, 3));
        // The files as a power cut leaves them.
        let later = dir.path().join("later.db");
        for end in ["", "-wal"] {
            let name = |file: &Path| format!("{}{end}", file.display());
            std::fs::copy(name(&file), name(&later)).unwrap();
        }
        let again = Outbox::open(&later, ROOM, Arc::clone(&counters));
        assert_eq!(waiting(&again), ["a", "c", "d"]);
        assert_eq!(again.next(Given::default()).unwrap().payload, "<a>");
        push(&again, &["e"]);
        assert_eq!(waiting(&again), ["a", "c", "d", "e"]);
        assert_eq!(counters.events_published.get(), 1);
    }

    #[test]
    fn what_waits_can_be_rewritten_but_not_an_earlier_run_s() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outbox.db");
        let counters = Arc::<Counters>::default();
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        push(&outbox, &["a"]);
        outbox.write(Duration::ZERO);
        drop(outbox);
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        push(&outbox, &["b", "c"]);
        outbox.write(Duration::ZERO);
        outbox.rewrite(|old| (old != "<c>").then(|| Bytes::from_static(b"mended")));
        assert_eq!(outbox.state().waiting_bytes, 3 + 6 + 3);
        outbox.write(GRACE);
        drop(outbox);
        let again = Outbox::open(&file, ROOM, counters);
        let mut given = Given::default();
        let mut payload = || {
            let m = again.next(given).unwrap();
            again.give(&mut given, m.number);
            m.payload
        };
        assert_eq!([payload(), payload(), payload()], ["<a>", "mended", "<c>"]);
        // Acknowledged before its new form was written, it is gone all the same.
        again.acknowledged(1);
        again.write(Duration::ZERO);
        assert_eq!(waiting(&again), ["a", "c"]);
    }

    #[test]
    fn the_oldest_makes_room_and_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outbox.db");
        let counters = Arc::<Counters>::default();
        let few = Limits { events: 2, bytes: 1000 };
        let outbox = Outbox::open(&file, few, Arc::clone(&counters));
        push(&outbox, &["a", "b", "c"]);
        outbox.write(Duration::ZERO);
        push(&outbox, &["d"]);
        outbox.write(Duration::ZERO);
        assert_eq!(waiting(&outbox), ["c", "d"]);
        assert_eq!(counters.events_dropped.get(), 2);
        drop(outbox);
        let bytes = Limits { events: 9, bytes: 3 };
        let again = Outbox::open(&file, bytes, Arc::clone(&counters));
        assert_eq!(waiting(&again), ["d"]);
        // It is larger than all the room there is.
        push(&again, &["large"]);
        assert_eq!(waiting(&again), [""; 0]);
        assert_eq!(again.state().waiting_bytes, 0);
    }

    #[test]
    fn a_damaged_or_newer_file_is_set_aside_and_a_missing_directory_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outbox.db");
        let counters = Arc::<Counters>::default();
        std::fs::write(&file, [7; 5000]).unwrap();
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        push(&outbox, &["a"]);
        outbox.write(Duration::ZERO);
        drop(outbox);
        rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        assert_eq!(waiting(&outbox), [""; 0]);
        let aside = std::fs::read_dir(dir.path()).unwrap().filter(|e| {
            e.as_ref().unwrap().file_name().to_string_lossy().starts_with("outbox.db.aside")
        });
        assert_eq!(aside.count(), 2);
        drop(outbox);
        let nowhere = dir.path().join("no/such/outbox.db");
        let outbox = Outbox::open(&nowhere, ROOM, counters.clone());
        push(&outbox, &["a"]);
        outbox.write(Duration::ZERO);
        assert_eq!((waiting(&outbox), outbox.state().disk_failing), (vec!["a".to_owned()], 1));
        assert_eq!(counters.outbox_failures.get(), 2);
        std::fs::create_dir_all(nowhere.parent().unwrap()).unwrap();
        outbox.write(Duration::ZERO);
        assert_eq!((outbox.state().on_disk, outbox.state().disk_failing), (1, 0));
    }

    #[test]
    fn a_file_that_cannot_be_had_at_first_is_taken_up_later_in_front_of_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outbox.db");
        let counters = Arc::<Counters>::default();
        let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
        push(&outbox, &["a", "b"]);
        outbox.write(Duration::ZERO);
        drop(outbox);
        // The second time round what is in the file has the numbers of a run that came late.
        for (here, all) in [("c", "abc"), ("d", "abcd"), ("e", "abcde")] {
            let other = rusqlite::Connection::open(&file).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            let outbox = Outbox::open(&file, ROOM, Arc::clone(&counters));
            push(&outbox, &[here]);
            let mut given = Given::default();
            let first = outbox.next(given).unwrap();
            outbox.give(&mut given, first.number);
            outbox.write(Duration::ZERO);
            assert_eq!((waiting(&outbox), outbox.state().disk_failing), (vec![here.into()], 1));
            drop(other);
            outbox.write(Duration::ZERO);
            assert_eq!((waiting(&outbox).concat().as_str(), outbox.state().disk_failing), (all, 0));
            assert_eq!(outbox.state().on_disk, all.len());
            // Who was given the new one is given the old ones now.
            assert_eq!(&*outbox.next(given).unwrap().id, "a");
            outbox.write(Duration::ZERO);
        }
        let again = Outbox::open(&file, ROOM, counters);
        assert_eq!(waiting(&again).concat(), "abcde");
        assert_eq!(
            std::fs::read_dir(dir.path())
                .unwrap()
                .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().contains("aside") })
                .count(),
            0
        );
    }
}
