//! The one seam over the client library's two halves, MQTT 3.1.1 and 5: requests in, what came of them out. It decides
//! nothing about what is sent.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::mqttbytes::Error as Error4;
use rumqttc::v5::mqttbytes::Error as Error5;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as Code5, DisconnectReasonCode, Packet as Packet5, PubAckReason,
    PublishProperties, SubscribeReasonCode as Subscribed5,
};
use rumqttc::{
    AsyncClient, ConnectReturnCode, EventLoop, NetworkOptions, Packet, QoS, SubscribeReasonCode, v5,
};

use super::ledger::{Asked, Ledger, NotSent, packet_bytes};
use super::link::{Ended, Options};

/// Requests on their way to the connection. Ten a second and stream pass through; more only wait when it stalls.
const QUEUE: usize = 64;

/// What a subscriber is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// QoS 0.
    None,
    /// QoS 1; the last one stays at the broker.
    Retained,
    /// QoS 1, and [`Happened::Acknowledged`] says this number when the broker has it.
    Numbered(u64),
}

/// What the broker is to keep of a topic for us while we are not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// QoS 1.
    WhileAway,
    /// QoS 0.
    Nothing,
}

/// What the connection tells.
#[derive(Debug)]
pub(super) enum Happened {
    /// `resumed`: what was carried over from the last connection is sent again now.
    Connected {
        resumed: bool,
    },
    Acknowledged(u64),
    /// The broker does not want this one, and would not the next time.
    Refused(Refused),
    Heard(Heard),
    /// The broker lets us hear this topic, or does not.
    Subscribed(String, Granted),
    /// By our DISCONNECT.
    Closed,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granted {
    Yes,
    No,
}

/// A publish that the broker acknowledged with a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Of a numbered message.
    pub(super) number: Option<u64>,
    pub(super) topic: Arc<str>,
    pub(super) reason: String,
}

/// A message of a topic that we subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retained: bool,
}

#[derive(Clone)]
enum Client {
    V4(AsyncClient),
    V5(v5::AsyncClient),
}

/// Where requests go in.
#[derive(Clone)]
pub(super) struct Sender {
    client: Client,
    ledger: Arc<Mutex<Ledger>>,
}

