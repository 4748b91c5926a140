"""Trains the int8 student of a graph.py network to imitate its float self on unlabelled pictures.

The student rounds weights and activations as the int8 file will; gradients pass straight through the
rounding. Weights, biases and activation ranges learn; the float network is the only teacher, so no labels
are needed and nothing new is learned beyond living with eight bits.
"""

import time

import numpy as np
import tensorflow as tf

import graph
import quantize

WARM_UP = 20  # steps
REPORT = 20  # steps


class Student:
    """Trainable copies of the network's constants, and the rounded network made of them."""

    def __init__(self, ops, outputs, ranges, spread):
        """`spread` gives each convolution's output deviation per channel: the unit in which its bias moves."""
        self.ops = ops
        self.group = quantize.ties(ops)
        skipped = graph.fused(ops, set(outputs.values()))
        self.rounded = {
            op["out"] for op in ops if op["out"] not in skipped and op["op"] not in quantize.SAME_SCALE
        }
        self.first = ranges
        self.convs = {}
        for op in ops:
            if op["op"] == "conv":
                axes = (0, 1, 3) if op["depthwise"] else (0, 1, 2)
                weight = tf.constant(op["weight"], tf.float32)
                self.convs[op["out"]] = {
                    "axes": axes, "weight": weight, "bias": tf.constant(op["bias"], tf.float32),
                    "unit": tf.reduce_mean(tf.abs(weight), axes, keepdims=True) + 1e-8,
                    "bias_unit": tf.constant(spread[op["out"]], tf.float32),
                    "move": tf.Variable(tf.zeros(weight.shape)), "bias_move": tf.Variable(tf.zeros(len(op["bias"]))),
                }
        # one pair of log factors a group of values that share a scale
        self.stretch = {
            self.group[name]: (tf.Variable(0.0), tf.Variable(0.0)) for name in self.rounded if not self.fixed(name)
        }
        self.variables = [entry[key] for key in ("move", "bias_move") for entry in self.convs.values()]
        self.variables += [variable for pair in self.stretch.values() for variable in pair]

    def fixed(self, name):
        return self.first[name] == (0.0, 6.0)

    def range_of(self, name):
        low, high = min(self.first[name][0], 0.0), max(self.first[name][1], 0.0)
        if self.fixed(name):
            return low, high
        below, above = self.stretch[self.group[name]]
        return low * tf.exp(below), high * tf.exp(above)

    def conv(self, op, value):
        entry = self.convs[op["out"]]
        weight = entry["weight"] + entry["move"] * entry["unit"]
        step = tf.reduce_max(tf.abs(weight), entry["axes"], keepdims=True) / 127.0 + 1e-12
        weight += tf.stop_gradient(tf.round(weight / step) * step - weight)
        value = graph.convolve(value, weight, op["stride"], op["pad"], op["depthwise"])
        return value + entry["bias"] + entry["bias_move"] * entry["bias_unit"]

    def after(self, op, value):
        if op["out"] not in self.rounded:
            return value
        return tf.quantization.fake_quant_with_min_max_vars(value, *self.range_of(op["out"]))

    def run(self, image):
        return graph.run(self.ops, image, self.conv, self.after)

    def result(self):
        """The trained operations and ranges, for quantize.to_int8."""
        ops = []
        for op in self.ops:
            op = dict(op)
            if op["op"] == "conv":
                entry = self.convs[op["out"]]
                op["weight"] = (entry["weight"] + entry["move"] * entry["unit"]).numpy()
                op["bias"] = (entry["bias"] + entry["bias_move"] * entry["bias_unit"]).numpy()
            ops.append(op)
        learned = {name: tuple(float(edge) for edge in self.range_of(name)) for name in self.rounded}
        for op in ops:
            if op["out"] in self.first and op["op"] in quantize.SAME_SCALE:
                same = next(name for name in self.rounded if self.group[name] == self.group[op["out"]])
                learned[op["out"]] = learned[same]
        return ops, learned


