//! RTMP chunks in, whole messages out, and messages into chunks (Adobe's RTMP 1.0, section 5.3). Pure: it reads no
//! socket and understands no message but the two of the chunk protocol itself, Set Chunk Size and Abort.
//!
//! Each chunk stream has its own message under way, so messages interleaved on several chunk streams work. Payloads
//! are copied out of the read buffer: a unit then keeps alive just its own bytes for as long as the ring holds it,
//! where a slice would pin the whole buffer it arrived in.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};

/// Message type ids (RTMP 1.0, sections 5.4 and 7.1).
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
}

/// One whole RTMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// See [`kind`].
    pub kind: u8,
    /// Message stream id: 0 for the connection itself, else what createStream gave.
    pub stream: u32,
    /// Milliseconds modulo 2^32, as the peer counts.
    pub timestamp_ms: u32,
    pub payload: Bytes,
}

/// What one connection may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One message, bytes.
    pub max_message_bytes: usize,
    pub max_chunk_streams: usize,
    /// Messages under way on all chunk streams together, bytes received.
    pub max_partial_bytes: usize,
}

/// Why the bytes are not RTMP we go along with; the connection is of no use after any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DechunkError {
    #[error("a message of {size} bytes is over the limit of {limit}: see ingest.max_message_bytes")]
    MessageTooLarge { size: usize, limit: usize },
    #[error("more than {0} chunk streams: see ingest.max_chunk_streams")]
    TooManyChunkStreams(usize),
    #[error("more than {0} bytes of unfinished messages: see ingest.max_partial_bytes")]
    TooMuchUnderWay(usize),
    #[error(
        "chunk stream {0} begins without a header to refer to: the bytes are not RTMP or some are missing"
    )]
    NoHeader(u32),
    #[error("chunk size {0} is not allowed: RTMP has 1 to 2147483647")]
    ChunkSize(u32),
    #[error("a control message of type {kind} has {len} bytes where 4 are due")]
    Control { kind: u8, len: usize },
}

const DEFAULT_CHUNK_SIZE: usize = 128;
/// A message is at most this long (24-bit length), so a larger chunk size means the same.
const MAX_CHUNK_SIZE: usize = 0xFF_FFFF;
/// In a 24-bit timestamp field: the real value follows in 32 bits.
pub(crate) const EXTENDED: u32 = 0xFF_FFFF;
/// Memory for a message is taken as its bytes come, at least so much at a time, whatever length it claims.
const MIN_RESERVE: usize = 4096;

/// One connection's inbound chunk state.
#[derive(Debug)]
pub struct Dechunker {
    limits: Limits,
    chunk_size: usize,
    streams: HashMap<u32, ChunkStream>,
    /// The chunk whose payload is being read.
    current: Option<Current>,
    /// Sum of `received` over all chunk streams.
    under_way: usize,
    /// Set once a peer was seen not to repeat the extended timestamp in type 3 chunks.
    never_repeats: bool,
    cut: u64,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    csid: u32,
    /// Payload bytes of this chunk still to come.
    left: usize,
}

#[derive(Debug, Default)]
struct ChunkStream {
    timestamp_ms: u32,
    /// The last timestamp field, absolute or delta, extended where it was: what a type 3 chunk repeats.
    field_ms: u32,
    extended: bool,
    length: usize,
    kind: u8,
    stream: u32,
    /// The message under way; `None` between messages.
    received: Option<Vec<u8>>,
}

/// A chunk header read from the front of the input but not yet taken from it.
struct Header {
    bytes: usize,
    csid: u32,
    format: u8,
    fields: Fields,
}

#[derive(Default)]
struct Fields {
    field_ms: u32,
    extended: bool,
    length: usize,
    kind: u8,
    stream: u32,
}

