//! One publication's clock (pure): the publisher's 32-bit milliseconds, which wrap, jump and start anew, become one
//! continuous [`MediaTime`] that audio and video share.

use std::time::{Duration, Instant};

use crate::media::MediaTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    Video,
    Audio,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Later than every earlier stamp of the same track.
    pub time: MediaTime,
    /// The publisher's clock jumped here, and was rebased.
    pub jumped: bool,
}

#[derive(Debug)]
pub(crate) struct Timeline {
    start: MediaTime,
    /// The latest time given out, and when.
    newest: Option<(MediaTime, Instant)>,
    tracks: [Option<Clock>; 2],
}

/// How one track's raw timestamps map to the time line.
#[derive(Debug, Clone, Copy)]
struct Clock {
    raw_ms: u32,
    /// Where `raw_ms` lies on the time line; microseconds.
    mapped_us: i64,
    /// The last time given out; ahead of `mapped_us` after a small step back.
    given_us: i64,
}

/// A longer gap is a new clock, not a pause within the old one.
const MAX_FORWARD_US: i64 = 10_000_000;
/// Decoding times never go back; a little is jitter of the sender's clock, more is a new clock.
const MAX_BACK_US: i64 = 1_000_000;
/// How far two tracks on one clock may be apart.
const MAX_APART_US: i64 = 10_000_000;

impl Timeline {
    /// A clock whose first stamp is `start`.
    pub(crate) fn new(start: MediaTime) -> Self {
        Self { start, newest: None, tracks: [None; 2] }
    }

    /// The time of a unit whose publisher says `raw_ms` and that arrived at `at`.
    pub(crate) fn stamp(&mut self, track: Track, raw_ms: u32, at: Instant) -> Stamp {
        let (own, other) = match track {
            Track::Video => (self.tracks[0], self.tracks[1]),
            Track::Audio => (self.tracks[1], self.tracks[0]),
        };
        let followed = own
            .map(|c| (c.map(raw_ms), c.given_us))
            .filter(|(us, given)| (given - MAX_BACK_US..=given + MAX_FORWARD_US).contains(us));
        let jumped = own.is_some() && followed.is_none();
        let mapped_us = match followed {
            Some((us, _)) => us,
            None => self.rebase(own, other, raw_ms, at),
        };
        let after = own.map_or(i64::MIN, |c| c.given_us + 1);
        let given_us = mapped_us.max(after);
        let clock = Some(Clock { raw_ms, mapped_us, given_us });
        match track {
            Track::Video => self.tracks[0] = clock,
            Track::Audio => self.tracks[1] = clock,
        }
        let time = MediaTime::from_micros(given_us);
        let newest = self.newest.map_or(time, |(newest, _)| newest.max(time));
        self.newest = Some((newest, at));
        Stamp { time, jumped }
    }

    /// Where a track begins, or goes on after a jump: by the other track's clock when that makes sense, so that
    /// sound and picture stay together; else as much later as really passed.
    fn rebase(&self, own: Option<Clock>, other: Option<Clock>, raw_ms: u32, at: Instant) -> i64 {
        let Some((newest, when)) = self.newest else { return self.start.as_micros() };
        let earliest = own.map_or(self.start.as_micros(), |c| c.given_us - MAX_BACK_US);
        if let Some(us) = other.map(|c| c.map(raw_ms))
            && (us - newest.as_micros()).abs() <= MAX_APART_US
            && us >= earliest
        {
            return us;
        }
        let passed = at.saturating_duration_since(when).max(Duration::from_millis(1));
        newest.saturating_add(passed).as_micros()
    }
}

impl Clock {
    /// `raw_ms` on the time line, taken as the nearest to the last one modulo 2^32.
    fn map(&self, raw_ms: u32) -> i64 {
        let step_ms = raw_ms.wrapping_sub(self.raw_ms) as i32;
        self.mapped_us.saturating_add(i64::from(step_ms) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(stamp: Stamp) -> i64 {
        stamp.time.as_millis()
    }

    #[test]
    fn it_starts_where_it_is_told_and_follows() {
        let now = Instant::now();
        let mut t = Timeline::new(MediaTime::from_millis(500));
        assert_eq!(ms(t.stamp(Track::Video, 1_000_000, now)), 500);
        assert_eq!(ms(t.stamp(Track::Audio, 1_000_010, now)), 510);
        assert_eq!(ms(t.stamp(Track::Video, 1_000_040, now)), 540);
    }

    #[test]
    fn thirty_two_bits_wrap_without_a_jump() {
        let now = Instant::now();
        let mut t = Timeline::new(MediaTime::ZERO);
        t.stamp(Track::Video, u32::MAX - 19, now);
        let stamp = t.stamp(Track::Video, 20, now);
        assert_eq!((ms(stamp), stamp.jumped), (40, false));
    }

    #[test]
    fn a_small_step_back_is_held_and_caught_up() {
        let now = Instant::now();
        let mut t = Timeline::new(MediaTime::ZERO);
        t.stamp(Track::Video, 1000, now);
        t.stamp(Track::Video, 1100, now);
        let back = t.stamp(Track::Video, 1050, now);
        assert!(!back.jumped);
        assert_eq!(back.time.as_micros(), 100_001);
        assert_eq!(ms(t.stamp(Track::Video, 1150, now)), 150);
    }

    #[test]
    fn a_clock_that_starts_anew_goes_on_as_much_later_as_passed() {
        let begin = Instant::now();
        let mut t = Timeline::new(MediaTime::ZERO);
        t.stamp(Track::Video, 60_000, begin);
        t.stamp(Track::Audio, 60_010, begin);
        let later = begin + Duration::from_millis(40);
        let video = t.stamp(Track::Video, 0, later);
        assert_eq!((ms(video), video.jumped), (50, true));
        // The sound follows onto the picture's new clock.
        assert_eq!(ms(t.stamp(Track::Audio, 5, later)), 55);
        let far = t.stamp(Track::Video, 3_000_000_000, later);
        assert!(far.jumped);
        assert_eq!(ms(far), 56);
    }

    #[test]
    fn tracks_on_clocks_far_apart_each_keep_their_own() {
        let now = Instant::now();
        let mut t = Timeline::new(MediaTime::ZERO);
        t.stamp(Track::Video, 1_000_000, now);
        t.stamp(Track::Audio, 7, now);
        for i in 1..50 {
            let video = t.stamp(Track::Video, 1_000_000 + i * 33, now);
            let audio = t.stamp(Track::Audio, 7 + i * 33, now);
            assert!(!video.jumped && !audio.jumped);
            assert!((ms(video) - ms(audio)).abs() < 10);
        }
    }

    proptest! {
        #[test]
        fn each_track_only_goes_forward(steps in prop::collection::vec((any::<bool>(), any::<u32>(), 0u64..100), 1..200)) {
            let begin = Instant::now();
            let mut t = Timeline::new(MediaTime::ZERO);
            let mut last = [i64::MIN; 2];
            let mut passed = 0;
            for (video, raw, wait) in steps {
                passed += wait;
                let track = if video { Track::Video } else { Track::Audio };
                let us = t.stamp(track, raw, begin + Duration::from_millis(passed)).time.as_micros();
                prop_assert!(us > last[usize::from(video)]);
                prop_assert!(us >= 0);
                last[usize::from(video)] = us;
            }
        }
    }
}