def gfl_loss(levels):
    """Imitation of scores, logits and side distributions for PicoDet's heads."""

    def loss(teacher, student):
        parts = []
        for level in levels:
            cls, obj, dis = (teacher[level[part]] for part in ("cls", "obj", "dis"))
            own_cls, own_obj, own_dis = (student[level[part]] for part in ("cls", "obj", "dis"))
            score = tf.sqrt(tf.sigmoid(cls) * tf.sigmoid(obj))
            own_score = tf.sqrt(tf.sigmoid(own_cls) * tf.sigmoid(own_obj) + 1e-9)
            parts.append(2 * tf.reduce_sum((score - own_score) ** 2) / tf.reduce_sum(score**2))
            parts.append(tf.reduce_mean((tf.maximum(own_cls, -8.0) - tf.maximum(cls, -8.0)) ** 2) / 4)
            weight = tf.reduce_max(score, -1, keepdims=True) ** 2
            parts.append(tf.reduce_sum(weight * (own_dis - dis) ** 2) / tf.reduce_sum(weight) / 32 / 8)
            parts.append(tf.reduce_mean((own_obj - obj) ** 2) / 4)
        return tf.add_n(parts) / len(parts)

    return loss


def spread(ops, pictures):
    """Convolution -> standard deviation of its output per channel."""
    names = [op["out"] for op in ops if op["op"] == "conv"]
    network = graph.function(ops, names, pictures[0].shape[2], pictures[0].shape[1])
    found = {name: [] for name in names}
    for picture in pictures:
        for name, value in zip(names, network(tf.constant(picture))):
            value = value.numpy().reshape(-1, value.shape[-1])
            found[name].append(value.std(0) + 1e-3 * value.std() + 1e-4)
    return {name: np.mean(parts, 0) for name, parts in found.items()}


def crop(image, rng):
    """A random crop, mirrored and relit at random: 128 pictures must stand for the world."""
    if rng.random() < 0.8:
        share, shape = rng.uniform(0.3, 1) ** 0.5, np.exp(rng.uniform(-0.25, 0.25))
        width = min(image.width, int(image.width * share * shape))
        height = min(image.height, int(image.height * share / shape))
        left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
        image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(0)
    if rng.random() < 0.5:
        gain, lift = rng.uniform(0.7, 1.25), rng.uniform(-25, 25)
        image = image.point([int(np.clip((level - 128) * gain + 128 + lift, 0, 255)) for level in range(256)] * 3)
    return image


def train(student, taps, head_loss, images, prepare, steps, batch, rate, seed=1):
    """Runs Adam with a cosine schedule for `steps`.

    `taps` are values inside the network that must agree too; `prepare` turns a PIL image into input.
    """
    rng = np.random.default_rng(seed)
    variables = student.variables
    first = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    second = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    count, speed = tf.Variable(0.0), tf.Variable(rate)

    @tf.function
    def step(image):
        teacher = {name: tf.stop_gradient(value) for name, value in graph.run(student.ops, image).items()}
        with tf.GradientTape() as tape:
            own = student.run(image)
            inner = [
                tf.reduce_mean((own[tap] - teacher[tap]) ** 2) / (tf.math.reduce_variance(teacher[tap]) + 1e-6)
                for tap in taps
            ]
            inner, outer = tf.add_n(inner) / len(inner), head_loss(teacher, own)
            total = inner + outer
        count.assign_add(1.0)
        for variable, gradient, mean, square in zip(variables, tape.gradient(total, variables), first, second):
            if gradient is None:
                continue
            mean.assign(0.9 * mean + 0.1 * gradient)
            square.assign(0.99 * square + 0.01 * gradient**2)
            move = mean / (1 - 0.9**count) / (tf.sqrt(square / (1 - 0.99**count)) + 1e-9)
            variable.assign_sub(speed * move)
        return inner, outer

    start, history = time.monotonic(), []
    for number in range(steps):
        speed.assign(rate * min(1, (number + 1) / WARM_UP) * (0.51 + 0.5 * np.cos(np.pi * number / steps)))
        image = np.concatenate([prepare(crop(images[rng.integers(len(images))], rng)) for _ in range(batch)])
        history.append([float(part) for part in step(tf.constant(image))])
        if number % REPORT == 0:
            inner, outer = np.mean(history[-REPORT:], 0)
            print(f"step {number}: features {inner:.4f}, heads {outer:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return {"steps": len(history), "seconds": round(time.monotonic() - start)}
