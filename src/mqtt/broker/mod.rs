//! The broker we bring along, for a node that has no other: MQTT 3.1.1 and 5, QoS 0 and 1 out, 0 to 2 in, retained
//! messages, wills and lasting sessions, all in bounded memory. No TLS, no shared subscriptions.

pub mod codec;
mod connection;
pub mod encode;
pub mod hub;
pub mod topic;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Guard, Place, Places, Rarely};
use crate::config;
use crate::health::Counter;
use connection::End;
use hub::{Hub, HubLimits};

/// What the broker counted.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub connections: Counter,
    /// Turned away because too many were there, in all or from one address.
    pub refused_busy: Counter,
    pub refused_denied: Counter,
    pub malformed: Counter,
    /// Gave nothing for longer than promised, or took nothing.
    pub timed_out: Counter,
    pub published: Counter,
    /// Publishes and wills of clients without the right.
    pub publish_refused: Counter,
    pub delivered: Counter,
    /// Messages a slow client lost, and those larger than it takes.
    pub dropped_slow: Counter,
    pub dropped_too_large: Counter,
    /// Retained messages over the limits: delivered, not kept.
    pub retained_refused: Counter,
    pub sessions_dropped: Counter,
}

/// What every connection needs.
#[derive(Debug)]
struct Door {
    guard: Arc<Guard>,
    hub: Arc<Hub>,
    counters: Arc<Counters>,
    max_packet: usize,
    places: Arc<Places>,
    rarely: Rarely,
}

/// A broker that has its own door on loopback, and optionally the public one.
#[derive(Debug)]
pub struct Broker {
    door: Arc<Door>,
    own: TcpListener,
}

impl Broker {
    /// Binds the door for this program's own client. It is on loopback, where everything is allowed anyway.
    pub async fn new(
        config: &config::Mqtt,
        guard: Arc<Guard>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let door = Door {
            guard,
            hub: Hub::new(HubLimits::default(), Arc::clone(&counters)),
            counters,
            max_packet: config.max_packet_bytes,
            places: Places::new(config.max_connections, config.max_connections_per_address),
            rarely: Rarely::default(),
        };
        Ok(Self { door: Arc::new(door), own })
    }

    /// Where this program's own client connects.
    pub fn own_address(&self) -> io::Result<SocketAddr> {
        self.own.local_addr()
    }

    /// Serves both doors until `stop`, then lets every client have what waits for it. Our own client is heard to its
    /// end first: what it said last is what the others must still get.
    pub async fn run(self, public: Option<Arc<TcpListener>>, stop: CancellationToken) {
        let end = CancellationToken::new();
        let _end_on_drop = end.clone().drop_guard();
        let (own, others) = (TaskTracker::new(), TaskTracker::new());
        let accept_public = async {
            if let Some(listener) = &public {
                accept(listener, &self.door, &others, Limited::Yes, &end).await;
            }
        };
        let sweep = async {
            loop {
                tokio::time::sleep(Duration::from_secs(30)).await;
                self.door.hub.sweep(Instant::now());
            }
        };
        let serve = async {
            tokio::join!(
                accept(&self.own, &self.door, &own, Limited::No, &end),
                accept_public,
                sweep
            );
        };
        tokio::select! {
            () = serve => {}
            () = stop.cancelled() => {}
        }
        own.close();
        others.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), own.wait()).await;
        end.cancel();
        // Each connection's last flush has its own time limit, but a stopping program waits less.
        let _ = tokio::time::timeout(Duration::from_secs(2), others.wait()).await;
    }
}

/// Whether connections count against the limits; our own client's must never be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limited {
    Yes,
    No,
}

async fn accept(
    listener: &TcpListener,
    door: &Arc<Door>,
    tasks: &TaskTracker,
    limited: Limited,
    end: &CancellationToken,
) {
    loop {
        let accepted = listener.accept().await;
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: no file descriptors left. Trying again at once would only burn time.
                door.rarely.log(|untold| {
                    tracing::warn!(%error, untold, "cannot accept an mqtt connection");
                });
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let place = match limited {
            Limited::No => None,
            Limited::Yes => match door.places.take(peer.ip()) {
                Ok(place) => Some(place),
                Err(full) => {
                    door.counters.refused_busy.inc();
                    door.rarely.log(|untold| {
                        tracing::warn!(%peer, ?full, untold, "too many mqtt connections");
                    });
                    continue;
                }
            },
        };
        door.counters.connections.inc();
        tasks.spawn(one(socket, peer, Arc::clone(door), end.clone(), place));
    }
}

async fn one(
    socket: TcpStream,
    peer: SocketAddr,
    door: Arc<Door>,
    stop: CancellationToken,
    place: Option<Place>,
) {
    let end = connection::serve(socket, peer, &door, &stop).await;
    drop(place);
    match &end {
        End::Goodbye | End::Gone | End::Stopped | End::Displaced => {
            tracing::debug!(%peer, %end, "mqtt client left");
            return;
        }
        End::Denied(_) | End::IdTaken(_) => door.counters.refused_denied.inc(),
        End::NoConnect | End::Silent | End::Stalled => door.counters.timed_out.inc(),
        End::Malformed(_) | End::Io(_) => {}
    }
    door.rarely.log(|untold| tracing::info!(%peer, %end, untold, "mqtt client turned away"));
}
