//! The broker's memory: who subscribed to what, what is retained, and what waits for whom, all of it bounded.
//! It moves messages between queues; sockets are in `connection.rs`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::codec::{Filter, Publish, SendRetained, Version};
use super::encode::{self, Outgoing};
use super::{Counters, topic};

/// Bounds of what is kept.
#[derive(Debug, Clone, Copy)]
pub struct HubLimits {
    /// Messages and payload bytes that wait for one client.
    pub queue_messages: usize,
    pub queue_bytes: usize,
    /// QoS 1 messages sent to one client and not yet acknowledged.
    pub unacked: usize,
    pub filters_per_client: usize,
    pub retained_messages: usize,
    pub retained_bytes: usize,
    /// Sessions kept without a connection, and how long at most.
    pub absent_sessions: usize,
    pub session_expiry: Duration,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            queue_messages: 256,
            queue_bytes: 2 << 20,
            unacked: 32,
            filters_per_client: 100,
            retained_messages: 1000,
            retained_bytes: 8 << 20,
            absent_sessions: 64,
            session_expiry: Duration::from_secs(24 * 3600),
        }
    }
}

/// Subscribers, retained messages and queues of one broker.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    limits: HubLimits,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<String, Session>,
    retained: BTreeMap<Arc<str>, Arc<Message>>,
    retained_bytes: usize,
    /// Numbers the connections, so that a displaced one no longer touches its successor's session.
    turns: u64,
}

#[derive(Debug)]
struct Message {
    topic: Arc<str>,
    payload: Bytes,
    properties: Bytes,
    qos: u8,
    retain: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}

#[derive(Debug)]
struct Session {
    turn: u64,
    /// Whose it is: the name of the grant. Another's connection may not take it over.
    who: String,
    expiry: Duration,
    /// `None` while connected.
    left: Option<Instant>,
    displaced: CancellationToken,
    wake: Arc<Notify>,
    filters: Vec<Filter>,
    queue: VecDeque<Delivery>,
    /// Of the live messages among them.
    queued_bytes: usize,
    queued_retained: usize,
    unacked: VecDeque<(u16, Delivery)>,
    last_id: u16,
}

#[derive(Debug, Clone)]
struct Delivery {
    message: Arc<Message>,
    /// 0 or 1.
    qos: u8,
    retain: bool,
    dup: bool,
}

/// A connection's place in the hub.
#[derive(Debug)]
pub struct Seat {
    pub client_id: String,
    turn: u64,
    /// Notified when something waits for this client.
    pub wake: Arc<Notify>,
    /// Cancelled when another connection took the client id.
    pub displaced: CancellationToken,
    pub session_present: bool,
    pub session_expiry: Duration,
}

/// The client id belongs to someone else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this client id is in use by another user: choose another")]
pub struct IdTaken;

/// How a client wants its session.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub clean_start: bool,
    pub expiry_s: u32,
    /// May displace another user's connection of the same client id.
    pub from_anyone: bool,
}

/// How a client's messages are written.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    pub version: Version,
    /// Largest packet the client takes, bytes.
    pub max_packet: usize,
    /// QoS 1 messages the client takes unacknowledged.
    pub receive_max: u16,
}

/// SUBACK and UNSUBACK codes (MQTT 5 sections 3.9.3 and 3.11.3).
mod code {
    pub(super) const NOT_FOUND: u8 = 0x11;
    pub(super) const BAD_FILTER: u8 = 0x8f;
    pub(super) const QUOTA: u8 = 0x97;
    pub(super) const NO_SHARED: u8 = 0x9e;
    /// All that 3.1.1 knows.
    pub(super) const FAILURE_V4: u8 = 0x80;
}

