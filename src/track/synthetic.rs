//! Made-up sequences of boxes with the truth beside them: animals in a field, seen by a camera that moves. For tests.

/// One box of a frame and which animal it truly is; 1280x720.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub truth: usize,
    pub label: &'static str,
    pub score: f32,
    pub corners: [f32; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub ms: i64,
    pub boxes: Vec<Made>,
}

#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub name: &'static str,
    pub frames: Vec<Frame>,
}

/// Numbers that look random and are the same every time (Knuth's linear congruence).
#[derive(Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// -1 to 1.
    fn both(&mut self) -> f32 {
        self.unit() * 2.0 - 1.0
    }
}

/// An animal in the field: middle and size in pixels of an unmoved camera, and its own pace in pixels a second.
struct Animal {
    label: &'static str,
    x: f32,
    y: f32,
    w: f32,
    h: f32,
    pace: f32,
}

/// The camera: what it shows is scaled about the picture's middle, then shifted.
#[derive(Clone, Copy)]
struct Camera {
    x: f32,
    y: f32,
    zoom: f32,
}

const STILL: Camera = Camera { x: 0.0, y: 0.0, zoom: 1.0 };

fn film(
    name: &'static str,
    animals: &[Animal],
    times_ms: &[i64],
    camera: impl Fn(usize) -> Camera,
    alter: impl Fn(usize, &mut Made) -> bool,
) -> Sequence {
    let mut noise = Noise(times_ms.len() as u64 + animals.len() as u64);
    let frames = times_ms.iter().enumerate().map(|(n, &ms)| {
        let c = camera(n);
        let boxes = animals.iter().enumerate().filter_map(|(truth, a)| {
            let x = (a.x + a.pace * ms as f32 / 1000.0 - 640.0) * c.zoom + 640.0 + c.x;
            let y = (a.y - 360.0) * c.zoom + 360.0 + c.y;
            let (w, h) = (a.w * c.zoom, a.h * c.zoom);
            let mut near = |v: f32, size: f32| v + noise.both() * 0.03 * size;
            let (x1, x2) = (near(x - w / 2.0, w), near(x + w / 2.0, w));
            let (y1, y2) = (near(y - h / 2.0, h), near(y + h / 2.0, h));
            let corners = [
                x1.clamp(0.0, 1280.0),
                y1.clamp(0.0, 720.0),
                x2.clamp(0.0, 1280.0),
                y2.clamp(0.0, 720.0),
            ];
            let score = 0.75 + 0.1 * noise.both();
            let mut made = Made { truth, label: a.label, score, corners };
            let shown = (corners[2] - corners[0]) > 0.3 * w && (corners[3] - corners[1]) > 0.3 * h;
            (alter(n, &mut made) && shown).then_some(made)
        });
        Frame { ms, boxes: boxes.collect() }
    });
    Sequence { name, frames: frames.collect() }
}

fn every(ms: i64, count: i64) -> Vec<i64> {
    (0..count).map(|n| n * ms).collect()
}

fn dog(x: f32, y: f32) -> Animal {
    Animal { label: "dog", x, y, w: 160.0, h: 140.0, pace: 0.0 }
}

fn pair() -> [Animal; 2] {
    [dog(420.0, 350.0), Animal { label: "horse", w: 220.0, h: 260.0, ..dog(820.0, 380.0) }]
}

/// A camera that pans there and back: `step` pixels a frame, turning round every `turn` frames.
fn sweep(step: f32, turn: usize) -> impl Fn(usize) -> Camera {
    move |n| {
        let at = n % (2 * turn);
        let at = if at < turn { at } else { 2 * turn - at };
        Camera { x: (at as f32 - turn as f32 / 2.0) * step, ..STILL }
    }
}

