//! A real Home Assistant beside a real broker: it shows the node with its animals, obeys and is obeyed, and knows when the node is
//! gone. Skips, out loud, where Home Assistant is not installed.
#![cfg(all(feature = "gst", feature = "tflite"))]
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

#[path = "support/mqtt.rs"]
mod mqtt_support;
mod support;

pub(crate) use support::skip;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mqtt_support::{BROKER, have, mosquitto};
use serde_json::{Value, json};
use support::{Reaped, Service, emulated, free_port, missing_parts, root, signal};

const PYTHON: &str = ".venv-homeassistant/bin/python";
/// A first start compiles Home Assistant's modules.
const PATIENCE: Duration = Duration::from_secs(120);

/// Home Assistant, with everything it ever said of an entity.
struct HomeAssistant {
    _process: Reaped,
    orders: ChildStdin,
    said: Arc<Mutex<Vec<Value>>>,
}

impl HomeAssistant {
    fn start(dir: &Path, broker: u16) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut python = Command::new(root().join(PYTHON));
        python.arg(root().join("tests/home_assistant/run.py")).arg(dir);
        python.args([broker, free_port()].map(|port| port.to_string()));
        let mut process = Reaped::start(python.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let orders = process.0.stdin.take().unwrap();
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            let values = lines.map_while(Result::ok).filter_map(|l| serde_json::from_str(&l).ok());
            values.for_each(|value| kept.lock().unwrap().push(value));
        });
        let mut home = Self { _process: process, orders, said };
        home.until("it is ready", |all| all.iter().any(|v| v["ready"] == true));
        home
    }

    fn order(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn call(&mut self, service: &str, entity: &str, more: Value) {
        let (domain, service) = service.split_once('.').unwrap();
        let mut data = json!({ "entity_id": entity });
        data.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.order(&json!({ "domain": domain, "service": service, "data": data }));
    }

    /// Waits until what was said holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&[Value]) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.said.lock().unwrap().clone();
            if let Some(failed) = all.iter().find(|v| v.get("failed").is_some()) {
                panic!("{failed}");
            }
            if holds(&all) {
                return;
            }
            assert!(Instant::now() < end, "waited too long until {what}; {:#?}", states(&all));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a state of one entity among all it ever had since `since` words.
    fn sees(&mut self, entity: &str, since: usize, right: impl Fn(&Value) -> bool) {
        self.until(&format!("{entity} is as it should be"), |all| {
            all[since..].iter().any(|v| v["entity"] == entity && right(v))
        });
    }

    fn words(&self) -> usize {
        self.said.lock().unwrap().len()
    }
}

/// The newest state of each entity.
fn states(all: &[Value]) -> BTreeMap<String, String> {
    let of = |v: &Value| Some((v["entity"].as_str()?.to_owned(), v["state"].as_str()?.to_owned()));
    all.iter().filter_map(of).collect()
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |v| v["state"] == state
}

fn publish(service: &Service) -> Reaped {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null());
    ffmpeg.args(["-nostdin", "-re", "-stream_loop", "-1", "-i", "demo/clip.mp4"]);
    Reaped::start(ffmpeg.args(["-c", "copy", "-f", "flv", &service.url("stream")]))
}

#[test]
fn home_assistant_shows_the_node_and_its_animals_and_knows_when_it_is_gone() {
    if emulated() {
        return skip("what Home Assistant is told is the same whatever spotter runs on");
    }
    if !root().join(PYTHON).exists() {
        return skip("no Home Assistant; run ./setup.sh --test where there is a Python 3.13");
    }
    if let Some(missing) = missing_parts() {
        return skip(&missing);
    }
    if !have(BROKER) {
        return;
    }
    let (dir, broker) = (tempfile::tempdir().unwrap(), free_port());
    let _broker = mosquitto(dir.path(), broker, "allow_anonymous true");
    let mut home = HomeAssistant::start(&dir.path().join("home"), broker);
    let mut service = Service::start(&format!(
        "mqtt.broker = \"mqtt://127.0.0.1:{broker}\"\nmqtt.embedded = true\nmqtt.camera_interval_s = 2\n\
         mqtt.stats_interval_s = 2\n"
    ));
    let publisher = publish(&service);

    // The clip shows a dog, birds, giraffes and horses in turn.
    for label in ["dog", "bird", "giraffe", "horse"] {
        home.sees(&format!("binary_sensor.test_stream_{label}"), 0, is("on"));
        home.sees(&format!("sensor.test_stream_{label}_count"), 0, |v| {
            v["state"].as_str().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 1)
        });
        // An image's state is when it came.
        let came = |v: &Value| v["state"].as_str().is_some_and(|s| s.starts_with("20"));
        home.sees(&format!("image.test_stream_{label}_best"), 0, came);
    }
    home.sees("binary_sensor.test_stream_dog", 0, is("off"));
    home.sees("binary_sensor.test_stream_zebra", 0, is("off"));
    for kind in ["new", "end"] {
        home.sees("event.test_stream_animal", 0, |v| {
            let told = &v["attributes"];
            told["event_type"] == kind
                && told["label"].is_string()
                && told["message_id"].is_string()
        });
    }
    home.sees("camera.test_stream", 0, |v| v["state"] != "unavailable");
    home.sees("binary_sensor.test_connected", 0, is("on"));
    home.sees("sensor.test_detector", 0, |v| {
        v["state"].as_str().is_some_and(|s| s.contains("yolo"))
    });
    home.sees("sensor.test_decoder", 0, |v| {
        v["state"].as_str().is_some_and(|s| s.contains("h264"))
    });
    for measured in ["cpu", "memory", "latency"] {
        home.sees(&format!("sensor.test_{measured}"), 0, |v| {
            v["state"].as_str().and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.0)
        });
    }
    home.sees("update.test_update", 0, |v| {
        v["attributes"]["installed_version"] == env!("CARGO_PKG_VERSION")
    });
    home.order(&json!({ "devices": true }));
    home.until("there is one device", |all| {
        all.iter().any(|v| v["device"] == "test" && v["maker"] == "spotter")
    });

    // What is switched there is switched here, and said back.
    let at = home.words();
    home.call("switch.turn_off", "switch.test_stream_detection", json!({}));
    home.sees("switch.test_stream_detection", at, is("off"));
    home.call("number.set_value", "number.test_stream_threshold", json!({ "value": 0.65 }));
    home.sees("number.test_stream_threshold", at, is("0.65"));
    home.call("switch.turn_on", "switch.test_stream_detection", json!({}));
    home.sees("switch.test_stream_detection", at, is("on"));

    // Gone without a word: the last will speaks.
    let at = home.words();
    signal(service.process.0.id(), "KILL");
    drop(publisher);
    for entity in
        ["binary_sensor.test_stream_dog", "switch.test_stream_detection", "sensor.test_cpu"]
    {
        home.sees(entity, at, is("unavailable"));
    }
    home.sees("binary_sensor.test_connected", at, is("off"));

    // And back, with what was switched before.
    let at = home.words();
    service.start_again();
    let _publisher = publish(&service);
    home.sees("binary_sensor.test_connected", at, is("on"));
    home.sees("number.test_stream_threshold", at, is("0.65"));
    home.sees("binary_sensor.test_stream_dog", at, is("on"));
    let errors = std::fs::read_to_string(dir.path().join("home/log")).unwrap();
    let errors: Vec<_> = errors.lines().filter(|l| l.contains("components.mqtt")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
