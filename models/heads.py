"""Decodes raw detector outputs into boxes with plain numpy; runs no model and reads no files.

This is the reference the Rust heads are tested against, written from the papers' formulas and kept
free of anything clever. Conventions shared by every head:

* outputs arrive as a dict of name -> float array, already dequantized;
* boxes are x1, y1, x2, y2 in pixels of the model's input, not clipped to it;
* a place may report several classes: every (place, class) pair whose score is strictly above the
  threshold is a candidate;
* suppression is greedy and per class, by descending score; a box goes when its overlap (IoU) with a kept
  box is strictly above the limit.
"""

import numpy as np


def sigmoid(x):
    """Logistic function in float64, clipped where float32 would saturate anyway."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(x, np.float64), -80, 80)))


def grid(height, width):
    """Column and row index of each cell, shape [height, width, 2], x first."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows], -1).astype(np.float64)


def corners(xy, wh):
    """Centres and sizes to x1, y1, x2, y2."""
    return np.concatenate([xy - wh / 2, xy + wh / 2], -1)


def yolo_anchors(head, outputs, size, classes):
    """YOLOv3/v4: sigmoid centres inside a cell, sizes exp(t) times an anchor in input pixels.

    Scaled-YOLOv4's `scale_xy` s stretches the centre to sigmoid(t) * s - (s - 1) / 2, so that a box can
    sit exactly on a cell's edge.
    """
    boxes, scores = [], []
    for level in head["levels"]:
        anchors = np.asarray(level["anchors"], np.float64)
        count = len(anchors)
        if "fused" in level:
            raw = outputs[level["fused"]][0].astype(np.float64)
            raw = raw.reshape(raw.shape[0], raw.shape[1], count, 5 + classes)
            xy, wh, obj, cls = raw[..., :2], raw[..., 2:4], raw[..., 4:5], raw[..., 5:]
        else:
            def part(name):
                tensor = outputs[level[name]][0].astype(np.float64)
                return tensor.reshape(tensor.shape[0], tensor.shape[1], count, -1)

            xy, wh, obj, cls = part("xy"), part("wh"), part("obj"), part("cls")
        scale = level.get("scale_xy", 1.0)
        cells = grid(*xy.shape[:2])[:, :, None]
        centre = (sigmoid(xy) * scale - (scale - 1) / 2 + cells) * level["stride"]
        extent = np.exp(np.clip(wh, -20, 20)) * anchors
        boxes.append(corners(centre, extent).reshape(-1, 4))
        scores.append((sigmoid(obj) * sigmoid(cls)).reshape(-1, classes))
    return np.concatenate(boxes), np.concatenate(scores)


