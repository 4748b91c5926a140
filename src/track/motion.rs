//! How the camera moved between two frames, told from the boxes alone; it decides no match.
//!
//! On a head, everything in view jumps at once. Each pair of an expected and a found box proposes a shift; the shift
//! that brings most boxes home is the camera's. One animal alone cannot tell its own movement from the camera's, so
//! at least two must agree.

use super::place::Place;

/// Maps what was expected to where it is: scaled about the picture's corner, then shifted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Motion {
    scale: f32,
    dx: f32,
    dy: f32,
}

/// Boxes looked at on either side, the first of each; the work grows with the fourth power.
const MOST: usize = 8;
/// Mean box sizes within which a box has come home.
const HOME: f32 = 0.5;
/// A motion must bring home so much more than standing still does.
const CLEARLY: f32 = 0.4;

impl Motion {
    const NONE: Self = Self { scale: 1.0, dx: 0.0, dy: 0.0 };

    pub(super) fn carry(&self, p: &Place) -> Place {
        Place {
            cx: p.cx * self.scale + self.dx,
            cy: p.cy * self.scale + self.dy,
            w: p.w * self.scale,
            h: p.h * self.scale,
        }
    }

    fn from_pair(expected: &Place, found: &Place, scale: f32) -> Self {
        let (dx, dy) = (found.cx - expected.cx * scale, found.cy - expected.cy * scale);
        Self { scale, dx, dy }
    }

    /// The motion most boxes agree on, if two or more do. `alike` says whether an expected and a found one can be
    /// the same animal.
    pub(super) fn estimate(
        expected: &[Place],
        found: &[Place],
        alike: impl Fn(usize, usize) -> bool,
    ) -> Option<Self> {
        let (expected, found) =
            (&expected[..expected.len().min(MOST)], &found[..found.len().min(MOST)]);
        if expected.len() < 2 || found.len() < 2 {
            return None;
        }
        let still = home(&Self::NONE, expected, found, &alike);
        if still.worth + CLEARLY >= expected.len().min(found.len()) as f32 {
            return None;
        }
        let mut best: Option<(f32, Self)> = None;
        for (i, e) in expected.iter().enumerate() {
            for (j, f) in found.iter().enumerate() {
                if !alike(i, j) || e.size_ratio(f) > 3.0 {
                    continue;
                }
                let zoom = (f.area() / e.area()).sqrt();
                for scale in [1.0, zoom] {
                    let motion = Self::from_pair(e, f, scale);
                    let came = home(&motion, expected, found, &alike);
                    // Of two that explain as much, as in a row of sheep, the smaller one is likelier.
                    let worth = came.worth - 0.1 * motion.dx.hypot(motion.dy);
                    let better = best.is_none_or(|(b, _)| worth > b);
                    if came.boxes >= 2 && worth > still.worth + CLEARLY && better {
                        best = Some((worth, motion));
                    }
                }
            }
        }
        best.map(|(_, motion)| motion)
    }
}

struct Home {
    boxes: usize,
    worth: f32,
}

/// How many of `expected`, moved, lie on a box of their own, and how well.
fn home(
    motion: &Motion,
    expected: &[Place],
    found: &[Place],
    alike: &impl Fn(usize, usize) -> bool,
) -> Home {
    let mut taken = [false; MOST];
    let mut home = Home { boxes: 0, worth: 0.0 };
    for (i, e) in expected.iter().enumerate() {
        let moved = motion.carry(e);
        let near = (0..found.len())
            .filter(|&j| !taken[j] && alike(i, j) && moved.size_ratio(&found[j]) < 2.0)
            .map(|j| (j, moved.distance(&found[j])))
            .min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((j, distance)) = near.filter(|(_, d)| *d < HOME) {
            taken[j] = true;
            home.boxes += 1;
            home.worth += 1.0 - distance / HOME;
        }
    }
    home
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cx: f32, cy: f32) -> Place {
        Place { cx, cy, w: 0.1, h: 0.2 }
    }

    #[test]
    fn a_pan_that_two_agree_on_is_found() {
        let expected = [at(0.2, 0.5), at(0.5, 0.4), at(0.8, 0.6)];
        let found = [at(0.38, 0.5), at(0.68, 0.4)];
        let motion = Motion::estimate(&expected, &found, |_, _| true).unwrap();
        let home = motion.carry(&expected[2]);
        assert!((home.cx - 0.98).abs() < 0.01 && (home.cy - 0.6).abs() < 0.01, "{motion:?}");
    }

    #[test]
    fn a_nod_that_scales_is_found() {
        let expected = [at(0.3, 0.5), at(0.7, 0.5)];
        let found = expected.map(|p| Motion { scale: 1.3, dx: -0.15, dy: 0.1 }.carry(&p));
        let motion = Motion::estimate(&expected, &found, |_, _| true).unwrap();
        assert!(motion.carry(&expected[1]).distance(&found[1]) < 0.05);
    }

    #[test]
    fn one_alone_and_standing_still_tell_nothing() {
        assert_eq!(Motion::estimate(&[at(0.2, 0.5)], &[at(0.4, 0.5)], |_, _| true), None);
        let still = [at(0.2, 0.5), at(0.6, 0.5)];
        assert_eq!(Motion::estimate(&still, &still, |_, _| true), None);
        assert_eq!(Motion::estimate(&still, &[at(0.5, 0.5), at(0.9, 0.5)], |_, _| false), None);
    }
}