/// All sequences; none is longer than 15 s.
pub(crate) fn all() -> Vec<Sequence> {
    let keep = |_: usize, _: &mut Made| true;
    let tenth = every(100, 60);
    // A pan of 60 % of a box width, with one second in which nothing was detected.
    let paused: Vec<i64> = (0..40).map(|n| n * 100 + if n >= 20 { 1000 } else { 0 }).collect();
    let mut noise = Noise(7);
    let irregular: Vec<i64> = (0..50)
        .scan(0, |ms, _| {
            *ms += 100 + (noise.unit() * noise.unit() * 900.0) as i64;
            Some(*ms)
        })
        .collect();
    let sway = irregular.clone();
    let crossing = [
        Animal { pace: 130.0, ..dog(200.0, 360.0) },
        Animal { pace: -130.0, ..dog(1000.0, 375.0) },
    ];
    let same = [dog(300.0, 350.0), dog(560.0, 360.0), dog(820.0, 340.0)];
    vec![
        film(
            "still",
            &[dog(300.0, 350.0), dog(600.0, 380.0), dog(900.0, 300.0)],
            &tenth,
            |_| STILL,
            keep,
        ),
        film("pan 30 %", &pair(), &tenth, sweep(48.0, 10), keep),
        film("pan 60 %", &pair(), &tenth, sweep(96.0, 6), keep),
        film("pan 60 %, alone", &[dog(640.0, 360.0)], &tenth, sweep(96.0, 8), keep),
        film("pan 60 %, three alike", &same, &tenth, sweep(96.0, 4), keep),
        film(
            "nod",
            &pair(),
            &tenth,
            |n| {
                let swing = (n as f32 * 0.5).sin();
                Camera { x: 0.0, y: swing * 110.0, zoom: 1.15 + 0.3 * swing }
            },
            keep,
        ),
        film("pause of 1 s in a pan", &pair(), &paused, sweep(96.0, 7), keep),
        film(
            "two dogs cross",
            &crossing,
            &tenth,
            |_| STILL,
            |n, made| {
                // The hinder one is hidden for half a second.
                !(made.truth == 1 && (28..33).contains(&n))
            },
        ),
        film("two dogs cross in a pan", &crossing, &tenth, sweep(40.0, 7), |n, made| {
            !(made.truth == 1 && (28..33).contains(&n))
        }),
        film("label flickers", &[dog(640.0, 360.0)], &tenth, sweep(30.0, 10), |n, made| {
            if n % 3 == 1 {
                made.label = "cat";
            }
            true
        }),
        film(
            "1 to 10 Hz, swaying",
            &pair(),
            &irregular,
            move |n| {
                let s = sway[n] as f32 / 1000.0;
                Camera { x: (s * 1.3).sin() * 180.0, y: (s * 2.1).sin() * 60.0, zoom: 1.0 }
            },
            keep,
        ),
        film("scores dip", &pair(), &tenth, sweep(30.0, 10), |n, made| {
            if n % 12 > 6 {
                made.score = 0.3;
            }
            true
        }),
    ]
}

/// What went wrong with the ids of one sequence.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Times an animal's id changed.
    pub switches: usize,
    /// Ids beyond the first that an animal had.
    pub fragments: usize,
    /// Ids that more than one animal had.
    pub shared: usize,
    /// Boxes without an id.
    pub lost: usize,
}

/// Compares ids, in the order of each frame's boxes, with the truth.
pub(crate) fn judge(sequence: &Sequence, ids: &[Vec<Option<u64>>]) -> Faults {
    use std::collections::{BTreeMap, BTreeSet};
    let mut faults = Faults::default();
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    let mut of: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    let mut whose: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for (frame, ids) in sequence.frames.iter().zip(ids) {
        for (made, id) in frame.boxes.iter().zip(ids) {
            let Some(id) = *id else {
                faults.lost += 1;
                continue;
            };
            faults.switches += usize::from(last.insert(made.truth, id).is_some_and(|l| l != id));
            of.entry(made.truth).or_default().insert(id);
            whose.entry(id).or_default().insert(made.truth);
        }
    }
    faults.fragments = of.values().map(|ids| ids.len() - 1).sum();
    faults.shared = whose.values().filter(|truths| truths.len() > 1).count();
    faults
}