def yolox(head, outputs, size, classes):
    """YOLOX: anchor-free rows for all strides one after the other, x and y before the row's grid offset."""
    rows = outputs[head["output"]][0].astype(np.float64)
    width, height = size
    offsets, strides = [], []
    for stride in head["strides"]:
        cells = grid(height // stride, width // stride).reshape(-1, 2)
        offsets.append(cells)
        strides.append(np.full((len(cells), 1), float(stride)))
    offsets, strides = np.concatenate(offsets), np.concatenate(strides)
    centre = (rows[:, :2] + offsets) * strides
    extent = np.exp(np.clip(rows[:, 2:4], -20, 20)) * strides
    obj, cls = rows[:, 4:5], rows[:, 5 : 5 + classes]
    if head.get("logits", False):
        obj, cls = sigmoid(obj), sigmoid(cls)
    return corners(centre, extent), obj * cls


def yolo_v8(head, outputs, size, classes):
    """YOLOv8 and v11 exports: centre boxes and class scores, no objectness, either axis order."""
    rows = outputs[head["output"]][0].astype(np.float64)
    if rows.shape[0] == 4 + classes:  # the exporter's own order wins when both axes would fit
        rows = rows.T
    centre, extent = rows[:, :2], rows[:, 2:4]
    if head.get("normalized", False):
        centre, extent = centre * size, extent * size
    return corners(centre, extent), rows[:, 4:]


def gfl(head, outputs, size, classes):
    """Generalized focal loss (PicoDet, NanoDet): each side is the mean of a softmax over distances.

    Sides come in the order left, top, right, bottom, in strides, from the centre (i + 0.5) * stride.
    """
    boxes, scores = [], []
    bins = head["reg_max"] + 1
    for level in head["levels"]:
        cls = outputs[level["cls"]][0].astype(np.float64)
        height, width = cls.shape[:2]
        dis = outputs[level["dis"]][0].astype(np.float64).reshape(height, width, 4, bins)
        weight = np.exp(dis - dis.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        side = (weight * np.arange(bins)).sum(-1) * level["stride"]
        centre = (grid(height, width) + 0.5) * level["stride"]
        boxes.append(np.concatenate([centre - side[..., :2], centre + side[..., 2:]], -1).reshape(-1, 4))
        score = sigmoid(cls).reshape(-1, classes)
        if "obj" in level:
            score = np.sqrt(score * sigmoid(outputs[level["obj"]]).reshape(-1, 1))
        scores.append(score)
    return np.concatenate(boxes), np.concatenate(scores)


def ssd(head, outputs, size, classes):
    """SSD and EfficientDet with suppression in the graph: rows of normalised y1, x1, y2, x2.

    Only the first `count` rows mean anything. `class_offset` is added to the model's class number, for
    label files that begin with a background entry.
    """
    count = int(round(float(np.ravel(outputs[head["count"]])[0])))
    rows = outputs[head["boxes"]][0][:count].astype(np.float64)
    ids = np.rint(outputs[head["classes"]][0][:count]).astype(int) + head.get("class_offset", 0)
    width, height = size
    boxes = rows[:, [1, 0, 3, 2]] * [width, height, width, height]
    scores = np.zeros((len(rows), classes))
    known = (ids >= 0) & (ids < classes)
    scores[np.nonzero(known)[0], ids[known]] = outputs[head["scores"]][0][:count][known]
    return boxes, scores


KINDS = {
    "yolo-v3": yolo_anchors,
    "yolo-v4": yolo_anchors,
    "yolox": yolox,
    "yolo-v8": yolo_v8,
    "gfl": gfl,
    "ssd": ssd,
}


def candidates(head, outputs, size, classes, threshold):
    """Class ids, scores and boxes above the threshold, by descending score; size is (width, height)."""
    boxes, scores = KINDS[head["kind"]](head, outputs, np.asarray(size), classes)
    place, ids = np.nonzero(scores > threshold)
    order = np.argsort(-scores[place, ids], kind="stable")
    place, ids = place[order], ids[order]
    return ids, scores[place, ids], boxes[place]


def iou(box, others):
    """Overlap of one box with many: intersection over union, 0 for empty boxes."""
    left_top = np.maximum(box[:2], others[:, :2])
    right_bottom = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(right_bottom - left_top, 0, None), axis=1)
    area = np.prod(np.clip(box[2:] - box[:2], 0, None))
    areas = np.prod(np.clip(others[:, 2:] - others[:, :2], 0, None), axis=1)
    return shared / np.maximum(area + areas - shared, 1e-9)


def suppress(ids, scores, boxes, limit):
    """Indices that survive greedy per-class suppression; the input is sorted by descending score."""
    kept = []
    alive = np.ones(len(ids), bool)
    for index in range(len(ids)):
        if not alive[index]:
            continue
        kept.append(index)
        rest = np.nonzero(alive & (ids == ids[index]))[0]
        rest = rest[rest > index]
        alive[rest[iou(boxes[index], boxes[rest]) > limit]] = False
    return kept


def detect(head, outputs, size, classes, threshold, most=100, before=1500):
    """Everything at once: at most `before` candidates enter suppression, at most `most` leave it."""
    ids, scores, boxes = candidates(head, outputs, size, classes, threshold)
    ids, scores, boxes = ids[:before], scores[:before], boxes[:before]
    if head["kind"] != "ssd":
        kept = suppress(ids, scores, boxes, head["nms_iou"])
        ids, scores, boxes = ids[kept], scores[kept], boxes[kept]
    return ids[:most], scores[:most], boxes[:most]
