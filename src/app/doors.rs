//! The sockets we listen on, bound before anything starts, so that a taken port is a clear refusal.

use std::net::{IpAddr, SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, UdpSocket as Udp};

use super::Failure;
use crate::announce::Service;
use crate::auth::FirstStart;
use crate::board::own_address;
use crate::config::{self, Config};
use crate::ingest::srt::SrtDoor;
use crate::mqtt;
use crate::tls::TlsDoor;
use crate::wire::Addresses;

pub(super) struct Doors {
    pub(super) rtmp: TcpListener,
    pub(super) rtmps: Option<TlsDoor>,
    pub(super) srt: Option<SrtDoor>,
    pub(super) websocket: Option<TcpListener>,
    pub(super) mqtt: Option<mqtt::Public>,
    pub(super) web: Option<TcpListener>,
    /// On the same port as `web`.
    pub(super) webrtc: Option<Udp>,
}

/// The addresses that the doors are bound to.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    rtmp: Option<SocketAddr>,
    rtmps: Option<SocketAddr>,
    srt: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    mqtt: Option<SocketAddr>,
    mqtts: Option<SocketAddr>,
    web: Option<SocketAddr>,
    /// The configured broker, where there is no door of our own.
    broker: String,
}

impl Bound {
    /// The doors as somebody on the network would dial them now; empty where there is none. A box is often started before it
    /// has an address, and a board that moves gets another.
    pub(super) fn addresses(&self) -> Addresses {
        let own = own_address();
        let dial = |bound: Option<SocketAddr>| {
            bound.map_or_else(String::new, |bound| reachable(bound, own).to_string())
        };
        Addresses {
            rtmp: dial(self.rtmp),
            rtmps: dial(self.rtmps),
            srt: dial(self.srt),
            websocket: dial(self.websocket),
            mqtt: if self.mqtt.is_some() { dial(self.mqtt) } else { self.broker.clone() },
            mqtts: dial(self.mqtts),
            web: dial(self.web),
        }
    }
}

impl Doors {
    pub(super) async fn bind(config: &Config) -> Result<Self, Failure> {
        raise_file_limit();
        let rtmp = bind("ingest.listen", config.ingest.listen).await?;
        let rtmps = match config.ingest.tls.is_on() {
            true => Some(bind_rtmps(&config.ingest).await?),
            false => None,
        };
        let srt = match config.ingest.srt.enabled {
            true => Some(bind_srt(&config.ingest.srt)?),
            false => None,
        };
        let websocket = match config.websocket.enabled {
            true => Some(bind("websocket.listen", config.websocket.listen).await?),
            false => None,
        };
        let mqtt = mqtt::listen(&config.mqtt).await.map_err(Failure::unavailable)?;
        let web = match config.web.enabled {
            true => Some(bind("web.listen", config.web.listen).await?),
            false => None,
        };
        let webrtc = match &web {
            Some(web) if config.web.webrtc => Some(bind_udp(web).await?),
            _ => None,
        };
        Ok(Self { rtmp, rtmps, srt, websocket, mqtt, web, webrtc })
    }

    /// Where the doors are, for as long as they are open.
    pub(super) fn bound(&self, config: &Config) -> Bound {
        let at = |door: Option<&TcpListener>| door.and_then(|d| d.local_addr().ok());
        let mqtts = self.mqtt.as_ref().and_then(|public| public.tls.as_ref());
        Bound {
            rtmp: at(Some(&self.rtmp)),
            rtmps: at(self.rtmps.as_ref().map(TlsDoor::listener)),
            srt: self.srt.as_ref().and_then(SrtDoor::local_addr),
            websocket: at(self.websocket.as_ref()),
            mqtt: at(self.mqtt.as_ref().map(|public| &public.plain)),
            mqtts: at(mqtts.map(TlsDoor::listener)),
            web: at(self.web.as_ref()),
            broker: mqtt::shown_broker(&config.mqtt),
        }
    }

