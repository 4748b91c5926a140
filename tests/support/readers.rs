//! Readers of spotter's exits, and the judgement of what they read against the clip.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::clip::{iou, shown};
use super::{Reaped, Service};

/// mosquitto_sub on every topic of a node.
pub struct Mosquitto {
    _process: Reaped,
    lines: Arc<Mutex<Vec<(String, String)>>>,
}

impl Mosquitto {
    pub fn subscribe(port: u16, topic: &str) -> Self {
        let mut process = Reaped::start(
            Command::new("mosquitto_sub")
                .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-v", "-t", topic])
                .stdout(Stdio::piped()),
        );
        let out = BufReader::new(process.0.stdout.take().unwrap()).split(b'\n');
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            // Pictures are among the messages.
            let lines = out.map_while(Result::ok);
            for line in lines.map(|l| String::from_utf8_lossy(&l).into_owned()) {
                if let Some((topic, payload)) = line.split_once(' ') {
                    kept.lock().unwrap().push((topic.to_owned(), payload.to_owned()));
                }
            }
        });
        Self { _process: process, lines }
    }

    /// Topic and payload of everything that came.
    pub fn messages(&self) -> Vec<(String, String)> {
        self.lines.lock().unwrap().clone()
    }

    /// The detections of one stream.
    pub fn detections(&self, stream: &str) -> Vec<Value> {
        let topic = format!("spotter/test/{stream}/detections");
        let all = self.messages();
        let own = all.iter().filter(|(t, _)| *t == topic);
        own.map(|(_, p)| serde_json::from_str(p).unwrap()).collect()
    }

    /// The newest payload of a topic.
    pub fn last(&self, topic: &str) -> Option<String> {
        let all = self.messages();
        all.into_iter().rev().find(|(t, _)| t == topic).map(|(_, p)| p)
    }
}

/// A WebSocket client on `/live` that keeps every message.
pub struct Socket {
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Socket {
    pub async fn live(service: &Service) -> Self {
        use futures_util::StreamExt;
        let url = format!("ws://127.0.0.1:{}/live", service.websocket);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&messages);
        tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                if let Ok(text) = message.to_text()
                    && let Ok(value) = serde_json::from_str(text)
                {
                    kept.lock().unwrap().push(value);
                }
            }
        });
        Self { messages }
    }

    pub fn detections(&self, stream: &str) -> Vec<Value> {
        let all = self.messages.lock().unwrap();
        let own = |m: &&Value| m["type"] == "detections" && m["stream"] == stream;
        all.iter().filter(own).cloned().collect()
    }
}

/// How often each label was found, and how often where it truly is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub found: u32,
    /// The box overlaps a true one of the same label by IoU 0.5.
    pub in_place: u32,
}

/// Judges the messages of the clip's first round.
pub fn judge(messages: &[Value]) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for m in messages {
        let Some((photo, n)) = shown(m["pts_ms"].as_i64().unwrap()) else { continue };
        let (width, height) = (m["width"].as_f64().unwrap(), m["height"].as_f64().unwrap());
        for d in m["detections"].as_array().unwrap() {
            let label = d["label"].as_str().unwrap();
            let b: Vec<f64> =
                d["bbox"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            let b = [b[0], b[1], b[2], b[3]];
            let same = photo.animals.iter().filter(|t| t.label == label);
            let best = same.map(|t| iou(b, photo.place(t, n, width, height)));
            let tally = tallies.entry(label.to_owned()).or_default();
            tally.found += 1;
            tally.in_place += u32::from(best.fold(0.0, f64::max) >= 0.5);
        }
    }
    tallies
}
