"""Writes the ONNX twin of a full int8 .tflite: the same weights, scales and zero points as QDQ pairs; trains and calibrates nothing.

    python models/qdq.py models/X.tflite [...]        (ai-edge-litert, flatbuffers, numpy and onnx as in models/requirements.txt)

Writes X.onnx beside each and prints its sha256; the same bytes come out each time. Input and outputs are float32 with the names and the
NHWC shapes of the .tflite, so one manifest serves both; inside it is NCHW. Activations become uint8 (ONNX Runtime's quickest
kernels), which only moves the zero point by 128; weights stay int8, one scale a channel.
"""

import hashlib
import pathlib
import sys

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 8  # from ONNX Runtime 1.14 on
OPS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
NONE, RELU, RELU6 = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
SAME = schema.Padding.SAME


class Twin:
    """One .tflite on its way to ONNX."""

    def __init__(self, data):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        self.graph, self.buffers, self.codes = model.subgraphs[0], model.buffers, model.operatorCodes
        self.nodes, self.constants, self.pads = [], [], {}
        self.values = {}  # index of a .tflite tensor -> name of the real (dequantized) ONNX value
        self.copies = dict(self.copied())  # index of copies one behind the other -> index of what is copied

    def tensor(self, index):
        return self.graph.tensors[index]

    def kind(self, op):
        code = self.codes[op.opcodeIndex]
        return OPS[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def copied(self):
        """Where enlarging is written as copies of a tensor in each other's place, which OpenVINO does not take in 8 bits."""
        for op in self.graph.operators:
            if self.kind(op) == "DEPTH_TO_SPACE":
                readers = [o for o in self.graph.operators if op.inputs[0] in o.inputs]
                maker = next((o for o in self.graph.operators if op.inputs[0] in o.outputs), None)
                if len(readers) == 1 and maker and self.kind(maker) == "CONCATENATION":
                    if len(set(maker.inputs)) == 1 and len(maker.inputs) == op.builtinOptions.blockSize**2:
                        yield op.inputs[0], maker.inputs[0]

    def stored(self, index):
        """The constant in a tensor, or None."""
        tensor = self.tensor(index)
        data = self.buffers[tensor.buffer].data
        kinds = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}
        return None if data is None else np.frombuffer(bytes(data), kinds[tensor.type]).reshape(tensor.shape)

    def constant(self, name, value):
        # Not ascontiguousarray, which makes a list of one out of a scalar: older runtimes refuse that as a scale.
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def scale(self, index):
        """Names of a per-tensor scale and a uint8 zero point, and their numbers as of int8."""
        quantization = self.tensor(index).quantization
        scale, zero = np.float32(quantization.scale[0]), int(quantization.zeroPoint[0])
        names = f"t{index}_scale", f"t{index}_zero"
        if not any(c.name == names[0] for c in self.constants):
            self.constant(names[0], scale)
            self.constant(names[1], np.uint8(zero + 128))
        return names, float(scale), zero

    def through_8_bits(self, index, source):
        """QuantizeLinear and DequantizeLinear with the tensor's own scale; what the next operation reads."""
        names, _, _ = self.scale(index)
        self.node("QuantizeLinear", [source, *names], f"t{index}_q")
        return self.node("DequantizeLinear", [f"t{index}_q", *names], f"t{index}")

    def real(self, index):
        """The real value of a tensor; constants that are no convolution's weights are dequantized in the graph too."""
        if index not in self.values:
            stored = self.stored(index)
            if stored.ndim == 4:
                stored = stored.transpose(0, 3, 1, 2)
            names, _, _ = self.scale(index)
            value = self.constant(f"t{index}_q", (stored.astype(np.int16) + 128).astype(np.uint8))
            self.values[index] = self.node("DequantizeLinear", [value, *names], f"t{index}")
        return self.values[index]

    def weights(self, index, depthwise):
        """int8 weights as ONNX lays them out, dequantized per channel."""
        stored, quantization = self.stored(index), self.tensor(index).quantization
        stored = stored.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        if np.any(quantization.zeroPoint):
            raise SystemExit(f"{self.tensor(index).name}: weights with a zero point are not written")
        scales = np.asarray(quantization.scale, np.float32)
        if len(scales) == 1:
            scales = np.repeat(scales, stored.shape[0])
        names = [self.constant(f"t{index}_scale", scales), self.constant(f"t{index}_zero", np.zeros(len(scales), np.int8))]
        return self.node("DequantizeLinear", [self.constant(f"t{index}_q", stored), *names], f"t{index}", axis=0)

    def bias(self, index, count):
        """int32 bias, whose scale is the input's times the weights'."""
        stored = self.stored(index)
        scales = np.asarray(self.tensor(index).quantization.scale, np.float32)
        if len(scales) == 1:
            scales = np.repeat(scales, count)
        names = [self.constant(f"t{index}_scale", scales), self.constant(f"t{index}_zero", np.zeros(count, np.int32))]
        return self.node("DequantizeLinear", [self.constant(f"t{index}_q", stored), *names], f"t{index}", axis=0)

    def clamped(self, source, index, activation):
        """A fused activation, where the output's own range does not imply it."""
        _, scale, zero = self.scale(index)
        low, high = (-128 - zero) * scale, (127 - zero) * scale
        if activation == NONE or (activation == RELU and low >= 0) or (activation == RELU6 and low >= 0 and high <= 6 + scale / 2):
            return source
        if activation == RELU:
            return self.node("Relu", [source], f"{source}_relu")
        if activation == RELU6:
            limits = [self.constant(f"{source}_low", np.float32(0)), self.constant(f"{source}_high", np.float32(6))]
            return self.node("Clip", [source, *limits], f"{source}_clip")
        raise SystemExit(f"activation {activation} is not written")

    def convolution(self, op, depthwise):
        options, (source, weight, bias), output = op.builtinOptions, op.inputs, op.outputs[0]
        rows, columns = self.tensor(weight).shape[1:3]
        strides = [options.strideH, options.strideW]
        pads = self.pads.get(source, [0, 0, 0, 0])
        height, width = self.tensor(source).shape[1:3]
        if options.padding == SAME:
            pads = same_padding((height, width), (rows, columns), strides)
        channels = int(self.tensor(output).shape[3])
        made = self.node(
            "Conv", [self.real(source), self.weights(weight, depthwise), self.bias(bias, channels)], f"t{output}_conv",
            kernel_shape=[int(rows), int(columns)], strides=strides, pads=pads, group=channels if depthwise else 1,
        )
        return self.clamped(made, output, options.fusedActivationFunction)

    def convert(self, op):
        """Adds one operation's nodes; the name of its result before the trip through 8 bits."""
        kind = self.kind(op)
        inputs, output, options = list(op.inputs), op.outputs[0], op.builtinOptions
        made = f"t{output}_made"
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return self.convolution(op, kind == "DEPTHWISE_CONV_2D")
        if kind == "LEAKY_RELU":
            return self.node("LeakyRelu", [self.real(inputs[0])], made, alpha=options.alpha)
        if kind in ("ADD", "MUL"):
            made = self.node("Add" if kind == "ADD" else "Mul", [self.real(i) for i in inputs], made)
            return self.clamped(made, output, options.fusedActivationFunction)
        if kind == "CONCATENATION":
            if options.axis not in (3, -1):
                raise SystemExit(f"concatenation along axis {options.axis} is not written")
            return self.node("Concat", [self.real(i) for i in inputs], made, axis=1)
        if kind == "MAX_POOL_2D":
            window, strides = [options.filterHeight, options.filterWidth], [options.strideH, options.strideW]
            pads = same_padding(self.tensor(inputs[0]).shape[1:3], window, strides) if options.padding == SAME else [0] * 4
            return self.node("MaxPool", [self.real(inputs[0])], made, kernel_shape=window, strides=strides, pads=pads)
        if kind == "DEPTH_TO_SPACE" and inputs[0] in self.copies:
            factor = self.constant(f"{made}_factor", np.float32([1, 1, options.blockSize, options.blockSize]))
            source = self.real(self.copies[inputs[0]])
            return self.node("Resize", [source, "", factor], made, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        if kind == "DEPTH_TO_SPACE":
            return self.node("DepthToSpace", [self.real(inputs[0])], made, blocksize=options.blockSize, mode="DCR")
        if kind == "MEAN":
            if sorted(self.stored(inputs[1]).ravel().tolist()) != [1, 2]:
                raise SystemExit("a mean over other axes than height and width is not written")
            return self.node("GlobalAveragePool", [self.real(inputs[0])], made)
        if kind == "LOGISTIC":
            return self.node("Sigmoid", [self.real(inputs[0])], made)
        if kind == "STRIDED_SLICE":
            begin, end, step = (self.stored(i).ravel() for i in inputs[1:4])
            low = 0 if options.beginMask & 8 else int(begin[3])
            high = int(self.tensor(inputs[0]).shape[3]) if options.endMask & 8 else int(end[3])
            if (step != 1).any() or list(self.tensor(output).shape[1:3]) != list(self.tensor(inputs[0]).shape[1:3]):
                raise SystemExit("only slices of channels are written")
            bounds = [self.constant(f"{made}_{part}", np.array([number], np.int64))
                      for part, number in (("low", low), ("high", high), ("axis", 1))]
            return self.node("Slice", [self.real(inputs[0]), *bounds], made)
        raise SystemExit(f"operation {kind} is not written")

    def pad(self, op):
        """A padding becomes the convolution's that reads it."""
        amounts = self.stored(op.inputs[1])
        if amounts[[0, 3]].any():
            raise SystemExit("only padding of height and width is written")
        self.values[op.outputs[0]] = self.real(op.inputs[0])
        self.pads[op.outputs[0]] = [int(amounts[axis, side]) for side in (0, 1) for axis in (1, 2)]

    def write(self):
        """The ONNX model."""
        source = self.graph.inputs[0]
        name = self.tensor(source).name.decode()
        channels_first = self.node("Transpose", [name], f"{name}_nchw", perm=[0, 3, 1, 2])
        self.values[source] = self.through_8_bits(source, channels_first)
        for op in self.graph.operators:
            output = op.outputs[0]
            if self.kind(op) == "PAD":
                self.pad(op)
            elif output not in self.copies:
                self.values[output] = self.through_8_bits(output, self.convert(op))
        outputs = []
        for index in self.graph.outputs:
            name = self.tensor(index).name.decode()
            self.node("Transpose", [self.values[index]], name, perm=[0, 2, 3, 1])
            outputs.append(described(self.tensor(index)))
        graph = helper.make_graph(self.nodes, "spotter", [described(self.tensor(source))], outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="spotter models/qdq.py", ir_version=IR
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def described(tensor):
    return helper.make_tensor_value_info(tensor.name.decode(), TensorProto.FLOAT, [int(side) for side in tensor.shape])


def same_padding(size, window, strides):
    """TensorFlow's SAME: the far side gets what cannot be halved."""
    total = [
        max((-(-int(side) // step) - 1) * step + int(extent) - int(side), 0)
        for side, extent, step in zip(size, window, strides)
    ]
    return [side // 2 for side in total] + [side - side // 2 for side in total]


def write(tflite):
    """Writes the twin beside a .tflite; its path and sha256."""
    path = pathlib.Path(tflite).with_suffix(".onnx")
    data = Twin(pathlib.Path(tflite).read_bytes()).write().SerializeToString(deterministic=True)
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*write(name))