    /// What the network is told of our doors.
    pub(super) fn services(&self, node: &str, config: &Config) -> Vec<Service> {
        let at = |door: Option<&TcpListener>| door.and_then(|d| d.local_addr().ok());
        let rtmp = at(Some(&self.rtmp));
        let (mqtt, web) =
            (at(self.mqtt.as_ref().map(|public| &public.plain)), at(self.web.as_ref()));
        let mqtts = self.mqtt.as_ref().and_then(|public| public.tls.as_ref());
        let mqtts = at(mqtts.map(TlsDoor::listener));
        let publish = || "/live/stream".to_owned();
        let mut services = Vec::new();
        let mut add = |kind, at: Option<SocketAddr>, properties| {
            services.extend(at.map(|at| Service { kind, at, properties }));
        };
        let mut own =
            vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("stream", publish())];
        let ws = at(self.websocket.as_ref());
        for (name, door) in
            [("rtmp", rtmp), ("mqtt", mqtt), ("mqtts", mqtts), ("ws", ws), ("http", web)]
        {
            own.extend(door.map(|at| (name, at.port().to_string())));
        }
        add("_spotter._tcp", web.or(rtmp), own);
        add("_rtmp._tcp", rtmp, vec![("path", publish())]);
        let topic = || vec![("topic", format!("{}/{node}", config.mqtt.base_topic))];
        add("_mqtt._tcp", mqtt, topic());
        add("_secure-mqtt._tcp", mqtts, topic());
        add("_http._tcp", web, vec![("path", "/".to_owned())]);
        services
    }

    /// Prints, once in a node's life, where the wearer publishes to and the owner reads, with the token. To standard
    /// error beside the log and not into it, so that no log collector keeps the secret.
    pub(super) fn print_owner_urls(&self, first: &FirstStart) {
        let own = own_address();
        let token = first.owner.expose();
        eprintln!("spotter: first start; this is shown once and kept in {}", first.file.display());
        if let Ok(at) = self.rtmp.local_addr() {
            let at = reachable(at, own);
            eprintln!("spotter:   point the glasses at  rtmp://{at}/live/stream?token={token}");
        }
        if let Some(Ok(at)) = self.web.as_ref().map(TcpListener::local_addr) {
            let at = reachable(at, own);
            eprintln!("spotter:   see it at              http://{at}/?token={token}");
        }
        if let Some(Ok(at)) = self.websocket.as_ref().map(TcpListener::local_addr) {
            let at = reachable(at, own);
            eprintln!("spotter:   read detections at    ws://{at}/live?token={token}");
        }
        if let Some(Ok(at)) = self.mqtt.as_ref().map(|public| public.plain.local_addr()) {
            let at = reachable(at, own);
            eprintln!("spotter:   or over MQTT at       mqtt://{at}, user owner, password {token}");
        }
    }
}

/// A shell and a service manager leave the limit of open files at 1024 for programs that use select(2). The configured numbers
/// of connections are the bound here.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        Failure::unavailable(format!(
            "cannot listen on {address}: {e}; stop what uses that port, or set {key}"
        ))
    })
}

async fn bind_rtmps(config: &config::Ingest) -> Result<TlsDoor, Failure> {
    TlsDoor::bind("ingest.tls", &config.tls).await.map_err(|error| {
        let at = config.tls.listen;
        Failure::unavailable(format!(
            "no RTMPS on {at}: {error}; mend that, or leave ingest.tls.certificate and key empty"
        ))
    })
}

fn bind_srt(config: &config::Srt) -> Result<SrtDoor, Failure> {
    SrtDoor::bind(config).map_err(|error| {
        let at = config.listen;
        Failure::unavailable(format!(
            "cannot listen for SRT on UDP {at}: {error}; mend that, or set ingest.srt.enabled = false"
        ))
    })
}

/// WebRTC's socket, on the port that pages come from.
async fn bind_udp(web: &TcpListener) -> Result<Udp, Failure> {
    let address = web.local_addr().map_err(Failure::unavailable)?;
    Udp::bind(address).await.map_err(|e| {
        Failure::unavailable(format!(
            "cannot open UDP {address}: {e}; stop what uses that port, or set web.webrtc = false"
        ))
    })
}

/// A socket bound to every address is dialled by one of them.
fn reachable(bound: SocketAddr, own: IpAddr) -> SocketAddr {
    if bound.ip().is_unspecified() { SocketAddr::new(own, bound.port()) } else { bound }
}
