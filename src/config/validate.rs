//! Judges a configuration's values: each fault names its key, the value and the remedy.

use std::io::ErrorKind;
use std::path::Path;

use super::{Area, Config, Delegate, LabelRules, Source, Tls};
use crate::media::StreamId;
use crate::relay::target::Target;

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted, as in `detect.rate_hz`.
    pub key: String,
    pub message: String,
}

#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn unless(&mut self, fine: bool, key: &str, message: impl FnOnce() -> String) {
        if !fine {
            self.0.push(Problem { key: key.to_owned(), message: message() });
        }
    }

    pub(super) fn between<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        least: T,
        most: T,
    ) {
        let fine = value >= least && value <= most;
        self.unless(fine, key, || format!("{value} is out of range, give {least} to {most}"));
    }

    /// A text that becomes one level of an MQTT topic.
    pub(super) fn topic_part(&mut self, key: &str, text: &str) {
        let fine = !text.contains(['/', '+', '#', '\0', ' ']) && text.len() <= 64;
        self.unless(fine, key, || {
            format!("{text:?} cannot stand in a topic: use at most 64 letters, digits, '-' or '_'")
        });
    }

    fn label_rules(&mut self, section: &str, rules: &LabelRules) {
        if let Some(threshold) = rules.threshold {
            self.between(&format!("{section}.threshold"), threshold, 0.01, 0.99);
        }
        if let Some(area) = rules.min_area {
            self.between(&format!("{section}.min_area"), area, 0.0, 1.0);
        }
    }

    fn area(&mut self, key: &str, area: &Area) {
        let fine = (3..=100).contains(&area.points.len())
            && area.points.iter().flatten().all(|v| (0.0..=1.0).contains(v));
        self.unless(fine, key, || {
            "is no area: give 3 to 100 corners [x, y], each from 0 to 1".to_owned()
        });
    }

    pub(super) fn file(&mut self, key: &str, path: &Path) {
        if path.as_os_str().is_empty() {
            return;
        }
        let shown = path.display();
        let message = match path.metadata() {
            Ok(meta) if meta.is_file() => return,
            Ok(_) => format!("{shown} is no file: check the path"),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => format!(
                "{shown} may not be read by this user: let it into the folder, or name a copy that it may read; on a box of the SD image a name alone means a file beside spotter.toml on the card"
            ),
            Err(_) => format!("there is no file {shown}: check the path"),
        };
        self.unless(false, key, || message);
    }

    fn tls(&mut self, section: &str, tls: &Tls) {
        let key = format!("{section}.key");
        self.file(&format!("{section}.certificate"), &tls.certificate);
        self.file(&key, &tls.key);
        let lone = tls.is_on() == tls.key.as_os_str().is_empty();
        self.unless(!lone, &key, || {
            "certificate and key go together: name both, or none for no TLS".into()
        });
    }
}

impl Config {
    /// Everything that is wrong with these values, in the order of the sections; empty when all is well.
    pub fn validate(&self) -> Vec<Problem> {
        let mut p = Problems::default();
        p.topic_part("node.name", &self.node.name);
        p.between("node.shutdown_grace_s", self.node.shutdown_grace_s, 1, 300);
        self.ingest(&mut p);
        self.detect(&mut p);
        self.events(&mut p);
        self.record(&mut p);
        self.mqtt(&mut p);
        self.websocket(&mut p);
        self.web(&mut p);
        self.appliance(&mut p);
        self.relay(&mut p);
        Source::judge_all(&self.source, &mut p);
        self.gpio.judge(&mut p);
        for (name, stream) in &self.stream {
            if let Err(bad) = StreamId::new(name) {
                p.unless(false, &format!("stream.{name}"), || bad.to_string());
            }
            if let Some(rate) = stream.rate_hz {
                p.between(&format!("stream.{name}.rate_hz"), rate, 0.01, 120.0);
            }
            let section = format!("stream.{name}");
            let own = LabelRules { threshold: stream.threshold, min_area: stream.min_area };
            p.label_rules(&section, &own);
            for (label, rules) in &stream.labels {
                p.label_rules(&format!("{section}.labels.{label}"), rules);
            }
            for (zone, area) in &stream.zones {
                p.topic_part(&format!("{section}.zones.{zone}"), zone);
                p.area(&format!("{section}.zones.{zone}.points"), area);
            }
            for mask in &stream.masks {
                p.area(&format!("{section}.masks"), mask);
            }
            for zone in &stream.required_zones {
                let known = stream.zones.contains_key(zone);
                p.unless(known, &format!("{section}.required_zones"), || {
                    format!(
                        "there is no zone {zone:?}: add [{section}.zones.{zone}], or name another"
                    )
                });
            }
        }
        self.ports(&mut p);
        p.0
    }

