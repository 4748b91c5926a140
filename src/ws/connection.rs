//! One client of the WebSocket door: its request judged, then messages both ways until one side ends it.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::http::{self, BadRequest, Request as HttpRequest};
use super::mailbox::Mailbox;
use super::picture::File;
use super::subscription::{Request, understand};
use crate::auth::{Caller, Denied, Right};
use crate::media::StreamId;
use crate::wire::{self, BadFilter, Filter, Heard};

/// How long the HTTP request may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is there, and after how much silence it is not.
const PING_EVERY: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(95);

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by the client")]
    Goodbye,
    #[error("closed by the client without a word")]
    Gone,
    #[error("no request within {} s", HANDSHAKE.as_secs())]
    NoRequest,
    #[error("took nothing for {0} s")]
    Stalled(u64),
    #[error("silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("a message over {0} bytes")]
    TooLarge(usize),
    #[error("the door is closing")]
    Stopped,
    #[error("there is no {0:?} here: use / or /live")]
    NoSuchPath(String),
    #[error("bad query: {0}")]
    BadQuery(String),
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("against the protocol: {0}")]
    Protocol(String),
    #[error("i/o: {0}")]
    Io(#[from] std::io::Error),
}

/// What a client may see.
#[derive(Debug, Clone)]
enum Scope {
    Everything,
    /// Its token is tied to one stream.
    One(StreamId),
}

impl Scope {
    fn narrow(&self, filter: Filter) -> Filter {
        match self {
            Self::Everything => filter,
            Self::One(stream) => filter.only(stream),
        }
    }
}

/// Tells a client that there is no room for it.
pub(super) async fn refuse_busy(mut socket: TcpStream) {
    let text = "too many connections: try again later, or raise websocket.max_connections";
    let refusal = http::refusal("503 Service Unavailable", text);
    let _ = timeout(Duration::from_secs(1), async {
        // Reading the request first keeps the answer from being lost in a reset.
        let _ = socket.read(&mut [0; 2048]).await;
        let _ = socket.write_all(&refusal).await;
        let _ = socket.shutdown().await;
    })
    .await;
}

/// Serves one client to its end.
pub(super) async fn serve(
    mut socket: TcpStream,
    peer: SocketAddr,
    door: &Door,
    stop: &CancellationToken,
) -> End {
    // A message is written whole; waiting for more would only add latency.
    let _ = socket.set_nodelay(true);
    let head = tokio::select! {
        head = timeout(HANDSHAKE, read_head(&mut socket)) => head.unwrap_or(Err(End::NoRequest)),
        () = stop.cancelled() => Err(End::Stopped),
    };
    let admitted = head.and_then(|(request, rest)| {
        let (scope, filter) = admit(&request, peer, door)?;
        Ok((request, rest, scope, filter))
    });
    let (request, rest, scope, filter) = match admitted {
        Ok(admitted) => admitted,
        Err(end) => {
            let status = match &end {
                End::Denied(_) => "401 Unauthorized",
                End::NoSuchPath(_) => "404 Not Found",
                End::BadRequest(BadRequest::NotWebSocket) => "426 Upgrade Required",
                End::BadRequest(_) | End::BadQuery(_) => "400 Bad Request",
                _ => return end,
            };
            let refusal = http::refusal(status, &end.to_string());
            let _ = timeout(Duration::from_secs(1), socket.write_all(&refusal)).await;
            let _ = socket.shutdown().await;
            return end;
        }
    };
    let answer = http::switching(&derive_accept_key(request.key.as_bytes()));
    match timeout(HANDSHAKE, socket.write_all(&answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return error.into(),
        Err(_) => return End::NoRequest,
    }
    let max = door.config.max_message_bytes;
    let config = WebSocketConfig::default()
        .max_message_size(Some(max))
        .max_frame_size(Some(max))
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(4 << 20);
    let ws = WebSocketStream::from_partially_read(socket, rest, Role::Server, Some(config)).await;
    talk(ws, scope, filter, door, stop).await
}

async fn read_head(socket: &mut TcpStream) -> Result<(HttpRequest, Vec<u8>), End> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if socket.read_buf(&mut head).await? == 0 {
            return Err(End::Gone);
        }
        if let Some((request, len)) = http::parse(&head)? {
            return Ok((request, head.split_off(len)));
        }
    }
}

