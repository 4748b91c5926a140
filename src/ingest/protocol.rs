//! The RTMP conversation of one connection (pure): whole messages in, answers and requests out. It judges nobody and
//! moves no media; `rml_rtmp`'s server session keeps the state of connect, createStream, publish and play.
//!
//! That session gets commands only, each checked by `amf` and handed over as a single chunk, because it mishandles
//! interleaved chunks, unbounded nesting, commands of fewer than three values and metadata of fewer than two.
//! A panic in it is caught all the same and ends the connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use rml_amf0::Amf0Value;
use rml_rtmp::sessions::{
    ServerSession, ServerSessionConfig, ServerSessionError, ServerSessionEvent, ServerSessionResult,
};

use super::amf::{AmfError, AmfLimits, check_command, check_values};
use super::answers::{ping_answer, result, status};
use super::dechunk::{DechunkError, Dechunker, Limits, Message, kind, write_message};
use super::url::{APP, Token, split_query, stream_name, tc_url, token};
use crate::media::StreamId;
use crate::media::unit::BadStreamName;

/// Size of the chunks we send, bytes.
pub const CHUNK_SIZE: usize = 4096;
/// A command is a few hundred bytes; its parsed form takes up to sixty times its size.
const MAX_COMMAND_BYTES: usize = 64 << 10;
/// createStream makes the session remember something for good, so there must be an end.
const MAX_CREATED_STREAMS: u32 = 1024;
/// We acknowledge at least so often, bytes, whether asked to or not: some publishers stop without.
const ACK_WINDOW: u32 = 2_500_000;
/// For what the session says, which is ours.
const UNLIMITED: Limits = Limits {
    max_message_bytes: usize::MAX,
    max_chunk_streams: usize::MAX,
    max_partial_bytes: usize::MAX,
};

/// What a message leads to.
#[derive(Debug)]
pub enum Step {
    Send(Message),
    /// The peer wants to publish; answer by [`Protocol::accept`] or [`Protocol::refuse`].
    Publish(Request),
    /// The peer wants to play; answer by [`Protocol::accept_play`] or [`Protocol::refuse`].
    Play(Request),
    /// The player wants a rest, or goes on.
    Pause(Pause),
    Unplay,
    /// The peer asked for an application that is not here; the refusal is for it, then close.
    NoSuchApp {
        app: String,
        refusal: Vec<Message>,
    },
    Unpublish,
    /// Passed over; worth a count.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    Rest,
    GoOn,
}

/// A request to publish or play.
#[derive(Debug)]
pub struct Request {
    /// Number the session knows it by.
    id: u32,
    /// Message stream id.
    stream: u32,
    pub name: Result<StreamId, BadStreamName>,
    pub token: Option<Token>,
}

impl Request {
    /// Message stream id that media goes out on.
    pub fn message_stream(&self) -> u32 {
        self.stream
    }
}

/// Why a conversation cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Amf(#[from] AmfError),
    #[error("a command of {0} bytes is over the limit of {MAX_COMMAND_BYTES}")]
    CommandTooLarge(usize),
    #[error("more than {MAX_CREATED_STREAMS} streams created on one connection")]
    TooManyStreams,
    #[error("the RTMP session refused what the peer said: {0}")]
    Session(String),
    #[error("the RTMP session panicked over what the peer said")]
    SessionPanicked,
}

pub struct Protocol {
    /// None while a stream is played: a player says hardly anything, and there may be many. See [`Protocol::reopen`].
    session: Option<ServerSession>,
    /// Takes the session's answers apart again, so that ours and its go out through one writer.
    answers: Dechunker,
    limits: AmfLimits,
    app: String,
    connect_token: Option<Token>,
    /// Message stream id of the accepted publication.
    publishing: Option<u32>,
    /// Message stream id of what is being played.
    playing: Option<u32>,
    created_streams: u32,
    ack_window: u32,
    received: u64,
    acknowledged: u64,
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protocol").field("publishing", &self.publishing).finish_non_exhaustive()
    }
}

