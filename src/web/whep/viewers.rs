//! All WebRTC viewers of this node: their number is bounded, and they share one UDP socket. What one viewer gets is
//! `session`'s business.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString as _};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{self, Agreed, Unfit};
use super::session::{End, Flow, Session};
use super::table::{Datagram, Entry, Table};
use super::{Counters, WhyNot, addresses, fit};
use crate::media::{Stream, StreamId};

/// A viewer that is not connected by then never will be.
const ICE_TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams waiting for one session: checks, feedback, a handshake's flight.
const INBOX: usize = 64;
/// Longest datagram that WebRTC sends, with room.
const MAX_DATAGRAM: usize = 2048;

/// The WebRTC exit: its socket, its sessions.
#[derive(Debug)]
pub struct Webrtc {
    socket: Arc<UdpSocket>,
    counters: Arc<Counters>,
    seats: Arc<Semaphore>,
    max: usize,
    table: Arc<Table>,
    tasks: TaskTracker,
    ice_timeout: Duration,
}

/// A session that was just opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: String,
    pub(super) answer: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Stream(#[from] WhyNot),
    #[error(transparent)]
    Offer(#[from] Unfit),
    #[error(
        "{0} viewers watch over WebRTC already: use the MSE or HLS view, or raise web.max_webrtc"
    )]
    Busy(usize),
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
            table: Arc::default(),
            tasks: TaskTracker::new(),
            ice_timeout: ICE_TIMEOUT,
        }
    }

    /// Ends viewers that are not connected after `ice_timeout`, 10 s otherwise.
    pub fn with_ice_timeout(self, ice_timeout: Duration) -> Self {
        Self { ice_timeout, ..self }
    }

    /// Starts a session on `stream` for the sender of `offer`, whose request came to the address `asked`.
    pub(super) fn open(
        &self,
        stream: &Stream,
        offer: &str,
        asked: IpAddr,
        stop: &CancellationToken,
    ) -> Result<Opened, Refused> {
        let refused = self.try_open(stream, offer, asked, stop);
        let counters = &self.counters;
        match &refused {
            Ok(_) => counters.sessions.inc(),
            Err(Refused::Busy(_)) => counters.refused_busy.inc(),
            Err(Refused::Offer(Unfit::BadSdp(_))) => counters.refused_bad_sdp.inc(),
            Err(Refused::Stream(WhyNot::BFrames)) => counters.refused_bframes.inc(),
            Err(Refused::Offer(Unfit::NoH264) | Refused::Stream(WhyNot::Codec(_))) => {
                counters.refused_codec.inc();
            }
            Err(Refused::Stream(WhyNot::NoPicture) | Refused::NoSocket) => {}
        }
        refused
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
        let id = Alphanumeric.sample_string(&mut rand::rng(), 24);
        let end = stop.child_token();
        let entry = Entry { stream: stream.id.clone(), ufrag, remote_ufrag, end: end.clone() };
        let (to, inbox) = mpsc::channel(INBOX);
        let session = Session {
            rtc,
            video,
            audio,
            cursor: stream.ring.cursor(),
            socket: Arc::clone(&self.socket),
            homes,
            inbox,
            known: self.table.enter(id.clone(), entry, to),
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
    pub(super) fn remote_ufrag(&self, id: &str, stream: &StreamId) -> Option<String> {
        self.table.get(id, stream).map(|entry| entry.remote_ufrag)
    }

    /// Ends a session; false when there is none.
    pub(super) fn close(&self, id: &str, stream: &StreamId) -> bool {
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
