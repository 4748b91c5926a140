//! The publishing side of an RTMP conversation (pure): messages of the server in, answers and progress out. It knows
//! neither sockets nor media.

use bytes::Bytes;
use rml_amf0::Amf0Value;

use super::outbox::CHUNK_SIZE;
use super::target::Target;
use crate::ingest::amf::{AmfLimits, check_command};
use crate::ingest::dechunk::{Message, kind};

/// What a server may say in one command.
const LIMITS: AmfLimits = AmfLimits { max_depth: 16, max_string_bytes: 16 << 10 };
/// Commands beyond this are not read: a few hundred bytes are usual.
const MAX_COMMAND_BYTES: usize = 64 << 10;
const ACK_WINDOW: u32 = 2_500_000;

// Transactions, in the order they are sent.
const CONNECT: f64 = 1.0;
const RELEASE: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE: f64 = 4.0;
const PUBLISH: f64 = 5.0;

/// What a message leads to.
#[derive(Debug, PartialEq)]
pub enum Said {
    Send(Message),
    /// From here on chunks may be this large, ours.
    ChunkSize(usize),
    /// Media may go out on this message stream.
    Live {
        stream: u32,
    },
    /// The server wants no more of this; its own words.
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Creating,
    Publishing,
    Live,
}

/// One conversation.
#[derive(Debug)]
pub struct Client {
    target: Target,
    stage: Stage,
    stream: u32,
    ack_window: u64,
    received: u64,
    acknowledged: u64,
}

impl Client {
    /// A conversation and what to say first.
    pub fn new(target: Target) -> (Self, Message) {
        let text = |s: &str| Amf0Value::Utf8String(s.to_owned());
        let properties = [
            ("app", text(&target.app)),
            ("type", text("nonprivate")),
            (
                "flashVer",
                text(concat!("FMLE/3.0 (compatible; spotter/", env!("CARGO_PKG_VERSION"), ")")),
            ),
            ("tcUrl", text(&target.tc_url)),
        ];
        let object = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let connect = command(0, "connect", CONNECT, vec![Amf0Value::Object(object)]);
        let ack_window = u64::from(ACK_WINDOW);
        let stage = Stage::Connecting;
        (Self { target, stage, stream: 0, ack_window, received: 0, acknowledged: 0 }, connect)
    }

    /// Counts received bytes; an acknowledgement when one is due.
    pub fn received(&mut self, bytes: usize) -> Option<Message> {
        self.received += bytes as u64;
        if self.received - self.acknowledged < self.ack_window {
            return None;
        }
        self.acknowledged = self.received;
        Some(control(kind::ACKNOWLEDGEMENT, self.received as u32))
    }

