//! The exit to MQTT: our client to the configured broker, to the one we bring along, or to both.
//!
//! | topic under `<base>/<node>/` | payload | retained |
//! |---|---|---|
//! | `available` | `online`, `offline`; `offline` is also the last will | yes |
//! | `instance` | which run of the node this is, by which two of one name are noticed | yes |
//! | `status` | [`wire::NodeStatus`] | yes |
//! | `stats` | [`wire::NodeStats`], every `mqtt.stats_interval_s` | no |
//! | `update` | `{"installed_version":..,"latest_version":..,"in_progress":false,"update_percentage":null}` | yes |
//! | `update/set` | the command `install`: the newest version that is known of | not obeyed if so |
//! | `events` | [`wire::event`], QoS 1, each once and in order, see [`outbox`] | no |
//! | `<stream>/detections` | the detections message, QoS 0 | no |
//! | `<stream>/status` | `online` while the stream exists, a pause within the reconnect grace included; `offline` | yes |
//! | `<stream>/<label>` | how many are in view | yes |
//! | `<stream>/<label>/snapshot` | JPEG of the best one, cut out | yes |
//! | `<stream>/snapshot` | JPEG, every `mqtt.camera_interval_s` | yes |
//! | `<stream>/{detect,recordings}/state`, `.../threshold/state` | `ON`, `OFF`; a number | yes |
//! | `<stream>/recordings/mode` | `off`, `events`, `continuous` | yes |
//! | `pause/state` | `ON` while the privacy pause lasts, `OFF` | yes |
//! | `pause/set` | command: `ON`, `OFF` | not obeyed if so |
//! | `<stream>/{detect,recordings,threshold}/set` | commands: `ON`, `OFF`, for recordings also a mode; a number | not obeyed if so |
//!
//! And `<discovery prefix>/device/<node>/config` for Home Assistant, retained. A label's characters that a topic cannot
//! hold are `_` there. At the embedded broker it takes the right to administer to publish anything, commands too.

pub mod broker;
mod cameras; // pictures for Home Assistant
mod care; // after what ended a connection
mod carrier; // the client library, version 4 or 5
mod causes; // lines about them, not too many
mod client; // one connection after the other
mod command; // what others tell us, read
mod complaints; // what is wrong at a broker
mod handover; // the way of events
mod homeassistant; // the discovery message
mod ledger; // what became of what was asked for
mod link; // how a broker is reached
mod mend; // times of before the clock was set
mod obey; // what is done at a word from others
pub mod outbox; // events until they are acknowledged
mod poll; // what drives a connection
mod report; // how a connection stands
mod voice; // what is retained of us
mod words; // what others tell us, on its way

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::Guard;
use crate::config;
use crate::control::Control;
use crate::health::Counter;
use crate::media::{StreamId, Streams};
use crate::pause::Pause;
use crate::snapshots::Snapshots;
use crate::store::clock::Clock;
use crate::tls::{TlsDoor, TlsError};
use crate::track::{Counts, Event, Visit};
use crate::update::Desk;
use crate::wire::{Encoded, Kept, LinkState, NodeStats, NodeStatus};
use client::Side;
use outbox::Outbox;

pub use broker::Public;
pub use link::LinkError;
pub(crate) use link::SYSTEM_CERTIFICATES;

/// The confirmed animals in view, by stream.
type AllCounts = BTreeMap<StreamId, Counts>;

/// All this exit needs; cheap to clone, so that a restart begins with the same ends.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<str>,
    pub config: config::Mqtt,
    /// Judges the embedded broker's clients.
    pub guard: Arc<Guard>,
    pub detections: broadcast::Sender<Arc<Encoded>>,
    pub events: broadcast::Sender<Arc<Event>>,
    pub counts: watch::Receiver<BTreeMap<StreamId, Counts>>,
    /// By which times of events are marked and mended.
    pub clock: watch::Receiver<Clock>,
    pub snapshots: Arc<Snapshots>,
    /// What is switched, and who obeys.
    pub control: Arc<Control>,
    pub pause: Arc<Pause>,
    /// What is kept of a visit.
    pub kept: Arc<dyn Fn(&Visit) -> Kept + Send + Sync>,
    /// For the configured broker, or the embedded one where there is no other.
    pub outbox: Arc<Outbox>,
    pub streams: Arc<Streams>,
    /// Where an update is asked for.
    pub update: Arc<Desk>,
    /// `None` until the program knows itself.
    pub status: watch::Receiver<Option<Arc<NodeStatus>>>,
    /// Asked once an interval.
    pub stats: Arc<dyn Fn() -> NodeStats + Send + Sync>,
    pub counters: Arc<Counters>,
    /// Of the second client, which serves the embedded broker beside the configured one.
    pub embedded_counters: Arc<Counters>,
    pub broker_counters: Arc<broker::Counters>,
    /// How the connection to the broker stands, for status and probe.
    pub link: Arc<watch::Sender<LinkState>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What the client counted.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub connects: Counter,
    /// Connections lost, and attempts that failed.
    pub failures: Counter,
    /// Detections handed to the connection.
    pub published: Counter,
    /// Detections of a time without a broker.
    pub dropped_offline: Counter,
    /// Detections lost because the broker took them too slowly.
    pub dropped_slow: Counter,
    /// Events that the broker acknowledged.
    pub events_published: Counter,
    /// Events it refused (MQTT 5): they are let go.
    pub events_refused: Counter,
    /// Retained messages it refused (MQTT 5).
    pub refused: Counter,
    /// Events that the full outbox let go, the oldest first.
    pub events_dropped: Counter,
    /// Events that came faster than they could be taken.
    pub events_missed: Counter,
    /// Times the outbox could not be read or written on disk.
    pub outbox_failures: Counter,
    pub pictures_published: Counter,
    /// Pictures the connection had no room for, and those that were too long.
    pub pictures_dropped: Counter,
    /// Messages of all kinds that are longer than `max_packet_bytes`, or than the broker takes, and were let go.
    pub dropped_large: Counter,
    pub commands: Counter,
    /// Commands that could not be understood or obeyed.
    pub bad_commands: Counter,
    /// Commands that a newer one to the same topic overtook, or that came too fast.
    pub commands_dropped: Counter,
}

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("cannot listen on {address} for mqtt: {source}; stop what uses it, or set mqtt.listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "no mqtt with TLS on {address}: {source}; mend that, or leave mqtt.tls.certificate and key empty"
    )]
    Tls { address: SocketAddr, source: TlsError },
    #[error("the embedded broker cannot have its own door on loopback: {0}")]
    OwnDoor(io::Error),
}

