"""Turns a graph.py network into float and full int8 .tflite bytes with ranges of our choosing.

The TFLite converter only offers the extremes it saw as ranges. Here its calibrated model is opened,
each activation's range is replaced by the one with the smallest mean squared error after the function
that reads it, and the converter's own quantizer finishes the job.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import convert_tensor_tf_type_to_tflite_type, mlir_quantize

import graph

SAMPLES = 120_000  # values a tensor that the search looks at
LOGIT_FLOOR = -9.0  # a class or objectness logit below this scores under 0.0002 whatever it is exactly
LOW_SHARES = (1, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3, 0.2, 0.13)
HIGH_SHARES = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
SAME_SCALE = ("concat", "slice", "maxpool", "up")


def leaky(x):
    return np.where(x < 0, 0.1 * x, x)


def hard_swish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def convert(ops, outputs, width, height, calibration=None):
    """Float .tflite as a flatbuffer object, its outputs named as in `outputs`; calibrated when given pictures."""
    concrete = graph.function(ops, list(outputs.values()), width, height)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([picture] for picture in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter._experimental_calibrate_only = True
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(converter.convert(), 0))
    rename_outputs(model, ops, outputs, width, height)
    return model


def rename_outputs(model, ops, outputs, width, height):
    """Readable output names. The converter numbers them Identity_k in the function's order."""
    tensors = model.subgraphs[0].tensors
    by_number = {}
    for index in model.subgraphs[0].outputs:
        name = tensors[index].name.decode()
        by_number[int(name.rpartition("_")[2]) if "_" in name else 0] = index
    if sorted(by_number) != list(range(len(outputs))):
        raise SystemExit(f"converter gave output names {[tensors[i].name for i in model.subgraphs[0].outputs]}")
    picture = np.random.default_rng(0).uniform(0, 1, (1, height, width, 3)).astype(np.float32)
    wanted = graph.run(ops, tf.constant(picture))
    for number, (name, value) in enumerate(outputs.items()):
        tensor = tensors[by_number[number]]
        if list(tensor.shape) != list(wanted[value].shape):
            raise SystemExit(f"output {number} has shape {list(tensor.shape)}, {name} is {wanted[value].shape}")
        tensor.name = name.encode()
    model.signatureDefs = []


