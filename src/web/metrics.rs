//! `/metrics`: everything counted, in Prometheus' text form (exposition format 0.0.4, names after its conventions). What each
//! count means is said in `metrics.help`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Door;
use super::error::{ApiError, ErrorBody};
use super::visitor::Visitor;
use crate::auth::Right;
use crate::health::{self, Percentiles};
use crate::media::StreamStatus;
use crate::relay::push::RelayState;
use crate::wire::{LinkState, NodeStats, NodeStatus, StreamStats};

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Everything counted, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "Text form 0.0.4", body = String, content_type = "text/plain"),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn metrics(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<impl IntoResponse, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let stats = door.now.stats().borrow().clone().ok_or_else(ApiError::starting)?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let status = door.ctx.status.borrow().clone();
    Ok((kind, exposition(&door.ctx.node, &stats, status.as_deref())))
}

/// A line for each counter: its name without "spotter_" and "_total", and what it counts.
const HELP: &str = include_str!("metrics.help");
/// Of the counted things those that also fall.
const LEVELS: [&str; 2] = ["outbox_", "storage_written_today_bytes"];

fn help(name: &str) -> String {
    if let Some(same) = name.strip_prefix("mqtt_embedded_") {
        return format!("At the embedded broker: {}", help(&format!("mqtt_{same}")));
    }
    let words = HELP.lines().filter_map(|line| line.split_once(' '));
    let said = words.into_iter().find(|(of, _)| *of == name).map(|(_, said)| said.to_owned());
    said.unwrap_or_else(|| format!("Counted: {}.", name.replace('_', " ")))
}

/// The whole document.
fn exposition(node: &str, stats: &NodeStats, status: Option<&NodeStatus>) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    let build = [("node", node), ("version", version)];
    page.gauge("spotter_build_info", "Which spotter this is; always 1.", &build, 1.0);
    let uptime = stats.uptime_s as f64;
    page.gauge("spotter_uptime_seconds", "Time since spotter started.", &[], uptime);
    if let Some(bytes) = stats.load.memory_bytes {
        let help = "Resident memory of the process.";
        page.gauge("process_resident_memory_bytes", help, &[], bytes as f64);
    }
    if let Some(seconds) = stats.load.cpu_seconds {
        let help = "Processor time of the process, user and system.";
        page.counter("process_cpu_seconds_total", help, &[], seconds);
    }
    if let Some(degrees) = stats.load.temperature_c {
        page.gauge("spotter_temperature_celsius", "Of the board's processor.", &[], degrees);
    }
    let help = "Detections a second and stream, at most, as board and detector can take them now.";
    page.gauge("spotter_pace_hertz", help, &[], stats.pace.rate_hz);
    let help = "Detections a second and stream, at most, as detect.rate_hz asks for them.";
    page.gauge("spotter_pace_asked_hertz", help, &[], stats.pace.of_hz);
    let smaller = f64::from(u8::from(stats.pace.smaller_model.is_some()));
    let help = "1 while a smaller model stands in for the configured one.";
    page.gauge("spotter_pace_smaller_model", help, &[], smaller);
    for stream in &stats.streams {
        stream_metrics(&mut page, stream);
    }
    for (group, counters) in &stats.counters {
        match *group {
            // These are named by the owner, and a name is a label's value.
            "relays" => {
                let streams = status.iter().flat_map(|s| &s.relays);
                let streams = streams.map(|r| (r.name.as_str(), r.stream.as_str())).collect();
                relay_counters(&mut page, &streams, counters);
            }
            "sources" => {
                for (stream, counters) in counters.as_object().into_iter().flatten() {
                    page.tree("source", &[("stream", stream)], counters);
                }
            }
            group => page.tree(group, &[], counters),
        }
    }
    let ready = f64::from(u8::from(health::missing(status).is_empty()));
    page.gauge("spotter_ready", "1 while a published stream would be searched.", &[], ready);
    if let Some(status) = status {
        states(&mut page, status);
    }
    page.to_string()
}

fn relay_counters(page: &mut Page, streams: &BTreeMap<&str, &str>, counters: &Value) {
    for (relay, counters) in counters.as_object().into_iter().flatten() {
        let stream = streams.get(relay.as_str()).copied().unwrap_or_default();
        page.tree("relay", &[("relay", relay), ("stream", stream)], counters);
    }
}

/// How what spotter is connected to stands.
fn states(page: &mut Page, status: &NodeStatus) {
    for relay in &status.relays {
        for state in RelayState::ALL {
            let labels = [
                ("relay", relay.name.as_str()),
                ("stream", &relay.stream),
                ("state", state.name()),
            ];
            let help = "1 for the state that the relay is in.";
            let here = f64::from(u8::from(relay.state == state));
            page.gauge("spotter_relay_state", help, &labels, here);
        }
    }
    if status.mqtt != LinkState::Disabled {
        let up = f64::from(u8::from(matches!(status.mqtt, LinkState::Up { .. })));
        page.gauge("spotter_mqtt_up", "1 while the broker is connected.", &[], up);
    }
}

