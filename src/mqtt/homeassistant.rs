//! What Home Assistant is told of a node: one device with its entities (MQTT device discovery, Home Assistant 2024.11 and
//! later). Pure: names and topics in, JSON out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::topic_part;

/// What the discovery message is made of.
#[derive(Debug, Clone)]
pub(super) struct Device<'a> {
    pub(super) node: &'a str,
    /// `<base topic>/<node>`.
    pub(super) base: &'a str,
    pub(super) board: &'a str,
    /// The page's address, when there is one.
    pub(super) page: Option<&'a str>,
    pub(super) streams: &'a [&'a str],
    pub(super) labels: &'a [&'a str],
    /// Whether pictures for cameras are published.
    pub(super) cameras: bool,
}

/// Entities by key: which platform each is of.
pub(super) type Platforms = BTreeMap<String, String>;

/// The message, with entities of before that are to be removed: they must be named once more with nothing but their
/// platform, and left out of the next message.
pub(super) fn message(device: &Device<'_>, remove: &Platforms) -> Bytes {
    let mut entities = entities(device);
    for (key, platform) in remove {
        entities.entry(key.clone()).or_insert_with(|| json!({ "p": platform }));
    }
    let mut dev = json!({
        "ids": [device.node], "name": device.node, "mf": "spotter", "mdl": device.board,
        "sw": env!("CARGO_PKG_VERSION"),
    });
    if let Some(page) = device.page {
        dev["cu"] = page.into();
    }
    let all = json!({
        "dev": dev,
        "o": { "name": "spotter", "sw": env!("CARGO_PKG_VERSION") },
        "avty": [{ "t": format!("{}/available", device.base) }],
        "cmps": entities,
    });
    serde_json::to_vec(&all).expect("these are values of JSON already").into()
}

/// What a discovery message named.
pub(super) fn platforms(message: &[u8]) -> Platforms {
    let all: Value = serde_json::from_slice(message).unwrap_or_default();
    let named = all["cmps"].as_object().into_iter().flatten();
    // Only those with something to say: the others were being removed.
    named
        .filter(|(_, e)| e.as_object().is_some_and(|e| e.len() > 1))
        .filter_map(|(key, e)| Some((key.clone(), e["p"].as_str()?.to_owned())))
        .collect()
}

fn entities(d: &Device<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |key: &str, mut entity: Value| {
        entity["uniq_id"] = format!("{}_{key}", d.node).into();
        all.insert(key.to_owned(), entity);
    };
    let (status, stats) = (format!("{}/status", d.base), format!("{}/stats", d.base));
    // It shows what the others' availability hides, so it is always available itself.
    add(
        "connected",
        json!({
            "p": "binary_sensor", "name": "Connected", "dev_cla": "connectivity", "ent_cat": "diagnostic",
            "stat_t": format!("{}/available", d.base), "pl_on": "online", "pl_off": "offline", "avty": [],
        }),
    );
    let measured = |name: &str, unit: &str, class: Option<&str>, template: &str| {
        let mut entity = json!({
            "p": "sensor", "name": name, "ent_cat": "diagnostic", "stat_t": stats, "stat_cla": "measurement",
            "unit_of_meas": unit, "sug_dsp_prc": 1, "val_tpl": template,
        });
        if let Some(class) = class {
            entity["dev_cla"] = class.into();
        }
        entity
    };
    let t = "{{ value_json.load.temperature_c }}";
    add("temperature", measured("Temperature", "°C", Some("temperature"), t));
    let t = "{{ value_json.load.cpu_percent }}";
    add("cpu", measured("CPU", "%", None, t));
    let t = "{{ (value_json.load.memory_bytes | float(0) / 1048576) | round(1) }}";
    add("memory", measured("Memory", "MiB", Some("data_size"), t));
    let t =
        "{{ value_json.streams | map(attribute='latency_ms.total.p95') | max | default(none) }}";
    add("latency", measured("Latency", "ms", Some("duration"), t));
    let mut rate =
        measured("Detection rate", "Hz", Some("frequency"), "{{ value_json.pace.rate_hz }}");
    rate["stat_t"] = status.clone().into();
    add("rate", rate);
    let text = |name: &str, template: &str| {
        json!({
            "p": "sensor", "name": name, "ent_cat": "diagnostic", "stat_t": status, "val_tpl": template,
        })
    };
    let t = "{{ (value_json.decoders | map(attribute='decoder') | unique | join(', ') or 'none')[:255] }}";
    add("decoder", text("Decoder", t));
    let t = "{{ value_json.detector.backend ~ ', ' ~ value_json.detector.model if value_json.detector else 'none' }}";
    add("detector", text("Detector", t));
    add(
        "update",
        json!({
            "p": "update", "name": "Update", "dev_cla": "firmware", "ent_cat": "config",
            "stat_t": format!("{}/update", d.base), "cmd_t": format!("{}/update/set", d.base), "pl_inst": "install",
        }),
    );
    add(
        "pause",
        json!({
            "p": "switch", "name": "Privacy pause", "ic": "mdi:eye-off", "stat_t": format!("{}/pause/state", d.base),
            "cmd_t": format!("{}/pause/set", d.base),
        }),
    );
    add(
        "throttled",
        json!({
            "p": "binary_sensor", "name": "Throttled", "dev_cla": "problem", "ent_cat": "diagnostic", "stat_t": status,
            "val_tpl": "{{ 'ON' if value_json.throttled else 'OFF' }}",
        }),
    );
    for stream in d.streams {
        for (key, entity) in of_stream(d, stream) {
            add(&format!("{stream}_{key}"), entity);
        }
    }
    all
}

