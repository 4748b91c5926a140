//! A whole picture of each live stream every so often, for Home Assistant's cameras. Made elsewhere, sent elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Context;
use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::snapshots::{Boxes, Shot};

/// Has pictures of the live streams made for as long as it lives.
pub(super) struct Cameras {
    running: BTreeMap<StreamId, AbortHandle>,
    shots: mpsc::Sender<(StreamId, Arc<Shot>)>,
}

impl Cameras {
    /// None runs yet; the pictures come out at the other end.
    pub(super) fn new() -> (Self, mpsc::Receiver<(StreamId, Arc<Shot>)>) {
        let (shots, seen) = mpsc::channel(2);
        (Self { running: BTreeMap::new(), shots }, seen)
    }

    pub(super) fn follow(&mut self, ctx: &Context, now: &[StreamSummary]) {
        let period = Duration::from_secs(ctx.config.camera_interval_s);
        if period.is_zero() || !ctx.config.home_assistant {
            return;
        }
        self.running.retain(|id, task| {
            let stays = now.iter().any(|s| s.id == *id);
            if !stays {
                task.abort();
            }
            stays
        });
        for stream in now {
            let id = stream.id.clone();
            self.running.entry(id.clone()).or_insert_with(|| {
                let mut watcher = ctx.snapshots.watch(&id, Boxes::Left, period);
                let shots = self.shots.clone();
                let task = tokio::spawn(async move {
                    loop {
                        let shot = watcher.next().await;
                        if shots.send((id.clone(), shot)).await.is_err() {
                            return;
                        }
                    }
                });
                task.abort_handle()
            });
        }
    }
}

impl Drop for Cameras {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}