/// Judges the request: what it may see, and what it is subscribed to from the start.
fn admit(
    request: &HttpRequest,
    peer: SocketAddr,
    door: &Door,
) -> Result<(Scope, Option<Filter>), End> {
    let bad = |e: BadFilter| End::BadQuery(e.to_string());
    let strings = |name| request.values(name).map(str::to_owned).collect::<Vec<_>>();
    let filter = match request.path.as_str() {
        "/" => None,
        "/live" => {
            let min = match request.values("min_confidence").next() {
                None => 0.0,
                Some(text) => text.parse().map_err(|_| {
                    End::BadQuery(format!("min_confidence {text:?} is not a number"))
                })?,
            };
            Some(Filter::new(strings("stream"), strings("label"), min).map_err(bad)?)
        }
        other => return Err(End::NoSuchPath(other.chars().take(80).collect())),
    };
    let caller =
        Caller { peer: peer.ip(), forwarded: request.is_from_elsewhere(), token: request.token() };
    // A token tied to one stream opens /live for that stream alone.
    let named = strings("stream");
    let one = match (&filter, named.as_slice()) {
        (Some(_), [name]) => StreamId::new(name).ok(),
        _ => None,
    };
    if door.guard.may(&caller, Right::Read) || one.is_none() {
        door.guard.check(&caller, Right::Read, None)?;
        return Ok((Scope::Everything, filter));
    }
    door.guard.check(&caller, Right::Read, one.as_ref())?;
    Ok((one.map_or(Scope::Everything, Scope::One), filter))
}

type Ws = WebSocketStream<TcpStream>;

async fn talk(
    ws: Ws,
    scope: Scope,
    filter: Option<Filter>,
    door: &Door,
    stop: &CancellationToken,
) -> End {
    let (mut sink, source) = ws.split();
    let mailbox = Mailbox::default();
    let (wanted, subscribed) = watch::channel(filter.map(|f| scope.narrow(f)));
    let reading = Reading { door, mailbox: &mailbox, scope, wanted };
    let end = tokio::select! {
        end = reading.run(source) => end,
        end = write(&mut sink, &mailbox, door) => end,
        end = pump(subscribed, &mailbox, door) => end,
        () = stop.cancelled() => End::Stopped,
    };
    let (code, reason) = match &end {
        End::TooLarge(max) => {
            // The writer was interrupted, so its part of the goodbye is said here.
            let text = format!("a message may have {max} bytes (websocket.max_message_bytes)");
            let error = wire::error("too_large", &text);
            let _ = timeout(Duration::from_secs(1), sink.send(message(error))).await;
            (CloseCode::Size, "message too large")
        }
        End::Stopped => (CloseCode::Away, "shutting down"),
        End::Protocol(_) => (CloseCode::Protocol, "protocol error"),
        End::Silent => (CloseCode::Away, "no answer to pings"),
        _ => return end,
    };
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let _ = timeout(Duration::from_secs(1), sink.send(Message::Close(Some(frame)))).await;
    end
}

/// Our own JSON as a message. It is UTF-8 by construction; were it not, the client would get an empty one.
fn message(json: bytes::Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(json).unwrap_or_default())
}

/// Sends what waits; ends when the client takes nothing.
async fn write(sink: &mut SplitSink<Ws, Message>, mailbox: &Mailbox, door: &Door) -> End {
    let stall_s = door.config.stall_timeout_s.max(1);
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = match due(mailbox, &mut pings).await {
            Some(json) => {
                door.counters.sent.inc();
                message(json)
            }
            None => Message::Ping(bytes::Bytes::new()),
        };
        match timeout(Duration::from_secs(stall_s), sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended(error, door.config.max_message_bytes),
            Err(_) => return End::Stalled(stall_s),
        }
    }
}

/// What waits, or `None` when it is time for a ping. That comes by the clock: a client that only listens says nothing but
/// its answers, and on a busy stream there is never a pause to ask in.
async fn due(mailbox: &Mailbox, pings: &mut Interval) -> Option<bytes::Bytes> {
    tokio::select! {
        json = mailbox.next() => Some(json),
        _ = pings.tick() => None,
    }
}

