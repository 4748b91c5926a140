//! One RTMP connection: moves bytes between its socket, the pure stages and the stream it publishes, and keeps the
//! time limits. All understanding of bytes is elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::amf::AmfLimits;
use super::dechunk::{Dechunker, Limits, Message, kind, write_message};
use super::end::{ConnectionError, End};
use super::entry::{self, Refused, direct};
use super::play::{Player, Playing};
use super::protocol::{self, Protocol, Request, Step};
use super::server::{Context, is_hangup};
use super::session::Session;
use super::url::Token;
use crate::auth::Place;
use crate::media::stream::{Displaced, Publication};
use crate::media::{Arrival, Unit};

/// Read at once, bytes: a big key frame in a few reads, and small enough to have for each connection.
const READ_BYTES: usize = 32 << 10;
/// The same for a peer that does not publish: it says little, and there may be many.
const STRANGER_READ_BYTES: usize = 2 << 10;
/// What a peer may make us hold before it is known to be a publisher, bytes.
const STRANGER_BYTES: usize = 64 << 10;
/// How long a refused peer has to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end, and counts why it ended. `peer` is the canonical address.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    peer: IpAddr,
    place: Place,
    ctx: &Context,
    shutdown: &CancellationToken,
) -> Result<End, ConnectionError> {
    let patience = Duration::from_secs(ctx.config.handshake_timeout_s);
    // What only the beginning needs is not kept with each of many readers: in boxes, it is given back.
    let begun = match Box::pin(timeout(patience, handshake(&mut socket))).await {
        Ok(done) => done,
        Err(_) => Err(ConnectionError::HandshakeTimeout(patience)),
    };
    let begun =
        begun.and_then(|input| Connection::new(socket, peer, place, ctx, input).map(Box::new));
    let mut connection = begun.inspect_err(|error| error.count(&ctx.counters))?;
    let end = connection.talk(shutdown).await;
    if let Err(error) = &end {
        error.count(&ctx.counters);
        // The publisher hears why, as far as it still listens.
        let text = error.to_string();
        let told = connection.protocol.publish_status("error", "NetStream.Publish.Failed", &text);
        told.iter().for_each(|message| connection.say(message));
    }
    connection.count_cut_messages();
    // Readers see the publisher gone before the farewell, which can take its time.
    drop(connection.live.take());
    if !matches!(
        end,
        Ok(End::Eof)
            | Err(ConnectionError::Io(_)
                | ConnectionError::WriteTimeout(_)
                | ConnectionError::Stalled(_))
    ) {
        connection.farewell().await;
    }
    match end {
        Err(ConnectionError::Io(error)) if is_hangup(&error) => Ok(End::Eof),
        end => end,
    }
}

/// Returns the bytes that came behind the handshake.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
) -> Result<BytesMut, ConnectionError> {
    let mut handshake = Handshake::new(PeerType::Server);
    let mut buffer = BytesMut::with_capacity(STRANGER_READ_BYTES);
    loop {
        buffer.clear();
        if socket.read_buf(&mut buffer).await? == 0 {
            return Err(ConnectionError::Handshake("the peer left".into()));
        }
        let step = handshake.process_bytes(&buffer);
        match step.map_err(|error| ConnectionError::Handshake(error.to_string()))? {
            HandshakeProcessResult::InProgress { response_bytes } => {
                socket.write_all(&response_bytes).await?;
            }
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                socket.write_all(&response_bytes).await?;
                buffer.clear();
                buffer.extend_from_slice(&remaining_bytes);
                return Ok(buffer);
            }
        }
    }
}

pub(super) struct Connection<'a, S> {
    pub(super) socket: S,
    pub(super) peer: IpAddr,
    /// Where this connection is counted; a player's is among the readers.
    pub(super) place: Place,
    pub(super) ctx: &'a Context,
    pub(super) protocol: Protocol,
    pub(super) dechunker: Dechunker,
    pub(super) input: BytesMut,
    /// Answers not yet written.
    pub(super) output: Vec<u8>,
    pub(super) live: Option<Box<Live>>,
    pub(super) playing: Playing,
    /// A player that was let in and has not begun.
    pub(super) player: Option<Box<Player>>,
    /// Of what we send.
    pub(super) chunk_size: usize,
    /// When the peer last did what it is here for.
    active: Instant,
}

