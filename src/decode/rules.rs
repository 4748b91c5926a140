//! When a decoder is given up, what it is spared, and which pictures are news (pure: counts and times in, answers out).

use std::time::{Duration, Instant};

use crate::media::{AccessUnit, MediaTime, VideoCodec, avc, hevc};

/// A unit that waited so long for a decoder that was open tells that it is behind: its queue is full, and the ring fills.
const BEHIND: Duration = Duration::from_millis(500);
/// A decoder that gives no picture for so long a stretch of units is given up.
pub(super) const STALL: Duration = Duration::from_secs(3);
const STALL_UNITS: u32 = 5;

/// Whether a unit is left out so that the decoder catches up: it waited too long for one that is open since `open`, or is
/// older than what is `wanted`, and no other needs its picture.
pub(super) fn is_spared(
    unit: &AccessUnit,
    now: Instant,
    open: Instant,
    wanted: Option<Instant>,
) -> bool {
    let arrived = unit.arrived.mono;
    let behind = now.saturating_duration_since(arrived.max(open)) > BEHIND;
    let past = wanted.is_some_and(|wanted| arrived < wanted);
    (behind || past) && !unit.key && !unit.discontinuity && is_dispensable(unit)
}

/// The size that a scaler makes of pictures on their way to a detector that wants them so large; none where that would leave
/// more than half of them. Twice the sides, since colours come at half the size: so they still are as large as the model's input.
pub fn small(wanted: (u32, u32), published: (u32, u32)) -> Option<(u32, u32)> {
    let side = |wanted: u32, published: u32| wanted.saturating_mul(2).min(published) & !1;
    let size = (side(wanted.0, published.0), side(wanted.1, published.1));
    let area = |(width, height)| u64::from(width) * u64::from(height);
    (area(size) > 0 && area(size) * 2 <= area(published)).then_some(size)
}

fn is_dispensable(unit: &AccessUnit) -> bool {
    let (data, size) = (&unit.data, unit.params.nal_length_size);
    match unit.params.codec {
        VideoCodec::H264 => avc::is_dispensable(data, size),
        VideoCodec::H265 => {
            hevc::is_dispensable(data, size, hevc::temporal_layers(&unit.params.record))
        }
    }
}

/// Whether a decoder answers what it is fed (pure).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Watchdog {
    pictures: u64,
    units: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Watchdog {
    /// A unit went in when so many pictures had come out.
    pub(super) fn fed(&mut self, now: Instant, pictures: u64) {
        if pictures != self.pictures {
            *self = Self { pictures, ..Self::default() };
        }
        self.units += 1;
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// `blocked`: the decoder takes no more units. A pause of the publisher is not the decoder's fault: only the
    /// time over which it was fed, or would not be, counts.
    pub(super) fn stalled(&self, now: Instant, pictures: u64, blocked: bool) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else { return false };
        let until = if blocked { now } else { last };
        pictures == self.pictures
            && self.units >= STALL_UNITS
            && until.duration_since(first) >= STALL
    }
}

/// What passes to the frames' reader: numbers them, and holds back what was already shown before a restart, and what is
/// past when decoding begins anew.
#[derive(Debug, Default)]
pub(super) struct Gate {
    seq: u64,
    last: Option<MediaTime>,
    seen: Option<(MediaTime, Instant)>,
    wanted: Option<Instant>,
}

/// Why a picture is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    ShownBefore,
    /// It came before pictures were wanted again: who asks what there is to see means now.
    Past,
}

impl Gate {
    /// What has been shown until now is not to be shown again.
    pub(super) fn seen(&mut self) {
        self.seen = self.last.map(|pts| (pts, Instant::now()));
    }

    /// Pictures are wanted again: those that came since `from`.
    pub(super) fn wanted_from(&mut self, from: Instant) {
        self.wanted = Some(from);
    }

    /// What came before is not shown.
    pub(super) fn wanted(&self) -> Option<Instant> {
        self.wanted
    }

