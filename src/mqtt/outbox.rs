//! Events on their way to a broker: in order, bounded, until it acknowledged them. The truth is in memory; what waits
//! for longer is also on disk, written in batches, so that a node without power goes on where it stopped.
//!
//! With the broker there an event is acknowledged within milliseconds and never touches the disk, which spares SD cards.
//! What is not acknowledged is written by the next tick while the broker is away, and after [`GRACE`] while it is slow:
//! a power cut loses at most what came in that time.

mod disk;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use super::Counters;
use disk::Disk;

/// How long an event may wait for its acknowledgement before it is written.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often is looked what must be written; everything of that time is one transaction.
pub const TICK: Duration = Duration::from_secs(1);

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
    disk: Mutex<Option<Disk>>,
    /// Whether there is a disk to write to at all.
    lasting: bool,
    writing: AtomicBool,
    limits: Limits,
    /// The first number of this run.
    own: u64,
    counters: Arc<Counters>,
    /// Something was added or acknowledged.
    pub changed: Notify,
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
        Arc::new(Self::new(Queue::default(), None, limits, counters))
    }

    /// Takes up what waits in `file`. A file that is damaged or a newer version's is set aside, one that cannot be had at
    /// all leaves an outbox in memory; both are said loudly.
    pub fn open(file: &Path, limits: Limits, counters: Arc<Counters>) -> Arc<Self> {
        let (disk, messages) = match Disk::open(file) {
            Ok((disk, messages)) => (Some(disk), messages),
            Err(error) => {
                counters.outbox_failures.inc();
                tracing::error!(file = %file.display(), %error, "there is no outbox on disk: events that wait for the broker are lost with the power");
                (None, Vec::new())
            }
        };
        if !messages.is_empty() {
            tracing::info!(events = messages.len(), "events of before wait for the broker");
        }
        let mut queue = Queue::default();
        let since = Instant::now();
        for message in messages {
            queue.next = message.number + 1;
            queue.bytes += message.payload.len();
            queue.entries.push_back(Entry { message, since, on_disk: true, stale: false });
        }
        queue.bound(limits, &counters);
        Arc::new(Self::new(queue, disk, limits, counters))
    }

    fn new(queue: Queue, disk: Option<Disk>, limits: Limits, counters: Arc<Counters>) -> Self {
        Self {
            own: queue.next,
            queue: Mutex::new(queue),
            lasting: disk.is_some(),
            disk: Mutex::new(disk),
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

    /// The first message behind `after`, or the first of all.
    pub fn next(&self, after: Option<u64>) -> Option<Message> {
        let queue = self.queue.lock();
        // Numbers grow, so this is where it stands.
        let at = after.map_or(0, |n| queue.entries.partition_point(|e| e.message.number <= n));
        queue.entries.get(at).map(|e| e.message.clone())
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
        let mut disk = self.disk.lock();
        let Some(disk) = disk.as_mut() else { return };
        let batch = self.queue.lock().due(Instant::now(), older);
        if batch == Batch::default() {
            return;
        }
        let written = disk.apply(&batch.add, &batch.remove);
        let mut queue = self.queue.lock();
        match written {
            Ok(()) => {
                if queue.error.take().is_some() {
                    tracing::info!("the outbox is on disk again");
                }
                queue.written(&batch);
            }
            Err(error) => {
                self.counters.outbox_failures.inc();
                queue.gone.extend(batch.remove);
                let error = error.to_string();
                if queue.error.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "the outbox cannot be written: make room on the disk; until then events that wait are lost with the power"
                    );
                    queue.error = Some(error);
                }
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
        let mut after = None;
        while let Some(m) = outbox.next(after) {
            after = Some(m.number);
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
        // No goodbye to the file.
        std::mem::forget(outbox);
        let again = Outbox::open(&file, ROOM, Arc::clone(&counters));
        assert_eq!(waiting(&again), ["a", "c", "d"]);
        assert_eq!(again.next(None).unwrap().payload, "<a>");
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
        let payload = |after| again.next(after).unwrap().payload;
        assert_eq!([payload(None), payload(Some(0)), payload(Some(1))], ["<a>", "mended", "<c>"]);
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
        let nowhere = Outbox::open(&dir.path().join("no/such/outbox.db"), ROOM, counters.clone());
        push(&nowhere, &["a"]);
        nowhere.write(Duration::ZERO);
        assert_eq!(waiting(&nowhere), ["a"]);
        assert_eq!(counters.outbox_failures.get(), 1);
    }
}
