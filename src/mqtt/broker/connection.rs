//! One client of the broker: CONNECT judged, then packets in and messages out until one side ends it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::codec::{self, Connect, Frame, Malformed, Packet, Publish, Version, Will};
use super::encode::{self, Refusal, Welcome};
use super::hub::{Seat, Wanted, Wire};
use crate::auth::{Caller, Denied, Guard, Right};

/// How long CONNECT may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take no bytes before it is given up.
const STALL: Duration = Duration::from_secs(10);
/// What is read before the caller is known.
const MAX_CONNECT_BYTES: usize = 64 << 10;
/// QoS 2 publishes under way on one connection.
const MAX_QOS2: usize = 32;
/// Keep-alive for version 5 clients that ask for none, so that dead ones are found.
const DEFAULT_KEEP_ALIVE_S: u16 = 300;
/// Messages are gathered up to here before they are written.
const GATHER_BYTES: usize = 64 << 10;

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by the client without DISCONNECT")]
    Gone,
    #[error("disconnected")]
    Goodbye,
    #[error("no TLS: {0}")]
    NoTls(String),
    #[error("no CONNECT within {} s", HANDSHAKE.as_secs())]
    NoConnect,
    #[error("silent for longer than its keep-alive")]
    Silent,
    #[error("took nothing for {} s", STALL.as_secs())]
    Stalled,
    #[error("its client id connected again")]
    Displaced,
    #[error("the broker is shutting down")]
    Stopped,
    #[error("client id {0:?} is in use by another user")]
    IdTaken(String),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("i/o: {0}")]
    Io(#[from] std::io::Error),
}

struct Connection<'a, S> {
    socket: S,
    peer: IpAddr,
    inbox: BytesMut,
    out: BytesMut,
    door: &'a Door,
}

/// What was settled at CONNECT.
struct Session {
    seat: Seat,
    wire: Wire,
    may_publish: bool,
    /// Packet identifiers of QoS 2 publishes between PUBLISH and PUBREL.
    qos2: Vec<u16>,
    told_may_not: bool,
    idle: Option<Duration>,
}

/// Serves one client to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    peer: SocketAddr,
    door: &Door,
    stop: &CancellationToken,
) -> End {
    let peer = peer.ip();
    let mut c = Connection { socket, peer, inbox: BytesMut::new(), out: BytesMut::new(), door };
    let (mut session, will) = match c.handshake(stop).await {
        Ok(settled) => settled,
        Err(end) => {
            if matches!(end, End::Malformed(_)) {
                door.counters.malformed.inc();
            }
            return end;
        }
    };
    let end = match c.run(&mut session, stop).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    c.say_why(session.wire.version, &end).await;
    drop(c);
    door.hub.leave(&session.seat, Instant::now());
    if let Some(will) = will.filter(|_| !matches!(end, End::Goodbye)) {
        publish_will(door, &session.seat, will, stop).await;
    }
    end
}