    fn ingest(&self, p: &mut Problems) {
        let i = &self.ingest;
        p.between("ingest.max_connections", i.max_connections, 1, 10_000);
        p.between("ingest.max_connections_per_address", i.max_connections_per_address, 1, 10_000);
        p.between("ingest.max_readers", i.max_readers, 1, 10_000);
        p.between("ingest.max_readers_per_address", i.max_readers_per_address, 1, 10_000);
        p.between("ingest.max_streams", i.max_streams, 1, 1000);
        p.between("ingest.max_message_bytes", i.max_message_bytes, 64 << 10, 16 << 20);
        p.between("ingest.max_chunk_streams", i.max_chunk_streams, 8, 65_599);
        p.between("ingest.max_partial_bytes", i.max_partial_bytes, i.max_message_bytes, 64 << 20);
        p.between("ingest.max_amf_depth", i.max_amf_depth, 4, 64);
        p.between("ingest.max_amf_string_bytes", i.max_amf_string_bytes, 1024, 65_535);
        p.between("ingest.handshake_timeout_s", i.handshake_timeout_s, 1, 300);
        p.between("ingest.idle_timeout_s", i.idle_timeout_s, 2, 3600);
        p.between("ingest.reader_stall_timeout_s", i.reader_stall_timeout_s, 1, 300);
        p.between("ingest.reconnect_grace_s", i.reconnect_grace_s, 0, 3600);
        p.between("ingest.gop_budget_bytes", i.gop_budget_bytes, 1 << 20, 256 << 20);
        p.tls("ingest.tls", &i.tls);
        let srt = &i.srt;
        p.between("ingest.srt.latency_ms", srt.latency_ms, 20, 8000);
        // What stands in a URL as it is: SRT clients differ in what they undo.
        let passphrase = srt.passphrase.expose();
        let plain = passphrase.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        let fine = passphrase.is_empty() || plain && (10..=79).contains(&passphrase.len());
        p.unless(fine, "ingest.srt.passphrase", || {
            "is not one: give 10 to 79 letters, digits, '-', '.', '_' or '~', or \"\" for none"
                .into()
        });
        let web = self.web.enabled && self.web.webrtc && self.web.listen == srt.listen;
        p.unless(!(srt.enabled && web && srt.listen.port() != 0), "ingest.srt.listen", || {
            format!("{} is taken for WebRTC by web.listen already: change one", srt.listen)
        });
        p.between("decode.threads", self.decode.threads, 0, 64);
    }

    fn detect(&self, p: &mut Problems) {
        let d = &self.detect;
        p.unless(!d.model.is_empty(), "detect.model", || {
            "is empty: name a manifest, as in \"yolov4-tiny-416\", or say \"auto\"".to_owned()
        });
        p.between("detect.threads", d.threads, 0, 64);
        p.between("detect.rate_hz", d.rate_hz, 0.01, 120.0);
        if let Some(c) = d.min_confidence {
            p.between("detect.min_confidence", c, 0.01, 0.99);
        }
        p.unless(!d.animals.is_empty(), "detect.animals", || {
            "is empty, so nothing could ever be found: name labels, or [\"*\"] for all".to_owned()
        });
        p.file("detect.library", &d.library);
        p.file("detect.onnx.library", &d.onnx.library);
        if let Some(t) = &d.tiles {
            p.between("detect.tiles.columns", t.columns, 1, 4);
            p.between("detect.tiles.rows", t.rows, 1, 4);
            p.between("detect.tiles.overlap", t.overlap, 0.0, 0.5);
            p.unless(t.columns > 1 || t.rows > 1, "detect.tiles", || {
                "has one tile, which is the whole picture: raise columns or rows, or leave it out"
                    .to_owned()
            });
        }
        if let Some(Delegate { path, options, .. }) = &d.delegate {
            p.unless(!path.as_os_str().is_empty(), "detect.delegate.path", || {
                "is empty: give the delegate's shared library".to_owned()
            });
            let zero =
                options.iter().any(|(key, value)| key.contains('\0') || value.contains('\0'));
            p.unless(!zero, "detect.delegate.options", || {
                "hold a zero byte, where a C string ends: leave it out".to_owned()
            });
        }
    }

