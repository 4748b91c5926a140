//! `/metrics`: everything counted, in Prometheus' text form (exposition format 0.0.4, names after its conventions).

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
use crate::health::Percentiles;
use crate::media::StreamStatus;
use crate::wire::{NodeStats, StreamStats};

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
    Ok((kind, exposition(&door.ctx.node, &stats)))
}

/// The whole document.
fn exposition(node: &str, stats: &NodeStats) -> String {
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
        if *group == "outbox" {
            page.levels("spotter_outbox", counters);
            continue;
        }
        page.tree(&format!("spotter_{group}"), group, &[], counters);
    }
    page.to_string()
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
    let help = "What came a second, over the last five.";
    page.gauge("spotter_stream_rate_bytes", help, &labels, s.link.bitrate_bps as f64 / 8.0);
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
    page.tree("spotter_stream", "the stream", &labels, &s.counters);
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

    /// A group of numbers that go up and down.
    fn levels(&mut self, prefix: &str, levels: &Value) {
        for (name, value) in levels.as_object().into_iter().flatten() {
            let help = format!("Now: {}.", name.replace('_', " "));
            self.gauge(&format!("{prefix}_{name}"), &help, &[], value.as_f64().unwrap_or_default());
        }
    }

    /// A group's counters by their own names; a group within it becomes part of the name.
    fn tree(&mut self, prefix: &str, what: &str, labels: &[(&str, &str)], counters: &Value) {
        let Value::Object(fields) = counters else { return };
        for (name, value) in fields {
            match value {
                Value::Number(n) => {
                    let help = format!("Counted at {what}: {}.", name.replace('_', " "));
                    let value = n.as_f64().unwrap_or_default();
                    self.counter(&format!("{prefix}_{name}_total"), &help, labels, value);
                }
                other => self.tree(&format!("{prefix}_{name}"), what, labels, other),
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
        page.tree("spotter_mqtt", "mqtt", &[("stream", "a\"b")], &serde_json::json!({"sent": 3}));
        page.tree("spotter_mqtt", "mqtt", &[("stream", "c")], &serde_json::json!({"sent": 4}));
        page.tree("spotter_x", "x", &[], &serde_json::json!({"in": {"bytes": 1}, "text": "no"}));
        assert_eq!(
            page.to_string(),
            "# HELP spotter_mqtt_sent_total Counted at mqtt: sent.\n\
             # TYPE spotter_mqtt_sent_total counter\n\
             spotter_mqtt_sent_total{stream=\"a\\\"b\"} 3\n\
             spotter_mqtt_sent_total{stream=\"c\"} 4\n\
             # HELP spotter_x_in_bytes_total Counted at x: bytes.\n\
             # TYPE spotter_x_in_bytes_total counter\n\
             spotter_x_in_bytes_total 1\n"
        );
    }
}