impl Dechunker {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: HashMap::new(),
            current: None,
            under_way: 0,
            never_repeats: false,
            cut: 0,
        }
    }

    /// Other limits from here on, as when a publication was accepted.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Messages given up before they were whole.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Bytes held of messages under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes chunks from the front of `input` up to the end of the first whole message. `None`: more bytes are
    /// needed; what stays in `input` is less than one chunk header. Set Chunk Size and Abort have been obeyed when
    /// they are returned.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DechunkError> {
        loop {
            let current = match self.current {
                Some(current) => current,
                None => match self.begin_chunk(input)? {
                    Some(current) => current,
                    None => return Ok(None),
                },
            };
            let piece = current.left.min(input.len());
            self.take_piece(current.csid, input, piece)?;
            let left = current.left - piece;
            if left > 0 {
                self.current = Some(Current { left, ..current });
                return Ok(None);
            }
            self.current = None;
            if let Some(message) = self.finish(current.csid) {
                self.obey(&message)?;
                return Ok(Some(message));
            }
        }
    }

    fn begin_chunk(&mut self, input: &mut BytesMut) -> Result<Option<Current>, DechunkError> {
        let Some(header) = self.read_header(input)? else { return Ok(None) };
        input.advance(header.bytes);
        let csid = header.csid;
        let known = self.streams.contains_key(&csid);
        if !known && self.streams.len() >= self.limits.max_chunk_streams {
            return Err(DechunkError::TooManyChunkStreams(self.limits.max_chunk_streams));
        }
        let stream = self.streams.entry(csid).or_default();
        if header.format < 3
            && let Some(unfinished) = stream.received.take()
        {
            // A new message may not begin here (5.3.1); dropping the old one is what players do.
            self.under_way -= unfinished.len();
            self.cut += 1;
        }
        let f = header.fields;
        if stream.received.is_none() {
            stream.timestamp_ms = match header.format {
                0 => f.field_ms,
                _ => stream.timestamp_ms.wrapping_add(f.field_ms),
            };
            stream.field_ms = f.field_ms;
            stream.extended = f.extended;
            stream.length = f.length;
            stream.kind = f.kind;
            stream.stream = f.stream;
            if stream.length > self.limits.max_message_bytes {
                return Err(DechunkError::MessageTooLarge {
                    size: stream.length,
                    limit: self.limits.max_message_bytes,
                });
            }
            stream.received = Some(Vec::new());
        }
        let received = stream.received.as_ref().map_or(0, Vec::len);
        let left = (stream.length - received).min(self.chunk_size);
        Ok(Some(Current { csid, left }))
    }

    /// Reads the header at the front of `input`; `None` when it is not all there.
    fn read_header(&mut self, input: &[u8]) -> Result<Option<Header>, DechunkError> {
        let mut at = Reader { data: input, at: 0 };
        let Some(first) = at.u8() else { return Ok(None) };
        let format = first >> 6;
        let csid = match first & 0x3F {
            0 => at.u8().map(|b| 64 + u32::from(b)),
            1 => at.le(2).map(|n| 64 + n),
            n => Some(u32::from(n)),
        };
        let Some(csid) = csid else { return Ok(None) };
        let known = self.streams.get(&csid);
        if known.is_none() && format >= 2 {
            return Err(DechunkError::NoHeader(csid));
        }
        // A type 1 chunk may open a chunk stream: librtmp answers pings so. Its stream id is then 0.
        let mut fields = known.map_or_else(Fields::default, |s| Fields {
            field_ms: s.field_ms,
            extended: s.extended,
            length: s.length,
            kind: s.kind,
            stream: s.stream,
        });
        let parsed = (|| {
            if format <= 2 {
                fields.field_ms = at.be(3)?;
                fields.extended = fields.field_ms == EXTENDED;
            }
            if format <= 1 {
                fields.length = at.be(3)? as usize;
                fields.kind = at.u8()?;
            }
            if format == 0 {
                fields.stream = at.le(4)?;
            }
            if format <= 2 && fields.extended {
                fields.field_ms = at.be(4)?;
            }
            Some(())
        })();
        if parsed.is_none() {
            return Ok(None);
        }
        if format == 3
            && let Some(stream) = known
            && stream.extended
        {
            let Some(repeated) = at.peek_be4() else { return Ok(None) };
            if stream.received.is_some() {
                // The specification repeats the field here; old librtmp and others do not. Four payload bytes that
                // equal it by chance are one in four thousand million.
                if repeated == stream.field_ms || repeated == stream.timestamp_ms {
                    at.at += 4;
                } else {
                    self.never_repeats = true;
                }
            } else if !self.never_repeats {
                fields.field_ms = repeated;
                at.at += 4;
            }
        }
        Ok(Some(Header { bytes: at.at, csid, format, fields }))
    }

    fn take_piece(
        &mut self,
        csid: u32,
        input: &mut BytesMut,
        piece: usize,
    ) -> Result<(), DechunkError> {
        if self.under_way + piece > self.limits.max_partial_bytes {
            return Err(DechunkError::TooMuchUnderWay(self.limits.max_partial_bytes));
        }
        let Some(stream) = self.streams.get_mut(&csid) else { return Ok(()) };
        let Some(received) = stream.received.as_mut() else { return Ok(()) };
        if received.capacity() - received.len() < piece {
            let due = stream.length - received.len();
            let step = piece.max(received.len()).max(MIN_RESERVE);
            received.reserve_exact(step.min(due));
        }
        received.extend_from_slice(&input[..piece]);
        input.advance(piece);
        self.under_way += piece;
        Ok(())
    }

    /// The chunk stream's message, if it is whole now.
    fn finish(&mut self, csid: u32) -> Option<Message> {
        let stream = self.streams.get_mut(&csid)?;
        let payload = stream.received.take_if(|r| r.len() >= stream.length)?;
        self.under_way -= payload.len();
        Some(Message {
            kind: stream.kind,
            stream: stream.stream,
            timestamp_ms: stream.timestamp_ms,
            payload: Bytes::from(payload),
        })
    }

    fn obey(&mut self, message: &Message) -> Result<(), DechunkError> {
        if !matches!(message.kind, kind::SET_CHUNK_SIZE | kind::ABORT) {
            return Ok(());
        }
        let Some(value) = message.payload.first_chunk().map(|b| u32::from_be_bytes(*b)) else {
            return Err(DechunkError::Control { kind: message.kind, len: message.payload.len() });
        };
        if message.kind == kind::SET_CHUNK_SIZE {
            if value == 0 || value > i32::MAX as u32 {
                return Err(DechunkError::ChunkSize(value));
            }
            self.chunk_size = (value as usize).min(MAX_CHUNK_SIZE);
        } else if let Some(unfinished) =
            self.streams.get_mut(&value).and_then(|s| s.received.take())
        {
            self.under_way -= unfinished.len();
            self.cut += 1;
        }
        Ok(())
    }
}

