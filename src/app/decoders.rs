//! One decoding task a stream: started when a stream appears, forgotten when it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::board::BoardKind;
use crate::config::{self, Config};
use crate::decode::{self, DecoderState, Demand, Fit};
use crate::detect::scheduler::Scheduler;
use crate::media::{Stream, StreamId, Streams};
use crate::snapshots::Snapshots;

pub(super) struct Decoders {
    config: config::Decode,
    board: BoardKind,
    /// For decoders that are opened from now on; one in use keeps to what it was opened for, which is right if not best.
    pub(super) fit: Option<Fit>,
    scheduler: Arc<Scheduler>,
    snapshots: Arc<Snapshots>,
    running: BTreeMap<StreamId, Running>,
    /// Bumped when any decoder's state changes.
    changed: watch::Sender<u64>,
}

struct Running {
    stream: Arc<Stream>,
    task: JoinHandle<()>,
    stop: CancellationToken,
    state: watch::Receiver<DecoderState>,
}

impl Decoders {
    pub(super) fn new(
        config: config::Decode,
        board: BoardKind,
        scheduler: Arc<Scheduler>,
        snapshots: Arc<Snapshots>,
    ) -> Self {
        let changed = watch::Sender::new(0);
        Self { config, board, scheduler, snapshots, fit: None, running: BTreeMap::new(), changed }
    }

    /// Starts what is new and lets go of what is over. A stream that ended and came again under its name is new.
    pub(super) fn follow(&mut self, streams: &Streams, config: &Config) {
        let present = streams.list();
        self.running.retain(|id, running| {
            let stays = present.iter().any(|s| Arc::ptr_eq(s, &running.stream));
            if !stays {
                self.scheduler.detach(id);
            }
            stays
        });
        for stream in present {
            if !self.running.contains_key(&stream.id) {
                let running = self.start(&stream, config);
                self.running.insert(stream.id.clone(), running);
            }
        }
    }

    fn start(&self, stream: &Arc<Stream>, config: &Config) -> Running {
        self.scheduler.attach(stream, rate(config, &stream.id));
        let (state, seen) = watch::channel(DecoderState::default());
        let stop = CancellationToken::new();
        let (scheduler, snapshots) = (Arc::clone(&self.scheduler), Arc::clone(&self.snapshots));
        let wanted = {
            let (scheduler, snapshots) = (Arc::clone(&scheduler), Arc::clone(&snapshots));
            let id = stream.id.clone();
            Box::new(move |now| scheduler.wants(&id) || snapshots.wants(&id, now))
        };
        let demand = Demand { wanted, fit: self.fit.clone() };
        let task = tokio::spawn(decode::run(
            Arc::clone(stream),
            self.config.clone(),
            self.board,
            demand,
            move |frame| {
                snapshots.offer(&frame);
                scheduler.offer(frame);
            },
            state,
            stop.clone(),
        ));
        let (mut watched, changed) = (seen.clone(), self.changed.clone());
        tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                changed.send_modify(|n| *n += 1);
            }
        });
        Running { stream: Arc::clone(stream), task, stop, state: seen }
    }

    /// Takes changed detection rates over.
    pub(super) fn set_rates(&self, config: &Config) {
        for running in self.running.values() {
            self.scheduler.attach(&running.stream, rate(config, &running.stream.id));
        }
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn states(&self) -> Vec<(StreamId, DecoderState)> {
        self.running.iter().map(|(id, r)| (id.clone(), r.state.borrow().clone())).collect()
    }

    /// Waits until every decoder has put out its last picture; the streams must be closed before.
    pub(super) async fn finish(&mut self, within: Duration) {
        let all = std::mem::take(&mut self.running);
        let stops: Vec<_> = all.values().map(|r| r.stop.clone()).collect();
        let ended = async {
            for (_, running) in all {
                let _ = running.task.await;
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("a decoder did not end in time and is left behind");
            stops.iter().for_each(CancellationToken::cancel);
        }
    }
}

fn rate(config: &Config, id: &StreamId) -> Option<f64> {
    let own = config.stream.get(id.as_str());
    let on = own.is_none_or(|s| s.detect);
    on.then(|| own.and_then(|s| s.rate_hz).unwrap_or(config.detect.rate_hz))
}
