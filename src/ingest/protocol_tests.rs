use proptest::prelude::*;

use super::super::answers::command;
use super::*;

const LIMITS: AmfLimits = AmfLimits { max_depth: 16, max_string_bytes: 16 << 10 };

fn text(s: &str) -> Amf0Value {
    Amf0Value::Utf8String(s.into())
}

fn object(pairs: &[(&str, &str)]) -> Amf0Value {
    Amf0Value::Object(pairs.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect())
}

fn call(stream: u32, name: &str, transaction: f64, rest: Vec<Amf0Value>) -> Message {
    let mut values = vec![text(name), Amf0Value::Number(transaction)];
    values.extend(rest);
    command(stream, values).unwrap()
}

fn connect(app: &str) -> Message {
    let object = object(&[("app", app), ("tcUrl", &format!("rtmp://h/{app}"))]);
    call(0, "connect", 1.0, vec![object])
}

fn publish(key: &str) -> Message {
    call(1, "publish", 5.0, vec![Amf0Value::Null, text(key), text("live")])
}

fn all_text(messages: &[Message]) -> String {
    messages.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
}

/// A conversation up to the request to publish `key` under `app`.
fn asked(app: &str, key: &str) -> (Protocol, Request) {
    let (mut p, greeting) = Protocol::new(LIMITS).unwrap();
    let kinds: Vec<_> = greeting.iter().map(|m| m.kind).collect();
    assert_eq!(kinds, [1, 5, 4, 6]);
    let answer = sent(p.handle(&connect(app)).unwrap());
    assert!(all_text(&answer).contains("NetConnection.Connect.Success"), "{app}");
    for name in ["releaseStream", "FCPublish"] {
        let answer = sent(p.handle(&call(0, name, 2.0, vec![Amf0Value::Null, text(key)])).unwrap());
        assert!(all_text(&answer).contains("_result"));
    }
    sent(p.handle(&call(0, "createStream", 4.0, vec![Amf0Value::Null])).unwrap());
    match p.handle(&publish(key)).unwrap().pop() {
        Some(Step::Publish(request)) => (p, request),
        other => panic!("{other:?}"),
    }
}

fn name(app: &str, key: &str) -> Result<String, String> {
    asked(app, key).1.name.map(|id| id.to_string()).map_err(|e| e.0)
}

#[test]
fn a_publication_from_connect_to_its_end() {
    let (mut p, request) = asked("live", "dog?token=abc");
    assert_eq!(request.name.as_ref().unwrap().as_str(), "dog");
    assert_eq!(request.token.as_ref().unwrap().secret(), "abc");
    let answer = p.accept(&request).unwrap();
    assert!(all_text(&answer).contains("NetStream.Publish.Start"));
    assert_eq!(p.publishing(), Some(1));
    let ended =
        p.handle(&call(0, "deleteStream", 6.0, vec![Amf0Value::Null, Amf0Value::Number(1.0)]));
    assert!(matches!(ended.unwrap()[..], [Step::Send(_), Step::Unpublish]));
    assert_eq!(p.publishing(), None);
}

#[test]
fn every_way_of_ending() {
    for (stream, name) in [(1, "closeStream"), (0, "FCUnpublish")] {
        let (mut p, request) = asked("live", "dog");
        p.accept(&request).unwrap();
        let ended = p.handle(&call(stream, name, 0.0, vec![Amf0Value::Null, text("dog")])).unwrap();
        assert!(matches!(ended.last(), Some(Step::Unpublish)), "{name}");
        // And the same message stream may publish again.
        assert!(matches!(p.handle(&publish("dog")).unwrap()[..], [Step::Publish(_)]));
    }
}

#[test]
fn names_however_the_url_was_split() {
    assert_eq!(name("live", "dog"), Ok("dog".into()));
    assert_eq!(name("live/", "/dog"), Ok("dog".into()));
    assert_eq!(name("live/dog", ""), Ok("dog".into()));
    assert_eq!(name("", "live/dog"), Ok("dog".into()));
    assert_eq!(name("", "live"), Ok("stream".into()));
    assert_eq!(name("live", ""), Ok("stream".into()));
    assert_eq!(name("live?token=x", "dog"), Ok("dog".into()));
    assert_eq!(name("live/a", "b"), Err("a/b".into()));
    assert_eq!(name("live", "a/b/c"), Err("a/b/c".into()));
    assert_eq!(name("", "dog"), Err("/dog".into()));
    assert_eq!(name("live", "../etc"), Err("../etc".into()));
}

