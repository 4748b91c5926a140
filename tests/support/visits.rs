//! Made-up visits, told to a node of `support/mqtt.rs` as events, and what a subscriber has of them.
#![allow(dead_code)] // each test file uses its part

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use spotter::detect::BBox;
use spotter::media::{MediaTime, StreamId};
use spotter::track::{Best, Event, EventKind, Moment, Visit};

use crate::mqtt_support::{Node, SOON, Subscriber};

pub(crate) const BASE: &str = "spotter/spotter-test";

pub(crate) fn cam() -> StreamId {
    StreamId::new("cam").unwrap()
}

/// The `n`th visit's first message, `n` seconds after a moment long ago.
pub(crate) fn event(n: u64) -> Arc<Event> {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + n);
    let at = Moment { media: MediaTime::from_millis(n as i64 * 1000), wall };
    let bbox = BBox { x1: 1.0, y1: 2.0, x2: 3.0, y2: 4.0 };
    let visit = Arc::new(Visit {
        id: format!("{n:06}-abcdef").into(),
        stream: cam(),
        track_id: n,
        label: "dog".into(),
        score: 0.9,
        top_score: 0.9,
        start: at,
        seen: at,
        end: None,
        width: 16,
        height: 16,
        bbox,
        best: Best { at, seq: n, score: 0.9, bbox },
        current_zones: vec![],
        entered_zones: vec![],
    });
    Arc::new(Event { kind: EventKind::New, before: Arc::clone(&visit), after: visit })
}

pub(crate) fn send(node: &Node, n: u64) {
    node.ctx.events.send(event(n)).unwrap();
}

/// The events among what a subscriber saw: number and start time.
pub(crate) fn events_in(seen: &[String]) -> Vec<(u64, f64)> {
    let of = |line: &String| {
        let json: Value = serde_json::from_str(line.split_once("/events ")?.1).ok()?;
        assert_eq!(json["message_id"], format!("{}-new", json["after"]["id"].as_str()?));
        let number = json["after"]["id"].as_str()?.split('-').next()?.parse().ok()?;
        Some((number, json["after"]["start_time"].as_f64()?))
    };
    seen.iter().filter_map(of).collect()
}

/// Waits until the subscriber has event `last`, and answers all it has.
pub(crate) async fn until_event(sub: &mut Subscriber, last: u64) -> Vec<(u64, f64)> {
    let until = Instant::now() + SOON;
    loop {
        sub.take();
        let events = events_in(&sub.seen);
        if events.iter().any(|(n, _)| *n == last) {
            return events;
        }
        assert!(Instant::now() < until, "no event {last} among {events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn assert_all(events: &[(u64, f64)], n: u64) {
    let expected: Vec<_> = (0..n).map(|n| (n, (1_700_000_000 + n) as f64)).collect();
    assert_eq!(events, expected);
}

pub(crate) async fn waits(node: &Node, n: usize) {
    let until = Instant::now() + SOON;
    while node.ctx.outbox.state().waiting != n {
        assert!(Instant::now() < until, "{:?}", node.ctx.outbox.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the broker has the subscriber's answer to every message that wants one. Until then it would rightly send
/// them again, whatever we do.
pub(crate) async fn reader_has_answered(dir: &std::path::Path) {
    let until = Instant::now() + SOON;
    loop {
        let log = std::fs::read_to_string(dir.join("broker.log")).unwrap_or_default();
        let sent = |l: &&str| l.contains("Sending PUBLISH to reader") && l.contains(", q1,");
        let answered = |l: &&str| l.contains("Received PUBACK from reader");
        let counts = (log.lines().filter(sent).count(), log.lines().filter(answered).count());
        if counts.0 > 0 && counts.0 == counts.1 {
            return;
        }
        assert!(Instant::now() < until, "sent and answered: {counts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
