//! All WebRTC viewers and publishers of this node: their number is bounded, and they share one UDP socket. What one viewer gets
//! is `session`'s business, what a publisher brings `publisher`'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString as _};
use str0m::Rtc;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::answer::{self, Agreed, Unfit, Welcomed};
use super::line::{End, Line};
use super::publisher::{Asker, Publisher};
use super::session::{Flow, Session};
use super::table::{Datagram, Entry, Table};
use super::{Counters, WhyNot, addresses, fit};
use crate::health::Counter;
use crate::ingest;
use crate::media::{Stream, StreamId};

/// A viewer that is not connected by then never will be.
const ICE_TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams waiting for one session: checks, feedback, a handshake's flight.
const INBOX: usize = 64;
/// A publisher's is larger: a key frame comes at once.
const PUBLISHERS_INBOX: usize = 1024;
/// Longest datagram that WebRTC sends, with room.
const MAX_DATAGRAM: usize = 2048;

/// The WebRTC exit: its socket, its sessions.
#[derive(Debug)]
pub struct Webrtc {
    socket: Arc<UdpSocket>,
    counters: Arc<Counters>,
    seats: Arc<Semaphore>,
    max: usize,
    publishers: Arc<Semaphore>,
    max_publishers: usize,
    table: Arc<Table>,
    tasks: TaskTracker,
    ice_timeout: Duration,
}

/// A session that was just opened.
#[derive(Debug)]
pub(in crate::web) struct Opened {
    pub(in crate::web) id: String,
    pub(in crate::web) answer: String,
}

/// What a publisher comes in by.
pub(in crate::web) struct WayIn {
    pub(in crate::web) entry: ingest::Entry,
    pub(in crate::web) asker: Asker,
    /// Without a picture for so long it is over.
    pub(in crate::web) idle: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::web) enum Refused {
    #[error(transparent)]
    Stream(#[from] WhyNot),
    #[error(transparent)]
    Offer(#[from] Unfit),
    #[error(
        "{0} viewers watch over WebRTC already: use the MSE or HLS view, or raise web.max_webrtc"
    )]
    Busy(usize),
    #[error("{0} publish over WebRTC already: end one, or raise ingest.max_streams")]
    BusyPublishers(usize),
    #[error("the UDP socket is gone: restart spotter")]
    NoSocket,
}

impl Webrtc {
    /// Serves at most `max` viewers over `socket`.
    pub fn new(socket: UdpSocket, max: usize, counters: Arc<Counters>) -> Self {
        Self {
            socket: Arc::new(socket),
            counters,
            seats: Arc::new(Semaphore::new(max)),
            max,
            publishers: Arc::new(Semaphore::new(0)),
            max_publishers: 0,
            table: Arc::default(),
            tasks: TaskTracker::new(),
            ice_timeout: ICE_TIMEOUT,
        }
    }

    /// Ends viewers that are not connected after `ice_timeout`, 10 s otherwise.
    pub fn with_ice_timeout(self, ice_timeout: Duration) -> Self {
        Self { ice_timeout, ..self }
    }

    /// Lets so many publish.
    pub fn with_publishers(self, max: usize) -> Self {
        Self { publishers: Arc::new(Semaphore::new(max)), max_publishers: max, ..self }
    }

    /// Starts a session that publishes `stream` for the sender of `offer`.
    pub(in crate::web) fn open_publisher(
        &self,
        stream: &StreamId,
        offer: &str,
        asked: IpAddr,
        way_in: WayIn,
        stop: &CancellationToken,
    ) -> Result<Opened, Refused> {
        let opened = self.try_open_publisher(stream, offer, asked, way_in, stop);
        self.counted(opened, &self.counters.publishers)
    }

    fn try_open_publisher(
        &self,
        stream: &StreamId,
        offer: &str,
        asked: IpAddr,
        way_in: WayIn,
        stop: &CancellationToken,
    ) -> Result<Opened, Refused> {
        let seat = Arc::clone(&self.publishers).try_acquire_owned();
        let seat = seat.map_err(|_| Refused::BusyPublishers(self.max_publishers))?;
        let bound = self.socket.local_addr().map_err(|_| Refused::NoSocket)?;
        let homes = addresses::candidates(bound, asked);
        let Welcomed { rtc, video, answer, ufrag, remote_ufrag } = answer::welcome(offer, &homes)?;
        let end = stop.child_token();
        let entry = Entry { stream: stream.clone(), ufrag, remote_ufrag, end: end.clone() };
        let (id, line) = self.enter(entry, rtc, homes, PUBLISHERS_INBOX);
        let publisher = Publisher {
            line,
            video,
            entry: way_in.entry,
            stream: stream.clone(),
            asker: way_in.asker,
            ice_timeout: self.ice_timeout,
            idle: way_in.idle,
            flow: Default::default(),
        };
        let counters = Arc::clone(&self.counters);
        let span = tracing::info_span!("whip", %stream, peer = %publisher.asker.peer);
        let task = async move {
            let _seat = seat;
            let ended = publisher.run(end).await;
            match &ended {
                End::IceTimeout => counters.ice_timeouts.inc(),
                End::NoPicture(_) => counters.idle_timeouts.inc(),
                End::Rtc(_) => counters.broken.inc(),
                _ => {}
            }
            tracing::info!(why = %ended, "connection ended");
        };
        self.tasks.spawn(task.instrument(span));
        Ok(Opened { id, answer })
    }

