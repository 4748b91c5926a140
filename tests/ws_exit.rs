//! The WebSocket door, over real sockets, with a detector that answers by the picture's size.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use spotter::auth::{Guard, Right};
use spotter::config;
use spotter::decode::RgbPicture;
use spotter::detect::{BBox, Detection, Detections, Timings};
use spotter::media::stream::{StreamLimits, Takeover};
use spotter::media::{MediaTime, StreamId, Streams};
use spotter::wire::Encoded;
use spotter::ws::{self, PictureAnswer, PictureDetector, PictureError, PictureFuture};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

/// Finds one cat as large as the picture; fails, or hangs, when told to.
#[derive(Default)]
struct Detector {
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl PictureDetector for Detector {
    fn detect(&self, picture: RgbPicture) -> PictureFuture<'_> {
        Box::pin(async move {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.fails.load(Ordering::Relaxed) {
                return Err(PictureError::Unavailable("no model".into()));
            }
            let (x2, y2) = (picture.width as f32, picture.height as f32);
            let cat = item("cat", 0.75, BBox { x1: 0.0, y1: 0.0, x2, y2 });
            Ok(PictureAnswer { detections: vec![cat], processing: Duration::from_millis(5) })
        })
    }
}

fn item(label: &str, confidence: f32, bbox: BBox) -> Detection {
    Detection { class_id: 15, label: label.into(), confidence, bbox, track_id: None }
}

