//! MQTT 3.1.1 and 5 packets a client may send, read from bytes (OASIS MQTT 3.1.1 and 5.0). Pure; writes nothing.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::topic;

/// Which of the two protocols a connection speaks. 3.1 differs from 3.1.1 only in its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V4,
    V5,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("packet of {len} bytes is over the limit of {max}")]
    TooLarge { len: usize, max: usize },
    #[error("not MQTT: {0}")]
    Broken(&'static str),
    #[error("against the protocol: {0}")]
    Protocol(&'static str),
    #[error("protocol version {0} is not spoken here: use MQTT 3.1.1 or 5")]
    Version(u8),
}

use Malformed::{Broken, Protocol};

/// First byte of a CONNECT.
pub const CONNECT: u8 = 0x10;

/// One packet as it came: the first byte of its fixed header, and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub body: Bytes,
}

/// Takes the first whole packet from `buf`; `None` when more bytes are needed. A packet over `max` bytes is refused
/// as soon as its length is known.
pub fn split_frame(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, Malformed> {
    let Some(&first) = buf.first() else { return Ok(None) };
    let mut len = 0_usize;
    for at in 0..4 {
        let Some(&byte) = buf.get(1 + at) else { return Ok(None) };
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if len > max {
                return Err(Malformed::TooLarge { len, max });
            }
            let head = 2 + at;
            if buf.len() < head + len {
                return Ok(None);
            }
            buf.advance(head);
            return Ok(Some(Frame { first, body: buf.split_to(len).freeze() }));
        }
    }
    Err(Broken("length of more than four bytes"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    PubAck(u16),
    PubRel(u16),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect { publish_will: bool },
}

#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    pub clean_start: bool,
    /// Zero: the client promises nothing.
    pub keep_alive_s: u16,
    /// Empty: the server chooses.
    pub client_id: String,
    pub will: Option<Will>,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    /// How long the session outlives the connection.
    pub session_expiry_s: u32,
    /// QoS 1 messages the client takes unacknowledged.
    pub receive_max: u16,
    /// Largest packet the client takes, bytes.
    pub max_packet: usize,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Username and password may be tokens.
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub message: Publish,
    pub delay_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    pub retain: bool,
    /// Zero with QoS 0.
    pub id: u16,
    /// Version 5 properties that are passed on as they are.
    pub properties: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub id: u16,
    pub filters: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub path: String,
    /// 0, 1 or 2, as asked for.
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retained: SendRetained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendRetained {
    Always,
    IfNew,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    pub id: u16,
    pub filters: Vec<String>,
}

/// Most filters one SUBSCRIBE or UNSUBSCRIBE may carry; honest clients send a handful.
const MAX_FILTERS: usize = 256;

/// Reads a packet. The first of a connection must be CONNECT, and has no `version` yet.
pub fn parse(frame: Frame, version: Option<Version>) -> Result<Packet, Malformed> {
    let flags = frame.first & 0x0f;
    let mut r = Reader(frame.body);
    let Some(version) = version else {
        return match (frame.first >> 4, flags) {
            (1, 0) => connect(r),
            _ => Err(Protocol("the first packet is not CONNECT")),
        };
    };
    let expected = match frame.first >> 4 {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != expected {
        return Err(Broken("reserved flags of the fixed header"));
    }
    match frame.first >> 4 {
        3 => publish(r, flags, version).map(Packet::Publish),
        4 => ack(r).map(Packet::PubAck),
        6 => ack(r).map(Packet::PubRel),
        8 => subscribe(r, version).map(Packet::Subscribe),
        10 => unsubscribe(r, version).map(Packet::Unsubscribe),
        12 => r.end().map(|()| Packet::PingReq),
        14 => {
            // 4 is "disconnect with will message".
            let reason = if version == Version::V5 && !r.0.is_empty() { r.u8()? } else { 0 };
            Ok(Packet::Disconnect { publish_will: reason == 4 })
        }
        1 => Err(Protocol("a second CONNECT")),
        // We send nothing at QoS 2, so no client has these to answer.
        5 | 7 => Err(Protocol("PUBREC or PUBCOMP without a publish at QoS 2")),
        15 => Err(Protocol("AUTH without an authentication method")),
        _ => Err(Broken("packet type")),
    }
}

fn connect(mut r: Reader) -> Result<Packet, Malformed> {
    let name = r.binary()?;
    let level = r.u8()?;
    let version = match (&name[..], level) {
        (b"MQTT", 4) | (b"MQIsdp", 3) => Version::V4,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", other) => return Err(Malformed::Version(other)),
        _ => return Err(Broken("no MQTT protocol name")),
    };
    let flags = r.u8()?;
    let (has_will, will_qos, will_retain) = (flags & 4 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
    let (has_password, has_username) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if flags & 1 != 0 || will_qos > 2 || (!has_will && (will_qos > 0 || will_retain)) {
        return Err(Broken("flags of CONNECT"));
    }
    if version == Version::V4 && has_password && !has_username {
        return Err(Broken("a password without a username"));
    }
    let keep_alive_s = r.u16()?;
    let clean_start = flags & 2 != 0;
    let mut own = Properties::default();
    if version == Version::V5 {
        own = r.properties()?;
    } else if !clean_start {
        own.session_expiry_s = Some(u32::MAX);
    }
    let client_id = r.string()?;
    let will = if has_will {
        let p = if version == Version::V5 { r.properties()? } else { Properties::default() };
        let topic = r.string()?;
        if !topic::is_name(&topic) {
            return Err(Protocol("the will's topic"));
        }
        let payload = r.binary()?;
        let (qos, retain, properties) = (will_qos, will_retain, p.forward.into());
        let message = Publish { topic, payload, qos, retain, id: 0, properties };
        Some(Will { message, delay_s: p.will_delay_s })
    } else {
        None
    };
    let username = if has_username { Some(r.string()?) } else { None };
    let password = if has_password { Some(r.binary()?) } else { None };
    r.end()?;
    Ok(Packet::Connect(Box::new(Connect {
        version,
        clean_start,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        session_expiry_s: own.session_expiry_s.unwrap_or(0),
        receive_max: own.receive_max.unwrap_or(u16::MAX),
        max_packet: own.max_packet.unwrap_or(usize::MAX),
    })))
}

fn publish(mut r: Reader, flags: u8, version: Version) -> Result<Publish, Malformed> {
    let qos = (flags >> 1) & 3;
    if qos > 2 {
        return Err(Broken("QoS 3"));
    }
    let topic = r.string()?;
    let id = if qos > 0 { r.id()? } else { 0 };
    let mut properties = Bytes::new();
    if version == Version::V5 {
        let p = r.properties()?;
        if p.topic_alias {
            return Err(Protocol("a topic alias, though none was offered"));
        }
        properties = p.forward.into();
    }
    if !topic::is_name(&topic) {
        return Err(Protocol("a publish's topic is empty, too long or has wildcards"));
    }
    Ok(Publish { topic, payload: r.0, qos, retain: flags & 1 != 0, id, properties })
}

/// The packet identifier; reason and properties of version 5 do not matter here.
fn ack(mut r: Reader) -> Result<u16, Malformed> {
    r.id()
}

fn subscribe(mut r: Reader, version: Version) -> Result<Subscribe, Malformed> {
    let id = r.id()?;
    if version == Version::V5 && r.properties()?.subscription_id {
        return Err(Protocol("a subscription identifier, though none are offered"));
    }
    let mut filters = Vec::new();
    while !r.0.is_empty() {
        let path = r.string()?;
        let options = r.u8()?;
        let (qos, retained) = (options & 3, (options >> 4) & 3);
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if qos > 2 || retained > 2 || options & reserved != 0 {
            return Err(Broken("options of SUBSCRIBE"));
        }
        filters.push(Filter {
            path,
            qos,
            no_local: options & 4 != 0,
            retain_as_published: options & 8 != 0,
            retained: match retained {
                0 => SendRetained::Always,
                1 => SendRetained::IfNew,
                _ => SendRetained::Never,
            },
        });
        if filters.len() > MAX_FILTERS {
            return Err(Protocol("more filters in one packet than are allowed"));
        }
    }
    if filters.is_empty() {
        return Err(Protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { id, filters })
}

fn unsubscribe(mut r: Reader, version: Version) -> Result<Unsubscribe, Malformed> {
    let id = r.id()?;
    if version == Version::V5 {
        r.properties()?;
    }
    let mut filters = Vec::new();
    while !r.0.is_empty() {
        filters.push(r.string()?);
        if filters.len() > MAX_FILTERS {
            return Err(Protocol("more filters in one packet than are allowed"));
        }
    }
    if filters.is_empty() {
        return Err(Protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Unsubscribe { id, filters })
}

/// Version 5 properties, of whatever packet; only what is used here.
#[derive(Debug, Default)]
struct Properties {
    session_expiry_s: Option<u32>,
    receive_max: Option<u16>,
    max_packet: Option<usize>,
    will_delay_s: u32,
    topic_alias: bool,
    subscription_id: bool,
    /// Those of a message that concern its readers, as they came.
    forward: Vec<u8>,
}

struct Reader(Bytes);

impl Reader {
    fn need(&self, n: usize) -> Result<(), Malformed> {
        if self.0.len() < n { Err(Broken("packet ends too early")) } else { Ok(()) }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken("packet goes on after its end")) }
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    fn id(&mut self) -> Result<u16, Malformed> {
        match self.u16()? {
            0 => Err(Protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    fn take(&mut self, n: usize) -> Result<Bytes, Malformed> {
        self.need(n)?;
        Ok(self.0.split_to(n))
    }

    fn varint(&mut self) -> Result<usize, Malformed> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken("number of more than four bytes"))
    }

    fn binary(&mut self) -> Result<Bytes, Malformed> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let text = String::from_utf8(self.binary()?.into()).map_err(|_| Broken("text"))?;
        if text.contains('\0') { Err(Broken("text with a null character")) } else { Ok(text) }
    }

    /// MQTT 5 section 2.2.2.2. Identifiers that make no sense in a packet are taken for what they are.
    fn properties(&mut self) -> Result<Properties, Malformed> {
        let n = self.varint()?;
        let mut r = Self(self.take(n)?);
        let mut p = Properties::default();
        while !r.0.is_empty() {
            let whole = r.0.clone();
            let mut forward = false;
            match r.varint()? {
                0x01 => {
                    r.u8()?;
                    forward = true;
                }
                0x02 => {
                    r.u32()?;
                    forward = true;
                }
                0x03 | 0x08 => {
                    r.string()?;
                    forward = true;
                }
                0x09 => {
                    r.binary()?;
                    forward = true;
                }
                0x26 => {
                    r.string()?;
                    r.string()?;
                    forward = true;
                }
                0x0b => {
                    r.varint()?;
                    p.subscription_id = true;
                }
                0x11 => p.session_expiry_s = Some(r.u32()?),
                0x18 => p.will_delay_s = r.u32()?,
                0x21 => match r.u16()? {
                    0 => return Err(Protocol("receive maximum 0")),
                    max => p.receive_max = Some(max),
                },
                0x27 => match r.u32()? {
                    0 => return Err(Protocol("maximum packet size 0")),
                    max => p.max_packet = usize::try_from(max).ok(),
                },
                0x23 => {
                    r.u16()?;
                    p.topic_alias = true;
                }
                0x22 | 0x13 => {
                    r.u16()?;
                }
                0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => {
                    r.u8()?;
                }
                0x12 | 0x15 | 0x1a | 0x1c | 0x1f => {
                    r.string()?;
                }
                0x16 => {
                    r.binary()?;
                }
                _ => return Err(Broken("unknown property")),
            }
            if forward {
                p.forward.extend_from_slice(&whole[..whole.len() - r.0.len()]);
            }
        }
        Ok(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
        split_frame(&mut BytesMut::from(bytes), 1000)
    }

    #[test]
    fn frames_wait_for_their_end_and_have_a_limit() {
        assert_eq!(frame(&[]), Ok(None));
        assert_eq!(frame(&[0xc0]), Ok(None));
        assert_eq!(frame(&[0xc0, 0]).unwrap().unwrap().first, 0xc0);
        assert_eq!(frame(&[0x30, 3, 0, 1]), Ok(None));
        assert!(matches!(
            frame(&[0x30, 0xff, 0xff, 0xff, 0x7f]),
            Err(Malformed::TooLarge { len: 268_435_455, .. })
        ));
        assert!(matches!(frame(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(Broken(_))));
    }

    fn connect_v4(flags: u8, id: &[u8], rest: &[u8]) -> Frame {
        let mut b = b"\0\x04MQTT\x04".to_vec();
        b.extend([flags, 0, 60, 0, u8::try_from(id.len()).unwrap()]);
        b.extend(id);
        b.extend(rest);
        Frame { first: 0x10, body: b.into() }
    }

    #[test]
    fn connect_is_read_whole() {
        let rest = b"\0\x01t\0\x03off\0\x01u\0\x02pw";
        let Packet::Connect(c) = parse(connect_v4(0xe6, b"id", rest), None).unwrap() else {
            panic!()
        };
        assert_eq!((c.client_id.as_str(), c.keep_alive_s, c.clean_start), ("id", 60, true));
        let will = c.will.clone().unwrap().message;
        assert_eq!((will.topic.as_str(), &will.payload[..], will.retain), ("t", &b"off"[..], true));
        assert_eq!(c.username.as_deref(), Some("u"));
        assert_eq!(c.password.as_deref(), Some(&b"pw"[..]));
        assert!(!format!("{c:?}").contains("pw"));
    }

    #[test]
    fn bad_connects_are_named() {
        for (bad, why) in [
            (connect_v4(0x03, b"", b""), "reserved flag"),
            (connect_v4(0x1e, b"", b"\0\x01t\0\0"), "will qos 3"),
            (connect_v4(0x08, b"", b""), "will qos without will"),
            (connect_v4(0x42, b"", b"\0\x01p"), "password without username"),
            (connect_v4(0x02, b"", b"more"), "trailing bytes"),
            (connect_v4(0x06, b"", b"\0\x01#\0\0"), "will topic with wildcard"),
            (connect_v4(0x02, b"\xff", b""), "client id not utf-8"),
            (connect_v4(0x02, b"a\0b", b""), "client id with null"),
            (Frame { first: 0x30, body: Bytes::new() }, "not a connect"),
        ] {
            assert!(parse(bad, None).is_err(), "{why}");
        }
        let old = Frame { first: 0x10, body: Bytes::from_static(b"\0\x04MQTT\x06\x02\0\0\0\0") };
        assert_eq!(parse(old, None), Err(Malformed::Version(6)));
        let second = parse(connect_v4(2, b"x", b""), Some(Version::V4));
        assert!(matches!(second, Err(Protocol(_))));
    }

    #[test]
    fn version_5_properties_are_read_and_readers_ones_passed_on() {
        let body = b"\0\x01t\x0c\x01\x01\x26\0\x01k\0\x01v\x03\0\0hi";
        let f = Frame { first: 0x30, body: Bytes::from_static(body) };
        let Packet::Publish(p) = parse(f, Some(Version::V5)).unwrap() else { panic!() };
        assert_eq!(&p.payload[..], b"hi");
        assert_eq!(&p.properties[..], b"\x01\x01\x26\0\x01k\0\x01v\x03\0\0");
        let alias = Frame { first: 0x30, body: Bytes::from_static(b"\0\x01t\x03\x23\0\x01") };
        assert!(matches!(parse(alias, Some(Version::V5)), Err(Protocol(_))));
        let unknown = Frame { first: 0x30, body: Bytes::from_static(b"\0\x01t\x01\x7f") };
        assert!(matches!(parse(unknown, Some(Version::V5)), Err(Broken(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(first: u8, body in proptest::collection::vec(any::<u8>(), 0..200), v in 0..3) {
            let version = [None, Some(Version::V4), Some(Version::V5)][v as usize];
            let _ = parse(Frame { first, body: body.into() }, version);
        }

        #[test]
        fn nearly_right_connects_do_not_panic(
            level in 3..7_u8, tail in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let mut body = b"\0\x04MQTT".to_vec();
            body.push(level);
            body.extend(tail);
            let _ = parse(Frame { first: 0x10, body: body.into() }, None);
        }

        #[test]
        fn framing_does_not_depend_on_how_bytes_arrive(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize
        ) {
            let all = |chunks: &[&[u8]]| {
                let (mut buf, mut out) = (BytesMut::new(), Vec::new());
                for chunk in chunks {
                    buf.extend_from_slice(chunk);
                    loop {
                        match split_frame(&mut buf, 100) {
                            Ok(Some(f)) => out.push(f),
                            Ok(None) => break,
                            Err(e) => return (out, Some(e)),
                        }
                    }
                }
                (out, None)
            };
            let cut = cut.min(bytes.len());
            prop_assert_eq!(all(&[&bytes]), all(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