    /// Takes one message of the server.
    pub fn handle(&mut self, message: &Message) -> Vec<Said> {
        let body = &message.payload;
        match message.kind {
            kind::COMMAND_AMF0 => self.command(body),
            kind::COMMAND_AMF3 => {
                self.command(&body.slice(usize::from(body.first() == Some(&0))..))
            }
            kind::WINDOW_ACK_SIZE => {
                if let Some(size) = body.first_chunk().map(|b| u32::from_be_bytes(*b)) {
                    self.ack_window = u64::from(size.clamp(16 << 10, ACK_WINDOW));
                }
                Vec::new()
            }
            // A ping is answered with its own time (7.1.7).
            kind::USER_CONTROL => match body.strip_prefix(&[0, 6]) {
                Some(time) if time.len() >= 4 => {
                    let payload = [&[0, 7], &time[..4]].concat().into();
                    let (kind, stream, timestamp_ms) = (kind::USER_CONTROL, 0, 0);
                    vec![Said::Send(Message { kind, stream, timestamp_ms, payload })]
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// What to say at the end of a publication.
    pub fn goodbye(&self) -> [Message; 2] {
        let key = Amf0Value::Utf8String(self.target.key.clone());
        let stream = Amf0Value::Number(f64::from(self.stream));
        [
            command(0, "FCUnpublish", 6.0, vec![Amf0Value::Null, key]),
            command(0, "deleteStream", 7.0, vec![Amf0Value::Null, stream]),
        ]
    }

    fn command(&mut self, body: &Bytes) -> Vec<Said> {
        let sound = body.len() <= MAX_COMMAND_BYTES && check_command(body, LIMITS).is_ok();
        let values = sound.then(|| rml_amf0::deserialize(&mut &body[..]).ok()).flatten();
        let Some(values) = values else { return Vec::new() };
        let mut values = values.into_iter();
        let (Some(Amf0Value::Utf8String(name)), Some(Amf0Value::Number(transaction))) =
            (values.next(), values.next())
        else {
            return Vec::new();
        };
        let info = values.nth(1);
        match name.as_str() {
            "_result" => self.result(transaction, info),
            "_error" if transaction == CONNECT || transaction == CREATE => {
                vec![Said::Refused(description(info.as_ref()))]
            }
            "onStatus" => self.status(info.as_ref()),
            "close" => vec![Said::Refused("the server closed the connection".into())],
            _ => Vec::new(),
        }
    }

    fn result(&mut self, transaction: f64, info: Option<Amf0Value>) -> Vec<Said> {
        match (self.stage, info) {
            (Stage::Connecting, _) if transaction == CONNECT => {
                self.stage = Stage::Creating;
                let key = || vec![Amf0Value::Null, Amf0Value::Utf8String(self.target.key.clone())];
                vec![
                    Said::Send(control(kind::SET_CHUNK_SIZE, CHUNK_SIZE as u32)),
                    Said::ChunkSize(CHUNK_SIZE),
                    Said::Send(command(0, "releaseStream", RELEASE, key())),
                    Said::Send(command(0, "FCPublish", FC_PUBLISH, key())),
                    Said::Send(command(0, "createStream", CREATE, vec![Amf0Value::Null])),
                ]
            }
            (Stage::Creating, Some(Amf0Value::Number(stream))) if transaction == CREATE => {
                self.stage = Stage::Publishing;
                self.stream = stream as u32;
                let text = |s: &str| Amf0Value::Utf8String(s.to_owned());
                let rest = vec![Amf0Value::Null, text(&self.target.key), text("live")];
                vec![Said::Send(command(self.stream, "publish", PUBLISH, rest))]
            }
            _ => Vec::new(),
        }
    }

    fn status(&mut self, info: Option<&Amf0Value>) -> Vec<Said> {
        let code = property(info, "code").unwrap_or_default();
        let failed = property(info, "level").is_some_and(|level| level == "error");
        match code {
            "NetStream.Publish.Start" if self.stage == Stage::Publishing => {
                self.stage = Stage::Live;
                vec![Said::Live { stream: self.stream }]
            }
            "NetStream.Unpublish.Success" if self.stage == Stage::Live => {
                vec![Said::Refused("the server ended the publication".into())]
            }
            _ if failed => vec![Said::Refused(description(info))],
            _ => Vec::new(),
        }
    }
}

/// Code and description of a server's refusal.
fn description(info: Option<&Amf0Value>) -> String {
    let parts = ["code", "description"].map(|key| property(info, key));
    let said: Vec<_> = parts.into_iter().flatten().filter(|s| !s.is_empty()).collect();
    if said.is_empty() { "it gave no reason".into() } else { said.join(": ") }
}

fn property<'a>(info: Option<&'a Amf0Value>, key: &str) -> Option<&'a str> {
    let Some(Amf0Value::Object(properties)) = info else { return None };
    match properties.get(key) {
        Some(Amf0Value::Utf8String(text)) => Some(text),
        _ => None,
    }
}

fn command(stream: u32, name: &str, transaction: f64, rest: Vec<Amf0Value>) -> Message {
    let mut values = vec![Amf0Value::Utf8String(name.into()), Amf0Value::Number(transaction)];
    values.extend(rest);
    // A URL over 64 KiB would not fit a string; such a command goes out empty and is refused.
    let payload = rml_amf0::serialize(&values).unwrap_or_default().into();
    Message { kind: kind::COMMAND_AMF0, stream, timestamp_ms: 0, payload }
}

fn control(kind: u8, value: u32) -> Message {
    let payload = Bytes::copy_from_slice(&value.to_be_bytes());
    Message { kind, stream: 0, timestamp_ms: 0, payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::protocol::{Protocol, Step};
    use proptest::prelude::*;

    fn target() -> Target {
        Target::parse("rtmp://h/live/cam?token=abc").unwrap()
    }

    fn status(level: &str, code: &str, description: &str) -> Message {
        let pairs = [("level", level), ("code", code), ("description", description)];
        let info = pairs.map(|(k, v)| (k.to_owned(), Amf0Value::Utf8String(v.to_owned())));
        let info = Amf0Value::Object(info.into_iter().collect());
        command(1, "onStatus", 0.0, vec![Amf0Value::Null, info])
    }

    /// Our own server on the other side, up to the publication or its refusal.
    fn talk(accept: bool) -> (Client, Vec<Said>) {
        let (mut server, greeting) = Protocol::new(LIMITS).unwrap();
        let (mut client, connect) = Client::new(target());
        let mut to_client = greeting;
        let mut to_server = vec![connect];
        let mut heard = Vec::new();
        while !to_client.is_empty() || !to_server.is_empty() {
            for message in std::mem::take(&mut to_server) {
                for step in server.handle(&message).unwrap() {
                    match step {
                        Step::Send(answer) => to_client.push(answer),
                        Step::Publish(request) => {
                            assert_eq!(request.name.as_ref().unwrap().as_str(), "cam");
                            assert_eq!(request.token.as_ref().unwrap().secret(), "abc");
                            to_client.extend(match accept {
                                true => server.accept(&request).unwrap(),
                                false => {
                                    server.refuse(&request, "NetStream.Publish.BadName", "taken")
                                }
                            });
                        }
                        _ => {}
                    }
                }
            }
            for message in std::mem::take(&mut to_client) {
                for said in client.handle(&message) {
                    match said {
                        Said::Send(message) => to_server.push(message),
                        other => heard.push(other),
                    }
                }
            }
        }
        (client, heard)
    }

    #[test]
    fn a_publication_begins_and_ends() {
        let (mut client, heard) = talk(true);
        assert_eq!(heard, [Said::ChunkSize(CHUNK_SIZE), Said::Live { stream: 1 }]);
        let over = client.handle(&status("status", "NetStream.Unpublish.Success", ""));
        assert!(matches!(over[..], [Said::Refused(_)]));
        let said = client.goodbye().map(|m| String::from_utf8_lossy(&m.payload).into_owned());
        assert!(said[0].contains("FCUnpublish") && said[1].contains("deleteStream"));
    }

    #[test]
    fn refusals_keep_the_server_s_words() {
        let (_, heard) = talk(false);
        assert_eq!(heard.last(), Some(&Said::Refused("NetStream.Publish.BadName: taken".into())));
        let (mut client, _) = Client::new(target());
        let refused = command(0, "_error", CONNECT, vec![Amf0Value::Null, Amf0Value::Null]);
        assert_eq!(client.handle(&refused), [Said::Refused("it gave no reason".into())]);
        // What nobody here depends on may fail.
        let (mut client, _) = Client::new(target());
        assert_eq!(client.handle(&command(0, "_error", RELEASE, vec![Amf0Value::Null])), []);
    }

    #[test]
    fn pings_and_windows_are_answered() {
        let (mut client, _) = Client::new(target());
        let ping = control(kind::USER_CONTROL, 0);
        let ping = Message { payload: Bytes::from_static(&[0, 6, 1, 2, 3, 4]), ..ping };
        let answer = client.handle(&ping);
        assert!(matches!(&answer[..], [Said::Send(m)] if m.payload[..] == [0, 7, 1, 2, 3, 4]));
        client.handle(&control(kind::WINDOW_ACK_SIZE, 20_000));
        assert_eq!(client.received(19_999), None);
        assert_eq!(client.received(1).unwrap().payload[..], 20_000u32.to_be_bytes());
        assert_eq!(client.received(1), None);
    }

    proptest! {
        #[test]
        fn nothing_a_server_says_breaks_it(
            said in prop::collection::vec((0u8..25, prop::collection::vec(any::<u8>(), 0..80)), 0..20)
        ) {
            let (mut client, _) = Client::new(target());
            for (kind, payload) in said {
                client.handle(&Message { kind, stream: 0, timestamp_ms: 0, payload: payload.into() });
            }
        }
    }
}