#[test]
fn tokens_wherever_a_client_puts_them() {
    let of = |app, key| asked(app, key).1.token.map(|t| t.secret().to_owned());
    assert_eq!(of("live", "dog?token=a&x=1").as_deref(), Some("a"));
    assert_eq!(of("live", "dog?x=1&token=a").as_deref(), Some("a"));
    assert_eq!(of("live?token=b", "dog").as_deref(), Some("b"));
    assert_eq!(of("live?token=b/", "dog").as_deref(), Some("b"));
    assert_eq!(of("live?token=b", "dog?token=a").as_deref(), Some("a"));
    assert_eq!(of("live", "dog?token="), None);
    assert_eq!(format!("{:?}", asked("live", "dog?token=secret").1.token), "Some(Token(..))");
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let object = object(&[("app", "live"), ("tcUrl", "rtmp://h/live?token=c")]);
    p.handle(&call(0, "connect", 1.0, vec![object])).unwrap();
    p.handle(&call(0, "createStream", 4.0, vec![Amf0Value::Null])).unwrap();
    let step = p.handle(&publish("dog")).unwrap().pop();
    let Some(Step::Publish(request)) = step else { panic!("{step:?}") };
    assert_eq!(request.token.unwrap().secret(), "c");
}

#[test]
fn refusals_say_why() {
    let (mut p, request) = asked("live", "dog");
    let answer = p.refuse(&request, "NetStream.Publish.BadName", "because");
    let said = all_text(&answer);
    assert!(said.contains("onStatus") && said.contains("because") && said.contains("error"));
    assert_eq!((answer.len(), answer[0].stream), (1, 1));
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let steps = p.handle(&connect("other")).unwrap();
    let [Step::NoSuchApp { app, refusal }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(app, "other");
    assert!(all_text(refusal).contains("rtmp://host/live/<stream>"));
}

#[test]
fn short_commands_and_metadata_do_no_harm() {
    let (mut p, request) = asked("live", "dog");
    p.accept(&request).unwrap();
    let data = |values: Vec<Amf0Value>| {
        let payload = rml_amf0::serialize(&values).unwrap().into();
        Message { kind: kind::DATA_AMF0, stream: 1, timestamp_ms: 0, payload }
    };
    for values in
        [vec![], vec![text("@setDataFrame")], vec![text("@setDataFrame"), text("onMetaData")]]
    {
        assert!(p.handle(&data(values)).unwrap().is_empty());
    }
    for values in [vec![], vec![text("connect")], vec![text("publish"), Amf0Value::Number(1.0)]] {
        let message = command(0, values).unwrap();
        assert!(matches!(p.handle(&message).unwrap()[..], [Step::Ignored]));
    }
}

#[test]
fn ten_thousand_nested_objects_are_refused() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let mut payload = connect("live").payload[..].to_vec();
    payload.truncate(payload.len() - 3);
    payload.extend([0, 1, b'a', 3].repeat(10_000));
    let nested = Message { payload: payload.into(), ..connect("live") };
    let refused = p.handle(&nested).unwrap_err();
    assert_eq!(refused, ProtocolError::Amf(AmfError::TooDeep(16)));
    let metadata = Message { kind: kind::DATA_AMF0, ..nested };
    assert!(matches!(p.handle(&metadata).unwrap()[..], [Step::Ignored]));
}

#[test]
fn amf3_commands_and_pings() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let plain = connect("live");
    let payload = [&[0][..], &plain.payload].concat().into();
    let amf3 = Message { kind: kind::COMMAND_AMF3, payload, ..plain };
    assert!(all_text(&sent(p.handle(&amf3).unwrap())).contains("Connect.Success"));
    let ping = Bytes::from_static(&[0, 6, 1, 2, 3, 4]);
    let ping = Message { kind: kind::USER_CONTROL, stream: 0, timestamp_ms: 0, payload: ping };
    assert_eq!(sent(p.handle(&ping).unwrap())[0].payload[..], [0, 7, 1, 2, 3, 4]);
}

#[test]
fn acknowledgements_follow_the_window() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let window = Bytes::copy_from_slice(&50_000u32.to_be_bytes());
    let window =
        Message { kind: kind::WINDOW_ACK_SIZE, stream: 0, timestamp_ms: 0, payload: window };
    p.handle(&window).unwrap();
    assert!(p.received(49_999).is_none());
    let ack = p.received(2).unwrap();
    assert_eq!((ack.kind, &ack.payload[..]), (3, &50_001u32.to_be_bytes()[..]));
    assert!(p.received(49_999).is_none());
}

#[test]
fn streams_cannot_be_created_without_end() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    let create = call(0, "createStream", 4.0, vec![Amf0Value::Null]);
    let last = (0..2000).find_map(|_| p.handle(&create).err());
    assert_eq!(last, Some(ProtocolError::TooManyStreams));
}

