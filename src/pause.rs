//! The privacy pause: while it lasts nobody publishes, no camera runs and so nothing is seen or recorded. It knows who
//! asked and since when, and outlives a restart of the service; who may ask is the doors' business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::files;
use crate::media::Streams;

/// The file in the state directory, there while paused.
pub const FILE_NAME: &str = "pause.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pausing {
    Paused,
    Running,
}

/// Whether a pause is still one after the machine was started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterReboot {
    Ends,
    Lasts,
}

/// A pause under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    pub since: SystemTime,
    /// "button", "http", "mqtt".
    pub by: String,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}; it holds until the next start only")]
pub struct NotKept {
    path: PathBuf,
    source: io::Error,
}

/// Holds the pause and everyone to it.
#[derive(Debug)]
pub struct Pause {
    streams: Arc<Streams>,
    file: PathBuf,
    boot: String,
    state: watch::Sender<Option<Paused>>,
    /// One change at a time, so that the file says what is in force.
    changing: Mutex<()>,
}

/// The file's form.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The kernel's name for this run of the machine.
    boot: String,
    since_unix_s: u64,
    by: String,
}

impl Pause {
    /// A pause of before is one again if only the service was started anew: a crash must not open anybody's eyes.
    pub fn open(dir: &Path, streams: Arc<Streams>, after_reboot: AfterReboot) -> Arc<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_in(dir, streams, after_reboot, boot.trim().to_owned())
    }

    fn open_in(
        dir: &Path,
        streams: Arc<Streams>,
        after_reboot: AfterReboot,
        boot: String,
    ) -> Arc<Self> {
        let file = dir.join(FILE_NAME);
        let kept = match fs::read(&file) {
            Ok(text) => match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) => Some(kept),
                // Half written or spoilt: somebody paused, and that is all there is to know.
                Err(_) => Some(Kept { boot: boot.clone(), since_unix_s: 0, by: "unknown".into() }),
            },
            Err(_) => None,
        };
        let lasts = |kept: &Kept| after_reboot == AfterReboot::Lasts || kept.boot == boot;
        let paused = kept.filter(lasts).map(|kept| Paused {
            since: UNIX_EPOCH + Duration::from_secs(kept.since_unix_s),
            by: kept.by,
        });
        match &paused {
            Some(paused) => {
                tracing::warn!(by = paused.by, "still paused: nothing is seen or recorded");
                streams.pause();
            }
            None => {
                let _ = fs::remove_file(&file);
            }
        }
        let state = watch::Sender::new(paused);
        Arc::new(Self { streams, file, boot, state, changing: Mutex::default() })
    }

    /// The pause under way, and a wake-up at its beginning and end.
    pub fn watch(&self) -> watch::Receiver<Option<Paused>> {
        self.state.subscribe()
    }

    /// Begins or ends the pause; nothing happens when it is as asked already. Blocks for a small file's writing.
    ///
    /// # Errors
    /// It is in force all the same.
    pub fn set(&self, to: Pausing, by: &str) -> Result<(), NotKept> {
        let _one = self.changing.lock();
        let paused = self.state.borrow().is_some();
        match to {
            Pausing::Paused if !paused => {
                self.streams.pause();
                let now = Paused { since: SystemTime::now(), by: by.to_owned() };
                tracing::warn!(by, "paused: publishers are refused, cameras and recording stopped");
                let kept = self.keep(&now);
                self.state.send_replace(Some(now));
                kept
            }
            Pausing::Running if paused => {
                // First: if it cannot be removed, the next start is paused, which is the safe mistake.
                let removed = files::remove(&self.file);
                self.streams.resume();
                tracing::warn!(by, "the pause is over");
                self.state.send_replace(None);
                removed.map(drop).map_err(|e| self.not_kept(e))
            }
            _ => Ok(()),
        }
    }

    /// As a button does.
    pub fn toggle(&self, by: &str) -> Result<(), NotKept> {
        let paused = self.state.borrow().is_some();
        self.set(if paused { Pausing::Running } else { Pausing::Paused }, by)
    }

    fn keep(&self, paused: &Paused) -> Result<(), NotKept> {
        let since = paused.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept =
            Kept { boot: self.boot.clone(), since_unix_s: since.as_secs(), by: paused.by.clone() };
        // In its place and not by a draft: a file that is there and empty, for want of room, is a pause too.
        let write = || -> io::Result<()> {
            let file = fs::File::create(&self.file)?;
            serde_json::to_writer(&file, &kept)?;
            file.sync_all()?;
            files::sync_entry(&self.file)
        };
        write().map_err(|e| self.not_kept(e))
    }

    fn not_kept(&self, source: io::Error) -> NotKept {
        let error = NotKept { path: self.file.clone(), source };
        tracing::error!(%error, "the pause is not kept");
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::StreamId;
    use crate::media::stream::{ClaimError, Displaced, StreamLimits, Takeover};

    fn streams() -> Arc<Streams> {
        let grace = Duration::from_secs(30);
        Streams::new(StreamLimits { max_streams: 2, gop_budget_bytes: 1000, grace })
    }

    fn open(dir: &Path, after_reboot: AfterReboot, boot: &str) -> (Arc<Pause>, Arc<Streams>) {
        let streams = streams();
        (Pause::open_in(dir, Arc::clone(&streams), after_reboot, boot.into()), streams)
    }

    #[tokio::test]
    async fn a_pause_ends_streams_at_once_and_refuses_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (pause, streams) = open(dir.path(), AfterReboot::Ends, "b1");
        let id = StreamId::new("cam").unwrap();
        let publication = streams.claim(&id, Takeover::Refused).unwrap();
        let mut reader = publication.stream().ring.cursor();
        pause.set(Pausing::Paused, "test").unwrap();
        assert!(publication.displaced().is_cancelled());
        assert_eq!(publication.why_displaced(), Displaced::Paused);
        assert!(reader.next().await.is_none() && streams.list().is_empty());
        let refused = streams.claim(&id, Takeover::Allowed).unwrap_err();
        assert_eq!(refused, ClaimError::Paused);
        // Glasses give up for good on this word.
        assert!(!refused.to_string().contains("Unauthorized"));
        assert_eq!(pause.watch().borrow().as_ref().unwrap().by, "test");
        drop(publication);
        pause.toggle("test").unwrap();
        assert!(streams.claim(&id, Takeover::Refused).is_ok());
    }

    #[test]
    fn a_pause_outlives_the_service_and_the_machine_only_if_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let paused = |after, boot| open(dir.path(), after, boot).0.watch().borrow().is_some();
        open(dir.path(), AfterReboot::Ends, "b1").0.set(Pausing::Paused, "button").unwrap();
        assert!(paused(AfterReboot::Ends, "b1"));
        assert!(paused(AfterReboot::Lasts, "b2"));
        assert!(!paused(AfterReboot::Ends, "b2"));
        // And then it is over.
        assert!(!paused(AfterReboot::Lasts, "b1"));
        fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert!(paused(AfterReboot::Ends, "b3"));
    }

    #[test]
    fn what_cannot_be_written_holds_all_the_same() {
        let (pause, streams) = open(Path::new("/nowhere/at/all"), AfterReboot::Ends, "b1");
        assert!(pause.set(Pausing::Paused, "test").is_err());
        assert!(streams.is_paused() && pause.watch().borrow().is_some());
    }
}
