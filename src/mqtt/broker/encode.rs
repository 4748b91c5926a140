//! MQTT packets a server sends, written into a buffer in the connection's protocol version. Pure.

use bytes::{BufMut, BytesMut};

use super::codec::Version;

/// Why a CONNECT is refused, or a connection ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Version,
    ClientId,
    NotAllowed,
    Malformed,
    Protocol,
    TooLarge,
    TakenOver,
    ShuttingDown,
    KeepAlive,
}

impl Refusal {
    /// Reason code of version 5 (section 2.4).
    fn v5(self) -> u8 {
        match self {
            Self::Malformed => 0x81,
            Self::Protocol => 0x82,
            Self::Version => 0x84,
            Self::ClientId => 0x85,
            Self::NotAllowed => 0x87,
            Self::ShuttingDown => 0x8b,
            Self::KeepAlive => 0x8d,
            Self::TakenOver => 0x8e,
            Self::TooLarge => 0x95,
        }
    }

    /// Return code of version 3.1.1 (section 3.2.2.3), which knows only five.
    fn v4(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::ClientId => 2,
            Self::NotAllowed => 5,
            _ => 3,
        }
    }
}

/// What a CONNACK tells a version 5 client beyond success.
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    pub session_present: bool,
    /// The client id we chose, when the client sent none.
    pub assigned_id: Option<&'a str>,
    /// Our keep-alive in place of the client's, seconds.
    pub keep_alive_s: Option<u16>,
    pub session_expiry_s: u32,
    pub max_packet: usize,
    /// QoS 1 and 2 publishes we take unacknowledged.
    pub receive_max: u16,
}

pub fn welcome(out: &mut BytesMut, version: Version, w: &Welcome<'_>) {
    let mut body = BytesMut::new();
    body.put_u8(u8::from(w.session_present));
    body.put_u8(0);
    if version == Version::V5 {
        let mut p = BytesMut::new();
        p.put_u8(0x11);
        p.put_u32(w.session_expiry_s);
        p.put_u8(0x21);
        p.put_u16(w.receive_max);
        p.put_u8(0x27);
        p.put_u32(u32::try_from(w.max_packet).unwrap_or(u32::MAX));
        // Neither subscription identifiers nor shared subscriptions.
        p.put_slice(&[0x29, 0, 0x2a, 0]);
        if let Some(id) = w.assigned_id {
            p.put_u8(0x12);
            put_text(&mut p, id);
        }
        if let Some(s) = w.keep_alive_s {
            p.put_u8(0x13);
            p.put_u16(s);
        }
        put_varint(&mut body, p.len());
        body.put_slice(&p);
    }
    packet(out, 0x20, &body);
}

/// The CONNACK of a refused CONNECT.
pub fn refuse(out: &mut BytesMut, version: Version, why: Refusal) {
    match version {
        Version::V4 => packet(out, 0x20, &[0, why.v4()]),
        Version::V5 => packet(out, 0x20, &[0, why.v5(), 0]),
    }
}

/// Version 5 says why it ends a connection; 3.1.1 has no words for it.
pub fn disconnect(out: &mut BytesMut, version: Version, why: Refusal) {
    if version == Version::V5 {
        packet(out, 0xe0, &[why.v5(), 0]);
    }
}

/// A message on its way to a subscriber; `id` is zero with QoS 0.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub properties: &'a [u8],
    /// 0 or 1.
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: u16,
}

/// The packet's size in bytes, for the client's limit.
pub fn publish_len(version: Version, m: &Outgoing<'_>) -> usize {
    let body = publish_body_len(version, m);
    1 + varint_len(body) + body
}

fn publish_body_len(version: Version, m: &Outgoing<'_>) -> usize {
    let properties = match version {
        Version::V4 => 0,
        Version::V5 => varint_len(m.properties.len()) + m.properties.len(),
    };
    2 + m.topic.len() + if m.qos > 0 { 2 } else { 0 } + properties + m.payload.len()
}