struct Door {
    _dir: tempfile::TempDir,
    address: SocketAddr,
    guard: Arc<Guard>,
    owner: String,
    detections: broadcast::Sender<Arc<Encoded>>,
    streams: Arc<Streams>,
    detector: Arc<Detector>,
    counters: Arc<ws::Counters>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn door(change: impl FnOnce(&mut config::WebSocket)) -> Door {
    let dir = tempfile::tempdir().unwrap();
    let (guard, first) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
    let mut config = config::WebSocket {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..config::WebSocket::default()
    };
    change(&mut config);
    let limits =
        StreamLimits { max_streams: 4, gop_budget_bytes: 1000, grace: Duration::from_secs(30) };
    let listener = ws::listen(&config).await.unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let detector = Arc::<Detector>::default();
    let ctx = ws::Context {
        node: "spotter-test".into(),
        config,
        guard: Arc::new(guard),
        detections: broadcast::channel(64).0,
        streams: Streams::new(limits),
        pictures: detector.clone(),
        counters: Arc::default(),
    };
    let shutdown = CancellationToken::new();
    Door {
        _dir: dir,
        address,
        guard: Arc::clone(&ctx.guard),
        owner: first.unwrap().owner.expose().to_owned(),
        detections: ctx.detections.clone(),
        streams: Arc::clone(&ctx.streams),
        detector,
        counters: Arc::clone(&ctx.counters),
        shutdown: shutdown.clone(),
        task: tokio::spawn(ws::run(Arc::new(listener), ctx, shutdown)),
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Door {
    async fn connect(&self, path: &str) -> Client {
        self.try_connect(path, &[]).await.unwrap()
    }

    /// A client, or the HTTP status and text it got instead.
    async fn try_connect(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        match timeout(SOON, connect_async(request)).await.unwrap() {
            Ok((ws, _)) => Ok(Client(ws)),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn detect(&self, stream: &str, seq: u64, items: &[(&str, f32)]) {
        let bbox = BBox { x1: 1.0, y1: 2.0, x2: 3.0, y2: 4.0 };
        let found = Detections {
            stream: StreamId::new(stream).unwrap(),
            seq,
            pts: MediaTime::ZERO,
            captured: SystemTime::now(),
            width: 16,
            height: 16,
            model: "m".into(),
            timings: Timings::default(),
            items: items.iter().map(|(label, c)| item(label, *c, bbox)).collect(),
        };
        let _ = self.detections.send(Encoded::new("spotter-test".into(), Arc::new(found)));
    }

    /// Sends until the client's subscription is at work, which takes a moment.
    async fn subscribed(&self, n: usize) {
        timeout(SOON, async {
            while self.detections.receiver_count() < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("subscribed in time");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.expect("stops in time").unwrap();
    }
}

impl Client {
    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            match timeout(SOON, self.0.next()).await.expect("an answer").unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn ask(&mut self, message: Value) -> Value {
        self.send(message).await;
        self.next().await
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height)
        .write_to(&mut out, image::ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn the_demo_s_protocol_is_spoken() {
    let door = door(|_| {}).await;
    let mut client = door.connect("/").await;
    assert_eq!(client.ask(json!({"type": "ping"})).await, json!({"type": "pong"}));
    let picture = base64(&png(32, 20));
    for data in [picture.clone(), format!("data:image/png;base64,{picture}")] {
        let request = json!({"type": "detection_request", "image_data": data,
            "image_id": "one", "timestamp": 1.0});
        let answer = client.ask(request).await;
        assert_eq!(answer["type"], "detection_response");
        assert_eq!(answer["data"]["image_id"], "one");
        assert!(answer.get("error").is_none());
        let expected = json!([{"class_id": 15, "class_name": "cat", "confidence": 0.75,
            "bbox": [0.0, 0.0, 32.0, 20.0], "center_x": 16.0, "center_y": 10.0}]);
        assert_eq!(answer["data"]["detections"], expected);
        assert!(answer["data"]["processing_time"].as_f64().unwrap() >= 0.005);
        assert!(answer["data"]["timestamp"].as_f64().unwrap() > 1.7e9);
    }
    client.0.send(Message::binary(png(8, 8))).await.unwrap();
    let answer = client.next().await;
    assert_eq!(answer["data"]["image_id"], Value::Null);
    assert_eq!(answer["data"]["detections"][0]["bbox"][2], 8.0);
    door.stop().await;
    let end = timeout(SOON, client.0.next()).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(Some(_))))), "{end:?}");
}

#[tokio::test]
async fn bad_pictures_and_messages_are_answered_and_the_connection_lives() {
    let door = door(|c| c.max_picture_pixels = 1000).await;
    let mut client = door.connect("/").await;
    let ask = |data: &str| json!({"type": "detection_request", "image_data": data, "image_id": 3});
    let huge = base64(&png(100, 100));
    for (data, expected) in [
        (huge.as_str(), "100x100 is over the limit of 1000 pixels"),
        (&base64(b"no picture at all"), "not a JPEG or PNG picture"),
        ("!!!", "not base64"),
        ("", "empty"),
    ] {
        let answer = client.ask(ask(data)).await;
        assert_eq!(answer["type"], "detection_response", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
        assert_eq!(answer["data"]["detections"], json!([]));
        assert_eq!(answer["data"]["image_id"], 3);
    }
    client.0.send(Message::binary(Bytes::from_static(b"nothing"))).await.unwrap();
    assert!(client.next().await["error"].is_string());
    door.detector.fails.store(true, Ordering::Relaxed);
    let answer = client.ask(ask(&base64(&png(4, 4)))).await;
    assert_eq!(answer["error"], "the detector is not ready: no model");
    for (text, code) in [
        ("nonsense", "bad_json"),
        ("{}", "bad_message"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":"subscribe","streams":["a/b"]}"#, "bad_message"),
    ] {
        client.0.send(Message::text(text)).await.unwrap();
        let answer = client.next().await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)));
    }
    assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
    assert_eq!((door.counters.bad_messages.get(), door.counters.pictures_failed.get()), (4, 6));
    door.stop().await;
}

#[tokio::test]
async fn detections_come_when_asked_for_and_as_asked_for() {
    let door = door(|_| {}).await;
    let mut client = door.connect("/").await;
    assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
    door.detect("a", 0, &[("dog", 0.9)]);
    let _publication = door.streams.claim(&StreamId::new("a").unwrap(), Takeover::Refused).unwrap();
    client
        .send(json!({"type": "subscribe", "streams": ["*"], "labels": ["dog"], "min_confidence": 0.4}))
        .await;
    let stream = client.next().await;
    assert_eq!((&stream["type"], &stream["status"]), (&json!("stream"), &json!("online")));
    door.subscribed(1).await;
    door.detect("a", 1, &[("dog", 0.9), ("dog", 0.3), ("cat", 0.9)]);
    let first = client.next().await;
    assert_eq!((&first["frame"], &first["v"]), (&json!(1), &json!(1)));
    assert_eq!(first["detections"].as_array().unwrap().len(), 1);
    door.detect("b", 2, &[("cat", 0.9)]);
    assert_eq!(client.next().await["detections"], json!([]));
    client.send(json!({"type": "unsubscribe"})).await;
    assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
    timeout(SOON, async {
        while door.detections.receiver_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    door.detect("a", 3, &[("dog", 0.9)]);
    assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");

    let mut live = door.connect("/live?stream=b&label=cat").await;
    door.subscribed(1).await;
    door.detect("a", 4, &[("dog", 0.9)]);
    door.detect("b", 5, &[("dog", 0.9), ("cat", 0.1)]);
    let pushed = live.next().await;
    assert_eq!((&pushed["frame"], &pushed["detections"][0]["label"]), (&json!(5), &json!("cat")));
    door.stop().await;
}

#[tokio::test]
async fn callers_from_elsewhere_need_a_token() {
    let door = door(|_| {}).await;
    let forwarded = ("x-forwarded-for", "192.0.2.7");
    let (status, text) = door.try_connect("/", &[forwarded]).await.err().unwrap();
    assert_eq!(status, 401);
    assert!(text.contains("no token"), "{text}");
    for headers in [
        [("origin", "https://evil.example")],
        [("host", "evil.example")],
        [("origin", "null")],
        [("forwarded", "for=x")],
    ] {
        assert_eq!(door.try_connect("/", &headers).await.err().unwrap().0, 401, "{headers:?}");
    }
    let wrong = door.try_connect("/?token=wrong", &[forwarded]).await.err().unwrap();
    assert!(wrong.1.contains("unknown or revoked"));
    let by_query = format!("/?token={}", door.owner);
    assert!(door.try_connect(&by_query, &[forwarded]).await.is_ok());
    let by_header = format!("Bearer {}", door.owner);
    assert!(door.try_connect("/", &[forwarded, ("authorization", &by_header)]).await.is_ok());
    assert_eq!(door.counters.refused_denied.get(), 6);

    let publisher = door.guard.add("cam", &[Right::Publish], None, false).unwrap();
    let path = format!("/?token={}", publisher.expose());
    assert!(door.try_connect(&path, &[forwarded]).await.err().unwrap().1.contains("Read"));

    // A token tied to one stream sees that stream and nothing else.
    let own = StreamId::new("own").ok();
    let tied = door.guard.add("viewer", &[Right::Read], own, false).unwrap();
    let path = |rest: &str| format!("{rest}token={}", tied.expose());
    for refused in ["/?", "/live?", "/live?stream=other&", "/live?stream=own&stream=other&"] {
        let answer = door.try_connect(&path(refused), &[forwarded]).await;
        assert_eq!(answer.err().unwrap().0, 401, "{refused}");
    }
    let mut client = door.try_connect(&path("/live?stream=own&"), &[forwarded]).await.ok().unwrap();
    client.send(json!({"type": "subscribe", "streams": ["*"]})).await;
    let request = json!({"type": "detection_request", "image_data": base64(&png(4, 4))});
    assert_eq!(client.ask(request).await["code"], "not_allowed");
    door.subscribed(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    door.detect("other", 1, &[]);
    door.detect("own", 2, &[]);
    assert_eq!(client.next().await["frame"], 2);
    door.stop().await;
}

#[tokio::test]
async fn what_is_no_websocket_gets_an_answer_a_person_can_read() {
    let door = door(|_| {}).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 426 "),
        ("hello\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut socket = TcpStream::connect(door.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(status), "{answer}");
    }
    assert_eq!(door.try_connect("/elsewhere", &[]).await.err().unwrap().0, 404);
    assert_eq!(door.try_connect("/live?stream=a%2Fb", &[]).await.err().unwrap().0, 400);
    assert_eq!(door.try_connect("/live?min_confidence=x", &[]).await.err().unwrap().0, 400);
    door.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_is_all_there() {
    let door = door(|c| c.max_message_bytes = 10_000).await;
    let mut client = door.connect("/").await;
    client.0.send(Message::text(" ".repeat(10_001))).await.unwrap();
    let error = client.next().await;
    assert_eq!(error["code"], "too_large");
    let end = timeout(SOON, client.0.next()).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(Some(_))))), "{end:?}");

    // A gigabyte of JSON, of which only the frame's header and a little are ever sent.
    let mut raw = TcpStream::connect(door.address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut frame = vec![0x81, 0xff];
    frame.extend((1_u64 << 30).to_be_bytes());
    frame.extend([0, 0, 0, 0]);
    raw.write_all(&frame).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, raw.read_to_end(&mut answer)).await.expect("closed in time");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && text.contains("too_large"), "{text}");
    assert_eq!(door.counters.too_large.get(), 2);
    door.stop().await;
}

#[tokio::test]
async fn so_many_connections_and_no_more() {
    let door = door(|c| c.max_connections = 2).await;
    let first = door.connect("/").await;
    let _second = door.connect("/").await;
    let (status, text) = door.try_connect("/", &[]).await.err().unwrap();
    assert_eq!(status, 503);
    assert!(text.contains("websocket.max_connections"), "{text}");
    drop(first);
    timeout(SOON, async {
        while door.try_connect("/", &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert!(door.counters.refused_busy.get() >= 1);
    door.stop().await;
}

#[tokio::test]
async fn only_so_many_pictures_wait() {
    let door = door(|c| c.max_waiting_pictures = 1).await;
    door.detector.hangs.store(true, Ordering::Relaxed);
    let mut first = door.connect("/").await;
    let request = json!({"type": "detection_request", "image_data": base64(&png(4, 4))});
    first.send(request.clone()).await;
    timeout(SOON, async {
        while door.counters.pictures.get() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let mut second = door.connect("/").await;
    let answer = second.ask(request.clone()).await;
    assert!(answer["error"].as_str().unwrap().starts_with("busy"), "{answer}");
    // The place of a client that left is free again.
    drop(first);
    door.detector.hangs.store(false, Ordering::Relaxed);
    timeout(SOON, async {
        while second.ask(request.clone()).await.get("error").is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_closed_and_others_are_not_held_up() {
    let door = door(|c| c.stall_timeout_s = 1).await;
    let stalled = door.connect("/live").await;
    let mut reader = door.connect("/live?stream=b").await;
    door.subscribed(2).await;
    // Each is about 100 kB, so that the stalled one's socket is soon full.
    let many: Vec<(&str, f32)> = vec![("dog", 0.5); 800];
    let flood = async {
        for seq in 0.. {
            door.detect("a", seq, &many);
            door.detect("b", seq, &[]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let watch = async {
        let mut frames = 0;
        while door.counters.timed_out.get() == 0 {
            if reader.next().await["type"] == "detections" {
                frames += 1;
            }
        }
        assert!(frames > 10);
    };
    tokio::select! {
        () = flood => {}
        done = timeout(SOON * 2, watch) => done.expect("the stalled reader is closed"),
    }
    assert!(door.counters.dropped.get() > 0);
    drop(stalled);
    door.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_lost() {
    let door = door(|c| c.stall_timeout_s = 60).await;
    let mut client = door.connect("/live").await;
    door.subscribed(1).await;
    // On one thread nothing else runs in between: the broadcast of 64 overruns.
    for seq in 0..200 {
        door.detect("a", seq, &[]);
    }
    let mut dropped = 0;
    let last = loop {
        let message = client.next().await;
        match message["type"].as_str().unwrap() {
            "lagged" => dropped += message["dropped"].as_u64().unwrap(),
            _ if message["frame"] == 199 => break message,
            _ => {}
        }
    };
    assert_eq!(last["frame"], 199);
    assert!(dropped >= 136, "{dropped}");
    assert_eq!(door.counters.dropped.get(), dropped);
    door.stop().await;
}