def pack(model):
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def rounded(values, low, high):
    """Values after a trip through 8 bits of the given range, which always contains 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255, 1e-9)
    zero = np.round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step


def ties(ops):
    """Name -> the group of names that must share one scale because an operation only moves values about."""
    group = {}
    for op in ops:
        group[op["out"]] = op["out"]
        if op["op"] in SAME_SCALE:
            joined = {group[name] for name in op["in"]}
            for name in group:
                if group[name] in joined:
                    group[name] = op["out"]
    return group


def sample(ops, pictures):
    """Name -> (extremes, some of its values) over the pictures."""
    names = [op["out"] for op in ops]
    height, width = pictures[0].shape[1:3]
    network = graph.function(ops, names, width, height)
    rng = np.random.default_rng(0)
    seen = {name: [] for name in names}
    extremes = {name: [0.0, 0.0] for name in names}
    for picture in pictures:
        for name, value in zip(names, network(tf.constant(picture))):
            value = value.numpy().ravel()
            edge = extremes[name]
            extremes[name] = [min(edge[0], float(value.min())), max(edge[1], float(value.max()))]
            stride = max(1, len(value) * len(pictures) // (2 * SAMPLES))
            seen[name].append(value[rng.integers(stride) :: stride].copy())
    return {name: (extremes[name], np.concatenate(seen[name])) for name in names}


def ranges(ops, outputs, pictures, search=True):
    """Name -> (low, high) of every value; `search` false keeps the extremes, as the stock converter does."""
    samples = sample(ops, pictures)
    readers = graph.consumers(ops)
    logits = {value for name, value in outputs.items() if name.startswith(("cls", "obj"))}
    group = ties(ops)
    found, shared = {}, {}
    for op in ops:
        name = op["out"]
        low, high = samples[name][0]
        if op["op"] in ("relu6", "gate"):
            found[name] = (0.0, 6.0)
        elif name in outputs.values():
            found[name] = (max(low, LOGIT_FLOOR) if search and name in logits else low, high)
        else:
            if group[name] not in shared:
                members = [other["out"] for other in ops if group[other["out"]] == group[name]]
                makers = [other["out"] for other in ops if other["out"] in members and other["op"] not in SAME_SCALE]
                low = min(samples[other][0][0] for other in makers)
                high = max(samples[other][0][1] for other in makers)
                read_by = [reader["op"] for other in members for reader in readers.get(other, [])]
                values = np.concatenate([samples[other][1] for other in makers])
                shared[group[name]] = best_range(values, low, high, read_by) if search else (low, high)
            found[name] = shared[group[name]]
    return found


def best_range(values, low, high, read_by):
    """The (low, high) with the smallest mean squared error after the operations that read the value."""
    if len(values) > SAMPLES:
        values = values[np.random.default_rng(0).permutation(len(values))[:SAMPLES]]
    view = lambda x: x
    if set(read_by) == {"leaky"}:
        view = leaky
    elif set(read_by) == {"gate", "mul"}:
        view, low = hard_swish, max(low, -3.0)  # nothing passes below -3
    exact = view(values)
    lows = [low * share for share in LOW_SHARES] if low < 0 else [low]
    highs = [high * share for share in HIGH_SHARES] if high > 0 else [high]
    tried = [
        (float(np.mean((view(rounded(values, a, b)) - exact) ** 2)), a, b) for a in lows for b in highs if b > a
    ]
    return min(tried)[1:] if tried else (low, high)


def write_ranges(model, ops, chosen, picture):
    """Puts the ranges into the calibrated model's tensors, which are recognised by their values.

    Returns the names that no tensor matched: values the converter fused away.
    """
    names = list(chosen)
    height, width = picture.shape[1:3]
    wanted = dict(zip(names, graph.function(ops, names, width, height)(tf.constant(picture))))
    interpreter = tf.lite.Interpreter(
        model_content=pack(model), experimental_preserve_all_tensors=True, num_threads=2,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    tensors = model.subgraphs[0].tensors
    made = {int(t) for op in model.subgraphs[0].operators for t in op.outputs}
    values = {}
    for index in made:
        with_value = interpreter.get_tensor(index)
        if with_value.dtype == np.float32:
            values.setdefault(with_value.shape, []).append((index, with_value))
    missing = []
    for name in names:
        value = wanted[name].numpy()
        near = 1e-3 * max(1e-6, float(np.abs(value).max()))
        hits = [i for i, other in values.get(value.shape, []) if np.allclose(other, value, rtol=1e-3, atol=near)]
        for index in hits:
            stats = tensors[index].quantization
            if stats is not None:
                stats.min, stats.max = [chosen[name][0]], [chosen[name][1]]
        if not hits:
            missing.append(name)
    return missing


def to_int8(ops, outputs, chosen, pictures):
    """Full int8 .tflite bytes, int8 in and out; the input's scale comes from the pictures' extremes."""
    height, width = pictures[0].shape[1:3]
    model = convert(ops, outputs, width, height, pictures[:8])
    missing = write_ranges(model, ops, chosen, pictures[0])
    unexpected = set(missing) - graph.fused(ops, set(outputs.values()))
    if unexpected:
        print(f"note: the converter fused {sorted(unexpected)}")
    kind = convert_tensor_tf_type_to_tflite_type(tf.int8)
    return mlir_quantize(
        pack(model), disable_per_channel=False, fully_quantize=True,
        inference_type=kind, input_data_type=kind, output_data_type=kind,
    )


def to_float(ops, outputs, width, height):
    """Float .tflite bytes of the same network."""
    return pack(convert(ops, outputs, width, height))
