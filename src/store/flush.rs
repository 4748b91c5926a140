//! Has files flushed to the disk itself, on a thread of its own, "flush": a busy card takes seconds for that, in which visits
//! must still be written. What is in the files is not its business.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use parking_lot::Mutex;

use crate::health::Counter;

/// Files that wait. More are left to the system, which flushes within half a minute by itself.
const WAITING: usize = 16;

#[derive(Debug)]
pub(crate) struct Flusher {
    queue: SyncSender<File>,
    failed: Arc<Mutex<Option<io::Error>>>,
    pub(crate) skipped: Counter,
}

impl Flusher {
    /// Starts the thread, which ends with the last owner.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let (queue, files) = sync_channel::<File>(WAITING);
        let failed = Arc::<Mutex<Option<io::Error>>>::default();
        let noted = Arc::clone(&failed);
        std::thread::Builder::new().name("flush".into()).spawn(move || {
            for file in files {
                if let Err(error) = file.sync_data() {
                    *noted.lock() = Some(error);
                }
            }
        })?;
        Ok(Arc::new(Self { queue, failed, skipped: Counter::default() }))
    }

    /// What is written to the file so far will be on the disk soon.
    pub(crate) fn flush(&self, file: File) {
        if self.queue.try_send(file).is_err() {
            self.skipped.inc();
        }
    }

    /// Why the last one that failed did.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.failed.lock().take()
    }
}