fn stream_metrics(page: &mut Page, s: &StreamStats) {
    let labels = [("stream", s.stream.as_str())];
    let online = f64::from(u8::from(s.status == StreamStatus::Online));
    let help = "1 while a publisher is connected, 0 while its return is waited for.";
    page.gauge("spotter_stream_online", help, &labels, online);
    let help = "Published pictures a second, over the last second.";
    page.gauge("spotter_stream_frame_rate", help, &labels, s.fps);
    let help = "Searched pictures a second, over the last second.";
    page.gauge("spotter_stream_detection_rate", help, &labels, s.detections_per_s);
    let help = "What came a second, over the last five seconds.";
    let rate = s.link.bitrate_bps as f64 / 8.0;
    page.gauge("spotter_stream_bytes_per_second", help, &labels, rate);
    let help = "How much the pictures' arrival varies, smoothed.";
    page.gauge("spotter_stream_jitter_seconds", help, &labels, s.link.jitter_ms / 1000.0);
    let help = "How much later the newest picture came than the promptest of the last minute.";
    page.gauge("spotter_stream_behind_seconds", help, &labels, s.link.behind_ms / 1000.0);
    let stages = &s.latency_ms;
    for (stage, p) in [
        ("decode", stages.decode),
        ("wait", stages.wait),
        ("infer", stages.infer),
        ("total", stages.total),
    ] {
        let Percentiles { p50, p95, p99 } = p;
        for (percentile, ms) in [("50", p50), ("95", p95), ("99", p99)] {
            let labels =
                [("stream", s.stream.as_str()), ("stage", stage), ("percentile", percentile)];
            let help = "Where the time of the last 600 searched pictures went; total is from the last byte's arrival.";
            page.gauge("spotter_stream_latency_seconds", help, &labels, ms / 1000.0);
        }
    }
    page.tree("stream", &labels, &s.counters);
}

/// Metric families, each with its samples together, as the format wants them.
#[derive(Default)]
struct Page(BTreeMap<String, Family>);

struct Family {
    help: String,
    kind: &'static str,
    samples: Vec<(String, f64)>,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.sample(name, help, "gauge", labels, value);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.sample(name, help, "counter", labels, value);
    }

    fn sample(
        &mut self,
        name: &str,
        help: &str,
        kind: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let family = || Family { help: help.to_owned(), kind, samples: Vec::new() };
        let pairs: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels =
            if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        self.0.entry(name.to_owned()).or_insert_with(family).samples.push((labels, value));
    }

    /// A group's counters by their own names; a group within it becomes part of the name.
    fn tree(&mut self, group: &str, labels: &[(&str, &str)], counters: &Value) {
        let Value::Object(fields) = counters else { return };
        for (name, value) in fields {
            // "readers_lagged" of the readers is said once.
            let name = match name.strip_prefix(group) {
                Some("") => group.to_owned(),
                Some(rest) if rest.starts_with('_') => name.clone(),
                _ => format!("{group}_{name}"),
            };
            let Some(number) = value.as_f64().or(value.as_bool().map(|b| f64::from(u8::from(b))))
            else {
                self.tree(&name, labels, value);
                continue;
            };
            if LEVELS.iter().any(|level| name.starts_with(level)) {
                self.gauge(&format!("spotter_{name}"), &help(&name), labels, number);
            } else {
                self.counter(&format!("spotter_{name}_total"), &help(&name), labels, number);
            }
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, family) in &self.0 {
            writeln!(f, "# HELP {name} {}", family.help)?;
            writeln!(f, "# TYPE {name} {}", family.kind)?;
            for (labels, value) in &family.samples {
                writeln!(f, "{name}{labels} {value}")?;
            }
        }
        Ok(())
    }
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => {
                let _ = out.write_char(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_hold_their_samples_together_and_values_are_escaped() {
        let mut page = Page::default();
        page.tree("mqtt", &[("stream", "a\"b")], &serde_json::json!({"commands": 3}));
        page.tree("mqtt", &[("stream", "c")], &serde_json::json!({"commands": 4}));
        page.tree("x", &[], &serde_json::json!({"in": {"bytes": 1}, "text": "no"}));
        page.tree("readers", &[], &serde_json::json!({"readers": 2, "readers_lagged": 1}));
        page.tree("outbox", &[], &serde_json::json!({"disk_failing": true}));
        assert_eq!(
            page.to_string(),
            "# HELP spotter_mqtt_commands_total Commands that came.\n\
             # TYPE spotter_mqtt_commands_total counter\n\
             spotter_mqtt_commands_total{stream=\"a\\\"b\"} 3\n\
             spotter_mqtt_commands_total{stream=\"c\"} 4\n\
             # HELP spotter_outbox_disk_failing 1 while events that wait for the broker cannot be kept on disk.\n\
             # TYPE spotter_outbox_disk_failing gauge\n\
             spotter_outbox_disk_failing 1\n\
             # HELP spotter_readers_lagged_total Times that a player fell behind and went on with the newest key frame.\n\
             # TYPE spotter_readers_lagged_total counter\n\
             spotter_readers_lagged_total 1\n\
             # HELP spotter_readers_total Players that read a stream by RTMP.\n\
             # TYPE spotter_readers_total counter\n\
             spotter_readers_total 2\n\
             # HELP spotter_x_in_bytes_total Counted: x in bytes.\n\
             # TYPE spotter_x_in_bytes_total counter\n\
             spotter_x_in_bytes_total 1\n"
        );
    }

    #[test]
    fn an_owner_s_names_are_values_and_no_part_of_a_metric_s_name() {
        let mut page = Page::default();
        let counters = serde_json::json!({"my-cloud 2.0": {"attempts": 1}});
        relay_counters(&mut page, &BTreeMap::from([("my-cloud 2.0", "garden")]), &counters);
        let page = page.to_string();
        let sample = "\nspotter_relay_attempts_total{relay=\"my-cloud 2.0\",stream=\"garden\"} 1\n";
        assert!(page.contains(sample), "{page}");
    }
}
