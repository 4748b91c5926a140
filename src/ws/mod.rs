//! The exit to WebSocket: the demo protocol, and detections by subscription.
//!
//! `/` answers and pushes nothing until asked; `/live?stream=..&label=..&min_confidence=..` is subscribed from the start.

mod connection;
mod http;
mod mailbox;
mod picture;
mod subscription;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Guard, Place, Places, Rarely};
use crate::config;
use crate::health::Counter;
use crate::media::Streams;
use crate::wire::Encoded;
use connection::End;
use picture::Pictures;

pub use picture::{PictureAnswer, PictureDetector, PictureError, PictureFuture};

/// All this exit needs; cheap to clone, so that a restart begins with the same ends.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<str>,
    pub config: config::WebSocket,
    pub guard: Arc<Guard>,
    pub detections: broadcast::Sender<Arc<Encoded>>,
    pub streams: Arc<Streams>,
    /// Looks at the pictures that clients send in.
    pub pictures: Arc<dyn PictureDetector>,
    pub counters: Arc<Counters>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What this door counted.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub connections: Counter,
    /// Turned away because too many were there, in all or from one address.
    pub refused_busy: Counter,
    pub refused_denied: Counter,
    /// Requests that were no WebSocket's, or against the protocol.
    pub malformed: Counter,
    /// Clients that sent no request in time, answered no ping, or took nothing.
    pub timed_out: Counter,
    /// Messages that were answered with an error, and those over the size limit.
    pub bad_messages: Counter,
    pub too_large: Counter,
    pub sent: Counter,
    /// Pushes that slow clients lost.
    pub dropped: Counter,
    pub pictures: Counter,
    pub pictures_failed: Counter,
}

/// Connections over the limit that are being told so; more are just closed.
const REFUSALS: usize = 16;

/// What every connection needs.
#[derive(Debug)]
struct Door {
    node: Arc<str>,
    config: config::WebSocket,
    guard: Arc<Guard>,
    detections: broadcast::Sender<Arc<Encoded>>,
    streams: Arc<Streams>,
    pictures: Pictures,
    counters: Arc<Counters>,
    places: Arc<Places>,
    refusing: Semaphore,
    rarely: Rarely,
}

/// The door's address is taken or not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for websockets: {source}; stop what uses it, or set websocket.listen"
)]
pub struct ListenError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Opens the door; `None` when the configuration keeps it shut.
pub async fn listen(config: &config::WebSocket) -> Result<Option<TcpListener>, ListenError> {
    if !config.enabled {
        return Ok(None);
    }
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| ListenError { address, source })
}

/// Serves clients until `shutdown`, then tells each goodbye.
pub async fn run(listener: Arc<TcpListener>, ctx: Context, shutdown: CancellationToken) {
    let places = Places::new(ctx.config.max_connections, ctx.config.max_connections_per_address);
    let door = Arc::new(Door {
        places,
        pictures: Pictures::new(&ctx.config, ctx.pictures, Arc::clone(&ctx.counters)),
        node: ctx.node,
        config: ctx.config,
        guard: ctx.guard,
        detections: ctx.detections,
        streams: ctx.streams,
        counters: ctx.counters,
        refusing: Semaphore::new(REFUSALS),
        rarely: Rarely::default(),
    });
    // Ends the connections also when this future is dropped.
    let stop = shutdown.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: no file descriptors left. Trying again at once would only burn time.
                door.rarely.log(|untold| {
                    tracing::warn!(%error, untold, "cannot accept a websocket connection");
                });
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        door.counters.connections.inc();
        match door.places.take(peer.ip()) {
            Ok(place) => {
                tasks.spawn(one(socket, peer, Arc::clone(&door), place, stop.clone()));
            }
            Err(full) => {
                door.counters.refused_busy.inc();
                door.rarely.log(|untold| {
                    tracing::warn!(%peer, ?full, untold, "too many websocket connections");
                });
                let door = Arc::clone(&door);
                tasks.spawn(async move {
                    if let Ok(_slot) = door.refusing.try_acquire() {
                        connection::refuse_busy(socket).await;
                    }
                });
            }
        }
    }
    tasks.close();
    // Every connection's goodbye has its own time limit.
    tasks.wait().await;
}

async fn one(
    socket: TcpStream,
    peer: SocketAddr,
    door: Arc<Door>,
    place: Place,
    stop: CancellationToken,
) {
    let end = connection::serve(socket, peer, &door, &stop).await;
    drop(place);
    match &end {
        End::Goodbye | End::Gone | End::Stopped => {
            tracing::debug!(%peer, %end, "websocket client left");
            return;
        }
        End::Denied(_) => door.counters.refused_denied.inc(),
        End::NoRequest | End::Silent | End::Stalled(_) => door.counters.timed_out.inc(),
        End::BadRequest(_) | End::NoSuchPath(_) | End::BadQuery(_) | End::Protocol(_) => {
            door.counters.malformed.inc();
        }
        End::TooLarge(_) | End::Io(_) => {}
    }
    door.rarely.log(|untold| tracing::info!(%peer, %end, untold, "websocket client turned away"));
}
