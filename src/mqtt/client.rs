//! Our client: connects, says what is, publishes as it comes, and begins again when the connection breaks. What
//! happens while there is no broker is dropped and counted, never kept.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet,
    QoS,
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::link::{self, Endpoint, LinkError};
use crate::media::stream::StreamSummary;
use crate::wire::{self, Encoded, LinkState};

/// Requests on their way to the connection. Ten a second and stream pass through; more only wait when it stalls.
const QUEUE: usize = 64;
/// How long a retained message may wait for room there.
const PATIENCE: Duration = Duration::from_secs(5);
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long after connecting the broker may still hand us what an earlier run left retained.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// Publishes until `shutdown`. `own` is the embedded broker's address, when that is the one.
pub(super) async fn run(ctx: &Context, own: Option<SocketAddr>, shutdown: &CancellationToken) {
    let mut client = Client {
        ctx,
        detections: ctx.detections.subscribe(),
        status: ctx.status.clone(),
        streams: ctx.streams.watch(),
        told: BTreeSet::new(),
        base: format!("{}/{}", ctx.config.base_topic, ctx.node),
    };
    let endpoint = match own {
        Some(address) => Ok(Endpoint::own(address)),
        None => Endpoint::parse(&ctx.config.broker),
    };
    let shown = match (&own, &endpoint) {
        (Some(_), _) => "embedded".to_owned(),
        (None, Ok(endpoint)) => endpoint.to_string(),
        (None, Err(_)) => "none".to_owned(),
    };
    let mut report = Report { ctx, broker: shown, failed: None, attempts: 0 };
    let mut wait = BACK_OFF.0;
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        let attempt = async {
            let endpoint = endpoint.clone()?;
            let available = format!("{}/available", client.base);
            let options = link::options(&ctx.config, &endpoint, &ctx.node, &available)?;
            client.session(options, &endpoint, &mut report, shutdown).await
        };
        let Err(error) = attempt.await else { return };
        report.down(&error);
        // A connection that held for a while was a good one: begin patiently anew.
        if began.elapsed() > BACK_OFF.1 {
            wait = BACK_OFF.0;
        }
        let jittered = wait.mul_f64(rand::random_range(0.75..1.25));
        tokio::select! {
            () = sleep(jittered) => {}
            () = client.drop_detections() => {}
            () = shutdown.cancelled() => {}
        }
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

struct Client<'a> {
    ctx: &'a Context,
    detections: broadcast::Receiver<Arc<Encoded>>,
    status: watch::Receiver<Option<Arc<wire::NodeStatus>>>,
    streams: watch::Receiver<Arc<[StreamSummary]>>,
    /// Streams whose status the broker retains as online, as far as we know.
    told: BTreeSet<String>,
    base: String,
}

/// What the connection's own task tells.
enum Heard {
    Connected,
    /// A status retained by an earlier run or us: the stream's name.
    RetainedOnline(String),
}

