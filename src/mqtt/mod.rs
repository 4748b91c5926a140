//! The exit to MQTT: our client to the configured broker, or to the one we bring along.
//!
//! | topic under `<base>/<node>/` | payload | retained |
//! |---|---|---|
//! | `available` | `online`, `offline`; `offline` is also the last will | yes |
//! | `status` | [`wire::NodeStatus`] | yes |
//! | `stats` | [`wire::NodeStats`], every `mqtt.stats_interval_s` | no |
//! | `<stream>/detections` | the detections message, QoS 0 | no |
//! | `<stream>/status` | `online` while the stream exists, a pause within the reconnect grace included; `offline` | yes |

pub mod broker;
mod client;
mod link;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::Guard;
use crate::config;
use crate::health::Counter;
use crate::media::Streams;
use crate::wire::{Encoded, LinkState, NodeStats, NodeStatus};

pub use link::LinkError;
pub(crate) use link::SYSTEM_CERTIFICATES;

/// All this exit needs; cheap to clone, so that a restart begins with the same ends.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<str>,
    pub config: config::Mqtt,
    /// Judges the embedded broker's clients.
    pub guard: Arc<Guard>,
    pub detections: broadcast::Sender<Arc<Encoded>>,
    pub streams: Arc<Streams>,
    /// `None` until the program knows itself.
    pub status: watch::Receiver<Option<Arc<NodeStatus>>>,
    /// Asked once an interval.
    pub stats: Arc<dyn Fn() -> NodeStats + Send + Sync>,
    pub counters: Arc<Counters>,
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
}

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("cannot listen on {address} for mqtt: {source}; stop what uses it, or set mqtt.listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the embedded broker cannot have its own door on loopback: {0}")]
    OwnDoor(io::Error),
}

/// Opens the embedded broker's door; `None` when there is none to open.
pub async fn listen(config: &config::Mqtt) -> Result<Option<TcpListener>, MqttError> {
    if !config.enabled || !config.broker.is_empty() {
        return Ok(None);
    }
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| MqttError::Listen { address, source })
}

/// Publishes until `shutdown`, then says goodbye. `public` is the embedded broker's door, if it has one: without it
/// the broker still serves this machine's detections to nobody, and the client waits for no one.
pub async fn run(
    ctx: Context,
    public: Option<Arc<TcpListener>>,
    shutdown: CancellationToken,
) -> Result<(), MqttError> {
    if !ctx.config.enabled {
        ctx.link.send_replace(LinkState::Disabled);
        return Ok(());
    }
    if !ctx.config.broker.is_empty() {
        client::run(&ctx, None, &shutdown).await;
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
    client::run(&ctx, Some(own), &shutdown).await;
    stop.cancel();
    let _ = serving.await;
    Ok(())
}
