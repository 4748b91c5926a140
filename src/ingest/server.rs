//! The RTMP listener: accepts within the limits, gives each connection a task, waits for them at the end. What is
//! said on a connection is `connection`'s business.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::connection;
use super::counters::IngestCounters;
use super::end::{ConnectionError, End};
use super::entry::Entry;
use crate::auth::{Caller, Denied, Full, Grant, Guard, Places, Right};
use crate::config::Ingest;
use crate::media::{StreamId, Streams};
use crate::relay::ReaderCounters;
use crate::tls::{self, TlsDoor};

/// Who judges publishers and readers; the [`Guard`] except in tests.
pub trait Gate: fmt::Debug + Send + Sync {
    fn may_publish(&self, caller: &Caller<'_>, stream: &StreamId) -> Result<Grant, Denied>;
    fn may_read(&self, caller: &Caller<'_>, stream: &StreamId) -> Result<Grant, Denied>;
}

impl Gate for Guard {
    fn may_publish(&self, caller: &Caller<'_>, stream: &StreamId) -> Result<Grant, Denied> {
        self.check(caller, Right::Publish, Some(stream))
    }

    fn may_read(&self, caller: &Caller<'_>, stream: &StreamId) -> Result<Grant, Denied> {
        self.check(caller, Right::Read, Some(stream))
    }
}

/// What the front door works with.
#[derive(Debug, Clone)]
pub struct Context {
    pub streams: Arc<Streams>,
    pub guard: Arc<dyn Gate>,
    pub config: Ingest,
    pub counters: Arc<IngestCounters>,
    /// Readers have places of their own: however many there are, a publisher finds the door free.
    pub readers: Arc<Places>,
    pub reader_counters: Arc<ReaderCounters>,
}

impl Context {
    /// What other ways in share with this one.
    pub fn entry(&self) -> Entry {
        let (streams, guard) = (Arc::clone(&self.streams), Arc::clone(&self.guard));
        Entry { streams, guard, counters: Arc::clone(&self.counters) }
    }
}

/// Serves RTMP publishers until `shutdown`, by TLS too where there is such a door, and ends streams whose publisher stayed away over the grace time.
/// Returns when the last connection has ended.
pub async fn run(
    listener: TcpListener,
    tls: Option<TlsDoor>,
    ctx: Context,
    shutdown: CancellationToken,
) {
    let ctx = Arc::new(ctx);
    let limits = &ctx.config;
    let places = Places::new(limits.max_connections, limits.max_connections_per_address);
    let mut tasks = JoinSet::new();
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    let mut back_off = MIN_BACK_OFF;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = tasks.join_next() => note_panic(&ctx, ended),
            _ = sweep.tick() => ctx.streams.sweep(Instant::now()),
            accepted = tls::accept(&listener, tls.as_ref()) => match accepted {
                Ok((socket, peer, acceptor)) => {
                    back_off = MIN_BACK_OFF;
                    admit((socket, acceptor), peer, &ctx, &places, &mut tasks, &shutdown);
                }
                Err(error) => {
                    ctx.counters.accept_errors.inc();
                    warn!(%error, "cannot accept an RTMP connection; trying again");
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(MAX_BACK_OFF);
                }
            },
        }
    }
    drop((listener, tls));
    while let Some(ended) = tasks.join_next().await {
        note_panic(&ctx, ended);
    }
}

/// What the kernel may hold for one reader, bytes. Left alone it takes megabytes, and one that stopped reading is noticed after tens of
/// seconds; this still gives 20 Mbit/s over 100 ms.
const SEND_BUFFER: usize = 256 << 10;
const MIN_BACK_OFF: Duration = Duration::from_millis(20);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// Starts a connection's task, or closes the socket at once: over a limit a prompt end tells the peer more than a
/// wait in the backlog would, and leaves the backlog to others.
fn admit(
    (socket, acceptor): (TcpStream, Option<TlsAcceptor>),
    peer: SocketAddr,
    ctx: &Arc<Context>,
    places: &Arc<Places>,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    while let Some(ended) = tasks.try_join_next() {
        note_panic(ctx, ended);
    }
    let counters = &ctx.counters;
    let address = peer.ip().to_canonical();
    let place = match places.take(address) {
        Ok(place) => place,
        Err(Full::InAll) => {
            counters.refused_connections.inc();
            debug!(%peer, "refused: ingest.max_connections");
            return;
        }
        Err(Full::ForAddress) => {
            counters.refused_connections_per_address.inc();
            debug!(%peer, "refused: ingest.max_connections_per_address");
            return;
        }
    };
    counters.connections.inc();
    // Answers are small and late ones delay a publisher's start.
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%peer, %error, "no TCP_NODELAY");
    }
    let _ = SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER);
    let span = info_span!("rtmp", %peer);
    let (ctx, shutdown) = (Arc::clone(ctx), shutdown.clone());
    let task = async move {
        let served = match acceptor {
            None => connection::serve(socket, address, place, &ctx, &shutdown).await,
            Some(acceptor) => {
                let patience = Duration::from_secs(ctx.config.handshake_timeout_s);
                let secured = tokio::select! {
                    // In a box: what only the beginning needs is given back.
                    secured = Box::pin(timeout(patience, acceptor.accept(socket))) => secured,
                    () = shutdown.cancelled() => return,
                };
                let why = match secured {
                    Ok(Ok(socket)) => {
                        let served = connection::serve(socket, address, place, &ctx, &shutdown);
                        return ended(served.await);
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("not within {patience:?}"),
                };
                ctx.counters.tls_failed.inc();
                return info!(why, "connection ended: no TLS");
            }
        };
        ended(served);
    };
    tasks.spawn(task.instrument(span));
}

fn ended(served: Result<End, ConnectionError>) {
    match served {
        Ok(end) => debug!(?end, "connection ended"),
        Err(error) => info!(%error, "connection ended"),
    }
}

fn note_panic(ctx: &Context, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        ctx.counters.connection_panics.inc();
        warn!(%error, "a connection's task panicked; the others go on");
    }
}

/// True for errors that only say the peer is gone.
pub(super) fn is_hangup(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
}
