//! One peer's WebRTC connection, whichever way media flows on it: str0m, which has no sockets and no clock of its own, the
//! socket it sends by and the inbox of what came. What is said over it is others' business.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::net::{Protocol, Receive};
use str0m::{Event, Input, Output, Rtc, RtcError};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::Counters;
use super::table::{Datagram, Known};
use crate::ingest::entry::{Over, Refused};

/// Calls of str0m in a row that bring nothing.
const MAX_IDLE: u32 = 100;

pub(super) struct Line {
    pub(super) rtc: Rtc,
    pub(super) socket: Arc<UdpSocket>,
    /// Our candidates; the peer's packets count as sent to the first of their family.
    pub(super) homes: Vec<SocketAddr>,
    pub(super) inbox: mpsc::Receiver<Datagram>,
    pub(super) known: Known,
    pub(super) counters: Arc<Counters>,
}

pub(super) enum Step {
    Event(Box<Event>),
    /// Nothing to do until then.
    Wait(Instant),
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the peer left")]
    Left,
    #[error("the peer is silent")]
    Silent,
    #[error("no connection came about in time: UDP on this port may be blocked")]
    IceTimeout,
    #[error("the stream ended")]
    StreamEnded,
    #[error("ended from here")]
    Stopped,
    #[error("the stream now has B-frames or another codec, which WebRTC does not carry")]
    Unfit,
    #[error("no picture of H.264 within {0:?}: see ingest.idle_timeout_s")]
    NoPicture(Duration),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Over(#[from] Over),
    #[error("WebRTC: {0}")]
    Rtc(#[from] RtcError),
}

impl Line {
    /// Lets str0m do what it has to do now, up to the next thing that somebody should know.
    pub(super) async fn step(&mut self) -> Result<Step, End> {
        let mut idle = 0;
        loop {
            let mut step = None;
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    let now = Instant::now();
                    if at > now {
                        return Ok(Step::Wait(at));
                    }
                    // Overdue again and again with nothing to show for it: not at the price of this thread.
                    idle += 1;
                    if idle > MAX_IDLE {
                        return Ok(Step::Wait(now + Duration::from_millis(1)));
                    }
                    self.rtc.handle_input(Input::Timeout(now))?;
                }
                Output::Transmit(packet) => {
                    idle = 0;
                    self.counters.packets.inc();
                    self.counters.bytes.add(packet.contents.len() as u64);
                    let to = as_socket(packet.destination, &self.socket);
                    // Like any packet on the way: the peer asks again for what it misses.
                    if self.socket.send_to(&packet.contents, to).await.is_err() {
                        self.counters.send_errors.inc();
                    }
                }
                Output::Event(event) => step = Some(Step::Event(Box::new(event))),
            }
            if !self.rtc.is_alive() {
                return Err(End::Left);
            }
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    pub(super) fn receive(&mut self, datagram: &Datagram) -> Result<(), End> {
        let source = datagram.source;
        let home = self.homes.iter().find(|home| home.is_ipv4() == source.is_ipv4());
        let Some(home) = home.copied() else { return Ok(()) };
        let Ok(packet) = Receive::new(Protocol::Udp, source, home, &datagram.data) else {
            self.counters.datagrams_unknown.inc();
            return Ok(());
        };
        let input = Input::Receive(Instant::now(), packet);
        if !self.rtc.accepts(&input) {
            self.counters.datagrams_unknown.inc();
            return Ok(());
        }
        self.known.proved(source);
        self.rtc.handle_input(input)?;
        Ok(())
    }

    /// Best effort: the peer learns at once what it would find out by itself in 15 s.
    pub(super) async fn hang_up(&mut self) {
        let _ = self.rtc.close();
        while let Ok(Step::Event(_)) = self.step().await {}
    }
}

/// An IPv6 socket reaches IPv4 by addresses that hold one.
fn as_socket(to: SocketAddr, socket: &UdpSocket) -> SocketAddr {
    match (to.ip(), socket.local_addr()) {
        (IpAddr::V4(ip), Ok(SocketAddr::V6(_))) => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
        }
        _ => to,
    }
}
