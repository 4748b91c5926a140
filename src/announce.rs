//! Says in the local network who we are and which doors we have, by mDNS and DNS-SD (RFC 6762, 6763): `<node>.local`,
//! `_spotter._tcp` and a service a door. What is said holds no token. Answering, probing for a name that is free, and following the
//! machine's addresses are the library's work, on a thread of its own.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, ServiceDaemon, ServiceInfo, UnregisterStatus};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// One service, to be found by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// As in "_rtmp._tcp".
    pub kind: &'static str,
    /// Where its door is.
    pub at: SocketAddr,
    /// What a client must know to use it.
    pub properties: Vec<(&'static str, String)>,
}

/// What is announced.
#[derive(Debug, Clone)]
pub struct Context {
    pub node: Arc<str>,
    /// The host's label before `.local`.
    pub host: String,
    pub services: Vec<Service>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot announce this node by mDNS: {0}; free UDP port 5353, or set announce.enabled = false"
)]
pub struct AnnounceError(String);

impl AnnounceError {
    fn new(e: impl Display) -> Self {
        Self(e.to_string())
    }
}

/// Services are called by a label (RFC 1035).
const MAX_LABEL: usize = 63;
/// How long the network may take to hear the goodbye.
const GOODBYE: Duration = Duration::from_millis(700);

impl Context {
    /// Leaves out what only this machine can reach.
    pub fn new(node: Arc<str>, host: String, doors: Vec<Service>) -> Self {
        let services = doors.into_iter().filter(|s| !s.at.ip().is_loopback()).collect();
        Self { node, host, services }
    }

    fn infos(&self) -> Result<Vec<ServiceInfo>, AnnounceError> {
        let mut end = self.node.len().min(MAX_LABEL);
        while !self.node.is_char_boundary(end) {
            end -= 1;
        }
        let instance = &self.node[..end];
        let host = format!("{}.local.", self.host);
        let info = |service: &Service| {
            let kind = format!("{}.local.", service.kind);
            let (port, properties) = (service.at.port(), &service.properties[..]);
            let made = match service.at.ip() {
                ip if ip.is_unspecified() => {
                    ServiceInfo::new(&kind, instance, &host, "", port, properties)
                        .map(ServiceInfo::enable_addr_auto)
                }
                ip => ServiceInfo::new(&kind, instance, &host, ip, port, properties),
            };
            made.map_err(AnnounceError::new)
        };
        self.services.iter().map(info).collect()
    }
}

/// Announces until `stop`, then says goodbye.
pub async fn run(ctx: Context, stop: CancellationToken) -> Result<(), AnnounceError> {
    let infos = ctx.infos()?;
    if infos.is_empty() {
        stop.cancelled().await;
        return Ok(());
    }
    let daemon = ServiceDaemon::new().map_err(AnnounceError::new)?;
    daemon
        .disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])
        .map_err(AnnounceError::new)?;
    let ended = listen(&daemon)?;
    let names: Vec<String> = infos.iter().map(|info| info.get_fullname().to_owned()).collect();
    for info in infos {
        daemon.register(info).map_err(AnnounceError::new)?;
    }
    tracing::info!(host = %format!("{}.local", ctx.host), services = names.len(), "announced by mDNS");
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        _ = ended => Err(AnnounceError::new("its thread ended")),
    };
    let goodbye = tokio::task::spawn_blocking(move || say_goodbye(&daemon, &names));
    let _ = goodbye.await;
    outcome
}

fn say_goodbye(daemon: &ServiceDaemon, names: &[String]) {
    let gone: Vec<_> = names.iter().filter_map(|name| daemon.unregister(name).ok()).collect();
    for told in gone {
        if !matches!(told.recv_timeout(GOODBYE), Ok(UnregisterStatus::OK)) {
            tracing::debug!("an mDNS goodbye was not sent");
        }
    }
    if let Ok(down) = daemon.shutdown() {
        let _ = down.recv_timeout(GOODBYE);
    }
}

/// Logs what the library tells; answers when it has nothing more to tell.
fn listen(daemon: &ServiceDaemon) -> Result<oneshot::Receiver<()>, AnnounceError> {
    let told = daemon.monitor().map_err(AnnounceError::new)?;
    let (tell, ended) = oneshot::channel();
    let hear = move || {
        while let Ok(event) = told.recv() {
            match event {
                DaemonEvent::NameChange(change) => tracing::warn!(
                    was = change.original,
                    is = change.new_name,
                    "another machine in the network has this name: give one of them another node.name"
                ),
                DaemonEvent::Error(error) => tracing::warn!(%error, "mDNS"),
                DaemonEvent::IpAdd(ip) => tracing::debug!(%ip, "mDNS follows a new address"),
                DaemonEvent::IpDel(ip) => tracing::debug!(%ip, "mDNS lets an address go"),
                _ => {}
            }
        }
        let _ = tell.send(());
    };
    std::thread::Builder::new().name("mdns-news".into()).spawn(hear).map_err(AnnounceError::new)?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_can_reach_is_announced() {
        let service = |at: &str| Service {
            kind: "_rtmp._tcp",
            at: at.parse().unwrap(),
            properties: vec![("path", "/live/stream".into())],
        };
        let doors =
            vec![service("127.0.0.1:1935"), service("0.0.0.0:1935"), service("192.0.2.7:1936")];
        let ctx = Context::new("\u{e9}".repeat(40).into(), "spotter".into(), doors);
        let infos = ctx.infos().unwrap();
        assert_eq!(infos.len(), 2);
        assert!(infos[0].is_addr_auto() && !infos[1].is_addr_auto());
        assert_eq!((infos[1].get_port(), infos[1].get_hostname()), (1936, "spotter.local."));
    }
}