    fn events(&self, p: &mut Problems) {
        let e = &self.events;
        p.between("events.threshold", e.threshold, 0.01, 0.99);
        p.between("events.min_area", e.min_area, 0.0, 1.0);
        p.between("events.frames", e.frames, 1, 100);
        p.between("events.seen", e.seen, 1, e.frames);
        p.between("events.within_s", e.within_s, 0.1, 600.0);
        p.between("events.lost_after_s", e.lost_after_s, 0.5, 600.0);
        for (label, rules) in &e.labels {
            p.label_rules(&format!("events.labels.{label}"), rules);
        }
    }

    fn record(&self, p: &mut Problems) {
        let r = &self.record;
        p.between("record.before_s", r.before_s, 0.0, 60.0);
        p.between("record.after_s", r.after_s, 0.0, 600.0);
        p.between("record.segment_s", r.segment_s, 2.0, 600.0);
        p.between("record.keep_days", r.keep_days, 0, 36_500);
    }

    fn mqtt(&self, p: &mut Problems) {
        let m = &self.mqtt;
        p.unless(!m.base_topic.is_empty(), "mqtt.base_topic", || {
            "is empty: give a word, as in \"spotter\"".to_owned()
        });
        p.topic_part("mqtt.base_topic", &m.base_topic);
        p.file("mqtt.password_file", &m.password_file);
        p.file("mqtt.ca_file", &m.ca_file);
        p.file("mqtt.client_cert_file", &m.client_cert_file);
        p.file("mqtt.client_key_file", &m.client_key_file);
        let pair =
            m.client_cert_file.as_os_str().is_empty() == m.client_key_file.as_os_str().is_empty();
        p.unless(pair, "mqtt.client_key_file", || {
            "a client certificate needs both mqtt.client_cert_file and mqtt.client_key_file"
                .to_owned()
        });
        if pair {
            for (key, fault) in crate::mqtt::faults(m) {
                p.unless(false, key, || fault);
            }
        }
        let tls = m.tls.as_tls();
        p.tls("mqtt.tls", &tls);
        p.unless(!tls.is_on() || crate::mqtt::has_embedded(m), "mqtt.tls.certificate", || {
            "is the embedded broker's, which does not run: set mqtt.embedded = true, or for your own broker mqtts:// and mqtt.ca_file".to_owned()
        });
        p.between("mqtt.max_connections", m.max_connections, 2, 10_000);
        p.between("mqtt.max_connections_per_address", m.max_connections_per_address, 2, 10_000);
        p.between("mqtt.max_packet_bytes", m.max_packet_bytes, 16 << 10, 64 << 20);
        p.between("mqtt.stats_interval_s", m.stats_interval_s, 1, 3600);
        p.unless([4, 5].contains(&m.version), "mqtt.version", || {
            format!("{} is no version: give 4 (which is 3.1.1) or 5", m.version)
        });
        p.between("mqtt.outbox_events", m.outbox_events, 1, 1_000_000);
        p.between("mqtt.outbox_bytes", m.outbox_bytes, 64 << 10, 1 << 30);
        p.between("mqtt.camera_interval_s", m.camera_interval_s, 0, 3600);
        p.topic_part("mqtt.discovery_prefix", &m.discovery_prefix);
        p.unless(!m.discovery_prefix.is_empty(), "mqtt.discovery_prefix", || {
            "is empty: give a word, as in \"homeassistant\"".to_owned()
        });
    }

    fn websocket(&self, p: &mut Problems) {
        let w = &self.websocket;
        p.between("websocket.max_connections", w.max_connections, 1, 10_000);
        p.between(
            "websocket.max_connections_per_address",
            w.max_connections_per_address,
            1,
            10_000,
        );
        p.between("websocket.max_message_bytes", w.max_message_bytes, 64 << 10, 256 << 20);
        p.between("websocket.max_picture_pixels", w.max_picture_pixels, 10_000, 500_000_000);
        p.between("websocket.max_waiting_pictures", w.max_waiting_pictures, 1, 1000);
        p.between("websocket.stall_timeout_s", w.stall_timeout_s, 1, 300);
    }

