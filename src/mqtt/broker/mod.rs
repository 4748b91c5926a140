//! The broker we bring along, for a node that has no other: MQTT 3.1.1 and 5, QoS 0 and 1 out, 0 to 2 in, retained
//! messages, wills and lasting sessions, all in bounded memory. No shared subscriptions.

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
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Guard, Place, Places, Rarely};
use crate::config;
use crate::health::Counter;
use crate::tls::{self, TlsDoor};
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
    /// Came to the door with TLS and did not speak it, or did not trust us.
    pub tls_failed: Counter,
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

/// The doors for everyone.
#[derive(Debug)]
pub struct Public {
    pub plain: TcpListener,
    pub tls: Option<TlsDoor>,
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
    pub async fn run(self, public: Option<Arc<Public>>, stop: CancellationToken) {
        let end = CancellationToken::new();
        let _end_on_drop = end.clone().drop_guard();
        let (own, others) = (TaskTracker::new(), TaskTracker::new());
        let accept_public = async {
            if let Some(public) = &public {
                let doors = (&public.plain, public.tls.as_ref());
                accept(doors, &self.door, &others, Limited::Yes, &end).await;
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
                accept((&self.own, None), &self.door, &own, Limited::No, &end),
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
    (plain, tls): (&TcpListener, Option<&TlsDoor>),
    door: &Arc<Door>,
    tasks: &TaskTracker,
    limited: Limited,
    end: &CancellationToken,
) {
    loop {
        let accepted = tls::accept(plain, tls).await;
        let (socket, peer, acceptor) = match accepted {
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
        tasks.spawn(one((socket, acceptor), peer, Arc::clone(door), end.clone(), place));
    }
}

async fn one(
    (socket, acceptor): (TcpStream, Option<TlsAcceptor>),
    peer: SocketAddr,
    door: Arc<Door>,
    stop: CancellationToken,
    place: Option<Place>,
) {
    // A message is written whole; waiting for more would only add latency.
    let _ = socket.set_nodelay(true);
    let end = match acceptor {
        None => connection::serve(socket, peer, &door, &stop).await,
        Some(acceptor) => secured(acceptor, socket, peer, &door, &stop).await,
    };
    drop(place);
    match &end {
        End::Goodbye | End::Gone | End::Stopped | End::Displaced => {
            tracing::debug!(%peer, %end, "mqtt client left");
            return;
        }
        End::Denied(_) | End::IdTaken(_) => door.counters.refused_denied.inc(),
        End::NoTls(_) => door.counters.tls_failed.inc(),
        End::NoConnect | End::Silent | End::Stalled => door.counters.timed_out.inc(),
        End::Malformed(_) | End::Io(_) => {}
    }
    door.rarely.log(|untold| tracing::info!(%peer, %end, untold, "mqtt client turned away"));
}

async fn secured(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
    door: &Door,
    stop: &CancellationToken,
) -> End {
    // In a box: what only the beginning needs is given back.
    let secured = Box::pin(tokio::time::timeout(connection::HANDSHAKE, acceptor.accept(socket)));
    let secured = tokio::select! {
        secured = secured => secured,
        () = stop.cancelled() => return End::Stopped,
    };
    match secured {
        Ok(Ok(socket)) => connection::serve(socket, peer, door, stop).await,
        Ok(Err(error)) => End::NoTls(error.to_string()),
        Err(_) => End::NoTls(format!("not within {} s", connection::HANDSHAKE.as_secs())),
    }
}
