"""Reads PicoDet's ONNX export into the operations of graph.py and rewrites it to survive int8.

Three rewritings, all exact in float:

* normalisation moves into the first convolution, so that the input is pixel - 116 and int8 input is
  pixel - 128 (116 is the mean of ImageNet's three means: zero padding stays a neutral grey);
* hard-swish becomes x * relu6(x + 3), its sixth folded into the readers: int8 HARD_SWISH has no XNNPACK
  kernel and would cut the graph into pieces at each of its uses;
* a few early convolutions have channels a hundred times stronger than others. Their outputs are divided
  per channel, the readers' weights multiplied, and the gate gets a convolution of its own that is not.
"""

import numpy as np
import onnx
from onnx import numpy_helper

import graph

STRIDES = (8, 16, 32, 64)
CENTRE = 116.0
MEAN = 255 * np.array([0.485, 0.456, 0.406])
DEVIATION = 255 * np.array([0.229, 0.224, 0.225])
# convolutions with outlier channels, by their names in the export; found by looking at channel extremes
OUTLIERS = [f"conv2d_{number}.tmp_0" for number in (100, 101, 102, 103, 104)]
LARGEST = 12.0  # what a channel of those may reach after division
# values inside the network that a student must reproduce: ends of stages and the neck's outputs
TAPS = [f"hardswish_{number}.tmp_0" for number in (46, 48, 50, 52, 53, 65, 69, 80, 86)]

SIMPLE = {
    "HardSwish": "hardswish", "Relu": "relu", "HardSigmoid": "hardsigmoid", "Sigmoid": "sigmoid",
    "GlobalAveragePool": "mean", "Resize": "up", "Mul": "mul", "Add": "add", "Concat": "concat",
}


def load(path):
    """Operations up to the raw heads, and per level the names of its cls, dis and obj values."""
    nodes = onnx.load(path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in nodes.initializer}
    ops, made, same, sides = [], {}, {}, []
    for node in nodes.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        inputs = [same.get(name, name) for name in node.input]
        if node.op_type == "Transpose":
            sides.append(inputs[0])  # the export transposes each level's distances, once
        if inputs[0] not in made and inputs[0] != "image":
            continue
        if node.op_type == "Conv":
            op = convolution(node, attributes, constants, inputs[0])
        elif node.op_type == "BatchNormalization":
            fold_normalisation(made[inputs[0]], *(constants[name] for name in node.input[1:5]), attributes["epsilon"])
            same[node.output[0]] = inputs[0]
            continue
        elif node.op_type in SIMPLE:
            count = {"mul": 2, "add": 2, "concat": len(inputs)}.get(SIMPLE[node.op_type], 1)
            if any(name not in made for name in inputs[:count]) or attributes.get("axis", 1) != 1:
                continue  # part of the decoding, which stays outside the network
            op = {"op": SIMPLE[node.op_type], "out": node.output[0], "in": inputs[:count]}
        else:
            continue
        ops.append(op)
        made[op["out"]] = op
    levels = [level(ops, name) for name in sides]
    return graph.prune(ops, [name for entry in levels for name in entry.values()]), levels


def convolution(node, attributes, constants, source):
    weight = constants[node.input[1]].astype(np.float64)
    depthwise = attributes["group"] > 1
    bias = constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(weight))
    return {
        "op": "conv", "out": node.output[0], "in": [source], "bias": bias, "depthwise": depthwise,
        "weight": weight.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)),
        "stride": attributes["strides"][0], "pad": attributes["pads"][0],
    }


def fold_normalisation(op, scale, shift, mean, variance, epsilon):
    gain = scale / np.sqrt(variance + epsilon)
    op["weight"] = op["weight"] * (gain[:, None] if op["depthwise"] else gain)
    op["bias"] = (op["bias"] - mean) * gain + shift


