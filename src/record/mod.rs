//! Recording: each stream's units become files of fragmented MP4, all of them or those around visits. Here is the task a
//! stream; what it decides is in the pure files below, and what it writes goes through the store's thread.

pub mod cutter; // units -> fragments
pub mod export; // a time range as one MP4
pub mod files; // the files on the disk
pub mod retention; // what must go
mod roll; // which fragments are written
mod scan; // a file's own structure

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, RecordMode};
use crate::media::ring::Read;
use crate::media::{Stream, StreamId, Streams};
use crate::store::{Store, mode};
use crate::track::Event;
use cutter::Cutter;
use roll::{Order, Roll, Wish};

/// What recording needs.
#[derive(Debug, Clone)]
pub struct Context {
    pub streams: Arc<Streams>,
    pub events: broadcast::Sender<Arc<Event>>,
    pub store: Arc<Store>,
    pub settings: watch::Receiver<Arc<Config>>,
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last visits may take to be told of after their stream's end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Records every stream until `stop`, before which every stream must have ended, and waits for their last files.
pub async fn run(ctx: Context, stop: CancellationToken) {
    let mut seen = ctx.streams.watch();
    let mut running: BTreeMap<StreamId, (Arc<Stream>, JoinHandle<()>)> = BTreeMap::new();
    // A stream's task that panicked is started anew with the next look.
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        running.retain(|_, (_, task)| !task.is_finished());
        for stream in ctx.streams.list() {
            let known = running.get(&stream.id).is_some_and(|(s, _)| Arc::ptr_eq(s, &stream));
            if !known {
                let task = tokio::spawn(record(ctx.clone(), Arc::clone(&stream), stop.clone()));
                // The task of an earlier stream of this name ends with that one.
                running.insert(stream.id.clone(), (stream, task));
            }
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { break },
            _ = look.tick() => {}
            () = stop.cancelled() => break,
        }
    }
    for (_, task) in running.into_values() {
        let _ = task.await;
    }
}

/// One stream, from its beginning to its end.
async fn record(ctx: Context, stream: Arc<Stream>, stop: CancellationToken) {
    let Context { events, store, mut settings, .. } = ctx;
    let mut events = events.subscribe();
    let mut units = stream.ring.cursor_at_oldest();
    let (mut cutter, mut roll) = (Cutter::default(), Roll::default());
    let mut wish = Wish::of(&settings.borrow_and_update(), &stream.id);
    let carry_out = |roll: &mut Roll, orders: Vec<Order>, wish: &Wish| {
        for order in orders {
            match order {
                Order::End => store.end(&stream.id),
                Order::Write { fragment, fresh } => {
                    let continuous = wish.mode == RecordMode::Continuous;
                    if !store.fragment(&stream.id, fragment, fresh, continuous) {
                        roll.lost();
                    }
                }
            }
        }
    };
    loop {
        let orders = tokio::select! {
            read = units.next() => match read {
                // Nobody wants it: making fragments would be work for nothing.
                Some(Read::Unit(_)) if wish.mode == RecordMode::Off => continue,
                Some(Read::Unit(unit)) => {
                    let done = cutter.push(unit);
                    done.map(|fragment| roll.fragment(fragment, &wish)).unwrap_or_default()
                }
                Some(Read::Lagged { skipped }) => {
                    tracing::debug!(stream = %stream.id, skipped, "the recorder was overtaken");
                    store.counted().recordings_lagged.inc();
                    let done = cutter.skip();
                    done.map(|fragment| roll.fragment(fragment, &wish)).unwrap_or_default()
                }
                None => break,
            },
            event = events.recv() => match event {
                Ok(event) if event.after.stream == stream.id => roll.event(&event, &wish),
                Ok(_) => continue,
                Err(RecvError::Lagged(n)) => {
                    store.counted().recordings_events_missed.add(n);
                    roll.missed_events();
                    continue;
                }
                Err(RecvError::Closed) => break,
            },
            Ok(()) = settings.changed() => {
                wish = Wish::of(&settings.borrow_and_update(), &stream.id);
                match wish.mode {
                    // What comes in until it is on again leaves a gap.
                    RecordMode::Off => {
                        cutter.skip();
                        roll.off()
                    }
                    RecordMode::Events | RecordMode::Continuous => continue,
                }
            }
        };
        carry_out(&mut roll, orders, &wish);
    }
    let rest = cutter.skip().map(|fragment| roll.fragment(fragment, &wish)).unwrap_or_default();
    carry_out(&mut roll, rest, &wish);
    // A visit that the detector had yet to see when the stream ended.
    let late = async {
        while let Ok(event) = events.recv().await {
            if event.after.stream == stream.id {
                let orders = roll.event(&event, &wish);
                carry_out(&mut roll, orders, &wish);
            }
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, stop.run_until_cancelled(late)).await;
    store.end(&stream.id);
}

impl Wish {
    fn of(config: &Config, stream: &StreamId) -> Self {
        let record = &config.record;
        let s = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
        Self {
            mode: mode(config, stream),
            before: s(record.before_s),
            after: s(record.after_s),
            // From an animal's first sight to the word of it, with the detector's delay.
            late: s(config.events.within_s + 2.0),
            segment: s(record.segment_s),
        }
    }
}