    fn web(&self, p: &mut Problems) {
        let w = &self.web;
        p.between("web.max_webrtc", w.max_webrtc, 1, 1000);
        p.between("web.max_connections", w.max_connections, 1, 10_000);
        p.between("web.max_connections_per_address", w.max_connections_per_address, 1, 10_000);
        p.between("web.max_body_bytes", w.max_body_bytes, 16 << 10, 16 << 20);
        p.between("web.stall_timeout_s", w.stall_timeout_s, 1, 300);
    }

    fn relay(&self, p: &mut Problems) {
        for (n, relay) in self.relay.iter().enumerate() {
            let key = |what: &str| format!("relay[{n}].{what}");
            p.unless(!relay.name.is_empty(), &key("name"), || "is empty: give a word".to_owned());
            p.topic_part(&key("name"), &relay.name);
            let fresh = self.relay[..n].iter().all(|other| other.name != relay.name);
            p.unless(fresh, &key("name"), || {
                format!("{:?} is another relay's name already: choose another one", relay.name)
            });
            if let Err(bad) = StreamId::new(&relay.stream) {
                p.unless(false, &key("stream"), || bad.to_string());
            }
            let one = relay.url.is_empty() != relay.url_file.as_os_str().is_empty();
            p.unless(one, &key("url"), || "give either url or url_file".to_owned());
            if let Err(bad) = Target::parse(&relay.url)
                && !relay.url.is_empty()
            {
                // The URL itself is a secret.
                p.unless(false, &key("url"), || bad.to_string());
            }
            p.file(&key("url_file"), &relay.url_file);
            p.file(&key("ca_file"), &relay.ca_file);
        }
    }

    fn ports(&self, p: &mut Problems) {
        let mut doors = vec![("ingest.listen", self.ingest.listen)];
        if self.ingest.tls.is_on() {
            doors.push(("ingest.tls.listen", self.ingest.tls.listen));
        }
        if self.websocket.enabled {
            doors.push(("websocket.listen", self.websocket.listen));
        }
        if self.web.enabled {
            doors.push(("web.listen", self.web.listen));
        }
        if self.mqtt.enabled && crate::mqtt::has_embedded(&self.mqtt) {
            doors.push(("mqtt.listen", self.mqtt.listen));
            if self.mqtt.tls.as_tls().is_on() {
                doors.push(("mqtt.tls.listen", self.mqtt.tls.listen));
            }
        }
        for (n, (key, address)) in doors.iter().enumerate() {
            let clash = doors[..n].iter().find(|(_, a)| a == address && a.port() != 0);
            if let Some((other, _)) = clash {
                p.unless(false, key, || {
                    format!("{address} is taken by {other} already: change one")
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn faults_name_key_and_value() {
        let mut c = Config::default();
        c.mqtt.broker = "http://x".into();
        c.node.name = "a/b".into();
        c.websocket.listen = c.ingest.listen;
        c.mqtt.ca_file = "/nowhere/ca.pem".into();
        c.detect.rate_hz = f64::NAN;
        c.events.seen = 9;
        let area = Area { points: vec![[0.0, 0.0], [1.5, 0.0], [0.0, 1.0]], labels: vec![] };
        let garden = c.stream.entry("garden".into()).or_default();
        garden.zones.insert("lawn".into(), area);
        garden.required_zones = vec!["pond".into()];
        let keys: Vec<_> = c.validate().into_iter().map(|p| p.key).collect();
        assert_eq!(
            keys,
            [
                "node.name",
                "detect.rate_hz",
                "events.seen",
                "mqtt.ca_file",
                "mqtt.broker",
                "stream.garden.zones.lawn.points",
                "stream.garden.required_zones",
                "websocket.listen"
            ]
        );
    }

    #[test]
    fn relays_are_judged_and_their_urls_kept_quiet() {
        let text = r#"
            [[relay]]
            name = "a"
            stream = "s"
            url = "rtmp://h/live/k"
            [[relay]]
            name = "a"
            stream = "no/name"
            url = "http://hush"
            [[relay]]
            name = "b"
            stream = "s"
        "#;
        let faults = toml::from_str::<Config>(text).unwrap().validate();
        let keys: Vec<_> = faults.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["relay[1].name", "relay[1].stream", "relay[1].url", "relay[2].url"]);
        assert!(faults.iter().all(|p| !p.message.contains("hush")));
    }
}
