"""Writes golden test vectors for every head kind from the numpy reference; judges nothing itself.

    python models/make_head_vectors.py [tests/data/heads]

Each file holds seeded random raw outputs, the head's parameters as a manifest names them, and what the
reference makes of them. Seeds are tried in order until no score lies near the threshold or another score
and no overlap lies near its limit, so that float32 and float64 must agree on every decision.
"""

import json
import pathlib
import sys

import numpy as np

import heads

WIDTH, HEIGHT = 96, 64  # not square, so that a swapped axis shows


def anchor_case(rng, kind, fused, scaled):
    classes = 4
    head = {"kind": kind, "score_threshold": 0.25, "nms_iou": 0.45, "levels": []}
    outputs = {}
    for stride, anchors in ((16, [[23, 27], [37, 58]]), (32, [[60, 40], [81, 82]])):
        rows, columns, count = HEIGHT // stride, WIDTH // stride, len(anchors)
        level = {"stride": stride, "anchors": anchors}
        if scaled:
            level["scale_xy"] = 1.05
        parts = {
            "xy": rng.normal(0, 1.5, (rows, columns, count, 2)),
            "wh": rng.normal(0.3, 0.3, (rows, columns, count, 2)),
            "obj": rng.normal(0, 2, (rows, columns, count, 1)),
            "cls": rng.normal(-1, 2, (rows, columns, count, classes)),
        }
        if fused:
            level["fused"] = f"head_{stride}"
            joined = np.concatenate([parts[name] for name in ("xy", "wh", "obj", "cls")], -1)
            outputs[f"head_{stride}"] = joined.reshape(1, rows, columns, -1)
        else:
            for name, value in parts.items():
                level[name] = f"{name}_{stride}"
                outputs[f"{name}_{stride}"] = value.reshape(1, rows, columns, -1)
        head["levels"].append(level)
    return head, outputs, classes


def yolox_case(rng, logits):
    classes = 4
    rows = sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    value = np.concatenate(
        [rng.normal(0.5, 0.5, (rows, 2)), rng.normal(1.6, 0.3, (rows, 2)), rng.normal(-1.5, 2, (rows, 1 + classes))],
        -1,
    )
    head = {"kind": "yolox", "score_threshold": 0.25, "nms_iou": 0.45, "output": "output", "strides": [8, 16, 32]}
    if logits:
        head["logits"] = True
    else:
        value[:, 4:] = heads.sigmoid(value[:, 4:])
    return head, {"output": value[None]}, classes


def yolo_v8_case(rng, transposed):
    classes, rows = 80, 60
    centre = rng.uniform(0.2, 0.8, (rows, 2))
    extent = rng.uniform(0.2, 0.6, (rows, 2))
    scores = np.zeros((rows, classes))
    for row in range(rows):
        scores[row, rng.choice([0, 15, 16, 79], 2, replace=False)] = rng.uniform(0, 0.95, 2)
    head = {"kind": "yolo-v8", "score_threshold": 0.25, "nms_iou": 0.45, "output": "output0"}
    if transposed:
        head["normalized"] = True
    else:
        centre, extent = centre * [WIDTH, HEIGHT], extent * [WIDTH, HEIGHT]
    value = np.concatenate([centre, extent, scores], -1)
    return head, {"output0": (value if transposed else value.T)[None]}, classes


def gfl_case(rng, with_obj):
    classes, bins = 3, 8
    head = {"kind": "gfl", "score_threshold": 0.35, "nms_iou": 0.6, "reg_max": bins - 1, "levels": []}
    outputs = {}
    for stride in (16, 32, 64):
        rows, columns = -(-HEIGHT // stride), -(-WIDTH // stride)
        level = {"stride": stride, "cls": f"cls_{stride}", "dis": f"dis_{stride}"}
        outputs[level["cls"]] = rng.normal(-1.5, 2, (1, rows, columns, classes))
        outputs[level["dis"]] = rng.normal(0, 1.5, (1, rows, columns, 4 * bins))
        if with_obj:
            level["obj"] = f"obj_{stride}"
            outputs[level["obj"]] = rng.normal(-1, 2, (1, rows, columns, 1))
        head["levels"].append(level)
    return head, outputs, classes


def ssd_case(rng, offset):
    classes, rows, used = 10, 25, 17
    low = rng.uniform(0, 0.6, (rows, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (rows, 2))], -1)
    head = {
        "kind": "ssd", "score_threshold": 0.3, "nms_iou": 0.5, "boxes": "boxes", "classes": "classes",
        "scores": "scores", "count": "count", "class_offset": offset,
    }
    outputs = {
        "boxes": boxes[None],
        "classes": rng.integers(0, classes - offset, (1, rows)).astype(float),
        "scores": np.sort(rng.uniform(0, 1, (1, rows)))[:, ::-1],
        "count": np.array([float(used)]),
    }
    return head, outputs, classes


