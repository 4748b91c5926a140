//! Where to look closer in a picture for animals that are far away, and one list out of what was found there (pure).

use super::heads::{Candidate, nms};
use crate::config::{TileTurns, Tiles};

/// A part of a picture, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The tiles of a picture, all of one size, row by row: neighbours share `overlap` of their sides.
fn plan(tiles: &Tiles, width: u32, height: u32) -> Vec<Region> {
    let cut = |side: u32, parts: u32| {
        let shared = (parts - 1) as f32 * tiles.overlap;
        let part = (side as f32 / (parts as f32 - shared)).ceil() as u32;
        let part = part.clamp(1, side);
        // Even, where colour planes can be cut.
        let start = |at: u32| if parts == 1 { 0 } else { ((side - part) * at / (parts - 1)) & !1 };
        (part, (0..parts).map(start).collect::<Vec<_>>())
    };
    let (part_width, columns) = cut(width, tiles.columns);
    let (part_height, rows) = cut(height, tiles.rows);
    let place = |x: u32, y: u32| Region { x, y, width: part_width, height: part_height };
    rows.iter().flat_map(|y| columns.iter().map(move |x| place(*x, *y))).collect()
}

/// The tiles to look at now; `looked` counts pictures. The whole picture is looked at each time, beside them.
pub(super) fn now(tiles: &Tiles, looked: usize, width: u32, height: u32) -> Vec<Region> {
    let all = plan(tiles, width, height);
    match tiles.turns {
        TileTurns::All => all,
        TileTurns::One => vec![all[looked % all.len()]],
    }
}

/// Something found, in the picture's pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) candidate: Candidate,
    /// It ends where its tile ends and the picture goes on: perhaps a part of an animal.
    pub(super) is_part: bool,
}

/// Whether a box reaches an edge of its tile that is no edge of the picture.
pub(super) fn is_part(corners: &[f32; 4], tile: &Region, width: u32, height: u32) -> bool {
    /// Of the tile's side: boxes end a little before what they show does.
    const NEAR: f32 = 0.02;
    let reaches = |low: f32, high: f32, start: u32, part: u32, side: u32| {
        let near = part as f32 * NEAR;
        let end = start + part;
        (start > 0 && low <= start as f32 + near) || (end < side && high >= end as f32 - near)
    };
    reaches(corners[0], corners[2], tile.x, tile.width, width)
        || reaches(corners[1], corners[3], tile.y, tile.height, height)
}

/// One list out of all: parts of what another box shows better go first, then the same place seen twice.
pub(super) fn merge(found: &[Found], nms_iou: f32) -> Vec<Candidate> {
    /// How much of a part another box must cover to be the same animal.
    const COVERED: f32 = 0.6;
    let shown_better = |one: &Found| {
        found.iter().any(|other| {
            let (a, b) = (&one.candidate, &other.candidate);
            // Of two parts that cover each other, the larger stays.
            let may = !other.is_part || area(&b.corners) > area(&a.corners);
            may && a.class_id == b.class_id && covered(&a.corners, &b.corners) > COVERED
        })
    };
    let kept = found.iter().filter(|one| !one.is_part || !shown_better(one));
    let mut kept: Vec<_> = kept.map(|one| one.candidate).collect();
    nms::keep_best(&mut kept, Some(nms_iou));
    nms::keep_one_name(&mut kept);
    kept
}

fn area(c: &[f32; 4]) -> f32 {
    (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0)
}

/// How much of `one` lies in `other`.
fn covered(one: &[f32; 4], other: &[f32; 4]) -> f32 {
    let shared =
        [one[0].max(other[0]), one[1].max(other[1]), one[2].min(other[2]), one[3].min(other[3])];
    area(&shared) / area(one).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(columns: u32, rows: u32, overlap: f32) -> Tiles {
        Tiles { columns, rows, overlap, turns: TileTurns::All }
    }

    #[test]
    fn tiles_cover_every_pixel_and_share_what_they_should() {
        for (columns, rows, overlap) in [(2, 2, 0.2), (3, 2, 0.0), (4, 4, 0.5), (2, 1, 0.25)] {
            for (width, height) in [(1280, 720), (641, 479), (7, 5), (1, 1)] {
                let all = plan(&tiles(columns, rows, overlap), width, height);
                assert_eq!(all.len(), (columns * rows) as usize);
                let size = (all[0].width, all[0].height);
                for t in &all {
                    assert_eq!((t.width, t.height), size);
                    assert!(t.x + t.width <= width && t.y + t.height <= height, "{t:?}");
                    assert!(t.x % 2 == 0 && t.y % 2 == 0);
                }
                let covers = |x: u32, y: u32| {
                    all.iter().any(|t| {
                        (t.x..t.x + t.width).contains(&x) && (t.y..t.y + t.height).contains(&y)
                    })
                };
                // An odd start was moved by a pixel, so the last one may end a pixel early.
                for (x, y) in [
                    (0, 0),
                    (width.saturating_sub(2), height.saturating_sub(2)),
                    (width / 2, height / 2),
                ] {
                    assert!(covers(x, y), "{width}x{height} in {columns}x{rows}: {x},{y}");
                }
            }
        }
        let pair = plan(&tiles(2, 1, 0.25), 700, 100);
        assert_eq!((pair[0].width, pair[1].x), (400, 300));
    }

    #[test]
    fn one_a_picture_goes_round() {
        let turns = Tiles { turns: TileTurns::One, ..tiles(2, 2, 0.2) };
        let seen: Vec<_> = (0..8).map(|n| now(&turns, n, 1280, 720)).collect();
        assert!(seen.iter().all(|regions| regions.len() == 1));
        assert_eq!(seen[0], seen[4]);
        let mut four: Vec<_> = seen[..4].iter().map(|r| (r[0].x, r[0].y)).collect();
        four.sort_unstable();
        four.dedup();
        assert_eq!(four.len(), 4);
    }

    #[test]
    fn an_animal_cut_by_a_tile_is_one_animal() {
        let found = |corners: [f32; 4], score: f32, is_part: bool| Found {
            candidate: Candidate { class_id: 1, score, corners },
            is_part,
        };
        let tile = Region { x: 0, y: 0, width: 400, height: 300 };
        assert!(is_part(&[300.0, 50.0, 399.0, 200.0], &tile, 700, 300));
        assert!(!is_part(&[0.0, 50.0, 200.0, 299.0], &tile, 700, 300), "the picture's own edges");
        // The whole, its left and right halves by tiles, a better look at the same, and a small one elsewhere.
        let all = [
            found([100.0, 100.0, 500.0, 300.0], 0.7, false),
            found([100.0, 100.0, 400.0, 300.0], 0.9, true),
            found([300.0, 100.0, 500.0, 300.0], 0.8, true),
            found([102.0, 101.0, 498.0, 299.0], 0.75, false),
            found([600.0, 20.0, 620.0, 40.0], 0.5, false),
        ];
        let kept: Vec<_> = merge(&all, 0.45).iter().map(|c| c.score).collect();
        assert_eq!(kept, [0.75, 0.5]);
        // A part that nobody shows better stays, the larger of two.
        let parts = [
            found([380.0, 0.0, 400.0, 50.0], 0.6, true),
            found([330.0, 0.0, 400.0, 50.0], 0.5, true),
        ];
        let kept: Vec<_> = merge(&parts, 0.45).iter().map(|c| c.score).collect();
        assert_eq!(kept, [0.5]);
    }
}
