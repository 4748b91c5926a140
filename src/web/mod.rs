//! The exit to browsers and HTTP clients: the viewer's page, the API, live video. Here connections are accepted within
//! the limits and handed to the router; what each path does is in the files below.

mod api; // /api/v1
mod assets; // the page and its parts
mod error; // a refusal as JSON
mod flv; // live video as an endless FLV file
mod visitor; // who asks

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::auth::{Guard, Place, Places, Rarely};
use crate::config;
use crate::health::Counter;
use crate::media::Streams;
use crate::wire::{Encoded, NodeStats, NodeStatus};
use visitor::Peer;

/// Makes the statistics of the moment.
pub type StatsReader = Arc<dyn Fn() -> NodeStats + Send + Sync>;

/// All this exit needs; cheap to clone, so that a restart begins with the same ends.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<str>,
    pub config: config::Web,
    pub guard: Arc<Guard>,
    pub detections: broadcast::Sender<Arc<Encoded>>,
    pub streams: Arc<Streams>,
    pub status: watch::Receiver<Option<Arc<NodeStatus>>>,
    pub stats: StatsReader,
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
    pub requests: Counter,
    pub refused_denied: Counter,
    /// Connections that ended in an error: no HTTP, an oversized head, silence, nothing read.
    pub broken: Counter,
    /// FLV viewers; times one fell so far behind that it went on at the newest key frame, and the units lost by that.
    pub flv_viewers: Counter,
    pub flv_lagged: Counter,
    pub flv_units_dropped: Counter,
}

/// What every request needs.
#[derive(Debug)]
struct Door {
    ctx: Context,
    /// Ends what would otherwise go on for ever: live video, event streams.
    stop: CancellationToken,
}

/// A request's head must be here within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request head, bytes.
const MAX_HEAD: usize = 16 << 10;
/// How long the last answers may take at the end.
const GOODBYE: Duration = Duration::from_secs(2);

fn router(door: &Arc<Door>) -> Router {
    let limit = DefaultBodyLimit::max(door.ctx.config.max_body_bytes);
    Router::new()
        .merge(assets::routes())
        .merge(api::routes())
        .merge(flv::routes())
        .layer(limit)
        .with_state(Arc::clone(door))
}

/// Serves clients until `shutdown`, then lets the answers under way end.
pub async fn run(listener: Arc<TcpListener>, ctx: Context, shutdown: CancellationToken) {
    let config = &ctx.config;
    let places = Places::new(config.max_connections, config.max_connections_per_address);
    // Ends the connections also when this future is dropped.
    let stop = shutdown.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let door = Arc::new(Door { ctx, stop: stop.clone() });
    let router = router(&door);
    let tasks = TaskTracker::new();
    let rarely = Rarely::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: no file descriptors left. Trying again at once would only burn time.
                rarely.log(|untold| {
                    tracing::warn!(%error, untold, "cannot accept an HTTP connection");
                });
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let counters = &door.ctx.counters;
        counters.connections.inc();
        match places.take(peer.ip()) {
            Ok(place) => {
                let served = serve(socket, peer, router.clone(), Arc::clone(&door), place);
                tasks.spawn(served);
            }
            Err(full) => {
                counters.refused_busy.inc();
                rarely.log(
                    |untold| tracing::warn!(%peer, ?full, untold, "too many HTTP connections"),
                );
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(GOODBYE, tasks.wait()).await.is_err() {
        tracing::debug!("some HTTP clients are left behind");
    }
}

/// One connection to its end, or to the end of its last answer.
async fn serve(socket: TcpStream, peer: SocketAddr, router: Router, door: Arc<Door>, place: Place) {
    let _place = place;
    let counters = &door.ctx.counters;
    // Live fragments are small and late ones delay the picture.
    let _ = socket.set_nodelay(true);
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(Duration::from_secs(door.ctx.config.stall_timeout_s)));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        counters.requests.inc();
        request.extensions_mut().insert(Peer(peer.ip().to_canonical()));
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|e| match e {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(socket)), answer)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = door.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        counters.broken.inc();
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}
