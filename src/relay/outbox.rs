//! Messages on their way into a socket: headers made here, payloads shared with the ring and never copied, everything
//! that waits written in as few system calls as possible. It knows framing, not media.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::ingest::dechunk::{EXTENDED, kind};

/// Size of the chunks that carry media, bytes: what ffmpeg publishes with, so that everyone is known to take it, and
/// most pictures fit in one.
pub const CHUNK_SIZE: usize = 60_000;
/// Payloads up to this size are copied beside their header: cheaper than a slice of their own.
const COPIED: usize = 512;
/// Slices to a system call.
const SLICES: usize = 64;
/// More than so much, bytes, is not gathered at a time.
const FULL: usize = 64 << 10;
/// What is kept for the next messages, bytes and parts; what a burst needed beyond is given back.
const KEPT_BYTES: usize = 1024;
const KEPT_PARTS: usize = 8;

/// How messages are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// RTMP chunks on this message stream.
    Rtmp { stream: u32 },
    /// FLV tags, as in a file.
    Flv,
}

/// One message's place in time and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// See [`kind`]; FLV tags use the same numbers.
    pub kind: u8,
    pub timestamp_ms: u32,
}

/// Messages waiting to be written.
#[derive(Debug)]
pub struct Outbox {
    framing: Framing,
    /// Headers and small payloads.
    own: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
    /// How much of `parts` is written: whole ones, and bytes of the next.
    done: (usize, usize),
}

#[derive(Debug)]
enum Part {
    Own(Range<usize>),
    Shared(Bytes),
}

/// Why an outbox could not be emptied.
#[derive(Debug, thiserror::Error)]
pub enum PourError {
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl Outbox {
    pub fn new(framing: Framing) -> Self {
        Self { framing, own: Vec::new(), parts: Vec::new(), bytes: 0, done: (0, 0) }
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether what waits is enough for one go.
    pub fn is_full(&self) -> bool {
        self.bytes >= FULL || self.parts.len() >= SLICES
    }

    /// Adds one message whose payload is `start` and then `rest`; `start` is at most a few bytes.
    pub fn push(&mut self, head: Head, start: &[u8], rest: &Bytes) {
        match self.framing {
            Framing::Rtmp { stream } => self.push_chunks(stream, head, start, rest),
            Framing::Flv => self.push_tag(head, start, rest),
        }
    }

    fn push_chunks(&mut self, stream: u32, head: Head, start: &[u8], rest: &Bytes) {
        debug_assert!(start.len() < CHUNK_SIZE);
        let len = start.len() + rest.len();
        let csid = match head.kind {
            kind::AUDIO => 4,
            kind::VIDEO => 6,
            _ => 5,
        };
        let extended = head.timestamp_ms >= EXTENDED;
        let from = self.own.len();
        self.own.push(csid);
        self.own.extend_from_slice(&head.timestamp_ms.min(EXTENDED).to_be_bytes()[1..]);
        self.own.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
        self.own.push(head.kind);
        self.own.extend_from_slice(&stream.to_le_bytes());
        if extended {
            self.own.extend_from_slice(&head.timestamp_ms.to_be_bytes());
        }
        self.own.extend_from_slice(start);
        self.push_own(from);
        let mut at = 0;
        while at < rest.len() {
            let room = if at == 0 { CHUNK_SIZE - start.len() } else { CHUNK_SIZE };
            let to = rest.len().min(at + room);
            self.push_shared(rest, at..to);
            at = to;
            if at < rest.len() {
                let from = self.own.len();
                self.own.push(0xC0 | csid);
                if extended {
                    self.own.extend_from_slice(&head.timestamp_ms.to_be_bytes());
                }
                self.push_own(from);
            }
        }
    }

    /// FLV 10.1, E.4.1: the tag's header, its body, and the size of both.
    fn push_tag(&mut self, head: Head, start: &[u8], rest: &Bytes) {
        let len = start.len() + rest.len();
        let [high, time @ ..] = head.timestamp_ms.to_be_bytes();
        let from = self.own.len();
        self.own.push(head.kind);
        self.own.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
        self.own.extend_from_slice(&time);
        self.own.extend_from_slice(&[high, 0, 0, 0]);
        self.own.extend_from_slice(start);
        self.push_own(from);
        self.push_shared(rest, 0..rest.len());
        let from = self.own.len();
        self.own.extend_from_slice(&(len as u32 + 11).to_be_bytes());
        self.push_own(from);
    }

    fn push_own(&mut self, from: usize) {
        let range = from..self.own.len();
        self.bytes += range.len();
        match self.parts.last_mut() {
            Some(Part::Own(last)) if last.end == from => last.end = range.end,
            _ => self.parts.push(Part::Own(range)),
        }
    }

    fn push_shared(&mut self, data: &Bytes, range: Range<usize>) {
        if range.len() <= COPIED {
            let from = self.own.len();
            self.own.extend_from_slice(&data[range]);
            return self.push_own(from);
        }
        self.bytes += range.len();
        let whole = range.len() == data.len();
        self.parts.push(Part::Shared(if whole { data.clone() } else { data.slice(range) }));
    }

    /// Everything as one piece, for carriers that take bytes and no socket.
    pub fn take(&mut self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.bytes);
        for part in &self.parts {
            all.extend_from_slice(bytes_of(part, &self.own));
        }
        self.clear();
        all.freeze()
    }

    /// Writes everything. `patience` is for each step forward: a slow peer is given time, a stalled one is not.
    /// Not cancel-safe for the message under way.
    pub async fn pour<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        patience: Duration,
    ) -> Result<(), PourError> {
        while self.done.0 < self.parts.len() {
            let step = poll_fn(|cx| self.poll_write(cx, socket));
            let written =
                timeout(patience, step).await.map_err(|_| PourError::Stalled(patience))?;
            match written? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                n => self.advance(n),
            }
        }
        self.clear();
        Ok(())
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        socket: &mut W,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (whole, partly) = self.done;
        let mut n = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts[whole..]) {
            let skip = if n == 0 { partly } else { 0 };
            *slice = IoSlice::new(&bytes_of(part, &self.own)[skip..]);
            n += 1;
        }
        Pin::new(socket).poll_write_vectored(cx, &slices[..n])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(part) = self.parts.get(self.done.0) {
            let left = bytes_of(part, &self.own).len() - self.done.1;
            if written < left {
                self.done.1 += written;
                return;
            }
            written -= left;
            self.done = (self.done.0 + 1, 0);
        }
    }

    fn clear(&mut self) {
        self.own.clear();
        self.own.shrink_to(KEPT_BYTES);
        self.parts.clear();
        self.parts.shrink_to(KEPT_PARTS);
        self.bytes = 0;
        self.done = (0, 0);
    }
}