/// Opens the embedded broker's doors; `None` when there are none to open.
pub async fn listen(config: &config::Mqtt) -> Result<Option<Public>, MqttError> {
    if !config.enabled || !has_embedded(config) {
        return Ok(None);
    }
    let address = config.listen;
    let plain = TcpListener::bind(address).await;
    let plain = plain.map_err(|source| MqttError::Listen { address, source })?;
    let tls = config.tls.as_tls();
    let tls = match tls.is_on() {
        false => None,
        true => {
            let address = tls.listen;
            let door = TlsDoor::bind("mqtt.tls", &tls).await;
            Some(door.map_err(|source| MqttError::Tls { address, source })?)
        }
    };
    Ok(Some(Public { plain, tls }))
}

/// Whether our own broker runs.
pub fn has_embedded(config: &config::Mqtt) -> bool {
    config.broker.is_empty() || config.embedded
}

/// The configured broker as it may be shown, `host:port`; empty where there is none, or none that can be read.
pub fn shown_broker(config: &config::Mqtt) -> String {
    link::Endpoint::parse(&config.broker).map_or_else(|_| String::new(), |e| e.to_string())
}

/// What is wrong with the configured broker, by key; see [`config::Config::validate`].
pub(crate) fn faults(config: &config::Mqtt) -> Vec<(&'static str, String)> {
    link::faults(config)
}

/// Whether two clients run: one for the configured broker, one for our own.
pub fn has_both(config: &config::Mqtt) -> bool {
    config.enabled && config.embedded && !config.broker.is_empty()
}

/// Publishes until `shutdown`, then says goodbye. `public` is the embedded broker's door, if it has one: without it
/// the broker still serves this machine's detections to nobody, and the client waits for no one.
pub async fn run(
    ctx: Context,
    public: Option<Arc<Public>>,
    shutdown: CancellationToken,
) -> Result<(), MqttError> {
    if !ctx.config.enabled {
        ctx.link.send_replace(LinkState::Disabled);
        return Ok(());
    }
    let first = |own| Side {
        own,
        outbox: Arc::clone(&ctx.outbox),
        counters: Arc::clone(&ctx.counters),
        link: Arc::clone(&ctx.link),
        complaints: Arc::default(),
    };
    if !has_embedded(&ctx.config) {
        client::run(&ctx, &first(None), &shutdown).await;
        return Ok(());
    }
    let counters = Arc::clone(&ctx.broker_counters);
    let broker = broker::Broker::new(&ctx.config, Arc::clone(&ctx.guard), counters)
        .await
        .map_err(MqttError::OwnDoor)?;
    let own = broker.own_address().map_err(MqttError::OwnDoor)?;
    // The broker outlives the client, whose last words it must carry.
    let stop = CancellationToken::new();
    let serving = tokio::spawn(broker.run(public, stop.clone()));
    let _stop_on_drop = stop.clone().drop_guard();
    if ctx.config.broker.is_empty() {
        client::run(&ctx, &first(Some(own)), &shutdown).await;
    } else {
        // The same to both, so that those around have it while the broker far away cannot be reached. What is told of
        // the connection is told of that one.
        let counters = Arc::clone(&ctx.embedded_counters);
        let outbox = Outbox::in_memory(limits(&ctx.config), Arc::clone(&counters));
        let link = Arc::new(watch::Sender::new(LinkState::Disabled));
        let complaints = Arc::default();
        let beside = Side { own: Some(own), outbox, counters, link, complaints };
        let far = first(None);
        tokio::join!(client::run(&ctx, &far, &shutdown), client::run(&ctx, &beside, &shutdown));
    }
    stop.cancel();
    let _ = serving.await;
    Ok(())
}

/// How much may wait for a broker.
fn limits(config: &config::Mqtt) -> outbox::Limits {
    outbox::Limits { events: config.outbox_events, bytes: config.outbox_bytes }
}

/// The outbox for the configured broker. The embedded one keeps nothing itself and is there whenever we are, so that
/// nothing needs to outlive the process for it.
pub fn open_outbox(config: &config::Mqtt, dir: &Path, counters: &Arc<Counters>) -> Arc<Outbox> {
    match config.enabled && !config.broker.is_empty() {
        true => Outbox::open(&dir.join("outbox.db"), limits(config), Arc::clone(counters)),
        false => Outbox::in_memory(limits(config), Arc::clone(counters)),
    }
}

/// A label as one level of a topic.
fn topic_part(label: &str) -> String {
    label.chars().map(|c| if matches!(c, '/' | '+' | '#' | '\0') { '_' } else { c }).collect()
}
