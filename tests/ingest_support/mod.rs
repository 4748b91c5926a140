//! A front door on a loopback port with a gate of its own, a bare-bones RTMP publisher, and FLV files to publish.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "test code, outside of test functions")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rml_amf0::Amf0Value;
use spotter::auth::{Caller, Denied, Grant, Places};
use spotter::config::Ingest;
use spotter::ingest::dechunk::{Dechunker, Limits, Message, kind, write_message};
use spotter::ingest::{Context, Gate, IngestCounters, run};
use spotter::media::ring::{Cursor, Read};
use spotter::media::stream::{StreamLimits, Streams};
use spotter::media::{AccessUnit, StreamId, StreamStatus, Unit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// "good" may publish, "boss" may take over, no token may publish where `open`.
#[derive(Debug)]
struct TestGate {
    open: bool,
}

impl Gate for TestGate {
    fn may_publish(&self, caller: &Caller<'_>, _: &StreamId) -> Result<Grant, Denied> {
        match caller.token {
            None if self.open => Ok(Grant { who: "anyone".into(), token: None, takeover: false }),
            None => Err(Denied::NoToken),
            Some("good") => Ok(Grant { who: "good".into(), token: None, takeover: false }),
            Some("boss") => Ok(Grant { who: "boss".into(), token: None, takeover: true }),
            Some(_) => Err(Denied::BadToken),
        }
    }

    fn may_read(&self, caller: &Caller<'_>, stream: &StreamId) -> Result<Grant, Denied> {
        self.may_publish(caller, stream)
    }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) streams: Arc<Streams>,
    pub(crate) counters: Arc<IngestCounters>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn open() -> Self {
        Self::start(true, Ingest::default()).await
    }

    pub(crate) async fn closed() -> Self {
        Self::start(false, Ingest::default()).await
    }

    pub(crate) async fn start(open: bool, config: Ingest) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let streams = Streams::new(StreamLimits {
            max_streams: config.max_streams,
            gop_budget_bytes: config.gop_budget_bytes,
            grace: Duration::from_secs(config.reconnect_grace_s),
        });
        let counters = Arc::new(IngestCounters::default());
        let ctx = Context {
            streams: Arc::clone(&streams),
            guard: Arc::new(TestGate { open }),
            config,
            counters: Arc::clone(&counters),
            readers: Places::new(64, 64),
            reader_counters: Arc::default(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(listener, None, ctx, shutdown.clone()));
        Self { addr, streams, counters, shutdown, task }
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("rtmp://{}/{rest}", self.addr)
    }

    /// A cursor on a stream as soon as it is there.
    pub(crate) async fn cursor(&self, name: &str) -> Cursor {
        let id = StreamId::new(name).unwrap();
        within(async {
            loop {
                if let Some(stream) = self.streams.get(&id) {
                    return stream.ring.cursor();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub(crate) fn status(&self, name: &str) -> Option<StreamStatus> {
        let id = StreamId::new(name).unwrap();
        self.streams.get(&id).map(|s| s.summary().status)
    }

    pub(crate) async fn until_status(&self, name: &str, status: StreamStatus) {
        within(async {
            while self.status(name) != Some(status) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Ends the service as its owner would; nothing may hang.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }
}

/// Waits for what must come; the limit only keeps a failing test from hanging.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in good time")
}

pub(crate) async fn next_video(cursor: &mut Cursor) -> AccessUnit {
    within(async {
        loop {
            match cursor.next().await.expect("the stream lives") {
                Read::Unit(Unit::Video(unit)) => return unit,
                Read::Unit(Unit::Audio(_)) => {}
                Read::Lagged { .. } => panic!("overtaken"),
            }
        }
    })
    .await
}

/// One FLV tag, which is one RTMP message.
#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) kind: u8,
    pub(crate) timestamp_ms: u32,
    pub(crate) payload: Bytes,
}

/// 39 pictures of 214x120 at 15 a second, an IDR every 15, and AAC.
pub(crate) fn glasses() -> Vec<Tag> {
    tags(include_bytes!("../data/ingest/glasses.flv"))
}

/// Some pictures of 318x178.
pub(crate) fn other() -> Vec<Tag> {
    tags(include_bytes!("../data/ingest/other.flv"))
}

pub(crate) const PICTURES: usize = 39;

fn tags(file: &[u8]) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 13;
    while at + 11 <= file.len() {
        let head = &file[at..at + 11];
        let size = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let timestamp_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        let payload = Bytes::copy_from_slice(&file[at + 11..at + 11 + size]);
        tags.push(Tag { kind: head[0], timestamp_ms, payload });
        at += 11 + size + 4;
    }
    tags
}

/// A publisher that says exactly what it is told to.
pub(crate) struct Peer {
    pub(crate) socket: TcpStream,
    input: BytesMut,
    answers: Dechunker,
}

pub(crate) fn text(s: &str) -> Amf0Value {
    Amf0Value::Utf8String(s.into())
}

pub(crate) fn command(stream: u32, name: &str, transaction: f64, rest: Vec<Amf0Value>) -> Message {
    let mut values = vec![text(name), Amf0Value::Number(transaction)];
    values.extend(rest);
    let payload = rml_amf0::serialize(&values).unwrap().into();
    Message { kind: kind::COMMAND_AMF0, stream, timestamp_ms: 0, payload }
}

pub(crate) fn message(kind: u8, stream: u32, timestamp_ms: u32, payload: &[u8]) -> Message {
    Message { kind, stream, timestamp_ms, payload: Bytes::copy_from_slice(payload) }
}

impl Peer {
    /// Connects and shakes hands the old way: zeros, and an echo.
    pub(crate) async fn connect(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(&[&[3][..], &[0; 1536]].concat()).await.unwrap();
        let mut s0_s1_s2 = vec![0; 1 + 2 * 1536];
        within(socket.read_exact(&mut s0_s1_s2)).await.unwrap();
        socket.write_all(&s0_s1_s2[1..1537]).await.unwrap();
        let limits = Limits {
            max_message_bytes: 1 << 20,
            max_chunk_streams: 64,
            max_partial_bytes: 1 << 20,
        };
        Self { socket, input: BytesMut::new(), answers: Dechunker::new(limits) }
    }

    /// Connects and asks to publish; the answer is not waited for.
    pub(crate) async fn ask(server: &Server, app: &str, key: &str) -> Self {
        let mut peer = Self::connect(server).await;
        let object = [("app", app), ("tcUrl", "rtmp://test")].map(|(k, v)| (k.into(), text(v)));
        peer.send(3, &command(0, "connect", 1.0, vec![Amf0Value::Object(object.into())])).await;
        peer.send(3, &command(0, "createStream", 2.0, vec![Amf0Value::Null])).await;
        let publish = vec![Amf0Value::Null, text(key), text("live")];
        peer.send(3, &command(1, "publish", 3.0, publish)).await;
        peer
    }

    /// Connects and publishes `live/<key>`.
    pub(crate) async fn publish(server: &Server, key: &str) -> Self {
        let mut peer = Self::ask(server, "live", key).await;
        let said = peer.hear("NetStream.Publish.").await;
        assert!(said.contains("NetStream.Publish.Start"), "{said}");
        peer
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // A server that has had enough closes; what it said is read later.
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends in chunks of 128 bytes.
    pub(crate) async fn send(&mut self, csid: u8, message: &Message) {
        let mut out = Vec::new();
        write_message(&mut out, csid, message, 128);
        self.raw(&out).await;
    }

    pub(crate) async fn send_tag(&mut self, tag: &Tag) {
        let csid = if tag.kind == 9 { 4 } else { 6 };
        self.send(csid, &message(tag.kind, 1, tag.timestamp_ms, &tag.payload)).await;
    }

    /// All texts of answers up to one that has `word`, or to the end of the connection.
    pub(crate) async fn hear(&mut self, word: &str) -> String {
        let mut said = String::new();
        within(async {
            loop {
                while let Some(message) = self.answers.next(&mut self.input).unwrap() {
                    said += &String::from_utf8_lossy(&message.payload);
                }
                if said.contains(word) {
                    return;
                }
                match self.socket.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        })
        .await;
        said
    }

    /// All that is said up to the end of the connection, which must come.
    pub(crate) async fn hear_out(&mut self) -> String {
        self.hear("a text that nobody says").await
    }
}
