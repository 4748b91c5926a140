//! Finds reference pictures that never came (pure). RTMP loses nothing on the way, but glasses under a slow uplink
//! drop two of three packets before sending, and what follows decodes to rubbish up to the next key frame.
//!
//! H.264 tells by itself: frame_num grows by one with each reference picture (7.4.3), so a hole in it is a loss,
//! while dropped non-reference pictures leave none. Where that cannot be had (H.265; encoders that may leave numbers
//! out; unknown parameter sets) the time between pictures decides: [`Pace`]. MMCO 5, which resets frame_num without
//! an IDR, would be taken for a loss; no encoder of a live stream is known to use it.

use crate::media::MediaTime;
use crate::media::avc::AvcSlice;

/// What one coded picture says of its place in the sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// IDR or IRAP: nothing before it is needed.
    Key,
    H264 {
        slice: AvcSlice,
        reference: bool,
    },
    /// Only its time.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Nothing is missing since the last key frame.
    intact: bool,
    /// frame_num of the last reference picture; `None` when it is not known.
    previous: Option<u32>,
    pace: Pace,
}

impl Gaps {
    /// Whether pictures decode rightly from here: false before the first key frame, too.
    pub(crate) fn intact(&self) -> bool {
        self.intact
    }

    /// A picture is known to be lost. True when that is news.
    pub(crate) fn lost(&mut self) -> bool {
        std::mem::take(&mut self.intact)
    }

    /// A new coded sequence begins, with a key frame if it is sane.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Takes the next picture in decoding order. True when pictures before it are missing and none were before.
    pub(crate) fn see(&mut self, place: Place, dts: MediaTime) -> bool {
        let late = self.pace.see(dts);
        match place {
            Place::Key => {
                self.intact = true;
                self.previous = Some(0);
                false
            }
            Place::H264 { slice, reference } => {
                let missing = match self.previous {
                    Some(previous) if !slice.gaps_allowed => !slice.follows(previous),
                    _ => late,
                };
                if reference {
                    self.previous = Some(slice.frame_num);
                }
                missing && self.lost()
            }
            Place::Unknown => {
                self.previous = None;
                late && self.lost()
            }
        }
    }
}

impl AvcSlice {
    /// Whether this can come right after the reference picture numbered `previous`.
    fn follows(&self, previous: u32) -> bool {
        let next = (previous + 1) % self.max_frame_num;
        self.frame_num == next || (self.field && self.frame_num == previous)
    }
}

/// The usual time between pictures. Glasses send an irregular 15 to 24 a second, so that intervals differ by 1.6;
/// dropping two of three makes them three times as long. The line is drawn between, at [`Pace::LATE`] times the
/// median, and never below [`Pace::FLOOR_US`].
#[derive(Debug, Default)]
struct Pace {
    last: Option<MediaTime>,
    /// The newest intervals in microseconds, a ring.
    intervals_us: [i64; Pace::KEPT],
    seen: usize,
}

impl Pace {
    const KEPT: usize = 15;
    const LATE: f64 = 2.5;
    const FLOOR_US: i64 = 80_000;

    /// True when `now` is too late for nothing to be missing.
    fn see(&mut self, now: MediaTime) -> bool {
        let Some(last) = self.last.replace(now) else { return false };
        let interval = now.as_micros().saturating_sub(last.as_micros());
        let known = self.seen.min(Self::KEPT);
        let late = known >= 5 && {
            let mut sorted = self.intervals_us;
            let sorted = &mut sorted[..known];
            sorted.sort_unstable();
            let median = sorted[known / 2];
            interval > Self::FLOOR_US && interval as f64 > Self::LATE * median as f64
        };
        self.intervals_us[self.seen % Self::KEPT] = interval;
        self.seen += 1;
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(frame_num: u32) -> AvcSlice {
        AvcSlice { frame_num, max_frame_num: 16, gaps_allowed: false, field: false, size: (16, 16) }
    }

    fn p(frame_num: u32) -> Place {
        Place::H264 { slice: slice(frame_num), reference: true }
    }

    fn run(gaps: &mut Gaps, places: &[Place]) -> Vec<bool> {
        let at = |i: usize| MediaTime::from_millis(i as i64 * 40);
        places.iter().enumerate().map(|(i, p)| gaps.see(*p, at(i))).collect()
    }

    #[test]
    fn frame_numbers_wrap_and_a_hole_is_found_once() {
        let mut gaps = Gaps::default();
        let whole: Vec<_> = std::iter::once(Place::Key).chain((1..40).map(|n| p(n % 16))).collect();
        assert!(run(&mut gaps, &whole).iter().all(|gap| !gap));
        assert!(gaps.intact());
        let found = run(&mut gaps, &[p(10), p(13), Place::Key, p(1)]);
        assert_eq!(found, [true, false, false, false]);
        assert!(gaps.intact());
    }

    #[test]
    fn a_lost_key_frame_is_found() {
        let mut gaps = Gaps::default();
        assert_eq!(run(&mut gaps, &[Place::Key, p(1), p(2), p(1)]), [false, false, false, true]);
    }

    #[test]
    fn dropped_non_reference_pictures_leave_no_hole() {
        let b = |n| Place::H264 { slice: slice(n), reference: false };
        let mut gaps = Gaps::default();
        let places = [Place::Key, p(1), b(2), b(2), p(2), p(3), b(4), p(4)];
        assert!(run(&mut gaps, &places).iter().all(|gap| !gap));
    }

    #[test]
    fn nothing_is_intact_before_the_first_key_frame() {
        let mut gaps = Gaps::default();
        assert!(!gaps.see(p(5), MediaTime::ZERO));
        assert!(!gaps.intact());
    }

    #[test]
    fn time_decides_where_numbers_cannot() {
        let feed = |intervals_ms: &[i64]| {
            let mut gaps = Gaps::default();
            let mut now = 0;
            gaps.see(Place::Key, MediaTime::ZERO);
            intervals_ms.iter().any(|ms| {
                now += ms;
                gaps.see(Place::Unknown, MediaTime::from_millis(now))
            })
        };
        // Irregular 15 to 24 a second.
        let irregular: Vec<i64> = (0..200).map(|i| 42 + (i * 37) % 26).collect();
        assert!(!feed(&irregular));
        let mut dropping = irregular.clone();
        dropping[100] = 42 + 67 + 42;
        assert!(feed(&dropping));
        // One picture a second is a pace like any other.
        assert!(!feed(&[1000; 20]));
    }
}