enum Driver {
    V4(Box<EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Drives the connection; what is unacknowledged when it breaks is in here and goes into the next one.
pub(super) struct Connection {
    driver: Driver,
    ledger: Arc<Mutex<Ledger>>,
}

/// A client that is not connected yet.
pub(super) fn new(options: Options) -> (Sender, Connection) {
    let ledger = Arc::<Mutex<Ledger>>::default();
    let (client, driver) = match options {
        Options::V4(options) => {
            let (client, mut driver) = AsyncClient::new(*options, QUEUE);
            let mut network = NetworkOptions::new();
            network.set_tcp_nodelay(true);
            driver.set_network_options(network);
            (Client::V4(client), Driver::V4(Box::new(driver)))
        }
        Options::V5(options) => {
            let (client, driver) = v5::AsyncClient::new(*options, QUEUE);
            (Client::V5(client), Driver::V5(Box::new(driver)))
        }
    };
    (Sender { client, ledger: Arc::clone(&ledger) }, Connection { driver, ledger })
}

impl Sender {
    /// Asks for a publish. `id` is the message's, which version 5 carries beside the payload.
    pub(super) fn publish(
        &self,
        topic: &str,
        promise: Promise,
        payload: Bytes,
        id: Option<&str>,
    ) -> Result<(), NotSent> {
        let sure = promise != Promise::None;
        let retain = promise == Promise::Retained;
        // Held over the request, so that the entries stand in the order of the requests.
        let mut ledger = self.ledger.lock();
        let bytes = packet_bytes(topic, &payload, id);
        ledger.limits.judge(bytes)?;
        let asked = match &self.client {
            Client::V4(client) => {
                let qos = if sure { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(topic, qos, retain, payload).is_ok()
            }
            Client::V5(client) => {
                let qos = if sure { QoS5::AtLeastOnce } else { QoS5::AtMostOnce };
                match id {
                    None => client.try_publish(topic, qos, retain, payload).is_ok(),
                    Some(id) => {
                        let properties = PublishProperties {
                            content_type: Some("application/json".into()),
                            user_properties: vec![("message_id".into(), id.into())],
                            ..PublishProperties::default()
                        };
                        client
                            .try_publish_with_properties(topic, qos, retain, payload, properties)
                            .is_ok()
                    }
                }
            }
        };
        if !asked {
            return Err(NotSent::NoRoom);
        }
        ledger.longest = ledger.longest.max(bytes);
        let number = match promise {
            Promise::None => return Ok(()),
            Promise::Retained => None,
            Promise::Numbered(number) => Some(number),
        };
        ledger.asked.push_back(Asked { number, topic: topic.into() });
        Ok(())
    }

    /// Bounds what is sent from now on: by the configuration, and by what a broker seems to bear.
    pub(super) fn bound(&self, ours: usize, guessed: Option<usize>) {
        let limits = &mut self.ledger.lock().limits;
        (limits.ours, limits.guessed) = (ours, guessed.unwrap_or(usize::MAX));
    }

    /// The longest message of this connection, bytes.
    pub(super) fn longest(&self) -> usize {
        self.ledger.lock().longest
    }

    pub(super) fn subscribe(&self, topic: &str, keeping: Keeping) -> Result<(), NotSent> {
        let (qos, qos5) = match keeping {
            Keeping::WhileAway => (QoS::AtLeastOnce, QoS5::AtLeastOnce),
            Keeping::Nothing => (QoS::AtMostOnce, QoS5::AtMostOnce),
        };
        let mut ledger = self.ledger.lock();
        let asked = match &self.client {
            Client::V4(client) => client.try_subscribe(topic, qos).is_ok(),
            Client::V5(client) => client.try_subscribe(topic, qos5).is_ok(),
        };
        if !asked {
            return Err(NotSent::NoRoom);
        }
        ledger.subscribed.remove(topic);
        ledger.topics.push_back(topic.to_owned());
        Ok(())
    }

    /// Whether the broker answered the subscription to this topic.
    pub(super) fn is_answered(&self, topic: &str) -> bool {
        self.ledger.lock().subscribed.contains(topic)
    }

    pub(super) fn unsubscribe(&self, topic: &str) -> Result<(), NotSent> {
        let asked = match &self.client {
            Client::V4(client) => client.try_unsubscribe(topic).is_ok(),
            Client::V5(client) => client.try_unsubscribe(topic).is_ok(),
        };
        asked.then_some(()).ok_or(NotSent::NoRoom)
    }

    pub(super) fn disconnect(&self) -> Result<(), NotSent> {
        let asked = match &self.client {
            Client::V4(client) => client.try_disconnect().is_ok(),
            Client::V5(client) => client.try_disconnect().is_ok(),
        };
        asked.then_some(()).ok_or(NotSent::NoRoom)
    }

    /// Numbered messages that were asked for and not acknowledged.
    pub(super) fn under_way(&self) -> usize {
        let ledger = self.ledger.lock();
        // What is being repeated is in both.
        let numbers = |asked: &Asked| asked.number;
        let written: Vec<u64> = ledger.written.values().filter_map(numbers).collect();
        let asked = ledger.asked.iter().filter_map(numbers).filter(|n| !written.contains(n));
        written.len() + asked.count()
    }
}

impl Connection {
    /// The next thing that happens. Connects first, if it must. Not cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Happened, Ended> {
        match &mut self.driver {
            Driver::V4(driver) => match driver.poll().await {
                Ok(event) => Ok(happened_v4(event, &mut self.ledger.lock())),
                Err(error) => Err(ended_v4(error)),
            },
            Driver::V5(driver) => match driver.poll().await {
                Ok(event) => Ok(happened_v5(event, &mut self.ledger.lock())),
                Err(error) => Err(ended_v5(error)),
            },
        }
    }

    /// Makes ready for the next connection, with changed options. Of what was not done only numbered messages that were
    /// written stay; they are sent again, marked as repeated, if the broker still knows the session. Answers those,
    /// what the broken connection acknowledged or refused at last, and `None` in place of itself when it is to be made anew.
    pub(super) fn mend(mut self, options: Options) -> (Option<(Self, Vec<u64>)>, Vec<Happened>) {
        let mut acknowledged = Vec::new();
        let mut ledger = self.ledger.lock();
        let mut note = |happened| {
            if matches!(happened, Happened::Acknowledged(_) | Happened::Refused(_)) {
                acknowledged.push(happened);
            }
        };
        let mut kept: Vec<u64> = Vec::new();
        let fine = match (&mut self.driver, options) {
            (Driver::V4(driver), Options::V4(options)) => {
                let left: Vec<_> = driver.state.events.drain(..).collect();
                left.into_iter().for_each(|e| note(happened_v4(e, &mut ledger)));
                driver.clean();
                let mut repeated: Vec<_> = driver
                    .pending
                    .drain(..)
                    .filter_map(|r| match r {
                        rumqttc::Request::Publish(mut p) => {
                            p.dup = true;
                            let number = ledger.written.get(&p.pkid)?.number?;
                            Some((number, p))
                        }
                        _ => None,
                    })
                    .collect();
                repeated.sort_by_key(|(number, _)| *number);
                kept.extend(repeated.iter().map(|(number, _)| *number));
                driver.pending =
                    repeated.into_iter().map(|(_, p)| rumqttc::Request::Publish(p)).collect();
                driver.mqtt_options = *options;
                driver.state.collision.is_none()
            }
            (Driver::V5(driver), Options::V5(options)) => {
                let left: Vec<_> = driver.state.events.drain(..).collect();
                left.into_iter().for_each(|e| note(happened_v5(e, &mut ledger)));
                driver.clean();
                let mut repeated: Vec<_> = driver
                    .pending
                    .drain(..)
                    .filter_map(|r| match r {
                        v5::Request::Publish(mut p) => {
                            p.dup = true;
                            let number = ledger.written.get(&p.pkid)?.number?;
                            Some((number, p))
                        }
                        _ => None,
                    })
                    .collect();
                repeated.sort_by_key(|(number, _)| *number);
                kept.extend(repeated.iter().map(|(number, _)| *number));
                driver.pending =
                    repeated.into_iter().map(|(_, p)| v5::Request::Publish(p)).collect();
                driver.options = *options;
                driver.state.collision.is_none()
            }
            _ => false,
        };
        ledger.written.retain(|_, asked| asked.number.is_some_and(|n| kept.contains(&n)));
        let mut again: Vec<_> = ledger.written.values().cloned().collect();
        again.sort_by_key(|asked| asked.number);
        ledger.asked = again.into();
        ledger.topics.clear();
        ledger.subscribing.clear();
        ledger.subscribed.clear();
        ledger.limits.brokers = usize::MAX;
        ledger.longest = 0;
        drop(ledger);
        (fine.then_some((self, kept)), acknowledged)
    }
}

fn granted(all: bool) -> Granted {
    if all { Granted::Yes } else { Granted::No }
}

fn happened_v4(event: rumqttc::Event, ledger: &mut Ledger) -> Happened {
    use rumqttc::{Event, Outgoing};
    match event {
        Event::Incoming(Packet::ConnAck(ack)) => ledger.connected(ack.session_present),
        Event::Incoming(Packet::PubAck(ack)) => ledger.acknowledged(ack.pkid),
        Event::Incoming(Packet::SubAck(ack)) => {
            let fine = |code: &SubscribeReasonCode| *code != SubscribeReasonCode::Failure;
            ledger.subscribed(ack.pkid, granted(ack.return_codes.iter().all(fine)))
        }
        Event::Incoming(Packet::Publish(p)) => {
            Happened::Heard(Heard { topic: p.topic, payload: p.payload, retained: p.retain })
        }
        Event::Outgoing(Outgoing::Publish(packet_id)) => {
            ledger.wrote(packet_id);
            Happened::Nothing
        }
        Event::Outgoing(Outgoing::Subscribe(packet_id)) => ledger.subscribing(packet_id),
        Event::Outgoing(Outgoing::Disconnect) => Happened::Closed,
        _ => Happened::Nothing,
    }
}

fn happened_v5(event: v5::Event, ledger: &mut Ledger) -> Happened {
    use rumqttc::Outgoing;
    use v5::Event;
    match event {
        Event::Incoming(Packet5::ConnAck(ack)) => {
            let most = ack.properties.and_then(|p| p.max_packet_size);
            ledger.limits.brokers = most.map_or(usize::MAX, |most| most as usize);
            ledger.connected(ack.session_present)
        }
        Event::Incoming(Packet5::PubAck(ack)) => {
            let fine = [PubAckReason::Success, PubAckReason::NoMatchingSubscribers];
            match fine.contains(&ack.reason) {
                true => ledger.acknowledged(ack.pkid),
                false => ledger.refused(ack.pkid, format!("{:?}", ack.reason)),
            }
        }
        Event::Incoming(Packet5::SubAck(ack)) => {
            let fine = |code: &Subscribed5| matches!(code, Subscribed5::Success(_));
            ledger.subscribed(ack.pkid, granted(ack.return_codes.iter().all(fine)))
        }
        Event::Incoming(Packet5::Publish(p)) => {
            let topic = String::from_utf8_lossy(&p.topic).into_owned();
            Happened::Heard(Heard { topic, payload: p.payload, retained: p.retain })
        }
        Event::Outgoing(Outgoing::Publish(packet_id)) => {
            ledger.wrote(packet_id);
            Happened::Nothing
        }
        Event::Outgoing(Outgoing::Subscribe(packet_id)) => ledger.subscribing(packet_id),
        Event::Outgoing(Outgoing::Disconnect) => Happened::Closed,
        _ => Happened::Nothing,
    }
}

fn ended_v4(error: rumqttc::ConnectionError) -> Ended {
    use rumqttc::{ConnectionError as E, StateError};
    match error {
        E::NetworkTimeout | E::FlushTimeout => Ended::Silent,
        E::MqttState(StateError::AwaitPingResp) => Ended::Silent,
        E::MqttState(StateError::Io(e)) | E::Io(e) => Ended::Io(e),
        E::MqttState(StateError::Deserialization(Error4::PayloadSizeLimitExceeded(bytes))) => {
            Ended::TooLarge(bytes)
        }
        E::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => Ended::BadLogin,
        E::ConnectionRefused(code) => Ended::Refused(format!("{code:?}")),
        E::Tls(e) => Ended::Tls(e.to_string()),
        other => within(&other),
    }
}

fn ended_v5(error: v5::ConnectionError) -> Ended {
    use v5::{ConnectionError as E, StateError};
    let refused = |code: Code5| match code {
        Code5::BadUserNamePassword | Code5::NotAuthorized => Ended::BadLogin,
        code => Ended::Refused(format!("{code:?}")),
    };
    match error {
        E::Timeout(_) => Ended::Silent,
        E::MqttState(StateError::AwaitPingResp) => Ended::Silent,
        E::MqttState(StateError::Io(e)) | E::Io(e) => Ended::Io(e),
        E::MqttState(StateError::Deserialization(Error5::Io(e))) => Ended::Io(e),
        E::MqttState(StateError::Deserialization(Error5::PayloadSizeLimitExceeded {
            pkt_size: bytes,
            ..
        })) => Ended::TooLarge(bytes),
        E::MqttState(StateError::ConnFail { reason }) => refused(reason),
        E::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Ended::TakenOver,
        E::ConnectionRefused(code) => refused(code),
        E::Tls(e) => Ended::Tls(e.to_string()),
        other => within(&other),
    }
}

/// Over WebSocket the library wraps what went wrong on the way there.
fn within(error: &(dyn std::error::Error + 'static)) -> Ended {
    let chain = std::iter::successors(Some(error), |e| e.source());
    match chain.filter_map(|e| e.downcast_ref::<std::io::Error>()).next() {
        Some(e) => Ended::Io(std::io::Error::new(e.kind(), e.to_string())),
        None => Ended::Other(error.to_string()),
    }
}