impl Client<'_> {
    /// One connection from its attempt to its end; `Ok` after the goodbye at shutdown.
    async fn session(
        &mut self,
        options: MqttOptions,
        endpoint: &Endpoint,
        report: &mut Report<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        report.connecting();
        // A new client each time: nothing of an old connection waits in it.
        let (client, mut events) = AsyncClient::new(options, QUEUE);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let (tx, mut heard) = mpsc::channel(16);
        let topics = self.base.clone();
        let mut connection = Abort(tokio::spawn(poll(events, tx, topics)));
        let mut connected = false;
        let mut stats = interval(Duration::from_secs(self.ctx.config.stats_interval_s.max(1)));
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut connection.0 => {
                    return Err(match ended {
                        Ok(Some(error)) => link::explain(&error, endpoint),
                        Ok(None) => broken(endpoint, "closed"),
                        Err(fault) => broken(endpoint, fault),
                    });
                }
                () = shutdown.cancelled() => {
                    if connected {
                        self.goodbye(&client, endpoint).await?;
                        // Ends once DISCONNECT is written.
                        let _ = timeout(PATIENCE, &mut connection.0).await;
                    }
                    return Ok(());
                }
                Some(heard) = heard.recv() => match heard {
                    Heard::Connected => {
                        connected = true;
                        report.up();
                        self.hello(&client, endpoint).await?;
                        stats.reset();
                    }
                    Heard::RetainedOnline(stream) => {
                        self.told.insert(stream);
                        self.tell_streams(&client, endpoint).await?;
                    }
                },
                received = self.detections.recv() => {
                    self.pass_on(received, &client, connected);
                }
                Ok(()) = self.streams.changed(), if connected => {
                    self.tell_streams(&client, endpoint).await?;
                }
                Ok(()) = self.status.changed(), if connected => {
                    self.tell_status(&client, endpoint).await?;
                }
                _ = stats.tick(), if connected => {
                    let stats = wire::node_stats(&self.ctx.node, &(self.ctx.stats)());
                    let _ = client.try_publish(self.topic("stats"), QoS::AtMostOnce, false, stats);
                }
            }
        }
    }

    /// Everything a broker that knows nothing of us must know.
    async fn hello(&mut self, client: &AsyncClient, endpoint: &Endpoint) -> Result<(), LinkError> {
        self.retain(client, endpoint, "available", Bytes::from_static(b"online")).await?;
        self.tell_status(client, endpoint).await?;
        // This broker may hold nothing of what we told the one before: tell it of every stream there is.
        let now = self.streams.borrow().clone();
        self.told.retain(|told| !now.iter().any(|s| s.id.as_str() == told));
        self.tell_streams(client, endpoint).await?;
        // A run that died left its streams online: they come to us now, and are set right.
        let statuses = self.topic("+/status");
        if client.try_subscribe(statuses.clone(), QoS::AtMostOnce).is_ok() {
            let client = client.clone();
            tokio::spawn(async move {
                sleep(LEFTOVERS).await;
                let _ = client.try_unsubscribe(statuses);
            });
        }
        Ok(())
    }

    async fn goodbye(
        &mut self,
        client: &AsyncClient,
        endpoint: &Endpoint,
    ) -> Result<(), LinkError> {
        let offline = Bytes::from_static(b"offline");
        for stream in std::mem::take(&mut self.told) {
            self.retain(client, endpoint, &format!("{stream}/status"), offline.clone()).await?;
        }
        self.retain(client, endpoint, "available", offline).await?;
        let disconnected = timeout(PATIENCE, client.disconnect()).await;
        disconnected
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| LinkError::Silent(endpoint.to_string()))
    }

    async fn tell_status(
        &mut self,
        client: &AsyncClient,
        endpoint: &Endpoint,
    ) -> Result<(), LinkError> {
        let status = self.status.borrow_and_update().clone();
        let Some(status) = status else { return Ok(()) };
        let message = wire::node_status(&self.ctx.node, &status);
        self.retain(client, endpoint, "status", message).await
    }

    /// Retains what is not as it was last told.
    async fn tell_streams(
        &mut self,
        client: &AsyncClient,
        endpoint: &Endpoint,
    ) -> Result<(), LinkError> {
        let now = self.streams.borrow_and_update().clone();
        let is_here = |told: &String| now.iter().any(|s| s.id.as_str() == told);
        let gone: Vec<_> = self.told.iter().filter(|told| !is_here(told)).cloned().collect();
        for id in gone {
            let payload = Bytes::from_static(b"offline");
            self.retain(client, endpoint, &format!("{id}/status"), payload).await?;
            self.told.remove(&id);
        }
        for stream in now.iter() {
            let id = stream.id.as_str();
            if !self.told.contains(id) {
                let payload = Bytes::from_static(b"online");
                self.retain(client, endpoint, &format!("{id}/status"), payload).await?;
                self.told.insert(id.into());
            }
        }
        Ok(())
    }

    async fn retain(
        &self,
        client: &AsyncClient,
        endpoint: &Endpoint,
        topic: &str,
        payload: Bytes,
    ) -> Result<(), LinkError> {
        let publish = client.publish(self.topic(topic), QoS::AtLeastOnce, true, payload);
        match timeout(PATIENCE, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(endpoint, error)),
            Err(_) => Err(LinkError::Silent(endpoint.to_string())),
        }
    }

    fn pass_on(
        &self,
        received: Result<Arc<Encoded>, broadcast::error::RecvError>,
        client: &AsyncClient,
        connected: bool,
    ) {
        let counters = &self.ctx.counters;
        let message = match received {
            Ok(message) => message,
            Err(broadcast::error::RecvError::Lagged(n)) if connected => {
                return counters.dropped_slow.add(n);
            }
            Err(broadcast::error::RecvError::Lagged(n)) => return counters.dropped_offline.add(n),
            // The context holds a sender, so this does not come.
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if !connected {
            return counters.dropped_offline.inc();
        }
        let topic = self.topic(&format!("{}/detections", message.detections.stream));
        match client.try_publish(topic, QoS::AtMostOnce, false, message.json()) {
            Ok(()) => counters.published.inc(),
            Err(_) => counters.dropped_slow.inc(),
        }
    }

    /// Counts what comes while nobody can have it; never returns.
    async fn drop_detections(&mut self) {
        use broadcast::error::RecvError;
        loop {
            match self.detections.recv().await {
                Ok(_) => self.ctx.counters.dropped_offline.inc(),
                Err(RecvError::Lagged(n)) => self.ctx.counters.dropped_offline.add(n),
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }
}

/// Ends the connection's task with the session that started it.
struct Abort(tokio::task::JoinHandle<Option<ConnectionError>>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Drives the connection. In a task of its own because a poll must not be cancelled half-way, and because what
/// panics in the library then ends a connection and not the service. `None`: closed by our DISCONNECT.
async fn poll(
    mut events: EventLoop,
    heard: mpsc::Sender<Heard>,
    base: String,
) -> Option<ConnectionError> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = heard.send(Heard::Connected).await;
            }
            Ok(Event::Incoming(Packet::Publish(p))) if p.retain && &p.payload[..] == b"online" => {
                if let Some(stream) = stream_of(&p.topic, &base) {
                    let _ = heard.try_send(Heard::RetainedOnline(stream.into()));
                }
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return None,
            Ok(_) => {}
            Err(error) => return Some(error),
        }
    }
}

