"""Reads a darknet cfg and weights file into the operations of graph.py; converts and trains nothing.

Each head's last convolution is split into four (xy, wh, obj, cls), since one int8 scale for all of them
is too coarse for exp(wh) and wastes steps on logits that saturate the sigmoid.
"""

import numpy as np

PARTS = {"xy": (0, 2), "wh": (2, 4), "obj": (4, 5), "cls": (5, None)}


def sections(path):
    """The cfg as a list of dicts, each with its section's name under `type`."""
    found = []
    for line in open(path, encoding="utf-8"):
        line = line.split("#")[0].strip()
        if line.startswith("["):
            found.append({"type": line.strip("[]")})
        elif line:
            key, value = line.split("=", 1)
            found[-1][key.strip()] = value.strip()
    return found


def load(cfg, weights, size):
    """Operations, output names (`cls_16` -> value name) and the manifest's levels, finest first."""
    net, *layers = sections(cfg)
    file = open(weights, "rb")
    major, minor, _ = np.fromfile(file, np.int32, 3)
    np.fromfile(file, np.int64 if major * 10 + minor >= 2 else np.int32, 1)  # pictures seen in training
    ops, names, channels, strides = [], [], [], []
    outputs, levels = {}, []

    def emit(kind, name, inputs, **rest):
        ops.append({"op": kind, "out": name, "in": inputs, **rest})
        return name

    for index, layer in enumerate(layers):
        kind = layer["type"]
        last = names[-1] if names else "image"
        depth = channels[-1] if channels else 3
        stride = strides[-1] if strides else 1
        if kind == "convolutional":
            weight, bias = read_convolution(file, layer, depth)
            depth, stride = weight.shape[-1], stride * int(layer["stride"])
            shape = {"stride": int(layer["stride"]), "pad": weight.shape[0] // 2, "depthwise": False}
            if index + 1 < len(layers) and layers[index + 1]["type"] == "yolo":
                last = split_head(emit, last, weight, bias, shape, layers[index + 1], stride, outputs)
            else:
                last = emit("conv", f"conv{index}", [last], weight=weight, bias=bias, **shape)
                if layer["activation"] == "leaky":
                    last = emit("leaky", f"leaky{index}", [last])
                elif layer["activation"] != "linear":
                    raise SystemExit(f"{cfg}: activation {layer['activation']} is not supported")
        elif kind == "route":
            chosen = [int(value) for value in layer["layers"].split(",")]
            chosen = [value if value >= 0 else index + value for value in chosen]
            depth, stride = sum(channels[value] for value in chosen), strides[chosen[0]]
            last = names[chosen[0]]
            if len(chosen) > 1:
                last = emit("concat", f"concat{index}", [names[value] for value in chosen])
            if "groups" in layer:
                depth //= int(layer["groups"])
                low = depth * int(layer["group_id"])
                last = emit("slice", f"slice{index}", [last], low=low, high=low + depth)
        elif kind == "maxpool":
            step = int(layer["stride"])
            stride *= step
            last = emit("maxpool", f"pool{index}", [last], size=int(layer["size"]), stride=step)
        elif kind == "upsample":
            stride //= 2
            last = emit("up", f"up{index}", [last])
        elif kind == "yolo":
            levels.append(level(layer, stride))
        else:
            raise SystemExit(f"{cfg}: layer type {kind} is not supported")
        names.append(last)
        channels.append(depth)
        strides.append(stride)
    if file.read():
        raise SystemExit(f"{weights}: longer than {cfg} describes")
    return ops, outputs, sorted(levels, key=lambda entry: entry["stride"])


def read_convolution(file, layer, depth):
    """Weight [rows, columns, in, out] and bias, batch normalisation folded in."""
    count, size = int(layer["filters"]), int(layer["size"])
    bias = np.fromfile(file, np.float32, count)
    gain = np.ones(count, np.float32)
    if int(layer.get("batch_normalize", 0)):
        scale, mean, variance = (np.fromfile(file, np.float32, count) for _ in range(3))
        gain = scale / np.sqrt(variance + 1e-6)
        bias = bias - mean * gain
    weight = np.fromfile(file, np.float32, count * depth * size * size)
    weight = weight.reshape(count, depth, size, size).transpose(2, 3, 1, 0) * gain
    return weight.astype(np.float32), bias.astype(np.float32)


def split_head(emit, last, weight, bias, shape, yolo, stride, outputs):
    """Four convolutions in place of a head's one; its channels run anchor by anchor."""
    anchors = len(yolo["mask"].split(","))
    weight = weight.reshape(*weight.shape[:3], anchors, -1)
    bias = bias.reshape(anchors, -1)
    for part, (low, high) in PARTS.items():
        name = f"{part}_{stride}"
        piece = weight[..., low:high].reshape(*weight.shape[:3], -1)
        emit("conv", name, [last], weight=piece, bias=bias[:, low:high].reshape(-1), **shape)
        outputs[name] = name
    return f"cls_{stride}"


def level(yolo, stride):
    """One [[head.levels]] of the manifest."""
    anchors = [int(value) for value in yolo["anchors"].split(",")]
    anchors = [anchors[2 * i : 2 * i + 2] for i in map(int, yolo["mask"].split(","))]
    parts = {part: f"{part}_{stride}" for part in ("cls", "obj", "wh", "xy")}
    return {"stride": stride, "anchors": anchors, "scale_xy": float(yolo.get("scale_x_y", 1.0)), **parts}
