//! Times of events that wait for a broker (pure): a box without a clock has a wrong one until the network is there, which is
//! when its events leave. When the clock was set is known elsewhere.

use bytes::Bytes;
use serde_json::Value;

use crate::store::clock::Clock;

const TIMES: [&str; 4] = ["frame_time", "start_time", "end_time", "snapshot/frame_time"];

/// An event's message with its times as `clock` has them now, and marked while nobody set it. None: it stays as it is.
pub(super) fn mended(message: &[u8], clock: &Clock) -> Option<Bytes> {
    let mut json: Value = serde_json::from_slice(message).ok()?;
    let old = json.clone();
    for visit in ["before", "after"] {
        for time in TIMES {
            let Some(time) = json.pointer_mut(&format!("/{visit}/{time}")) else { continue };
            let Some(seconds) = time.as_f64() else { continue };
            let us = (seconds * 1e6).round() as i64;
            let right = clock.mend(us);
            if right != us {
                *time = ((right / 1000) as f64 / 1000.0).into();
            }
        }
    }
    let all = json.as_object_mut()?;
    if clock.is_synced() {
        all.remove("time_synced");
    } else {
        all.insert("time_synced".into(), false.into());
    }
    (json != old).then(|| json.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::clock::Signs;
    use std::time::{Duration, Instant};

    #[test]
    fn times_are_marked_until_the_clock_is_set_and_then_mended() {
        const NOW: i64 = 1_795_439_400;
        let t0 = Instant::now();
        let mut clock = Clock::new(t0, 600_000_000, Signs::default());
        let message = br#"{"type":"end","before":{"start_time":601.5,"frame_time":602.0,"end_time":null},
            "after":{"start_time":601.5,"end_time":603.25,"snapshot":{"frame_time":601.75},"score":0.5}}"#;
        let marked = mended(message, &clock).unwrap();
        let json: Value = serde_json::from_slice(&marked).unwrap();
        assert_eq!(
            (&json["time_synced"], &json["after"]["end_time"]),
            (&false.into(), &603.25.into())
        );
        assert_eq!(mended(&marked, &clock), None);
        let signs = Signs { kernel: Some(true), timesyncd: false };
        clock.look(t0 + Duration::from_secs(10), NOW * 1_000_000, signs).unwrap();
        let right: Value = serde_json::from_slice(&mended(&marked, &clock).unwrap()).unwrap();
        let by = (NOW - 610) as f64;
        assert_eq!(right.get("time_synced"), None);
        assert_eq!(right["before"]["start_time"], 601.5 + by);
        assert_eq!(right["before"]["end_time"], Value::Null);
        assert_eq!(right["after"]["snapshot"]["frame_time"], 601.75 + by);
        assert_eq!(right["after"]["score"], 0.5);
        assert_eq!(mended(right.to_string().as_bytes(), &clock), None, "once is enough");
        assert_eq!(mended(b"no event", &clock), None);
    }
}