/// Reads integers from the front of a slice; `None` at its end.
struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let b = *self.data.get(self.at)?;
        self.at += 1;
        Some(b)
    }

    /// `n` <= 4 bytes, most significant first.
    fn be(&mut self, n: usize) -> Option<u32> {
        let bytes = self.data.get(self.at..self.at + n)?;
        self.at += n;
        Some(bytes.iter().fold(0, |v, b| v << 8 | u32::from(*b)))
    }

    /// `n` <= 4 bytes, least significant first.
    fn le(&mut self, n: usize) -> Option<u32> {
        let bytes = self.data.get(self.at..self.at + n)?;
        self.at += n;
        Some(bytes.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)))
    }

    fn peek_be4(&self) -> Option<u32> {
        Reader { data: self.data, at: self.at }.be(4)
    }
}

/// Appends `message` to `out` as one type 0 chunk and as many type 3 chunks as `chunk_size` asks for. Full headers
/// cost a few bytes and need no state, and nothing here sends much. The length is cut to what 24 bits hold.
pub fn write_message(out: &mut Vec<u8>, csid: u8, message: &Message, chunk_size: usize) {
    debug_assert!((2..64).contains(&csid), "one-byte chunk stream ids only");
    let payload = &message.payload[..message.payload.len().min(MAX_CHUNK_SIZE)];
    let extended = message.timestamp_ms >= EXTENDED;
    out.push(csid & 0x3F);
    out.extend_from_slice(&message.timestamp_ms.min(EXTENDED).to_be_bytes()[1..]);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.push(message.kind);
    out.extend_from_slice(&message.stream.to_le_bytes());
    if extended {
        out.extend_from_slice(&message.timestamp_ms.to_be_bytes());
    }
    for (i, piece) in payload.chunks(chunk_size.max(1)).enumerate() {
        if i > 0 {
            out.push(0xC0 | csid);
            if extended {
                out.extend_from_slice(&message.timestamp_ms.to_be_bytes());
            }
        }
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
#[path = "dechunk_tests.rs"]
mod tests;