def level(ops, sides):
    """The three raw outputs near a level's distances: 80 classes, and the objectness multiplied with them."""
    at = next(index for index, op in enumerate(ops) if op["out"] == sides)
    cls = next(op["out"] for op in ops[at - 3 : at + 1] if op["op"] == "conv" and len(op["bias"]) == 80)
    product = next(op for op in ops[at : at + 12] if op["op"] == "mul")
    factors = [op["in"][0] for op in ops if op["out"] in product["in"]]
    return {"cls": cls, "dis": sides, "obj": next(name for name in factors if name != cls)}


def fold_input(ops):
    """The input becomes pixel - CENTRE in place of (pixel - mean) / deviation."""
    first = ops[0]
    weight = first["weight"] / DEVIATION[:, None]
    first["bias"] = first["bias"] + (weight * (CENTRE - MEAN)[:, None]).sum((0, 1, 2))
    first["weight"] = weight


def strongest(ops, names, pictures):
    """Name -> how large each channel gets, ignoring one value in ten thousand a picture."""
    network = graph.function(ops, names, pictures[0].shape[2], pictures[0].shape[1])
    seen = {name: [] for name in names}
    for picture in pictures:
        for name, value in zip(names, network(picture)):
            value = value.numpy()
            seen[name].append(np.percentile(value.reshape(-1, value.shape[-1]), 99.99, axis=0))
    return {name: np.max(parts, 0) for name, parts in seen.items()}


def expand(ops, divisors):
    """Hard-swish and hard-sigmoid as gates; `divisors` maps an outlier convolution to its channel divisors."""
    factor, channel, result = {"image": 1.0}, {}, []
    for op in ops:
        kind, name, inputs = op["op"], op["out"], op["in"]
        if kind == "conv":
            op = dict(op, weight=op["weight"] / factor[inputs[0]])
            if inputs[0] in channel:
                op["weight"] = op["weight"] * channel[inputs[0]][:, None]  # both layouts: inputs on axis 2
            factor[name] = 1.0
            if name in divisors:
                gate = dict(op, out=name + "_gate", bias=op["bias"] + 3)
                result += [gate, {"op": "relu6", "out": name + "_gate6", "in": [gate["out"]]}]
                op = dict(op, weight=divided(op, divisors[name]), bias=op["bias"] / divisors[name])
            result.append(op)
            continue
        if any(source in channel for source in inputs):
            raise SystemExit(f"{name}: only convolutions may read a value divided per channel")
        if kind == "hardswish":
            gate = inputs[0] + "_gate6"
            if inputs[0] in divisors:
                channel[name] = divisors[inputs[0]]
            else:
                gate = name + "_gate"
                result.append({"op": "gate", "out": gate, "in": inputs})
            result.append({"op": "mul", "out": name, "in": [inputs[0], gate]})
            factor[name] = 6.0
            continue
        if kind == "hardsigmoid":
            op, factor[name] = dict(op, op="gate"), 6.0
        elif kind == "mul":
            factor[name] = factor[inputs[0]] * factor[inputs[1]]
        else:
            factor[name] = factor[inputs[0]]
            if any(factor[source] != factor[name] for source in inputs):
                raise SystemExit(f"{name}: its inputs carry different factors")
        result.append(op)
    return result


def divided(op, divisor):
    return op["weight"] / (divisor[:, None] if op["depthwise"] else divisor)


def build(path, prepare):
    """Rewritten operations, outputs (`cls_8` -> value name) and manifest levels; `prepare` yields inputs."""
    ops, heads = load(path)
    fold_input(ops)
    peaks = strongest(ops, OUTLIERS, prepare)
    ops = expand(ops, {name: np.maximum(1.0, peak / LARGEST) for name, peak in peaks.items()})
    outputs = {f"{part}_{stride}": head[part] for stride, head in zip(STRIDES, heads) for part in head}
    levels = [{"stride": stride, **{part: f"{part}_{stride}" for part in head}} for stride, head in zip(STRIDES, heads)]
    return ops, outputs, levels
