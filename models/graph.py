"""A network as a list of plain operations, and its execution in TensorFlow; knows no file format.

An operation is a dict: `op` (its kind), `in` (names of its inputs), `out` (the name it makes) and, for
`conv`, `weight` ([rows, columns, in, out], depthwise [rows, columns, channels, 1]), `bias`, `stride`,
`pad` and `depthwise`. The input's name is `image`. All values are NHWC float32.
"""

import tensorflow as tf


def convolve(value, weight, stride, pad, depthwise):
    """Convolution with the explicit symmetric padding of darknet and Paddle."""
    mode = "SAME"
    if stride > 1 and pad:
        # TensorFlow's SAME pads the far side first; the weights were trained with the near side padded.
        value = tf.pad(value, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        mode = "VALID"
    if depthwise:
        return tf.nn.depthwise_conv2d(value, weight, [1, stride, stride, 1], mode)
    return tf.nn.conv2d(value, weight, stride, mode)


def upsample(value):
    """Nearest neighbour x 2 in operations that XNNPACK runs in int8 (it has no int8 resize)."""
    return tf.nn.depth_to_space(tf.concat([value] * 4, 3), 2)


KINDS = {
    "leaky": lambda op, x: tf.nn.leaky_relu(x[0], 0.1),
    "relu": lambda op, x: tf.nn.relu(x[0]),
    "relu6": lambda op, x: tf.nn.relu6(x[0]),
    "gate": lambda op, x: tf.nn.relu6(x[0] + 3.0),  # six times a hard sigmoid
    "hardswish": lambda op, x: x[0] * tf.nn.relu6(x[0] + 3.0) / 6.0,
    "hardsigmoid": lambda op, x: tf.nn.relu6(x[0] + 3.0) / 6.0,
    "sigmoid": lambda op, x: tf.sigmoid(x[0]),
    "mean": lambda op, x: tf.reduce_mean(x[0], [1, 2], keepdims=True),
    "mul": lambda op, x: x[0] * x[1],
    "add": lambda op, x: x[0] + x[1],
    "concat": lambda op, x: tf.concat(x, 3),
    "slice": lambda op, x: x[0][..., op["low"] : op["high"]],
    "maxpool": lambda op, x: tf.nn.max_pool2d(x[0], op["size"], op["stride"], "SAME"),
    "up": lambda op, x: upsample(x[0]),
}


def constant_conv(op, value):
    weight, bias = tf.constant(op["weight"], tf.float32), tf.constant(op["bias"], tf.float32)
    return tf.nn.bias_add(convolve(value, weight, op["stride"], op["pad"], op["depthwise"]), bias)


def run(ops, image, conv=constant_conv, after=lambda op, value: value):
    """Every named value for one batch; `conv` and `after` let training replace weights and round values."""
    values = {"image": image}
    for op in ops:
        inputs = [values[name] for name in op["in"]]
        value = conv(op, inputs[0]) if op["op"] == "conv" else KINDS[op["op"]](op, inputs)
        values[op["out"]] = after(op, value)
    return values


def function(ops, names, width, height):
    """A concrete TensorFlow function from one picture to the named values, in that order."""

    @tf.function(input_signature=[tf.TensorSpec([1, height, width, 3], tf.float32, name="image")])
    def network(image):
        values = run(ops, image)
        return [values[name] for name in names]

    return network.get_concrete_function()


def consumers(ops):
    """Name -> operations that read it."""
    found = {}
    for op in ops:
        for name in op["in"]:
            found.setdefault(name, []).append(op)
    return found


def fused(ops, kept):
    """Values that vanish into the clamp of the convolution that makes them, hence have no scale of their own."""
    readers = consumers(ops)
    return {
        op["out"]
        for op in ops
        if op["op"] == "conv" and op["out"] not in kept
        and [reader["op"] for reader in readers.get(op["out"], [])] in (["relu"], ["relu6"], ["gate"])
    }


def prune(ops, names):
    """Only the operations that the named values depend on."""
    needed, kept = set(names), []
    for op in reversed(ops):
        if op["out"] in needed:
            kept.append(op)
            needed.update(op["in"])
    return kept[::-1]