fn of_stream(d: &Device<'_>, stream: &str) -> Vec<(String, Value)> {
    let at = format!("{}/{stream}", d.base);
    let present =
        json!([{ "t": format!("{}/available", d.base) }, { "t": format!("{at}/status") }]);
    let mut all = Vec::new();
    // What shows pictures and animals is there while the stream is; what switches is there while the node is.
    let mut live = |key: String, mut entity: Value| {
        entity["avty"] = present.clone();
        entity["avty_mode"] = "all".into();
        all.push((key, entity));
    };
    for label in d.labels {
        let (part, stat_t) = (topic_part(label), format!("{at}/{}", topic_part(label)));
        live(
            part.clone(),
            json!({
                "p": "binary_sensor", "name": format!("{stream} {label}"), "dev_cla": "occupancy", "stat_t": stat_t,
                "val_tpl": "{{ 'ON' if value | int(0) > 0 else 'OFF' }}",
            }),
        );
        live(
            format!("{part}_count"),
            json!({
                "p": "sensor", "name": format!("{stream} {label} count"), "stat_cla": "measurement", "stat_t": stat_t,
            }),
        );
        live(
            format!("{part}_best"),
            json!({
                "p": "image", "name": format!("{stream} {label} best"), "cont_type": "image/jpeg",
                "img_t": format!("{stat_t}/snapshot"),
            }),
        );
    }
    if d.cameras {
        let camera = json!({ "p": "camera", "name": stream, "t": format!("{at}/snapshot") });
        live("camera".into(), camera);
    }
    // Every stream's events come on one topic; those of the others become nothing, which is ignored.
    let mine = format!(
        "{{% if value_json.after.camera == '{stream}' %}}{{{{ {{'event_type': value_json.type, 'label': \
         value_json.after.label, 'id': value_json.after.id, 'score': value_json.after.top_score, 'start_time': \
         value_json.after.start_time, 'end_time': value_json.after.end_time, 'zones': \
         value_json.after.entered_zones, 'message_id': value_json.message_id}} | to_json }}}}{{% endif %}}"
    );
    // Not with the stream: the end of a visit is told when the stream is gone already.
    all.push((
        "event".into(),
        json!({
            "p": "event", "name": format!("{stream} animal"), "evt_typ": ["new", "update", "end"],
            "stat_t": format!("{}/events", d.base), "val_tpl": mine,
        }),
    ));
    for (key, name) in [("detect", "detection"), ("recordings", "recordings")] {
        let entity = json!({
            "p": "switch", "name": format!("{stream} {name}"), "ent_cat": "config",
            "stat_t": format!("{at}/{key}/state"), "cmd_t": format!("{at}/{key}/set"),
        });
        all.push((key.into(), entity));
    }
    let threshold = json!({
        "p": "number", "name": format!("{stream} threshold"), "ent_cat": "config", "min": 0.01, "max": 0.99,
        "step": 0.01, "mode": "box", "stat_t": format!("{at}/threshold/state"), "cmd_t": format!("{at}/threshold/set"),
    });
    all.push(("threshold".into(), threshold));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device<'static> {
        Device {
            node: "spotter-3f2a",
            base: "spotter/spotter-3f2a",
            board: "Raspberry Pi 5 Model B",
            page: Some("http://192.0.2.9:8080/"),
            streams: &["garden"],
            labels: &["dog", "teddy bear"],
            cameras: true,
        }
    }

    /// `SPOTTER_BLESS=1` writes the file anew; look at the difference before committing it.
    #[test]
    fn the_device_keeps_its_form() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/homeassistant.json");
        let got: Value = serde_json::from_slice(&message(&device(), &Platforms::new())).unwrap();
        let got = format!("{}\n", serde_json::to_string_pretty(&got).unwrap());
        if std::env::var_os("SPOTTER_BLESS").is_some() {
            std::fs::write(file, &got).unwrap();
        }
        assert_eq!(got, std::fs::read_to_string(file).unwrap());
    }

    #[test]
    fn what_goes_is_named_once_more_and_then_not() {
        let before = platforms(&message(&device(), &Platforms::new()));
        let now = Device { streams: &[], ..device() };
        let kept = platforms(&message(&now, &Platforms::new()));
        let gone: Platforms =
            before.into_iter().filter(|(key, _)| !kept.contains_key(key)).collect();
        assert_eq!(gone["garden_camera"], "camera");
        let text = message(&now, &gone);
        let all: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(all["cmps"]["garden_camera"], json!({ "p": "camera" }));
        assert_eq!(platforms(&text), kept);
        assert!(platforms(b"{").is_empty() && platforms(b"").is_empty());
    }

    #[test]
    fn every_entity_has_a_name_of_its_own_and_a_topic_below_the_node() {
        let all: Value = serde_json::from_slice(&message(&device(), &Platforms::new())).unwrap();
        let entities = all["cmps"].as_object().unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for (key, entity) in entities {
            assert!(ids.insert(entity["uniq_id"].as_str().unwrap()), "{key}");
            let topics = ["stat_t", "cmd_t", "t", "img_t"].map(|t| entity[t].as_str());
            assert!(topics.iter().any(Option::is_some), "{key}");
            for topic in topics.into_iter().flatten() {
                assert!(topic.starts_with("spotter/spotter-3f2a/"), "{topic}");
                assert!(!topic.contains(['+', '#']));
            }
        }
    }
}