    /// The picture's number, or why it is not shown.
    pub(super) fn pass(&mut self, pts: MediaTime, arrived: Instant) -> Result<u64, Held> {
        if self.seen.is_some_and(|(until, at)| pts <= until && arrived <= at) {
            return Err(Held::ShownBefore);
        }
        if self.wanted.is_some_and(|wanted| arrived < wanted) {
            return Err(Held::Past);
        }
        let seq = self.seq;
        self.seq += 1;
        self.last = Some(pts);
        Ok(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Arrival, samples};

    #[test]
    fn pictures_are_only_made_smaller() {
        assert_eq!(small((416, 234), (1280, 720)), Some((832, 468)));
        assert_eq!(small((416, 416), (1920, 1080)), Some((832, 832)));
        assert_eq!(small((416, 416), (1920, 817)), Some((832, 816)), "no side is made larger");
        assert_eq!(small((416, 416), (1280, 720)), None, "little to gain");
        assert_eq!(small((416, 312), (640, 480)), None);
        assert_eq!(small((416, 1), (50_000, 1)), None);
    }

    #[test]
    fn a_stall_needs_units_and_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut w = Watchdog::default();
        assert!(!w.stalled(at(9000), 0, false));
        for n in 0..4 {
            w.fed(at(n * 1000), 0);
        }
        assert!(!w.stalled(at(9000), 0, true), "too few units");
        w.fed(at(2900), 0);
        assert!(!w.stalled(at(9000), 0, false), "the publisher paused");
        assert!(w.stalled(at(9000), 0, true));
        assert!(!w.stalled(at(9000), 1, true), "a picture came");
        w.fed(at(9000), 1);
        assert!(!w.stalled(at(9001), 1, true));
    }

    #[test]
    fn what_was_shown_before_a_restart_is_not_shown_again() {
        let ms = MediaTime::from_millis;
        let mut gate = Gate::default();
        let before = Instant::now();
        assert_eq!(gate.pass(ms(0), before), Ok(0));
        assert_eq!(gate.pass(ms(40), before), Ok(1));
        gate.seen();
        let later = Instant::now() + Duration::from_millis(1);
        assert_eq!(gate.pass(ms(40), before), Err(Held::ShownBefore));
        assert_eq!(gate.pass(ms(80), before), Ok(2));
        // A publisher whose time line begins anew is seen all the same.
        assert_eq!(gate.pass(ms(0), later), Ok(3));
    }

    #[test]
    fn what_came_before_the_wish_is_not_shown() {
        let ms = MediaTime::from_millis;
        let mut gate = Gate::default();
        let wish = Instant::now();
        let (before, after) = (wish - Duration::from_millis(1), wish + Duration::from_millis(1));
        assert_eq!(gate.pass(ms(0), before), Ok(0));
        gate.wanted_from(wish);
        assert_eq!(gate.pass(ms(40), before), Err(Held::Past));
        assert_eq!(gate.pass(ms(80), after), Ok(1));
    }

    #[test]
    fn a_decoder_behind_is_spared_what_no_picture_needs_and_nothing_else() {
        let unit = |nal: u8, key| {
            let data = vec![0, 0, 0, 2, nal, 0x80].into();
            AccessUnit { data, ..samples::picture(0, key) }
        };
        let came = Instant::now();
        let spared = |unit: &AccessUnit, waited, open, wanted| {
            let arrived = Arrival { mono: came, ..unit.arrived };
            is_spared(&AccessUnit { arrived, ..unit.clone() }, came + waited, came + open, wanted)
        };
        let (late, zero, ms) = (BEHIND * 2, Duration::ZERO, Duration::from_millis(1));
        let free = unit(0x01, false);
        assert!(spared(&free, late, zero, None));
        assert!(!spared(&free, BEHIND, zero, None));
        assert!(!spared(&free, late, BEHIND, None), "it could not be taken before");
        assert!(spared(&free, zero, zero, Some(came + ms)), "nobody will see it");
        assert!(!spared(&free, zero, zero, Some(came)));
        assert!(!spared(&unit(0x41, false), late, zero, Some(came + ms)));
        assert!(!spared(&unit(0x65, true), late, zero, None));
        let marked = AccessUnit { discontinuity: true, ..free };
        assert!(!spared(&marked, late, zero, None), "the mark would be lost with it");
    }
}