/// Carries what is subscribed into the mailbox; never waits for the client.
async fn pump(
    mut subscribed: watch::Receiver<Option<Filter>>,
    mailbox: &Mailbox,
    door: &Door,
) -> End {
    let push = |json| door.counters.dropped.add(mailbox.push(json));
    loop {
        let Some(filter) = subscribed.borrow_and_update().clone() else {
            mailbox.clear_pushes();
            if subscribed.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        let mut detections = door.detections.subscribe();
        let mut streams = door.streams.watch();
        let mut heard = Heard::default();
        streams.mark_changed();
        loop {
            tokio::select! {
                changed = subscribed.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return std::future::pending().await,
                },
                Ok(()) = streams.changed() => {
                    let now = streams.borrow_and_update().clone();
                    heard.news(&door.node, &now, &filter).into_iter().for_each(push);
                }
                received = detections.recv() => match received {
                    Ok(message) => {
                        if let Some(json) = filter.detections(&message) {
                            push(json);
                        }
                    }
                    Err(RecvError::Lagged(n)) => {
                        door.counters.dropped.add(n);
                        mailbox.lost(n);
                    }
                    Err(RecvError::Closed) => return End::Stopped,
                },
            }
        }
    }
}

/// The side that listens to the client.
struct Reading<'a> {
    door: &'a Door,
    mailbox: &'a Mailbox,
    scope: Scope,
    wanted: watch::Sender<Option<Filter>>,
}

impl Reading<'_> {
    async fn run(self, mut source: SplitStream<Ws>) -> End {
        // One message may wait while another is worked on: only who goes on listening notices that the client left.
        let mut waiting = None;
        loop {
            let message = match waiting.take() {
                Some(message) => message,
                None => match self.listen(&mut source).await {
                    Ok(message) => message,
                    Err(end) => return end,
                },
            };
            let mut work = std::pin::pin!(self.handle(message));
            loop {
                tokio::select! {
                    () = &mut work => break,
                    next = self.listen(&mut source), if waiting.is_none() => match next {
                        Ok(message) => waiting = Some(message),
                        Err(end) => return end,
                    },
                }
            }
        }
    }

    /// The next text or binary message. Cancel-safe.
    async fn listen(&self, source: &mut SplitStream<Ws>) -> Result<Message, End> {
        loop {
            let next = timeout(SILENCE, source.next()).await.map_err(|_| End::Silent)?;
            match next.ok_or(End::Gone)? {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => return Ok(message),
                Ok(Message::Close(_)) => return Err(End::Goodbye),
                Ok(_) => {}
                Err(error) => {
                    let end = ended(error, self.door.config.max_message_bytes);
                    if matches!(end, End::TooLarge(_)) {
                        self.door.counters.too_large.inc();
                    }
                    return Err(end);
                }
            }
        }
    }

    async fn handle(&self, message: Message) {
        match message {
            Message::Text(text) => self.text(text.as_str()).await,
            Message::Binary(bytes) => self.picture(&Value::Null, File::Bytes(bytes)).await,
            _ => {}
        }
    }

    async fn text(&self, text: &str) {
        match understand(text) {
            Ok(Request::Ping) => self.mailbox.answer(wire::pong()).await,
            Ok(Request::Picture(request)) => {
                self.picture(&request.image_id, File::Base64(request.base64())).await;
            }
            Ok(Request::Subscribe(filter)) => {
                self.wanted.send_replace(Some(self.scope.narrow(filter)));
            }
            Ok(Request::Unsubscribe) => {
                self.wanted.send_replace(None);
            }
            Err(bad) => {
                self.door.counters.bad_messages.inc();
                self.mailbox.answer(wire::error(bad.code, &bad.message)).await;
            }
        }
    }

    async fn picture(&self, id: &Value, file: File<'_>) {
        let answer = match self.scope {
            Scope::Everything => self.door.pictures.answer(id, file).await,
            Scope::One(_) => {
                wire::error("not_allowed", "this token is tied to a stream and sends no pictures")
            }
        };
        self.mailbox.answer(answer).await;
    }
}

fn ended(error: Error, max: usize) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => End::Goodbye,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::TooLarge(max),
        Error::Io(error) => End::Io(error),
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => End::Gone,
        other => End::Protocol(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::interval;

    #[tokio::test]
    async fn a_client_is_asked_whether_it_is_there_however_much_it_is_sent() {
        let mailbox = Mailbox::default();
        let mut pings = interval(Duration::from_millis(50));
        pings.tick().await;
        let talk = async {
            loop {
                mailbox.push("{}".into());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let asked = async { while due(&mailbox, &mut pings).await.is_some() {} };
        tokio::select! {
            () = talk => {}
            done = timeout(Duration::from_secs(20), asked) => done.expect("a ping"),
        }
    }
}