proptest! {
    /// Any messages in any order: no panic comes through, and the library behind never panics either.
    #[test]
    fn any_messages(
        messages in prop::collection::vec(
            (0usize..12, any::<u16>(), any::<u8>(), any::<bool>(), 0u32..3),
            1..40,
        ),
    ) {
        let kinds = [1u8, 2, 3, 4, 5, 6, 15, 17, 18, 20, 20, 22];
        let calls = [
            connect("live"), publish("a"), call(0, "createStream", 1.0, vec![Amf0Value::Null]),
            call(1, "play", 0.0, vec![Amf0Value::Null, text("a")]),
            call(1, "deleteStream", 0.0, vec![Amf0Value::Null, Amf0Value::Number(1.0)]),
            call(1, "closeStream", 0.0, vec![Amf0Value::Null]),
            call(1, "seek", 0.0, vec![Amf0Value::Null]),
        ];
        let (mut p, _) = Protocol::new(LIMITS).unwrap();
        for (kind, at, byte, damage, stream) in messages {
            let base = &calls[usize::from(at) % calls.len()];
            let mut payload = base.payload.to_vec();
            if damage {
                let len = payload.len();
                payload[usize::from(at) % len] = byte;
            }
            let message =
                Message { kind: kinds[kind], stream, timestamp_ms: 0, payload: payload.into() };
            match p.handle(&message) {
                Ok(steps) => for step in steps {
                    if let Step::Publish(request) = step {
                        // Accepting on a message stream that was never created is an error, not a panic.
                        let accepted = p.accept(&request);
                        prop_assert!(accepted != Err(ProtocolError::SessionPanicked));
                    }
                },
                Err(error) => {
                    prop_assert!(error != ProtocolError::SessionPanicked);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_player_rests_goes_on_and_leaves() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    p.handle(&connect("live")).unwrap();
    p.handle(&call(0, "createStream", 2.0, vec![Amf0Value::Null])).unwrap();
    let length = p.handle(&call(0, "getStreamLength", 3.0, vec![Amf0Value::Null, text("dog")]));
    assert!(all_text(&sent(length.unwrap())).contains("_result"));
    let play = call(1, "play", 4.0, vec![Amf0Value::Null, text("dog?token=abc")]);
    let step = p.handle(&play).unwrap().pop();
    let Some(Step::Play(request)) = step else { panic!("{step:?}") };
    assert_eq!(request.token.as_ref().unwrap().secret(), "abc");
    let answer = p.accept_play(&request).unwrap();
    assert!(all_text(&answer).contains("NetStream.Play.Reset"));
    assert!(all_text(&answer).contains("NetStream.Play.Start"));
    // StreamBegin, and no data before the stream's own.
    assert!(
        answer.iter().any(|m| m.kind == kind::USER_CONTROL && m.payload[..] == [0, 0, 0, 0, 0, 1])
    );
    assert!(answer.iter().all(|m| m.kind != kind::DATA_AMF0));
    let asked = |p: &mut Protocol, name: &str, value: Amf0Value| {
        p.handle(&call(1, name, 0.0, vec![Amf0Value::Null, value, Amf0Value::Number(7.0)])).unwrap()
    };
    let steps = asked(&mut p, "pause", Amf0Value::Boolean(true));
    assert!(matches!(steps[..], [Step::Send(_), Step::Pause(Pause::Rest)]));
    let steps = asked(&mut p, "pause", Amf0Value::Boolean(false));
    assert!(matches!(steps[..], [Step::Send(_), Step::Pause(Pause::GoOn)]));
    let steps = asked(&mut p, "seek", Amf0Value::Number(5.0));
    assert!(all_text(&sent(steps)).contains("NetStream.Seek.Failed"));
    assert!(all_text(&p.play_over("over")).contains("NetStream.Play.UnpublishNotify"));
    let steps = asked(&mut p, "closeStream", Amf0Value::Null);
    assert!(matches!(steps[..], [Step::Unplay]));
    assert!(p.play_over("over").is_empty());
}

#[test]
fn a_player_that_speaks_late_is_known_as_before() {
    let (mut p, _) = Protocol::new(LIMITS).unwrap();
    p.handle(&connect("live?token=abc")).unwrap();
    p.handle(&call(0, "createStream", 2.0, vec![Amf0Value::Null])).unwrap();
    let play = |p: &mut Protocol, stream| {
        let step = p.handle(&call(stream, "play", 4.0, vec![Amf0Value::Null, text("dog")]));
        let step = step.unwrap().pop();
        let Some(Step::Play(request)) = step else { panic!("{step:?}") };
        assert_eq!(request.token.as_ref().unwrap().secret(), "abc");
        assert!(all_text(&p.accept_play(&request).unwrap()).contains("NetStream.Play.Start"));
        assert!(p.session.is_none());
    };
    play(&mut p, 1);
    // A second stream beside the one that plays, and the first one over.
    let made = sent(p.handle(&call(0, "createStream", 5.0, vec![Amf0Value::Null])).unwrap());
    let made = rml_amf0::deserialize(&mut std::io::Cursor::new(&made[0].payload)).unwrap();
    assert_eq!((&made[1], &made[3]), (&Amf0Value::Number(5.0), &Amf0Value::Number(2.0)));
    let over = call(0, "deleteStream", 6.0, vec![Amf0Value::Null, Amf0Value::Number(1.0)]);
    assert!(matches!(p.handle(&over).unwrap()[..], [Step::Unplay]));
    play(&mut p, 2);
    let over = call(0, "deleteStream", 7.0, vec![Amf0Value::Null, Amf0Value::Number(2.0)]);
    assert!(matches!(p.handle(&over).unwrap()[..], [Step::Unplay]));
}
