//! The SRT door: callers in, access units out. libsrt keeps the protocol, encryption and lost packets; here it is decided who
//! comes in, and each publisher gets a thread, because libsrt has no file descriptors that tokio could wait for.
//!
//! `library` is libsrt, `streamid` what a caller wants (pure), `ts` its transport stream (pure), `caller` one publisher.

mod caller;
mod library;
mod streamid;
pub mod ts;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::entry::{Entry, Refused, direct};
use super::url::Token;
use crate::auth::{Full, Places, Rarely};
use crate::config::{self, Ingest};
use crate::health::Counter;
use crate::media::stream::ClaimError;
use library::{Bound, Judge, Listener, Reject, Setup};
use streamid::{BadStreamId, Wanted};

pub use library::SrtError;

/// What this door counted; refusals that every way in shares are with the others'.
#[derive(Debug, Default, Serialize)]
pub struct SrtCounters {
    /// Callers that were let in.
    pub connections: Counter,
    pub bytes: Counter,
    /// Callers whose stream id names no stream to publish.
    pub refused_stream_id: Counter,
    /// Callers with a good stream id that did not come in: a wrong passphrase or none, or gone.
    pub handshakes_failed: Counter,
    /// Callers beyond those that are remembered until they are in: should they fail, nothing tells.
    pub handshakes_unwatched: Counter,
    pub accept_errors: Counter,
    /// Publishers that sent no transport stream.
    pub no_transport_stream: Counter,
    /// Publishers that sent nothing, or no picture that is carried, for ingest.idle_timeout_s.
    pub idle_timeouts: Counter,
    /// Packets of a transport stream that are none.
    pub packets_malformed: Counter,
    /// Pictures and sounds given up for missing packets.
    pub pictures_lost: Counter,
    pub sounds_lost: Counter,
}

/// What the door works with.
#[derive(Debug, Clone)]
pub struct SrtContext {
    pub entry: Entry,
    pub config: Ingest,
    pub counters: Arc<SrtCounters>,
}

/// The door's address, taken and not yet open.
#[derive(Debug)]
pub struct SrtDoor(Bound);

/// How often every thread looks whether it should end.
const TICK: Duration = Duration::from_millis(200);
/// A caller that was judged and is not in by then failed; a handshake has two more packets to go.
const IN_WITHIN: Duration = Duration::from_secs(2);
/// Judged callers remembered at a time.
const MAX_JUDGED: usize = 256;
/// A publisher's thread has libsrt's call and a demultiplexer on its stack.
const STACK_BYTES: usize = 512 << 10;

impl SrtDoor {
    /// Takes the address, so that a port in use is told at the start.
    pub fn bind(config: &config::Srt) -> Result<Self, SrtError> {
        let setup = Setup {
            listen: config.listen,
            passphrase: config.passphrase.expose(),
            latency: Duration::from_millis(config.latency_ms),
            tick: TICK,
        };
        Bound::new(&setup).map(Self)
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves callers until `shutdown`. What it returns is done when the last one is gone.
    pub fn open(
        self,
        ctx: SrtContext,
        shutdown: CancellationToken,
    ) -> Result<oneshot::Receiver<()>, SrtError> {
        let config = &ctx.config;
        let clerk = Arc::new(Clerk {
            places: Places::new(config.max_connections, config.max_connections_per_address),
            judged: Mutex::default(),
            rarely: Rarely::default(),
            ctx,
        });
        let judge: Arc<dyn Judge> = Arc::clone(&clerk) as _;
        let listener = self.0.listen(judge, clerk.ctx.config.max_connections, TICK)?;
        let (done, ended) = oneshot::channel();
        let serve = move || {
            serve(&listener, &clerk, &shutdown);
            drop(listener);
            let _ = done.send(());
        };
        let thread = std::thread::Builder::new().name("srt".into()).spawn(serve);
        thread.map_err(SrtError::thread)?;
        Ok(ended)
    }
}

/// Judges callers. On libsrt's thread, so it does nothing that waits.
struct Clerk {
    ctx: SrtContext,
    places: Arc<Places>,
    /// Who was let through to the handshake's end, which a wrong passphrase never reaches.
    judged: Mutex<HashMap<SocketAddr, Instant>>,
    rarely: Rarely,
}

/// Why a caller is turned away before it is in.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error(transparent)]
    StreamId(#[from] BadStreamId),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{} is reached", limit(*.0))]
    Full(Full),
}

fn limit(full: Full) -> &'static str {
    match full {
        Full::InAll => "ingest.max_connections",
        Full::ForAddress => "ingest.max_connections_per_address",
    }
}