/// What is being published.
pub(super) struct Live {
    publication: Publication,
    session: Session,
    audio_refused: bool,
    /// Parameters were logged.
    announced: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    fn new(
        socket: S,
        peer: IpAddr,
        place: Place,
        ctx: &'a Context,
        input: BytesMut,
    ) -> Result<Self, ConnectionError> {
        let config = &ctx.config;
        let (protocol, greeting) = Protocol::new(AmfLimits {
            max_depth: config.max_amf_depth,
            max_string_bytes: config.max_amf_string_bytes,
        })?;
        let dechunker = Dechunker::new(Limits {
            max_message_bytes: config.max_message_bytes.min(STRANGER_BYTES),
            max_chunk_streams: config.max_chunk_streams,
            max_partial_bytes: config.max_partial_bytes.min(STRANGER_BYTES),
        });
        let output = Vec::new();
        let active = Instant::now();
        let mut connection = Self {
            socket,
            peer,
            place,
            ctx,
            protocol,
            dechunker,
            input,
            output,
            live: None,
            playing: Playing::No,
            player: None,
            chunk_size: protocol::CHUNK_SIZE,
            active,
        };
        greeting.iter().for_each(|message| connection.say(message));
        Ok(connection)
    }

    async fn talk(&mut self, shutdown: &CancellationToken) -> Result<End, ConnectionError> {
        let idle = Duration::from_secs(self.ctx.config.idle_timeout_s);
        loop {
            // The handshake may have left whole messages, so taking them comes before reading.
            if let Some(end) = self.take_all()? {
                return Ok(end);
            }
            self.flush().await?;
            if let Some(player) = self.player.take() {
                match self.play(player, shutdown).await? {
                    Some(end) => return Ok(end),
                    None => self.active = Instant::now(),
                }
            }
            let room = if self.live.is_some() { READ_BYTES } else { STRANGER_READ_BYTES };
            self.input.reserve(room);
            let displaced = self.live.as_ref().map(|l| l.publication.displaced().clone());
            let read = tokio::select! {
                read = timeout_at(self.active + idle, self.socket.read_buf(&mut self.input)) => read,
                () = cancelled(displaced) => {
                    let why = self.live.as_ref().map(|l| l.publication.why_displaced());
                    return Ok(self.displaced(why.unwrap_or(Displaced::TakenOver)));
                }
                () = shutdown.cancelled() => {
                    self.tell("status", "NetStream.Unpublish.Success", "spotter is shutting down");
                    return Ok(End::Shutdown);
                }
            };
            let n = read.map_err(|_| ConnectionError::Idle(idle))??;
            if n == 0 {
                return Ok(End::Eof);
            }
            self.ctx.counters.bytes.add(n as u64);
            if let Some(acknowledgement) = self.protocol.received(n) {
                self.say(&acknowledgement);
            }
        }
    }