impl Protocol {
    /// A conversation, and what the server says first.
    pub fn new(limits: AmfLimits) -> Result<(Self, Vec<Message>), ProtocolError> {
        let mut protocol = Self {
            session: None,
            answers: Dechunker::new(UNLIMITED),
            limits,
            app: String::new(),
            connect_token: None,
            publishing: None,
            playing: None,
            created_streams: 0,
            ack_window: ACK_WINDOW,
            received: 0,
            acknowledged: 0,
        };
        let steps = protocol.open()?;
        let mut greeting = vec![Message {
            kind: kind::SET_CHUNK_SIZE,
            stream: 0,
            timestamp_ms: 0,
            payload: Bytes::copy_from_slice(&(CHUNK_SIZE as u32).to_be_bytes()),
        }];
        greeting.extend(sent(steps));
        Ok((protocol, greeting))
    }

    /// Begins a session; what it says first.
    fn open(&mut self) -> Result<Vec<Step>, ProtocolError> {
        let mut config = ServerSessionConfig::new();
        config.window_ack_size = ACK_WINDOW;
        config.peer_bandwidth = ACK_WINDOW;
        config.chunk_size = CHUNK_SIZE as u32;
        config.send_on_bw_done_message_on_start = false;
        let (session, greeting) = ServerSession::new(config).map_err(refused)?;
        self.session = Some(session);
        self.answers = Dechunker::new(UNLIMITED);
        let steps = self.steps(greeting, 0)?;
        // From here on every message is one chunk to the session.
        let size = Bytes::copy_from_slice(&(MAX_COMMAND_BYTES as u32).to_be_bytes());
        self.tell_session(kind::SET_CHUNK_SIZE, 0, size)?;
        Ok(steps)
    }

    /// Begins a player's session anew, because the player spoke, and tells it what the old one knew. What it answers the
    /// player heard before.
    fn reopen(&mut self) -> Result<(), ProtocolError> {
        self.open()?;
        let app = [("app".to_owned(), Amf0Value::Utf8String(self.app.clone()))];
        self.say_again(0, "connect", Amf0Value::Object(app.into()), None)?;
        for _ in 0..self.created_streams {
            self.say_again(0, "createStream", Amf0Value::Null, None)?;
        }
        if let Some(stream) = self.playing {
            let name = Amf0Value::Utf8String("again".into());
            for step in self.say_again(stream, "play", Amf0Value::Null, Some(name))? {
                if let Step::Play(request) = step {
                    let answers = self.ask_session(|s| s.accept_request(request.id))?;
                    self.steps(answers, stream)?;
                }
            }
        }
        Ok(())
    }

    fn say_again(
        &mut self,
        stream: u32,
        name: &str,
        object: Amf0Value,
        argument: Option<Amf0Value>,
    ) -> Result<Vec<Step>, ProtocolError> {
        let mut values = vec![Amf0Value::Utf8String(name.into()), Amf0Value::Number(1.0), object];
        values.extend(argument);
        let body = rml_amf0::serialize(&values)
            .map_err(|error| ProtocolError::Session(error.to_string()))?;
        let answers = self.tell_session(kind::COMMAND_AMF0, stream, body.into())?;
        self.steps(answers, stream)
    }

    /// The message stream whose audio and video are to be taken.
    pub fn publishing(&self) -> Option<u32> {
        self.publishing
    }

    /// Counts received bytes; an acknowledgement when one is due.
    pub fn received(&mut self, bytes: usize) -> Option<Message> {
        self.received += bytes as u64;
        if self.received - self.acknowledged < u64::from(self.ack_window) {
            return None;
        }
        self.acknowledged = self.received;
        // The sequence number is the bytes so far, and wraps (5.4.3).
        let payload = Bytes::copy_from_slice(&(self.received as u32).to_be_bytes());
        Some(Message { kind: kind::ACKNOWLEDGEMENT, stream: 0, timestamp_ms: 0, payload })
    }