fn bytes_of<'a>(part: &'a Part, own: &'a [u8]) -> &'a [u8] {
    match part {
        Part::Own(range) => &own[range.clone()],
        Part::Shared(data) => data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::dechunk::{Dechunker, Limits, Message, write_message};
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    const FREE: Limits =
        Limits { max_message_bytes: 1 << 24, max_chunk_streams: 8, max_partial_bytes: 1 << 25 };

    fn dechunked(bytes: &[u8]) -> Vec<Message> {
        let mut input = BytesMut::new();
        let size = Message {
            kind: kind::SET_CHUNK_SIZE,
            stream: 0,
            timestamp_ms: 0,
            payload: Bytes::copy_from_slice(&(CHUNK_SIZE as u32).to_be_bytes()),
        };
        let mut first = Vec::new();
        write_message(&mut first, 2, &size, 128);
        input.extend_from_slice(&first);
        input.extend_from_slice(bytes);
        let mut dechunker = Dechunker::new(FREE);
        let mut messages = Vec::new();
        while let Some(message) = dechunker.next(&mut input).unwrap() {
            messages.push(message);
        }
        assert!(input.is_empty());
        messages.split_off(1)
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out_of_a_dechunker(
            sent in prop::collection::vec((0usize..200_000, any::<u32>(), prop_oneof![Just(8u8), Just(9), Just(18)]), 1..6)
        ) {
            let mut outbox = Outbox::new(Framing::Rtmp { stream: 3 });
            for (len, timestamp_ms, kind) in &sent {
                let data: Bytes = (0..*len).map(|i| i as u8).collect::<Vec<_>>().into();
                outbox.push(Head { kind: *kind, timestamp_ms: *timestamp_ms }, &[7; 5], &data);
            }
            let got = dechunked(&outbox.take());
            prop_assert_eq!(got.len(), sent.len());
            for (message, (len, timestamp_ms, kind)) in got.iter().zip(&sent) {
                prop_assert_eq!((message.kind, message.timestamp_ms, message.stream), (*kind, *timestamp_ms, 3));
                prop_assert_eq!(message.payload.len(), len + 5);
                prop_assert!(message.payload[5..].iter().enumerate().all(|(i, b)| *b == i as u8));
            }
        }
    }

    #[tokio::test]
    async fn a_narrow_socket_gets_every_byte_in_order() {
        let (mut here, mut there) = tokio::io::duplex(100);
        let mut outbox = Outbox::new(Framing::Flv);
        let data: Bytes = (0..70_000u32).map(|i| i as u8).collect::<Vec<_>>().into();
        for i in 0..3 {
            outbox.push(Head { kind: 9, timestamp_ms: 0x0102_0300 + i }, &[1, 2], &data);
        }
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.unwrap();
            all
        });
        outbox.pour(&mut here, Duration::from_secs(9)).await.unwrap();
        assert!(outbox.is_empty());
        drop(here);
        let all = reader.await.unwrap();
        let tag = 11 + 2 + 70_000 + 4;
        assert_eq!(all.len(), 3 * tag);
        assert_eq!(all[..13], [9, 1, 0x11, 0x72, 2, 3, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!(all[tag - 4..tag], (70_013u32).to_be_bytes());
        assert_eq!(all[tag + 13..2 * tag - 4], data[..]);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_noticed() {
        let (mut here, _there) = tokio::io::duplex(10);
        let mut outbox = Outbox::new(Framing::Rtmp { stream: 1 });
        outbox.push(Head { kind: 8, timestamp_ms: 0 }, &[0; 20], &Bytes::new());
        let poured = outbox.pour(&mut here, Duration::from_millis(20)).await;
        assert!(matches!(poured, Err(PourError::Stalled(_))));
    }
}