/// Publishes the will after its delay, unless the client came back or the session ended first.
async fn publish_will(door: &Door, seat: &Seat, will: Will, stop: &CancellationToken) {
    let delay = Duration::from_secs(will.delay_s.into()).min(seat.session_expiry);
    if !delay.is_zero() {
        tokio::select! {
            () = sleep(delay) => {}
            () = stop.cancelled() => {}
        }
        if door.hub.is_back(seat) {
            return;
        }
    }
    door.hub.publish(&seat.client_id, will.message);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn handshake(
        &mut self,
        stop: &CancellationToken,
    ) -> Result<(Session, Option<Will>), End> {
        let frame = tokio::select! {
            frame = timeout(HANDSHAKE, self.frame(MAX_CONNECT_BYTES)) => {
                frame.map_err(|_| End::NoConnect)??
            }
            () = stop.cancelled() => return Err(End::Stopped),
        };
        let connect = match codec::parse(frame, None) {
            Ok(Packet::Connect(connect)) => *connect,
            Ok(_) => return Err(Malformed::Protocol("the first packet is not CONNECT").into()),
            Err(error) => {
                if let Malformed::Version(level) = error {
                    let version = if level > 4 { Version::V5 } else { Version::V4 };
                    self.refuse(version, Refusal::Version).await;
                }
                return Err(error.into());
            }
        };
        match self.admit(connect) {
            Ok(settled) => {
                self.flush().await?;
                Ok(settled)
            }
            Err((version, why, end)) => {
                self.refuse(version, why).await;
                Err(end)
            }
        }
    }

    /// Asks the guard and the hub; on success the CONNACK is in `out`.
    fn admit(
        &mut self,
        connect: Connect,
    ) -> Result<(Session, Option<Will>), (Version, Refusal, End)> {
        let version = connect.version;
        let (who, may_publish) = judge(&self.door.guard, self.peer, &connect)
            .map_err(|denied| (version, Refusal::NotAllowed, denied.into()))?;
        let assigned = connect.client_id.is_empty();
        if assigned && version == Version::V4 && !connect.clean_start {
            let error = Malformed::Protocol("a lasting session without a client id");
            return Err((version, Refusal::ClientId, error.into()));
        }
        let client_id = if assigned { random_id() } else { connect.client_id };
        let wanted = Wanted {
            clean_start: connect.clean_start,
            expiry_s: connect.session_expiry_s,
            from_anyone: may_publish,
        };
        let seat = self.door.hub.join(&client_id, &who, wanted).map_err(|_| {
            let shown = client_id.chars().take(64).collect();
            (version, Refusal::ClientId, End::IdTaken(shown))
        })?;
        let keep_alive_s = match (version, connect.keep_alive_s) {
            (Version::V5, 0) => DEFAULT_KEEP_ALIVE_S,
            (_, s) => s,
        };
        let welcome = Welcome {
            session_present: seat.session_present,
            assigned_id: assigned.then_some(&*client_id),
            keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            session_expiry_s: u32::try_from(seat.session_expiry.as_secs()).unwrap_or(u32::MAX),
            max_packet: self.door.max_packet,
            receive_max: MAX_QOS2 as u16,
        };
        encode::welcome(&mut self.out, version, &welcome);
        let will = connect.will.filter(|_| {
            if !may_publish {
                self.door.counters.publish_refused.inc();
                tracing::info!(peer = %self.peer, who, client_id, "will ignored: no right to publish");
            }
            may_publish
        });
        tracing::debug!(peer = %self.peer, who, client_id, ?version, "mqtt client connected");
        let session = Session {
            seat,
            wire: Wire {
                version,
                max_packet: connect.max_packet,
                receive_max: connect.receive_max,
            },
            may_publish,
            qos2: Vec::new(),
            told_may_not: false,
            idle: (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()) * 3 / 2),
        };
        Ok((session, will))
    }

    async fn run(
        &mut self,
        session: &mut Session,
        stop: &CancellationToken,
    ) -> Result<std::convert::Infallible, End> {
        let displaced = session.seat.displaced.clone();
        let wake = Arc::clone(&session.seat.wake);
        let mut heard = tokio::time::Instant::now();
        loop {
            while let Some(frame) = codec::split_frame(&mut self.inbox, self.door.max_packet)? {
                self.packet(session, frame)?;
                // A peer that sends without reading must not make us gather answers without end.
                if self.out.len() >= GATHER_BYTES {
                    self.flush().await?;
                }
            }
            loop {
                let more =
                    self.door.hub.write(&session.seat, session.wire, &mut self.out, GATHER_BYTES);
                self.flush().await?;
                if !more {
                    break;
                }
            }
            let silence = async {
                match session.idle {
                    Some(idle) => sleep_until(heard + idle).await,
                    None => std::future::pending().await,
                }
            };
            self.inbox.reserve(4096);
            tokio::select! {
                read = self.socket.read_buf(&mut self.inbox) => {
                    if read? == 0 {
                        return Err(End::Gone);
                    }
                    heard = tokio::time::Instant::now();
                }
                () = wake.notified() => {}
                () = silence => return Err(End::Silent),
                () = displaced.cancelled() => return Err(End::Displaced),
                () = stop.cancelled() => {
                    // What was published before the end, "offline" above all, still goes out.
                    self.door.hub.write(&session.seat, session.wire, &mut self.out, GATHER_BYTES);
                    self.flush().await?;
                    return Err(End::Stopped);
                }
            }
        }
    }

    fn packet(&mut self, session: &mut Session, frame: Frame) -> Result<(), End> {
        let (hub, seat, version) = (&self.door.hub, &session.seat, session.wire.version);
        match codec::parse(frame, Some(version))? {
            Packet::Publish(p) => self.publish(session, p)?,
            Packet::PubAck(id) => hub.acknowledged(seat, id),
            Packet::PubRel(id) => {
                session.qos2.retain(|open| *open != id);
                encode::pubcomp(&mut self.out, id);
            }
            Packet::Subscribe(s) => {
                let codes = hub.subscribe(seat, version, s.filters);
                encode::suback(&mut self.out, version, s.id, &codes);
            }
            Packet::Unsubscribe(u) => {
                let codes = hub.unsubscribe(seat, &u.filters);
                encode::unsuback(&mut self.out, version, u.id, &codes);
            }
            Packet::PingReq => encode::pingresp(&mut self.out),
            Packet::Disconnect { publish_will: true } => return Err(End::Gone),
            Packet::Disconnect { publish_will: false } => return Err(End::Goodbye),
            Packet::Connect(_) => return Err(Malformed::Protocol("a second CONNECT").into()),
        }
        Ok(())
    }

    fn publish(&mut self, session: &mut Session, p: Publish) -> Result<(), End> {
        let (version, id, qos) = (session.wire.version, p.id, p.qos);
        let allowed = session.may_publish;
        let mut repeated = false;
        match qos {
            0 => {}
            1 => encode::puback(&mut self.out, version, id, allowed),
            _ => {
                repeated = session.qos2.contains(&id);
                // A refused one ends with this answer in version 5, and with PUBREL in 3.1.1.
                if !repeated && (allowed || version == Version::V4) {
                    if session.qos2.len() >= MAX_QOS2 {
                        return Err(Malformed::Protocol("too many QoS 2 publishes at once").into());
                    }
                    session.qos2.push(id);
                }
                encode::pubrec(&mut self.out, version, id, allowed);
            }
        }
        if !allowed {
            self.door.counters.publish_refused.inc();
            if !session.told_may_not {
                session.told_may_not = true;
                let client_id = &session.seat.client_id;
                tracing::info!(peer = %self.peer, client_id, "publish ignored: it takes an admin token");
            }
        } else if !repeated {
            self.door.hub.publish(&session.seat.client_id, p);
        }
        Ok(())
    }

    /// The first packet.
    async fn frame(&mut self, max: usize) -> Result<Frame, End> {
        loop {
            if let Some(frame) = codec::split_frame(&mut self.inbox, max)? {
                return Ok(frame);
            }
            self.inbox.reserve(1024);
            if self.socket.read_buf(&mut self.inbox).await? == 0 {
                return Err(End::Gone);
            }
            // Whoever speaks another protocol would only be waited for.
            if self.inbox.first() != Some(&codec::CONNECT) {
                return Err(Malformed::Protocol("the first packet is not CONNECT").into());
            }
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let all = async {
            self.socket.write_all(&self.out).await?;
            // TLS keeps back what the kernel had no room for.
            self.socket.flush().await
        };
        let written = timeout(STALL, all).await;
        self.out.clear();
        // A burst's memory is not kept for ever.
        if self.out.capacity() > 4 * GATHER_BYTES {
            self.out = BytesMut::new();
        }
        Ok(written.map_err(|_| End::Stalled)??)
    }

    async fn refuse(&mut self, version: Version, why: Refusal) {
        encode::refuse(&mut self.out, version, why);
        let _ = self.flush().await;
        let _ = self.socket.shutdown().await;
    }

    async fn say_why(&mut self, version: Version, end: &End) {
        let why = match end {
            End::Silent => Refusal::KeepAlive,
            End::Displaced => Refusal::TakenOver,
            End::Stopped => Refusal::ShuttingDown,
            End::Malformed(Malformed::TooLarge { .. }) => Refusal::TooLarge,
            End::Malformed(Malformed::Protocol(_)) => Refusal::Protocol,
            End::Malformed(_) => Refusal::Malformed,
            _ => return,
        };
        if matches!(end, End::Malformed(_)) {
            self.door.counters.malformed.inc();
        }
        self.out.clear();
        encode::disconnect(&mut self.out, version, why);
        let _ = self.flush().await;
        let _ = self.socket.shutdown().await;
    }
}

