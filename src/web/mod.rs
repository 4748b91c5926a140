//! The exit to browsers and HTTP clients: the viewer's page, the API, live video. Here connections are accepted within
//! the limits and handed to the router; what each path does is in the files below.

mod api; // /api/v1
mod asked; // what a request asks for
mod assets; // the page and its parts
mod body; // what a request brings along
mod error; // a refusal as JSON
mod file; // answers with files, in part or whole
mod flv; // live video as an endless FLV file
mod health; // /healthz, /readyz
mod hls; // live video as low-latency HLS
mod live; // live video by WebSocket
mod metrics; // /metrics
mod off; // what waits for the disk
mod now; // the newest detections and statistics
mod visitor; // who asks
pub mod whep; // live video over WebRTC
mod whip; // publishing over WebRTC

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::middleware;
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
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_service::Service;

use crate::auth::{Guard, Place, Places, Rarely};
use crate::config::{self, Config};
use crate::control::Control;
use crate::health::Counter;
use crate::ingest;
use crate::live::Live;
use crate::media::Streams;
use crate::pause::Pause;
use crate::snapshots::Snapshots;
use crate::store::Store;
use crate::update::Desk;
use crate::wire::{Encoded, NodeStats, NodeStatus};
use error::ApiError;
use now::Now;
use visitor::{Local, Peer};
use whep::Webrtc;

/// Makes the statistics of the moment.
pub type StatsReader = Arc<dyn Fn() -> NodeStats + Send + Sync>;

/// All this exit needs; cheap to clone, so that a restart begins with the same ends.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<str>,
    pub config: config::Web,
    /// What publishers come in by, and its limits.
    pub entry: ingest::Entry,
    pub ingest: config::Ingest,
    pub guard: Arc<Guard>,
    pub detections: broadcast::Sender<Arc<Encoded>>,
    pub streams: Arc<Streams>,
    pub live: Arc<Live>,
    pub store: Arc<Store>,
    /// The configuration in force.
    pub settings: watch::Receiver<Arc<Config>>,
    pub status: watch::Receiver<Option<Arc<NodeStatus>>>,
    pub stats: StatsReader,
    pub snapshots: Arc<Snapshots>,
    pub control: Arc<Control>,
    pub pause: Arc<Pause>,
    pub update: Arc<Desk>,
    pub state_dir: Arc<Path>,
    pub counters: Arc<Counters>,
    /// `None`: switched off.
    pub webrtc: Option<Arc<Webrtc>>,
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
    /// Messages that readers of the event stream lost because they were slow.
    pub feed_dropped: Counter,
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
    now: Now,
    /// Ends what would otherwise go on for ever: live video, event streams.
    stop: CancellationToken,
}

/// A connection's stay: its place behind the door, and a word to the accept loop that it is still here. What outlives
/// the request, as a WebSocket does, keeps the one it finds among the request's extensions.
#[derive(Debug, Clone)]
struct Stay {
    _place: Arc<Place>,
    _task: TaskTrackerToken,
}

/// A request's head must be here within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request head, bytes.
const MAX_HEAD: usize = 16 << 10;
/// What the kernel may hold for one client, bytes. Left alone it takes megabytes for a viewer that does not read, and a
/// slow one would see pictures that are seconds old; this still gives 20 Mbit/s over 50 ms.
const SEND_BUFFER: usize = 128 << 10;
/// How long the last answers may take at the end.
const GOODBYE: Duration = Duration::from_secs(2);

fn router(door: &Arc<Door>) -> Router {
    Router::new()
        .merge(assets::routes())
        .merge(api::routes())
        .fallback(|| async {
            ApiError::not_found("no_such_path", "nothing is here: see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            let message = "this path takes another method: see /api/v1/openapi.json";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "bad_method", message)
        })
        // Bounded by `body`.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(door), body::whole))
        .with_state(Arc::clone(door))
}

/// Serves clients until `shutdown`, then lets the answers under way end.
pub async fn run(listener: Arc<TcpListener>, ctx: Context, shutdown: CancellationToken) {
    let config = &ctx.config;
    let places = Places::new(config.max_connections, config.max_connections_per_address);
    // Ends the connections also when this future is dropped.
    let stop = shutdown.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let door = Arc::new(Door { ctx, now: Now::default(), stop: stop.clone() });
    let router = router(&door);
    let tasks = TaskTracker::new();
    tasks.spawn({
        let door = Arc::clone(&door);
        async move { door.now.follow(&door.ctx, &door.stop).await }
    });
    if let Some(webrtc) = door.ctx.webrtc.clone() {
        let stop = stop.clone();
        tasks.spawn(async move { webrtc.run(stop).await });
    }
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
                let stay = Stay { _place: Arc::new(place), _task: tasks.token() };
                let served = serve(socket, peer, router.clone(), Arc::clone(&door), stay);
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
async fn serve(socket: TcpStream, peer: SocketAddr, router: Router, door: Arc<Door>, stay: Stay) {
    let counters = &door.ctx.counters;
    // Live fragments are small and late ones delay the picture.
    let _ = socket.set_nodelay(true);
    let local = socket.local_addr().map_or(peer.ip(), |a| a.ip()).to_canonical();
    let _ = socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER);
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(Duration::from_secs(door.ctx.config.stall_timeout_s)));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        counters.requests.inc();
        request.extensions_mut().insert(Peer(peer.ip().to_canonical()));
        request.extensions_mut().insert(Local(local));
        request.extensions_mut().insert(stay.clone());
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
