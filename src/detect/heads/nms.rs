//! Greedy suppression per class: of boxes that overlap much, the best stays. Decodes nothing.

use super::Candidate;

/// Candidates that enter suppression, the best of all; bounds its quadratic cost.
pub const MOST_BEFORE: usize = 1500;
/// Detections that leave it.
pub const MOST_AFTER: usize = 100;

/// Sorts by descending score and keeps at most [`MOST_AFTER`]; with a limit, drops each box that overlaps
/// a better one of its class by more than this intersection over union.
pub fn keep_best(found: &mut Vec<Candidate>, limit: Option<f32>) {
    if found.len() > MOST_BEFORE {
        found.select_nth_unstable_by(MOST_BEFORE, |a, b| b.score.total_cmp(&a.score));
        found.truncate(MOST_BEFORE);
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    if let Some(limit) = limit {
        let mut kept = 0;
        for at in 0..found.len() {
            let next = found[at];
            let beaten = found[..kept]
                .iter()
                .any(|k| k.class_id == next.class_id && iou(&k.corners, &next.corners) > limit);
            if !beaten {
                found[kept] = next;
                kept += 1;
            }
        }
        found.truncate(kept);
    }
    found.truncate(MOST_AFTER);
}

/// Of boxes that cover nearly the same place under different labels, keeps the best: one animal has one name. Expects
/// descending scores. Real animals of two kinds hardly ever share four fifths of their boxes.
pub fn keep_one_name(found: &mut Vec<Candidate>) {
    const SAME_PLACE: f32 = 0.8;
    let mut kept = 0;
    for at in 0..found.len() {
        let next = found[at];
        if !found[..kept].iter().any(|k| iou(&k.corners, &next.corners) > SAME_PLACE) {
            found[kept] = next;
            kept += 1;
        }
    }
    found.truncate(kept);
}

/// Intersection over union of two boxes x1, y1, x2, y2; 0 for empty ones.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
    let shared = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let shared = area(&shared);
    shared / (area(a) + area(b) - shared).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_name() {
        let mut found =
            vec![candidate(15, 0.9, 0.0), candidate(16, 0.5, 0.5), candidate(17, 0.4, 5.0)];
        keep_one_name(&mut found);
        assert_eq!(found.iter().map(|c| c.class_id).collect::<Vec<_>>(), [15, 17]);
    }

    fn candidate(class_id: u16, score: f32, x1: f32) -> Candidate {
        Candidate { class_id, score, corners: [x1, 0.0, x1 + 10.0, 10.0] }
    }

    #[test]
    fn the_best_of_a_class_stays_and_other_classes_do_not_care() {
        let mut found = vec![
            candidate(1, 0.6, 1.0),
            candidate(1, 0.9, 0.0),
            candidate(2, 0.5, 0.5),
            candidate(1, 0.3, 40.0),
        ];
        keep_best(&mut found, Some(0.5));
        let left: Vec<_> = found.iter().map(|c| (c.class_id, c.score)).collect();
        assert_eq!(left, [(1, 0.9), (2, 0.5), (1, 0.3)]);
    }

    #[test]
    fn a_suppressed_box_suppresses_nothing() {
        // 0 overlaps 4, 4 overlaps 8, but 0 and 8 hardly touch: 8 stays.
        let mut found =
            vec![candidate(0, 0.9, 0.0), candidate(0, 0.8, 4.0), candidate(0, 0.7, 8.0)];
        keep_best(&mut found, Some(0.3));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_number_is_bounded() {
        let mut found: Vec<_> =
            (0..5000).map(|i| candidate(0, i as f32 / 5000.0, i as f32 * 20.0)).collect();
        keep_best(&mut found, Some(0.5));
        assert_eq!(found.len(), MOST_AFTER);
        assert_eq!(found[0].score, 4999.0 / 5000.0);
    }

    #[test]
    fn iou_of_empty_boxes_is_nothing() {
        assert_eq!(iou(&[0.0; 4], &[0.0; 4]), 0.0);
        assert_eq!(iou(&[0.0, 0.0, 2.0, 1.0], &[1.0, 0.0, 3.0, 1.0]), 1.0 / 3.0);
    }
}