    /// Takes every whole message there is; an end when the connection is over.
    pub(super) fn take_all(&mut self) -> Result<Option<End>, ConnectionError> {
        let arrived = Arrival::now();
        while let Some(message) = self.dechunker.next(&mut self.input)? {
            if self.live.is_some() {
                self.active = Instant::now();
            }
            if let Some(end) = self.take(&message, arrived)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Takes one message; an end when the connection is over.
    fn take(
        &mut self,
        message: &Message,
        arrived: Arrival,
    ) -> Result<Option<End>, ConnectionError> {
        if matches!(message.kind, kind::AUDIO | kind::VIDEO) {
            if self.protocol.publishing() == Some(message.stream) && self.live.is_some() {
                return self.media(message, arrived);
            }
            self.ctx.counters.messages_ignored.inc();
            return Ok(None);
        }
        for step in self.protocol.handle(message)? {
            match step {
                Step::Send(answer) => self.say(&answer),
                Step::Publish(request) => {
                    if let Some(end) = self.publish(&request)? {
                        return Ok(Some(end));
                    }
                }
                Step::Play(request) => {
                    if let Some(end) = self.admit_player(&request)? {
                        return Ok(Some(end));
                    }
                }
                Step::Pause(pause) => self.pause(pause),
                Step::Unplay => self.unplay(),
                Step::NoSuchApp { app, refusal } => {
                    self.ctx.counters.refused_app.inc();
                    info!(app, "refused: no such application");
                    refusal.iter().for_each(|answer| self.say(answer));
                    return Ok(Some(End::Refused));
                }
                Step::Unpublish => {
                    info!("publisher ended");
                    self.live = None;
                    self.active = Instant::now();
                }
                Step::Ignored => match message.kind {
                    kind::COMMAND_AMF0 | kind::COMMAND_AMF3 | kind::DATA_AMF0 | kind::DATA_AMF3 => {
                        self.ctx.counters.amf_ignored.inc()
                    }
                    _ => self.ctx.counters.messages_ignored.inc(),
                },
            }
        }
        Ok(None)
    }

    fn publish(&mut self, request: &Request) -> Result<Option<End>, ConnectionError> {
        let counters = &self.ctx.counters;
        let id = match &request.name {
            Ok(id) => id,
            Err(error) => {
                counters.refused_name.inc();
                let text = error.to_string();
                return Ok(Some(self.refuse(request, "NetStream.Publish.BadName", &text)));
            }
        };
        if self.live.is_some() || self.is_playing() {
            counters.refused_name.inc();
            let text = "this connection has a stream already: open another one";
            return Ok(Some(self.refuse(request, "NetStream.Publish.BadName", text)));
        }
        let token = request.token.as_ref().map(Token::secret);
        let publication = match self.ctx.entry().seat(&direct(self.peer, token), id) {
            Ok(publication) => publication,
            Err(refused) => {
                let (code, text) = match &refused {
                    // Glasses look for this word and stop trying, which is right here and nowhere else.
                    Refused::Denied(_) => {
                        ("NetStream.Publish.Denied", format!("Unauthorized: {refused}"))
                    }
                    Refused::Claim(_) => ("NetStream.Publish.BadName", refused.to_string()),
                };
                return Ok(Some(self.refuse(request, code, &text)));
            }
        };
        for answer in self.protocol.accept(request)? {
            self.say(&answer);
        }
        let config = &self.ctx.config;
        self.dechunker.set_limits(Limits {
            max_message_bytes: config.max_message_bytes,
            max_chunk_streams: config.max_chunk_streams,
            max_partial_bytes: config.max_partial_bytes,
        });
        let session = Session::new(id.clone(), publication.resume(), Arrival::now().mono);
        let live = Live { publication, session, audio_refused: false, announced: false };
        self.live = Some(Box::new(live));
        self.active = Instant::now();
        Ok(None)
    }

    fn media(
        &mut self,
        message: &Message,
        arrived: Arrival,
    ) -> Result<Option<End>, ConnectionError> {
        let counters = &self.ctx.counters;
        let Some(live) = self.live.as_mut() else { return Ok(None) };
        let (time, payload) = (message.timestamp_ms, &message.payload);
        let unit = if message.kind == kind::VIDEO {
            live.session.video(time, payload, arrived)?.map(Unit::Video)
        } else {
            match live.session.audio(time, payload, arrived) {
                Ok(unit) => unit.map(Unit::Audio),
                Err(error) => {
                    counters.audio_dropped.inc();
                    if !std::mem::replace(&mut live.audio_refused, true) {
                        warn!(%error, "audio is dropped; the video goes on");
                    }
                    None
                }
            }
        };
        entry::note(&mut live.session, &live.publication, counters);
        let stream = live.publication.stream();
        if !live.announced
            && let Some(params) = live.session.params()
        {
            live.announced = true;
            let (codec, width, height) = (params.codec.name(), params.width, params.height);
            info!(stream = %stream.id, codec, width, height, "video");
        }
        match unit.map(|unit| live.publication.push(unit)) {
            Some(Err(why)) => Ok(Some(self.displaced(why))),
            Some(Ok(())) | None => Ok(None),
        }
    }

    pub(super) fn refuse(&mut self, request: &Request, code: &str, text: &str) -> End {
        info!(code, text, "refused");
        for answer in self.protocol.refuse(request, code, text) {
            self.say(&answer);
        }
        End::Refused
    }

    fn displaced(&mut self, why: Displaced) -> End {
        self.ctx.counters.displaced.inc();
        self.tell("error", "NetStream.Publish.BadName", &why.to_string());
        End::Displaced
    }

    fn tell(&mut self, level: &str, code: &str, text: &str) {
        let told = self.protocol.publish_status(level, code, text);
        told.iter().for_each(|message| self.say(message));
    }

    pub(super) fn say(&mut self, message: &Message) {
        // Control messages belong on chunk stream 2 (5.3.1); commands and statuses go on one each.
        let csid = match (message.kind, message.stream) {
            (kind::SET_CHUNK_SIZE..=kind::SET_PEER_BANDWIDTH, _) => 2,
            (_, 0) => 3,
            _ => 5,
        };
        write_message(&mut self.output, csid, message, self.chunk_size);
    }

    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let patience = Duration::from_secs(self.ctx.config.handshake_timeout_s);
        match timeout(patience, self.socket.write_all(&self.output)).await {
            Ok(written) => written?,
            Err(_) => return Err(ConnectionError::WriteTimeout(patience)),
        }
        self.output.clear();
        Ok(())
    }

    /// Writes what is left to say and lets the peer read it: a socket closed with unread input resets the
    /// connection and takes our last words with it.
    async fn farewell(&mut self) {
        let parting = async {
            self.flush().await?;
            self.socket.shutdown().await?;
            loop {
                self.input.clear();
                self.input.reserve(STRANGER_READ_BYTES);
                if self.socket.read_buf(&mut self.input).await? == 0 {
                    return Ok::<(), ConnectionError>(());
                }
            }
        };
        // Whatever goes wrong here, the connection is over.
        let _ = timeout(LINGER, parting).await;
    }

    fn count_cut_messages(&self) {
        let unfinished = u64::from(self.dechunker.under_way() > 0);
        self.ctx.counters.messages_cut.add(self.dechunker.cut() + unfinished);
    }
}

/// Waits for `token`; for ever without one.
async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