impl Hub {
    pub fn new(limits: HubLimits, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), limits, counters })
    }

    /// Seats a client; a connection that has its id now is displaced, if it is the same user's.
    pub fn join(&self, client_id: &str, who: &str, wanted: Wanted) -> Result<Seat, IdTaken> {
        let mut state = self.state.lock();
        state.turns += 1;
        let turn = state.turns;
        let mut old = state.sessions.remove(client_id);
        if let Some(other) = old.take_if(|s| s.who != who) {
            if other.left.is_none() && !wanted.from_anyone {
                state.sessions.insert(client_id.into(), other);
                return Err(IdTaken);
            }
            other.displaced.cancel();
        }
        if let Some(session) = &old {
            session.displaced.cancel();
        }
        let kept = old.filter(|s| !wanted.clean_start && !s.expiry.is_zero());
        let session_present = kept.is_some();
        let mut session = kept.unwrap_or_else(|| Session::new(who));
        session.turn = turn;
        session.left = None;
        session.displaced = CancellationToken::new();
        session.expiry =
            Duration::from_secs(wanted.expiry_s.into()).min(self.limits.session_expiry);
        session.requeue_unacked();
        if !session.queue.is_empty() {
            session.wake.notify_one();
        }
        let seat = Seat {
            client_id: client_id.into(),
            turn,
            wake: Arc::clone(&session.wake),
            displaced: session.displaced.clone(),
            session_present,
            session_expiry: session.expiry,
        };
        state.sessions.insert(client_id.into(), session);
        Ok(seat)
    }

    /// Gives the seat up; the session stays for its expiry, within the limit of absent ones.
    pub fn leave(&self, seat: &Seat, now: Instant) {
        let mut state = self.state.lock();
        let Some(session) = state.seated(seat) else { return };
        if session.expiry.is_zero() {
            state.sessions.remove(&seat.client_id);
            return;
        }
        session.left = Some(now);
        session.requeue_unacked();
        // Nobody wants yesterday's QoS 0.
        session.drop_where(|d| d.qos == 0);
        let absent = state.sessions.values().filter(|s| s.left.is_some()).count();
        if absent > self.limits.absent_sessions {
            let oldest =
                state.sessions.iter().filter_map(|(id, s)| Some((s.left?, id.clone()))).min();
            if let Some((_, id)) = oldest {
                state.sessions.remove(&id);
                self.counters.sessions_dropped.inc();
            }
        }
    }

    /// Whether the client came back since this seat was left.
    pub fn is_back(&self, seat: &Seat) -> bool {
        let state = self.state.lock();
        state.sessions.get(&seat.client_id).is_some_and(|s| s.turn != seat.turn)
    }

    /// Forgets sessions whose time is over.
    pub fn sweep(&self, now: Instant) {
        self.state.lock().sessions.retain(|_, s| {
            s.left.is_none_or(|left| now.saturating_duration_since(left) < s.expiry)
        });
    }

    /// Hands a message to every subscriber, and keeps it when it is to be retained.
    pub fn publish(&self, from: &str, p: Publish) {
        let message = Arc::new(Message {
            topic: p.topic.into(),
            payload: p.payload,
            properties: p.properties,
            qos: p.qos.min(1),
            retain: p.retain,
        });
        let mut state = self.state.lock();
        self.counters.published.inc();
        if message.retain {
            self.retain(&mut state, &message);
        }
        for (id, session) in &mut state.sessions {
            let matching = session
                .filters
                .iter()
                .filter(|f| topic::matches(&f.path, &message.topic) && !(f.no_local && id == from));
            let best = matching.map(|f| (f.qos.min(message.qos), f.retain_as_published));
            let Some((qos, as_published)) = best.reduce(|a, b| (a.0.max(b.0), a.1 || b.1)) else {
                continue;
            };
            if session.left.is_some() && qos == 0 {
                continue;
            }
            let retain = message.retain && as_published;
            let delivery = Delivery { message: Arc::clone(&message), qos, retain, dup: false };
            session.enqueue(delivery, &self.limits, &self.counters);
        }
    }

    fn retain(&self, state: &mut State, message: &Arc<Message>) {
        if let Some(old) = state.retained.remove(&message.topic) {
            state.retained_bytes -= old.bytes();
        }
        if message.payload.is_empty() {
            return;
        }
        let fits = state.retained.len() < self.limits.retained_messages
            && state.retained_bytes + message.bytes() <= self.limits.retained_bytes;
        if !fits {
            self.counters.retained_refused.inc();
            return;
        }
        state.retained_bytes += message.bytes();
        state.retained.insert(Arc::clone(&message.topic), Arc::clone(message));
    }

    /// Subscribes, queues the retained messages, and returns the SUBACK codes.
    pub fn subscribe(&self, seat: &Seat, version: Version, filters: Vec<Filter>) -> Vec<u8> {
        let mut state = self.state.lock();
        let State { sessions, retained, .. } = &mut *state;
        let Some(session) = sessions.get_mut(&seat.client_id).filter(|s| s.turn == seat.turn)
        else {
            return Vec::new();
        };
        let mut codes = Vec::with_capacity(filters.len());
        for mut filter in filters {
            // What goes out at QoS 2 is more than these messages need; 1 is granted.
            filter.qos = filter.qos.min(1);
            let code = session.subscribe(&filter, self.limits.filters_per_client);
            codes.push(match (code, version) {
                (Ok(_), _) => filter.qos,
                (Err(_), Version::V4) => code::FAILURE_V4,
                (Err(code), Version::V5) => code,
            });
            let Ok(new) = code else { continue };
            let wanted = match filter.retained {
                SendRetained::Always => true,
                SendRetained::IfNew => new,
                SendRetained::Never => false,
            };
            if !wanted {
                continue;
            }
            for message in retained.values().filter(|m| topic::matches(&filter.path, &m.topic)) {
                let qos = filter.qos.min(message.qos);
                let delivery =
                    Delivery { message: Arc::clone(message), qos, retain: true, dup: false };
                session.enqueue(delivery, &self.limits, &self.counters);
            }
        }
        codes
    }

    /// Unsubscribes and returns the UNSUBACK codes.
    pub fn unsubscribe(&self, seat: &Seat, filters: &[String]) -> Vec<u8> {
        let mut state = self.state.lock();
        let Some(session) = state.seated(seat) else { return Vec::new() };
        let remove = |path: &String| {
            let before = session.filters.len();
            session.filters.retain(|f| f.path != *path);
            if session.filters.len() < before { 0 } else { code::NOT_FOUND }
        };
        filters.iter().map(remove).collect()
    }

    /// The client has message `id`.
    pub fn acknowledged(&self, seat: &Seat, id: u16) {
        let mut state = self.state.lock();
        let Some(session) = state.seated(seat) else { return };
        session.unacked.retain(|(unacked, _)| *unacked != id);
        if !session.queue.is_empty() {
            session.wake.notify_one();
        }
    }

    /// Writes waiting messages into `out` until it holds `enough` bytes; false when nothing more can go now.
    pub fn write(&self, seat: &Seat, wire: Wire, out: &mut BytesMut, enough: usize) -> bool {
        let mut state = self.state.lock();
        let Some(session) = state.seated(seat) else { return false };
        let window = self.limits.unacked.min(usize::from(wire.receive_max));
        while out.len() < enough {
            let Some(next) = session.queue.front() else { return false };
            if next.qos > 0 && session.unacked.len() >= window {
                return false;
            }
            let delivery = session.pop().expect("the queue has a front");
            let id = if delivery.qos > 0 { session.next_id() } else { 0 };
            let packet = Outgoing {
                topic: &delivery.message.topic,
                payload: &delivery.message.payload,
                properties: &delivery.message.properties,
                qos: delivery.qos,
                retain: delivery.retain,
                dup: delivery.dup,
                id,
            };
            if encode::publish_len(wire.version, &packet) > wire.max_packet {
                self.counters.dropped_too_large.inc();
                continue;
            }
            encode::publish(out, wire.version, &packet);
            self.counters.delivered.inc();
            if delivery.qos > 0 {
                session.unacked.push_back((id, delivery));
            }
        }
        true
    }

    /// Sessions in memory, connected or not.
    pub fn sessions(&self) -> usize {
        self.state.lock().sessions.len()
    }
}