    /// Takes any message but the audio and video of the publication.
    pub fn handle(&mut self, message: &Message) -> Result<Vec<Step>, ProtocolError> {
        match message.kind {
            kind::COMMAND_AMF0 => self.command(message, &message.payload),
            kind::COMMAND_AMF3 => {
                // AMF3 commands are AMF0 behind a byte of format, which some leave out.
                let body = &message.payload;
                self.command(message, &body.slice(usize::from(body.first() == Some(&0))..))
            }
            kind::DATA_AMF0 | kind::DATA_AMF3 => {
                // Size and codec come from the stream itself; nobody here reads metadata.
                let sound = check_values(&message.payload, self.limits).is_ok();
                Ok(if sound { Vec::new() } else { vec![Step::Ignored] })
            }
            kind::WINDOW_ACK_SIZE => {
                if let Some(size) = message.payload.first_chunk().map(|b| u32::from_be_bytes(*b)) {
                    // A window of a few bytes would have us answer every packet.
                    self.ack_window = size.clamp(16 << 10, ACK_WINDOW);
                }
                Ok(Vec::new())
            }
            kind::USER_CONTROL => {
                Ok(ping_answer(&message.payload).map(Step::Send).into_iter().collect())
            }
            kind::SET_CHUNK_SIZE
            | kind::ABORT
            | kind::ACKNOWLEDGEMENT
            | kind::SET_PEER_BANDWIDTH => Ok(Vec::new()),
            _ => Ok(vec![Step::Ignored]),
        }
    }

    /// Accepts a request to publish; what to answer.
    pub fn accept(&mut self, request: &Request) -> Result<Vec<Message>, ProtocolError> {
        let id = request.id;
        let answers = self.ask_session(|session| session.accept_request(id))?;
        self.publishing = Some(request.stream);
        Ok(sent(self.steps(answers, request.stream)?))
    }

    /// Accepts a request to play; what to answer.
    pub fn accept_play(&mut self, request: &Request) -> Result<Vec<Message>, ProtocolError> {
        let id = request.id;
        let answers = self.ask_session(|session| session.accept_request(id))?;
        self.playing = Some(request.stream);
        let mut answers = sent(self.steps(answers, request.stream)?);
        // Data before the stream's own would be taken for subtitles by ffmpeg and its kin.
        answers.retain(|message| message.kind != kind::DATA_AMF0);
        self.session = None;
        Ok(answers)
    }

    /// Refuses a request; what to answer.
    pub fn refuse(&mut self, request: &Request, code: &str, text: &str) -> Vec<Message> {
        let id = request.id;
        // Its own refusal is an `_error` that librtmp passes over; an error status is what the others send.
        if let Ok(answers) = self.ask_session(|session| session.reject_request(id, code, text)) {
            let _ = self.steps(answers, request.stream);
        }
        status(request.stream, "error", code, text).into_iter().collect()
    }

    /// Tells the publisher how its publication fares; nothing when there is none.
    pub fn publish_status(&self, level: &str, code: &str, text: &str) -> Option<Message> {
        status(self.publishing?, level, code, text)
    }