/// The stream in `<base>/<stream>/status`.
fn stream_of<'a>(topic: &'a str, base: &str) -> Option<&'a str> {
    topic.strip_prefix(base)?.strip_prefix('/')?.strip_suffix("/status")
}

fn broken(endpoint: &Endpoint, reason: impl ToString) -> LinkError {
    LinkError::Broken { broker: endpoint.to_string(), reason: reason.to_string() }
}

/// Keeps the link's state and writes one line a change, not one an attempt.
struct Report<'a> {
    ctx: &'a Context,
    broker: String,
    failed: Option<LinkError>,
    attempts: u64,
}

impl Report<'_> {
    fn connecting(&self) {
        // While it is down, the reason is worth more than that we try again.
        if self.failed.is_none() {
            let broker = self.broker.clone();
            self.ctx.link.send_replace(LinkState::Connecting { broker });
        }
    }

    fn up(&mut self) {
        self.ctx.counters.connects.inc();
        tracing::info!(broker = self.broker, failed_attempts = self.attempts, "mqtt connected");
        self.failed = None;
        self.attempts = 0;
        self.ctx.link.send_replace(LinkState::Up { broker: self.broker.clone() });
    }

    fn down(&mut self, error: &LinkError) {
        self.ctx.counters.failures.inc();
        self.attempts += 1;
        if self.failed.as_ref() == Some(error) {
            tracing::debug!(broker = self.broker, %error, "mqtt still not connected");
            return;
        }
        tracing::warn!(broker = self.broker, %error, "mqtt not connected; trying again");
        self.failed = Some(error.clone());
        let (broker, reason) = (self.broker.clone(), error.to_string());
        self.ctx.link.send_replace(LinkState::Down { broker, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_from_its_topic() {
        assert_eq!(stream_of("spotter/n/cam/status", "spotter/n"), Some("cam"));
        assert_eq!(stream_of("spotter/n/status", "spotter/n"), None);
        assert_eq!(stream_of("spotter/nn/cam/status", "spotter/n"), None);
    }
}