/// Who the caller is, and whether it may publish. The password is the token, or the username where there is none.
fn judge(guard: &Guard, peer: IpAddr, connect: &Connect) -> Result<(String, bool), Denied> {
    let password = connect.password.as_deref().and_then(|p| std::str::from_utf8(p).ok());
    let token = password.filter(|p| !p.is_empty()).or(connect.username.as_deref());
    let caller = Caller { peer, forwarded: false, token };
    let grant = guard.check(&caller, Right::Read, None)?;
    let may_publish = guard.may(&caller, Right::Admin);
    Ok((grant.who, may_publish))
}

fn random_id() -> String {
    format!("auto-{:016x}", rand::random::<u64>())
}

impl<S> std::fmt::Debug for Connection<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::hub::{Hub, HubLimits};
    use super::*;
    use crate::auth::{Places, Rarely};
    use crate::config;
    use bytes::{BufMut as _, Bytes};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    const AWAY: &str = "192.0.2.7:5000";
    const HERE: &str = "127.0.0.1:5000";

    struct House {
        _dir: tempfile::TempDir,
        door: Arc<Door>,
        owner: String,
    }

    fn house() -> House {
        let dir = tempfile::tempdir().unwrap();
        let (guard, first) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
        let counters = Arc::<super::super::Counters>::default();
        let door = Door {
            guard: Arc::new(guard),
            hub: Hub::new(HubLimits::default(), Arc::clone(&counters)),
            counters,
            max_packet: 1000,
            places: Places::new(9, 9),
            rarely: Rarely::default(),
        };
        let owner = first.unwrap().owner.expose().to_owned();
        House { _dir: dir, door: Arc::new(door), owner }
    }

    impl House {
        /// A client that seems to come from `peer`, and the end of its connection.
        async fn visit(&self, peer: &str) -> (TcpStream, JoinHandle<End>) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let (door, peer) = (Arc::clone(&self.door), peer.parse().unwrap());
            let serving =
                tokio::spawn(
                    async move { serve(socket, peer, &door, &CancellationToken::new()).await },
                );
            (client, serving)
        }
    }

    fn text(out: &mut BytesMut, text: &str) {
        out.put_u16(u16::try_from(text.len()).unwrap());
        out.put_slice(text.as_bytes());
    }

    fn connect(level: u8, id: &str, login: Option<(&str, &str)>, will: bool) -> Bytes {
        let mut b = BytesMut::from(&b"\0\x04MQTT"[..]);
        let flags = 2 | if will { 4 } else { 0 } | if login.is_some() { 0xc0 } else { 0 };
        b.put_slice(&[level, flags, 0, 60]);
        let v5 = level == 5;
        b.put_slice(if v5 { &[0] } else { &[] });
        text(&mut b, id);
        if will {
            b.put_slice(if v5 { &[0] } else { &[] });
            text(&mut b, "will");
            text(&mut b, "dead");
        }
        if let Some((user, password)) = login {
            text(&mut b, user);
            text(&mut b, password);
        }
        let mut out = BytesMut::from(&[0x10, u8::try_from(b.len()).unwrap()][..]);
        out.put_slice(&b);
        out.freeze()
    }

    async fn ask(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        client.write_all(bytes).await.unwrap();
        let mut answer = vec![0; 512];
        let read = timeout(Duration::from_secs(10), client.read(&mut answer)).await;
        answer.truncate(read.unwrap().unwrap());
        answer
    }

    #[tokio::test]
    async fn callers_from_elsewhere_need_a_token() {
        let house = house();
        for (level, login, expected) in [
            (4, None, &[0x20, 2, 0, 5][..]),
            (4, Some(("x", "wrong")), &[0x20, 2, 0, 5]),
            (5, None, &[0x20, 3, 0, 0x87, 0]),
        ] {
            let (mut client, end) = house.visit(AWAY).await;
            assert_eq!(ask(&mut client, &connect(level, "a", login, false)).await, expected);
            assert!(matches!(end.await.unwrap(), End::Denied(_)));
        }
        for (user, password) in [("anyone", house.owner.as_str()), (&house.owner, "")] {
            let (mut client, _end) = house.visit(AWAY).await;
            let hello = connect(4, "a", Some((user, password)), false);
            assert_eq!(ask(&mut client, &hello).await, [0x20, 2, 0, 0]);
        }
        let (mut client, _end) = house.visit(HERE).await;
        assert_eq!(ask(&mut client, &connect(4, "b", None, false)).await, [0x20, 2, 0, 0]);
    }

    #[tokio::test]
    async fn a_reader_reads_and_does_not_publish() {
        let house = house();
        let token = house.door.guard.add("reader", &[Right::Read], None, false).unwrap();
        let (mut watcher, _end) = house.visit(HERE).await;
        ask(&mut watcher, &connect(4, "watcher", None, false)).await;
        ask(&mut watcher, b"\x82\x06\0\x01\0\x01#\0").await;
        for (level, ack) in [(4, &[0x40, 2, 0, 7][..]), (5, &[0x40, 3, 0, 7, 0x87])] {
            let (mut reader, end) = house.visit(AWAY).await;
            let hello = connect(level, "reader", Some(("x", token.expose())), true);
            assert_eq!(ask(&mut reader, &hello).await[3], 0);
            let properties: &[u8] = if level == 5 { &[0] } else { &[] };
            let mut publish = vec![0x32, 6 + properties.len() as u8, 0, 1, b't', 0, 7];
            publish.extend(properties);
            publish.push(b'x');
            assert_eq!(ask(&mut reader, &publish).await, ack);
            drop(reader);
            assert!(matches!(end.await.unwrap(), End::Gone | End::Io(_)));
        }
        // Two publishes and two wills were refused, and nothing of them arrived: the next thing is our ping's answer.
        assert_eq!(house.door.counters.publish_refused.get(), 4);
        assert_eq!(ask(&mut watcher, b"\xc0\0").await, [0xd0, 0]);
        // The reader's client id is its own: a stranger does not get it, nor does it get the watcher's.
        let (mut thief, end) = house.visit(AWAY).await;
        let hello = connect(4, "watcher", Some(("x", token.expose())), false);
        assert_eq!(ask(&mut thief, &hello).await, [0x20, 2, 0, 2]);
        assert!(matches!(end.await.unwrap(), End::IdTaken(_)));
    }

    #[tokio::test]
    async fn what_is_not_mqtt_is_refused() {
        let house = house();
        let (mut client, end) = house.visit(HERE).await;
        assert_eq!(ask(&mut client, &connect(9, "a", None, false)).await, [0x20, 3, 0, 0x84, 0]);
        assert!(matches!(end.await.unwrap(), End::Malformed(Malformed::Version(9))));
        let (mut client, end) = house.visit(HERE).await;
        assert!(ask(&mut client, b"GET / HTTP/1.1\r\n\r\n").await.is_empty());
        assert!(matches!(end.await.unwrap(), End::Malformed(_)));
        // Over the limit for those we do not know yet, and for those we do.
        let (mut client, end) = house.visit(AWAY).await;
        assert!(ask(&mut client, &[0x10, 0xff, 0xff, 0x7f]).await.is_empty());
        assert!(matches!(end.await.unwrap(), End::Malformed(Malformed::TooLarge { .. })));
        let (mut client, end) = house.visit(HERE).await;
        ask(&mut client, &connect(5, "a", None, false)).await;
        assert_eq!(ask(&mut client, &[0x30, 0x80, 0x10]).await, [0xe0, 2, 0x95, 0]);
        assert!(matches!(end.await.unwrap(), End::Malformed(Malformed::TooLarge { .. })));
    }
}