    /// Tells the player that the stream is over; nothing when none is played.
    pub fn play_over(&self, text: &str) -> Vec<Message> {
        let Some(stream) = self.playing else { return Vec::new() };
        let mut end = vec![0, 1];
        end.extend_from_slice(&stream.to_be_bytes());
        let (kind, payload) = (kind::USER_CONTROL, end.into());
        let stream_eof = Message { kind, stream: 0, timestamp_ms: 0, payload };
        let told = ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]
            .into_iter()
            .filter_map(|code| status(stream, "status", code, text));
        told.chain([stream_eof]).collect()
    }

    fn command(&mut self, message: &Message, body: &Bytes) -> Result<Vec<Step>, ProtocolError> {
        if body.len() > MAX_COMMAND_BYTES {
            return Err(ProtocolError::CommandTooLarge(body.len()));
        }
        let name = match check_command(body, self.limits) {
            Ok(name) => name,
            Err(AmfError::NotACommand) => return Ok(vec![Step::Ignored]),
            Err(error) => return Err(error.into()),
        };
        match name {
            "createStream" if self.created_streams >= MAX_CREATED_STREAMS => {
                return Err(ProtocolError::TooManyStreams);
            }
            "connect" => self.connect_token = tc_url(body).as_deref().and_then(token),
            "FCUnpublish" if self.publishing.is_some() => return Ok(self.unpublish()),
            // It names its stream by the message's own stream id, which the session does not look at.
            "closeStream" if self.publishing == Some(message.stream) => return Ok(self.unpublish()),
            "closeStream" if self.playing == Some(message.stream) => {
                self.playing = None;
                return Ok(vec![Step::Unplay]);
            }
            _ => {}
        }
        let created = u32::from(name == "createStream");
        let answers = self.tell_session(kind::COMMAND_AMF0, message.stream, body.clone())?;
        // After the call: what a session put away is told again has not had this one.
        self.created_streams += created;
        self.steps(answers, message.stream)
    }

    fn unpublish(&mut self) -> Vec<Step> {
        let text = "publication ended";
        let told = self.publish_status("status", "NetStream.Unpublish.Success", text);
        self.publishing = None;
        told.map(Step::Send).into_iter().chain([Step::Unpublish]).collect()
    }

    fn tell_session(
        &mut self,
        kind: u8,
        stream: u32,
        payload: Bytes,
    ) -> Result<Vec<ServerSessionResult>, ProtocolError> {
        let mut chunk = Vec::with_capacity(payload.len() + 12);
        let chunk_size = if kind == kind::SET_CHUNK_SIZE { 128 } else { MAX_COMMAND_BYTES };
        let message = Message { kind, stream, timestamp_ms: 0, payload };
        write_message(&mut chunk, 3, &message, chunk_size);
        self.ask_session(|session| session.handle_input(&chunk))
    }

    /// Calls the session; its panics become errors. It is not used again after one.
    fn ask_session(
        &mut self,
        ask: impl FnOnce(&mut ServerSession) -> Result<Vec<ServerSessionResult>, ServerSessionError>,
    ) -> Result<Vec<ServerSessionResult>, ProtocolError> {
        if self.session.is_none() {
            self.reopen()?;
        }
        let session = &mut self.session;
        match catch_unwind(AssertUnwindSafe(|| session.as_mut().map(ask))) {
            Ok(answer) => answer.unwrap_or(Ok(Vec::new())).map_err(refused),
            Err(_) => Err(ProtocolError::SessionPanicked),
        }
    }

    /// Turns the session's answers to a message on `stream` into steps.
    fn steps(
        &mut self,
        answers: Vec<ServerSessionResult>,
        stream: u32,
    ) -> Result<Vec<Step>, ProtocolError> {
        let mut steps = Vec::new();
        for answer in answers {
            match answer {
                ServerSessionResult::OutboundResponse(packet) => {
                    let mut bytes = BytesMut::from(&packet.bytes[..]);
                    while let Some(message) = self.answers.next(&mut bytes).map_err(unreadable)? {
                        if message.kind != kind::SET_CHUNK_SIZE {
                            steps.push(Step::Send(message));
                        }
                    }
                }
                ServerSessionResult::RaisedEvent(event) => self.event(event, stream, &mut steps)?,
                ServerSessionResult::UnhandleableMessageReceived(_) => steps.push(Step::Ignored),
            }
        }
        Ok(steps)
    }

    fn event(
        &mut self,
        event: ServerSessionEvent,
        stream: u32,
        steps: &mut Vec<Step>,
    ) -> Result<(), ProtocolError> {
        match event {
            ServerSessionEvent::ConnectionRequested { request_id, app_name } => {
                let (app, _) = split_query(&app_name);
                let first = app.split('/').find(|part| !part.is_empty());
                // Some clients take the whole path of a short URL for the stream and send an empty application.
                if first.is_none_or(|first| first == APP) {
                    self.app = app_name;
                    let answers = self.ask_session(|s| s.accept_request(request_id))?;
                    steps.extend(self.steps(answers, stream)?);
                } else {
                    let app: String = app.chars().take(80).collect();
                    let text =
                        format!("no application {app:?} here: use rtmp://host/{APP}/<stream>");
                    let code = "NetConnection.Connect.InvalidApp";
                    let answers =
                        self.ask_session(|s| s.reject_request(request_id, code, &text))?;
                    let refusal = sent(self.steps(answers, stream)?);
                    steps.push(Step::NoSuchApp { app, refusal });
                }
            }
            ServerSessionEvent::PublishStreamRequested { request_id, stream_key, .. } => {
                steps.push(Step::Publish(self.request(request_id, stream, &stream_key)));
            }
            ServerSessionEvent::PlayStreamRequested { request_id, stream_key, .. } => {
                steps.push(Step::Play(self.request(request_id, stream, &stream_key)));
            }
            ServerSessionEvent::PublishStreamFinished { .. } if self.publishing.is_some() => {
                steps.extend(self.unpublish());
            }
            ServerSessionEvent::PlayStreamFinished { .. } if self.playing.take().is_some() => {
                steps.push(Step::Unplay);
            }
            ServerSessionEvent::UnhandleableAmf0Command {
                command_name,
                transaction_id,
                additional_values,
                ..
            } => match command_name.as_str() {
                "releaseStream" | "FCPublish" | "FCSubscribe" | "_checkbw" => {
                    steps.extend(result(transaction_id, Amf0Value::Undefined).map(Step::Send));
                }
                // A live stream has no length, which is said so.
                "getStreamLength" => {
                    steps.extend(result(transaction_id, Amf0Value::Number(0.0)).map(Step::Send));
                }
                "pause" | "pauseRaw" if self.playing.is_some() => {
                    steps.extend(self.pause(additional_values.first()));
                }
                "seek" => {
                    let text = "this stream is live: there is no other place in it";
                    let told = self
                        .playing
                        .and_then(|stream| status(stream, "error", "NetStream.Seek.Failed", text));
                    steps.extend(told.map(Step::Send));
                }
                _ => steps.push(Step::Ignored),
            },
            _ => {}
        }
        Ok(())
    }

    fn pause(&self, wanted: Option<&Amf0Value>) -> Vec<Step> {
        let (step, code) = match wanted {
            Some(Amf0Value::Boolean(false)) => (Pause::GoOn, "NetStream.Unpause.Notify"),
            _ => (Pause::Rest, "NetStream.Pause.Notify"),
        };
        let told = self.playing.and_then(|stream| status(stream, "status", code, "as you wish"));
        told.map(Step::Send).into_iter().chain([Step::Pause(step)]).collect()
    }

    fn request(&self, id: u32, stream: u32, key: &str) -> Request {
        let (app, _) = split_query(&self.app);
        let (name, _) = split_query(key);
        let token = token(key).or_else(|| token(&self.app)).or_else(|| self.connect_token.clone());
        Request { id, stream, name: stream_name(app, name), token }
    }
}

fn sent(steps: Vec<Step>) -> Vec<Message> {
    let messages = steps.into_iter().filter_map(|step| match step {
        Step::Send(message) => Some(message),
        _ => None,
    });
    messages.collect()
}

fn refused(error: ServerSessionError) -> ProtocolError {
    ProtocolError::Session(error.to_string())
}

fn unreadable(error: DechunkError) -> ProtocolError {
    ProtocolError::Session(error.to_string())
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