CASES = {
    "yolo-v4": lambda rng: anchor_case(rng, "yolo-v4", fused=False, scaled=True),
    "yolo-v3": lambda rng: anchor_case(rng, "yolo-v3", fused=True, scaled=False),
    "yolox": lambda rng: yolox_case(rng, logits=False),
    "yolox-logits": lambda rng: yolox_case(rng, logits=True),
    "yolo-v8": lambda rng: yolo_v8_case(rng, transposed=False),
    "yolo-v8-transposed": lambda rng: yolo_v8_case(rng, transposed=True),
    "gfl": lambda rng: gfl_case(rng, with_obj=True),
    "gfl-no-obj": lambda rng: gfl_case(rng, with_obj=False),
    "ssd": lambda rng: ssd_case(rng, offset=0),
    "ssd-offset": lambda rng: ssd_case(rng, offset=1),
}


def decisive(head, outputs, classes):
    """Whether rounding errors of 1e-4 could not change any decision, and both lists say something."""
    threshold = head["score_threshold"]
    _, scores, _ = heads.candidates(head, outputs, (WIDTH, HEIGHT), classes, 0.0)
    ids, over, boxes = heads.candidates(head, outputs, (WIDTH, HEIGHT), classes, threshold)
    if len(over) < 8 or np.abs(scores - threshold).min() < 3e-4 or np.diff(over).max() > -2e-5:
        return False
    if head["kind"] == "ssd":
        return True
    overlaps = np.concatenate(
        [heads.iou(box, boxes[ids == which]) for which, box in zip(ids, boxes)]
    )
    kept = heads.suppress(ids, over, boxes, head["nms_iou"])
    return np.abs(overlaps - head["nms_iou"]).min() > 3e-4 and 4 <= len(kept) <= 0.8 * len(over)


def listed(ids, scores, boxes):
    return [
        {"class_id": int(i), "score": round(float(s), 6), "box": [round(float(v), 4) for v in b]}
        for i, s, b in zip(ids, scores, boxes)
    ]


def write(folder, name, make):
    for seed in range(10000):
        head, outputs, classes = make(np.random.default_rng(seed))
        outputs = {key: np.round(value, 4).astype(np.float32) for key, value in outputs.items()}
        if decisive(head, outputs, classes):
            break
    else:
        raise SystemExit(f"{name}: no seed gives a decisive case; loosen its random ranges")
    ids, scores, boxes = heads.candidates(head, outputs, (WIDTH, HEIGHT), classes, head["score_threshold"])
    kept = range(len(ids)) if head["kind"] == "ssd" else heads.suppress(ids, scores, boxes, head["nms_iou"])
    kept = list(kept)
    case = {
        "about": "made by models/make_head_vectors.py; boxes are x1,y1,x2,y2 in input pixels, lists by descending score",
        "seed": seed,
        "input": {"width": WIDTH, "height": HEIGHT},
        "classes": classes,
        "head": head,
        "outputs": [
            {"name": key, "shape": list(value.shape), "data": [round(float(v), 4) for v in value.ravel()]}
            for key, value in outputs.items()
        ],
        "candidates": listed(ids, scores, boxes),
        "kept": listed(ids[kept], scores[kept], boxes[kept]),
    }
    text = json.dumps(case, separators=(",", ":")) + "\n"
    (folder / f"{name}.json").write_text(text)
    print(f"{name}: seed {seed}, {len(ids)} candidates, {len(kept)} kept, {len(text)} bytes")


def main():
    default = pathlib.Path(__file__).parent.parent / "tests" / "data" / "heads"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        write(folder, name, make)


if __name__ == "__main__":
    main()