pub fn publish(out: &mut BytesMut, version: Version, m: &Outgoing<'_>) {
    let body = publish_body_len(version, m);
    out.reserve(body + 5);
    out.put_u8(0x30 | u8::from(m.dup) << 3 | m.qos << 1 | u8::from(m.retain));
    put_varint(out, body);
    put_text(out, m.topic);
    if m.qos > 0 {
        out.put_u16(m.id);
    }
    if version == Version::V5 {
        put_varint(out, m.properties.len());
        out.put_slice(m.properties);
    }
    out.put_slice(m.payload);
}

/// PUBACK of a message that was taken (`allowed`) or not, which 3.1.1 cannot tell.
pub fn puback(out: &mut BytesMut, version: Version, id: u16, allowed: bool) {
    ack(out, 0x40, version, id, allowed);
}

pub fn pubrec(out: &mut BytesMut, version: Version, id: u16, allowed: bool) {
    ack(out, 0x50, version, id, allowed);
}

pub fn pubcomp(out: &mut BytesMut, id: u16) {
    packet(out, 0x70, &id.to_be_bytes());
}

fn ack(out: &mut BytesMut, first: u8, version: Version, id: u16, allowed: bool) {
    let [hi, lo] = id.to_be_bytes();
    if allowed || version == Version::V4 {
        packet(out, first, &[hi, lo]);
    } else {
        packet(out, first, &[hi, lo, 0x87]);
    }
}

/// `codes` in the order of the filters, as the hub gives them.
pub fn suback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    codes_packet(out, 0x90, version, id, codes);
}

pub fn unsuback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    match version {
        Version::V4 => packet(out, 0xb0, &id.to_be_bytes()),
        Version::V5 => codes_packet(out, 0xb0, version, id, codes),
    }
}

pub fn pingresp(out: &mut BytesMut) {
    packet(out, 0xd0, &[]);
}

fn codes_packet(out: &mut BytesMut, first: u8, version: Version, id: u16, codes: &[u8]) {
    let mut body = BytesMut::with_capacity(3 + codes.len());
    body.put_u16(id);
    if version == Version::V5 {
        body.put_u8(0);
    }
    body.put_slice(codes);
    packet(out, first, &body);
}

fn packet(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    put_varint(out, body.len());
    out.put_slice(body);
}

fn put_text(out: &mut BytesMut, text: &str) {
    // All texts here are topics and client ids, which are bounded far below.
    let n = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.put_u16(n);
    out.put_slice(&text.as_bytes()[..usize::from(n)]);
}

fn put_varint(out: &mut BytesMut, mut n: usize) {
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            return out.put_u8(byte);
        }
        out.put_u8(byte | 0x80);
    }
}

fn varint_len(n: usize) -> usize {
    match n {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x001f_ffff => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{self, Packet};
    use super::*;

    #[test]
    fn what_is_written_can_be_read_again() {
        for version in [Version::V4, Version::V5] {
            for len in [0, 100, 20_000, 2_100_000] {
                let payload = vec![7; len];
                let m = Outgoing {
                    topic: "a/b",
                    payload: &payload,
                    properties: if version == Version::V5 { b"\x01\x01" } else { b"" },
                    qos: 1,
                    retain: true,
                    dup: false,
                    id: 9,
                };
                let mut out = BytesMut::new();
                publish(&mut out, version, &m);
                assert_eq!(out.len(), publish_len(version, &m));
                let frame = codec::split_frame(&mut out, usize::MAX).unwrap().unwrap();
                let Packet::Publish(p) = codec::parse(frame, Some(version)).unwrap() else {
                    panic!()
                };
                assert_eq!((p.topic.as_str(), p.id, p.retain), ("a/b", 9, true));
                assert_eq!(&p.payload[..], payload);
                assert_eq!(&p.properties[..], m.properties);
            }
        }
    }

    #[test]
    fn refusals_have_the_standard_s_numbers() {
        let mut out = BytesMut::new();
        refuse(&mut out, Version::V4, Refusal::NotAllowed);
        refuse(&mut out, Version::V5, Refusal::NotAllowed);
        assert_eq!(&out[..], [0x20, 2, 0, 5, 0x20, 3, 0, 0x87, 0]);
    }
}