    /// Starts a session on `stream` for the sender of `offer`, whose request came to the address `asked`.
    pub(super) fn open(
        &self,
        stream: &Stream,
        offer: &str,
        asked: IpAddr,
        stop: &CancellationToken,
    ) -> Result<Opened, Refused> {
        let opened = self.try_open(stream, offer, asked, stop);
        self.counted(opened, &self.counters.sessions)
    }

    /// Counts what came of an offer.
    fn counted(&self, opened: Result<Opened, Refused>, begun: &Counter) -> Result<Opened, Refused> {
        let counters = &self.counters;
        match &opened {
            Ok(_) => begun.inc(),
            Err(Refused::Busy(_) | Refused::BusyPublishers(_)) => counters.refused_busy.inc(),
            Err(Refused::Offer(Unfit::BadSdp(_))) => counters.refused_bad_sdp.inc(),
            Err(Refused::Stream(WhyNot::BFrames)) => counters.refused_bframes.inc(),
            Err(Refused::Offer(_) | Refused::Stream(WhyNot::Codec(_))) => {
                counters.refused_codec.inc();
            }
            Err(Refused::Stream(WhyNot::NoPicture) | Refused::NoSocket) => {}
        }
        opened
    }

    /// Makes a session known by a name of its own: the line that its task speaks by.
    fn enter(
        &self,
        entry: Entry,
        rtc: Rtc,
        homes: Vec<SocketAddr>,
        waiting: usize,
    ) -> (String, Line) {
        let id = Alphanumeric.sample_string(&mut rand::rng(), 24);
        let (to, inbox) = mpsc::channel(waiting);
        let known = self.table.enter(id.clone(), entry, to);
        let (socket, counters) = (Arc::clone(&self.socket), Arc::clone(&self.counters));
        (id, Line { rtc, socket, homes, inbox, known, counters })
    }

    fn try_open(
        &self,
        stream: &Stream,
        offer: &str,
        asked: IpAddr,
        stop: &CancellationToken,
    ) -> Result<Opened, Refused> {
        let params = fit(stream)?;
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| Refused::Busy(self.max))?;
        let bound = self.socket.local_addr().map_err(|_| Refused::NoSocket)?;
        let homes = addresses::candidates(bound, asked);
        // avcC's second byte is the profile (ISO/IEC 14496-15 5.3.3).
        let profile = params.record.get(1).copied().unwrap_or_default();
        let Agreed { rtc, video, audio, answer, ufrag, remote_ufrag } =
            answer::answer(offer, profile, &homes)?;
        let end = stop.child_token();
        let entry = Entry { stream: stream.id.clone(), ufrag, remote_ufrag, end: end.clone() };
        let (id, line) = self.enter(entry, rtc, homes, INBOX);
        let session = Session {
            line,
            video,
            audio,
            cursor: stream.ring.cursor(),
            counters: Arc::clone(&self.counters),
            ice_timeout: self.ice_timeout,
            flow: Flow::default(),
        };
        let (counters, stream, log_id) =
            (Arc::clone(&self.counters), stream.id.clone(), id.clone());
        self.tasks.spawn(async move {
            let _seat = seat;
            tracing::debug!(%stream, id = log_id, "WebRTC viewer asks");
            let ended = session.run(end).await;
            match &ended {
                End::IceTimeout => counters.ice_timeouts.inc(),
                End::Rtc(_) => counters.broken.inc(),
                _ => {}
            }
            tracing::debug!(%stream, id = log_id, why = %ended, "WebRTC viewer ended");
        });
        Ok(Opened { id, answer })
    }

    /// The viewer's half of a session's STUN user name; `None` when there is no such session.
    pub(in crate::web) fn remote_ufrag(&self, id: &str, stream: &StreamId) -> Option<String> {
        self.table.get(id, stream).map(|entry| entry.remote_ufrag)
    }

    /// Ends a session; false when there is none.
    pub(in crate::web) fn close(&self, id: &str, stream: &StreamId) -> bool {
        let entry = self.table.get(id, stream);
        entry.is_some_and(|entry| {
            entry.end.cancel();
            true
        })
    }

    /// Hands datagrams to their sessions until `stop`, then waits for the sessions' last words.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                () = stop.cancelled() => break,
            };
            let Ok((length, source)) = received else {
                // An earlier packet that found nobody is reported here; it says nothing of the socket.
                self.counters.receive_errors.inc();
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let (ip, data) = (source.ip().to_canonical(), &buffer[..length]);
            let source = (ip, source.port()).into();
            let Some(inbox) = self.table.find(source, data) else {
                self.counters.datagrams_unknown.inc();
                continue;
            };
            if inbox.try_send(Datagram { source, data: data.to_vec() }).is_err() {
                self.counters.datagrams_dropped.inc();
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        // A restarted exit serves on.
        self.tasks.reopen();
    }
}
