//! How a publisher's link does, judged by when its pictures come and what time they carry. Pure.
//!
//! TCP loses nothing: a link that is too slow shows as pictures that come later and later, or as holes that the sender
//! makes; holes are ingest's to find.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::unit::MediaTime;

/// A link over its last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// Over the last five whole seconds.
    pub bitrate_bps: f64,
    pub fps: f64,
    /// Of the pictures' arrival, smoothed (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    /// How much later the newest picture came than the promptest of the last minute.
    pub behind: Duration,
    /// Times that nothing came although it was due, since the stream began.
    pub stalls: u64,
}

/// Makes a [`Link`] out of arrivals.
#[derive(Debug, Default)]
pub(super) struct LinkMeter {
    /// The publication's first picture.
    epoch: Option<Instant>,
    last: Option<(Instant, MediaTime)>,
    seconds: VecDeque<Second>,
    jitter_us: f64,
    stalls: u64,
}

#[derive(Debug, Clone, Copy)]
struct Second {
    at: u64,
    bytes: u64,
    pictures: u64,
    /// The least time between a picture's own time and its arrival, from `epoch`.
    prompt_us: i64,
}

impl LinkMeter {
    const KEPT_S: u64 = 60;
    const RATE_S: u64 = 5;
    /// A picture that is so much later than its time is a link that stood still.
    const STALL_US: i64 = 400_000;

    /// Another publication begins: its arrivals have nothing to do with those before.
    pub(super) fn restart(&mut self) {
        *self = Self { stalls: self.stalls, ..Self::default() };
    }

    pub(super) fn picture(&mut self, arrived: Instant, dts: MediaTime, bytes: usize) {
        let epoch = *self.epoch.get_or_insert(arrived);
        let since = arrived.saturating_duration_since(epoch);
        let late_us = micros(since) - dts.as_micros();
        if let Some((before, time)) = self.last.replace((arrived, dts)) {
            let waited = micros(arrived.saturating_duration_since(before));
            let late = waited - (dts.as_micros() - time.as_micros());
            self.jitter_us += (late.abs() as f64 - self.jitter_us) / 16.0;
            self.stalls += u64::from(late >= Self::STALL_US);
        }
        let at = since.as_secs();
        match self.seconds.back_mut().filter(|s| s.at == at) {
            Some(second) => {
                second.bytes += bytes as u64;
                second.pictures += 1;
                second.prompt_us = second.prompt_us.min(late_us);
            }
            None => {
                let second = Second { at, bytes: bytes as u64, pictures: 1, prompt_us: late_us };
                self.seconds.push_back(second);
                while self.seconds.front().is_some_and(|s| s.at + Self::KEPT_S <= at) {
                    self.seconds.pop_front();
                }
            }
        }
    }

    /// What is not video counts for the bitrate only.
    pub(super) fn sound(&mut self, bytes: usize) {
        if let Some(second) = self.seconds.back_mut() {
            second.bytes += bytes as u64;
        }
    }

    pub(super) fn read(&self, now: Instant) -> Link {
        let (Some(epoch), Some((arrived, dts))) = (self.epoch, self.last) else {
            return Link { stalls: self.stalls, ..Link::default() };
        };
        let current = now.saturating_duration_since(epoch).as_secs();
        let over = current.min(Self::RATE_S);
        let whole = self.seconds.iter().filter(|s| s.at < current && s.at + over >= current);
        let (bytes, pictures) =
            whole.fold((0, 0), |(b, p), second| (b + second.bytes, p + second.pictures));
        let rate = |n: u64| if over == 0 { 0.0 } else { n as f64 / over as f64 };
        let late_us = micros(arrived.saturating_duration_since(epoch)) - dts.as_micros();
        let prompt_us = self.seconds.iter().map(|s| s.prompt_us).min().unwrap_or(late_us);
        Link {
            bitrate_bps: rate(bytes * 8),
            fps: rate(pictures),
            jitter: Duration::from_micros(self.jitter_us as u64),
            behind: Duration::from_micros(late_us.abs_diff(prompt_us)),
            stalls: self.stalls,
        }
    }
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures at these times, each `late` milliseconds after its own.
    fn meter(pictures: impl Iterator<Item = (u64, u64)>) -> (LinkMeter, Instant) {
        let begin = Instant::now();
        let mut meter = LinkMeter::default();
        for (ms, late) in pictures {
            let arrived = begin + Duration::from_millis(ms + late);
            meter.picture(arrived, MediaTime::from_millis(ms as i64), 10_000);
        }
        (meter, begin)
    }

    #[test]
    fn a_steady_link_has_its_rates_and_no_jitter() {
        let (meter, begin) = meter((0..100).map(|n| (n * 100, 0)));
        let link = meter.read(begin + Duration::from_millis(9_950));
        assert_eq!((link.fps, link.bitrate_bps), (10.0, 800_000.0));
        assert_eq!((link.jitter, link.behind, link.stalls), (Duration::ZERO, Duration::ZERO, 0));
        // What is not there any more counts as nothing.
        let later = meter.read(begin + Duration::from_secs(13));
        assert_eq!(later.fps, 4.0);
        assert_eq!(meter.read(begin + Duration::from_secs(60)).fps, 0.0);
        assert_eq!(LinkMeter::default().read(begin), Link::default());
    }

    #[test]
    fn a_link_that_is_too_slow_falls_behind() {
        let (meter, begin) = meter((0..100).map(|n| (n * 100, n * 20)));
        let link = meter.read(begin + Duration::from_secs(12));
        assert_eq!(link.behind, Duration::from_millis(1980));
        assert!(link.jitter > Duration::from_millis(15), "{link:?}");
        assert_eq!(link.stalls, 0);
    }

    #[test]
    fn a_link_that_stands_still_is_counted_and_catches_up() {
        let late = |n: u64| if (50..60).contains(&n) { (60 - n) * 100 } else { 0 };
        let (mut meter, begin) = meter((0..100).map(|n| (n * 100, late(n))));
        let link = meter.read(begin + Duration::from_secs(10));
        assert_eq!((link.stalls, link.behind), (1, Duration::ZERO));
        meter.restart();
        let link = meter.read(begin + Duration::from_secs(10));
        assert_eq!(link, Link { stalls: 1, ..Link::default() });
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut meter, _) = meter((0..10_000).map(|n| (n * 500, 0)));
        meter.sound(5);
        assert!(meter.seconds.len() <= LinkMeter::KEPT_S as usize);
    }
}