impl State {
    fn seated(&mut self, seat: &Seat) -> Option<&mut Session> {
        self.sessions.get_mut(&seat.client_id).filter(|s| s.turn == seat.turn)
    }
}

impl Session {
    fn new(who: &str) -> Self {
        Self {
            turn: 0,
            who: who.into(),
            expiry: Duration::ZERO,
            left: None,
            displaced: CancellationToken::new(),
            wake: Arc::default(),
            filters: Vec::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_retained: 0,
            unacked: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Adds or changes a subscription; whether it is new, or the code of its refusal.
    fn subscribe(&mut self, filter: &Filter, limit: usize) -> Result<bool, u8> {
        if filter.path.starts_with("$share/") {
            return Err(code::NO_SHARED);
        }
        if !topic::is_filter(&filter.path) {
            return Err(code::BAD_FILTER);
        }
        if let Some(present) = self.filters.iter_mut().find(|f| f.path == filter.path) {
            present.clone_from(filter);
            return Ok(false);
        }
        if self.filters.len() >= limit {
            return Err(code::QUOTA);
        }
        self.filters.push(filter.clone());
        Ok(true)
    }

    /// Queues a message; when full the oldest of QoS 0 goes, or else the oldest. Retained messages have a bound of their
    /// own, the store's: they come in one burst at a subscription, and their payloads are the store's anyway.
    fn enqueue(&mut self, delivery: Delivery, limits: &HubLimits, counters: &Counters) {
        if delivery.retain && self.queued_retained >= limits.retained_messages {
            counters.dropped_slow.inc();
            return;
        }
        self.account(&delivery, usize::wrapping_add);
        self.queue.push_back(delivery);
        while self.queue.len() - self.queued_retained > limits.queue_messages
            || (self.queued_bytes > limits.queue_bytes
                && self.queue.len() - self.queued_retained > 1)
        {
            let live = |d: &Delivery| !d.retain;
            let first = self.queue.iter().position(|d| live(d) && d.qos == 0);
            let Some(at) = first.or_else(|| self.queue.iter().position(live)) else { break };
            if let Some(dropped) = self.queue.remove(at) {
                self.account(&dropped, usize::wrapping_sub);
            }
            counters.dropped_slow.inc();
        }
        if self.left.is_none() {
            self.wake.notify_one();
        }
    }

    /// Adds a delivery to, or takes it from, what the bounds count.
    fn account(&mut self, delivery: &Delivery, with: fn(usize, usize) -> usize) {
        if delivery.retain {
            self.queued_retained = with(self.queued_retained, 1);
        } else {
            self.queued_bytes = with(self.queued_bytes, delivery.message.bytes());
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.account(&delivery, usize::wrapping_sub);
        Some(delivery)
    }

    fn drop_where(&mut self, what: impl Fn(&Delivery) -> bool) {
        self.queue.retain(|d| !what(d));
        self.queued_bytes =
            self.queue.iter().filter(|d| !d.retain).map(|d| d.message.bytes()).sum();
        self.queued_retained = self.queue.iter().filter(|d| d.retain).count();
    }

    /// What was sent and not acknowledged goes out again first.
    fn requeue_unacked(&mut self) {
        while let Some((_, mut delivery)) = self.unacked.pop_back() {
            delivery.dup = true;
            self.account(&delivery, usize::wrapping_add);
            self.queue.push_front(delivery);
        }
    }

    /// The next packet identifier that is not in use; there are far more than unacknowledged messages.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.unacked.iter().any(|(id, _)| *id == self.last_id) {
                return self.last_id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Packet, parse, split_frame};
    use super::*;

    const WIRE: Wire = Wire { version: Version::V4, max_packet: usize::MAX, receive_max: u16::MAX };
    const CLEAN: Wanted = Wanted { clean_start: true, expiry_s: 0, from_anyone: false };
    const KEPT: Wanted = Wanted { clean_start: false, expiry_s: 60, from_anyone: false };

    fn hub(limits: HubLimits) -> (Arc<Hub>, Arc<Counters>) {
        let counters = Arc::<Counters>::default();
        (Hub::new(limits, Arc::clone(&counters)), counters)
    }

    fn filter(path: &str, qos: u8) -> Filter {
        Filter {
            path: path.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            retained: SendRetained::Always,
        }
    }

    fn publish(hub: &Hub, topic: &str, payload: &str, qos: u8, retain: bool) {
        let payload = Bytes::from(payload.to_owned());
        let p =
            Publish { topic: topic.into(), payload, qos, retain, id: 0, properties: Bytes::new() };
        hub.publish("publisher", p);
    }

    /// Payloads, each with its flags, that `seat` gets now.
    fn got(hub: &Hub, seat: &Seat) -> Vec<(String, Publish)> {
        let mut out = BytesMut::new();
        hub.write(seat, WIRE, &mut out, usize::MAX);
        let mut all = Vec::new();
        while let Some(frame) = split_frame(&mut out, usize::MAX).unwrap() {
            let Packet::Publish(p) = parse(frame, Some(Version::V4)).unwrap() else { panic!() };
            all.push((String::from_utf8(p.payload.to_vec()).unwrap(), p));
        }
        all
    }

    fn payloads(hub: &Hub, seat: &Seat) -> Vec<String> {
        got(hub, seat).into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn messages_reach_those_who_asked_once_each() {
        let (hub, _) = hub(HubLimits::default());
        let a = hub.join("a", "x", CLEAN).unwrap();
        let b = hub.join("b", "x", CLEAN).unwrap();
        hub.subscribe(&a, Version::V4, vec![filter("t/#", 0), filter("t/+", 1)]);
        hub.subscribe(&b, Version::V4, vec![filter("other", 0)]);
        publish(&hub, "t/1", "hello", 1, false);
        let mail = got(&hub, &a);
        assert_eq!(mail.len(), 1);
        assert_eq!((mail[0].1.qos, mail[0].1.retain), (1, false));
        assert!(got(&hub, &b).is_empty());
        hub.unsubscribe(&a, &["t/#".into(), "t/+".into()]);
        publish(&hub, "t/1", "again", 1, false);
        assert!(got(&hub, &a).is_empty());
    }

    #[test]
    fn retained_messages_wait_for_late_subscribers() {
        let (hub, _) = hub(HubLimits::default());
        publish(&hub, "s/a", "1", 0, true);
        publish(&hub, "s/a", "2", 0, true);
        publish(&hub, "s/b", "3", 0, true);
        publish(&hub, "s/b", "", 0, true);
        let a = hub.join("a", "x", CLEAN).unwrap();
        assert_eq!(hub.subscribe(&a, Version::V4, vec![filter("s/+", 0)]), [0]);
        let mail = got(&hub, &a);
        assert_eq!(mail.len(), 1);
        assert!(mail[0].0 == "2" && mail[0].1.retain);
        let mut once = filter("s/+", 0);
        once.retained = SendRetained::IfNew;
        hub.subscribe(&a, Version::V4, vec![once]);
        assert!(got(&hub, &a).is_empty());
    }

    #[test]
    fn a_subscriber_gets_every_retained_message_however_many() {
        let (hub, counters) = hub(HubLimits { queue_messages: 3, ..HubLimits::default() });
        for i in 0..300 {
            publish(&hub, &format!("t/{i}"), "x", 0, true);
        }
        let a = hub.join("a", "x", CLEAN).unwrap();
        hub.subscribe(&a, Version::V4, vec![filter("#", 0)]);
        publish(&hub, "t", "live", 0, false);
        assert_eq!(got(&hub, &a).len(), 301);
        assert_eq!(counters.dropped_slow.get(), 0);
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_it_is_counted() {
        let (hub, counters) = hub(HubLimits { queue_messages: 3, ..HubLimits::default() });
        let a = hub.join("a", "x", CLEAN).unwrap();
        hub.subscribe(&a, Version::V4, vec![filter("#", 1)]);
        publish(&hub, "t", "keep", 1, false);
        for i in 0..5 {
            publish(&hub, "t", &i.to_string(), 0, false);
        }
        assert_eq!(payloads(&hub, &a), ["keep", "3", "4"]);
        assert_eq!(counters.dropped_slow.get(), 3);
    }

    #[test]
    fn queues_and_retained_messages_are_bounded_in_bytes() {
        let limits = HubLimits { queue_bytes: 1000, retained_bytes: 1000, ..HubLimits::default() };
        let (hub, counters) = hub(limits);
        let a = hub.join("a", "x", CLEAN).unwrap();
        hub.subscribe(&a, Version::V4, vec![filter("#", 0)]);
        for i in 0..10 {
            publish(&hub, &format!("t{i}"), &"x".repeat(300), 0, true);
        }
        assert_eq!(payloads(&hub, &a).len(), 3);
        assert_eq!(counters.retained_refused.get(), 7);
        // A retained message makes way for its own successor.
        publish(&hub, "t0", &"y".repeat(300), 0, true);
        assert_eq!(counters.retained_refused.get(), 7);
    }

    #[test]
    fn unacknowledged_messages_have_a_window_and_come_again() {
        let (hub, _) = hub(HubLimits { unacked: 2, ..HubLimits::default() });
        let a = hub.join("a", "x", KEPT).unwrap();
        hub.subscribe(&a, Version::V4, vec![filter("#", 1)]);
        for i in 0..3 {
            publish(&hub, "t", &i.to_string(), 1, false);
        }
        let first = got(&hub, &a);
        assert_eq!(first.len(), 2);
        hub.acknowledged(&a, first[0].1.id);
        assert_eq!(payloads(&hub, &a), ["2"]);
        hub.leave(&a, Instant::now());
        publish(&hub, "t", "while away", 1, false);
        publish(&hub, "t", "qos 0 while away", 0, false);
        let a = hub.join("a", "x", KEPT).unwrap();
        assert!(a.session_present);
        let mut all = Vec::new();
        for _ in 0..3 {
            for (text, p) in got(&hub, &a) {
                hub.acknowledged(&a, p.id);
                all.push(text);
            }
        }
        assert_eq!(all, ["1", "2", "while away"]);
    }

    #[test]
    fn sessions_end_clean_with_their_time_and_with_their_number() {
        let (hub, counters) = hub(HubLimits { absent_sessions: 2, ..HubLimits::default() });
        let now = Instant::now();
        hub.leave(&hub.join("clean", "x", CLEAN).unwrap(), now);
        assert_eq!(hub.sessions(), 0);
        for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
            let seat = hub.join(id, "x", KEPT).unwrap();
            hub.leave(&seat, now + Duration::from_secs(i as u64));
        }
        assert_eq!((hub.sessions(), counters.sessions_dropped.get()), (2, 1));
        assert!(!hub.join("a", "x", KEPT).unwrap().session_present);
        hub.sweep(now + Duration::from_secs(3600));
        assert_eq!(hub.sessions(), 1);
    }

    #[test]
    fn a_client_id_is_taken_over_by_its_own_user_only() {
        let (hub, _) = hub(HubLimits::default());
        let first = hub.join("a", "x", KEPT).unwrap();
        assert_eq!(hub.join("a", "y", KEPT).unwrap_err(), IdTaken);
        assert!(!first.displaced.is_cancelled());
        let second = hub.join("a", "x", KEPT).unwrap();
        assert!(first.displaced.is_cancelled() && second.session_present);
        // The displaced connection no longer touches the session.
        hub.leave(&first, Instant::now());
        assert!(hub.is_back(&first) && !hub.is_back(&second));
        hub.subscribe(&second, Version::V4, vec![filter("t", 0)]);
        publish(&hub, "t", "1", 0, false);
        assert_eq!(payloads(&hub, &second), ["1"]);
        // A session that was left does not block its id for another user, nor show what is in it.
        hub.leave(&second, Instant::now());
        assert!(!hub.join("a", "y", KEPT).unwrap().session_present);
        // An admin, as this program's own client is, is never kept out of its id.
        let admin = Wanted { from_anyone: true, ..CLEAN };
        assert!(!hub.join("a", "z", admin).unwrap().session_present);
    }

    #[test]
    fn bad_filters_get_their_code() {
        let (hub, _) = hub(HubLimits { filters_per_client: 1, ..HubLimits::default() });
        let a = hub.join("a", "x", CLEAN).unwrap();
        let asked =
            || vec![filter("a#", 0), filter("$share/g/t", 0), filter("t", 2), filter("u", 0)];
        assert_eq!(hub.subscribe(&a, Version::V5, asked()), [0x8f, 0x9e, 1, 0x97]);
        assert_eq!(hub.subscribe(&a, Version::V4, asked()), [0x80, 0x80, 1, 0x80]);
    }
}