impl TurnedAway {
    fn reject(&self) -> Reject {
        match self {
            Self::StreamId(BadStreamId::NotPublish) => Reject::BadMode,
            Self::StreamId(_) => Reject::BadRequest,
            Self::Refused(Refused::Denied(_)) => Reject::Unauthorized,
            Self::Refused(Refused::Claim(ClaimError::Taken(_))) => Reject::Conflict,
            Self::Refused(Refused::Claim(_)) | Self::Full(_) => Reject::Overload,
        }
    }
}

impl Judge for Clerk {
    fn judge(&self, peer: SocketAddr, stream_id: &[u8]) -> Result<(), Reject> {
        let judged = self.look(peer, stream_id);
        if let Err(why) = &judged {
            self.count(why);
            self.rarely.log(|untold| info!(protocol = "srt", %peer, %why, untold, "refused"));
        }
        judged.map_err(|why| why.reject())
    }
}

impl Clerk {
    /// What can be told before the passphrase is proved. The seat is taken only after.
    fn look(&self, peer: SocketAddr, stream_id: &[u8]) -> Result<(), TurnedAway> {
        let Wanted { stream, token } = streamid::parse(stream_id)?;
        let entry = &self.ctx.entry;
        let token = token.as_ref().map(Token::secret);
        let caller = direct(peer.ip().to_canonical(), token);
        entry.look(&caller, &stream)?;
        drop(self.places.take(peer.ip()).map_err(TurnedAway::Full)?);
        let mut judged = self.judged.lock();
        if judged.len() < MAX_JUDGED {
            judged.insert(peer, Instant::now());
        } else {
            self.ctx.counters.handshakes_unwatched.inc();
        }
        Ok(())
    }

    fn count(&self, why: &TurnedAway) {
        let shared = &self.ctx.entry.counters;
        match why {
            TurnedAway::StreamId(BadStreamId::Name(_)) => shared.refused_name.inc(),
            TurnedAway::StreamId(_) => self.ctx.counters.refused_stream_id.inc(),
            TurnedAway::Refused(refused) => self.ctx.entry.count(refused),
            TurnedAway::Full(Full::InAll) => shared.refused_connections.inc(),
            TurnedAway::Full(Full::ForAddress) => shared.refused_connections_per_address.inc(),
        }
    }

    /// Tells of those that were judged and never came in.
    fn miss(&self, now: Instant) {
        let mut missing = Vec::new();
        self.judged.lock().retain(|peer, at| {
            let late = now.duration_since(*at) > IN_WITHIN;
            if late {
                missing.push(*peer);
            }
            !late
        });
        for peer in missing {
            self.ctx.counters.handshakes_failed.inc();
            self.rarely.log(|untold| {
                info!(protocol = "srt", %peer, untold, "refused: a wrong passphrase or none, or gone in the handshake");
            });
        }
    }
}

/// Takes in callers until `shutdown`, then waits for them.
fn serve(listener: &Listener, clerk: &Arc<Clerk>, shutdown: &CancellationToken) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let rarely = Rarely::default();
    while !shutdown.is_cancelled() {
        threads.retain(|thread| !thread.is_finished());
        clerk.miss(Instant::now());
        match listener.accept() {
            Ok(None) => {}
            Ok(Some(connection)) => {
                clerk.judged.lock().remove(&connection.peer);
                threads.extend(admit(connection, clerk, shutdown));
            }
            Err(error) => {
                clerk.ctx.counters.accept_errors.inc();
                rarely.log(
                    |untold| warn!(%error, untold, "cannot accept an SRT caller; trying again"),
                );
                std::thread::sleep(TICK);
            }
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn admit(
    connection: library::Connection,
    clerk: &Arc<Clerk>,
    shutdown: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let peer = connection.peer;
    let place = match clerk.places.take(peer.ip()) {
        Ok(place) => place,
        Err(full) => {
            let why = TurnedAway::Full(full);
            clerk.count(&why);
            clerk.rarely.log(|untold| info!(protocol = "srt", %peer, %why, untold, "refused"));
            return None;
        }
    };
    clerk.ctx.counters.connections.inc();
    let (clerk, shutdown) = (Arc::clone(clerk), shutdown.clone());
    let serve = move || {
        let _place = place;
        caller::serve(&connection, &clerk.ctx, &shutdown);
    };
    let builder = std::thread::Builder::new().name("srt-caller".into()).stack_size(STACK_BYTES);
    match builder.spawn(serve) {
        Ok(thread) => Some(thread),
        Err(error) => {
            warn!(%error, "no thread for an SRT caller");
            None
        }
    }
}
