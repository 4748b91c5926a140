"""Another engine with our model, for benches/detectors.rs: one run a line of stdin, in turns with ours. It judges nothing itself.

    python benches/outside.py ENGINE models/X.toml THREADS        ENGINE: openvino, ncnn, onnxruntime

All get the ONNX twin: ONNX Runtime and OpenVINO as it is; ncnn, which has no reader for 8 bits said so, its weights in float32, through
pnnx, which is installed by itself (`pip install --no-deps`, since it asks for PyTorch and needs none here).
The first line out is {"name", "bytes"} or {"why"}. Then "run" is answered by seconds, "ap IMAGES INSTANCES" by models/eval.py's figures.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "models"))
import eval as judge  # noqa: E402


class OpenVino:
    def __init__(self, path, threads):
        import openvino

        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self.model = openvino.Core().compile_model(path, "CPU", hints)
        self.request = self.model.create_infer_request()
        self.names = [output.get_any_name() for output in self.model.outputs]
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]} from PyPI, int8"

    def __call__(self, value):
        found = self.request.infer([value], share_inputs=True)
        return {name: found[output] for name, output in zip(self.names, self.model.outputs)}


class OnnxRuntime(judge.OnnxModel):
    def __init__(self, path, threads):
        import onnxruntime

        super().__init__(path, threads)
        self.name = f"ONNX Runtime {onnxruntime.__version__} from PyPI, int8"


class Ncnn:
    def __init__(self, path, threads):
        import ncnn

        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        pnnx = pathlib.Path(ncnn.__file__).parent.parent / "pnnx/pnnx"
        with tempfile.TemporaryDirectory() as folder:
            self.names = floats(path, f"{folder}/float.onnx")
            subprocess.run([pnnx, "float.onnx", "fp16=0"], cwd=folder, check=True, capture_output=True)
            if self.net.load_param(f"{folder}/float.ncnn.param") or self.net.load_model(f"{folder}/float.ncnn.bin"):
                raise RuntimeError("ncnn does not read what pnnx made")
        self.mat = ncnn.Mat
        self.name = f"ncnn {ncnn.__version__} from PyPI, float32"

    def __call__(self, value):
        run = self.net.create_extractor()
        run.input("in0", self.mat(value[0]))
        return {name: np.array(run.extract(f"out{at}")[1])[None] for at, name in enumerate(self.names)}


def floats(path, out):
    """Writes the float network that a twin stands for; the names of its outputs. 8 bits from zero on are how a twin says "at least
    0" and "at most 6"."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    stored = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    same, nodes = {}, []

    def plain(name):
        while name in same:
            name = same[name]
        return name

    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        value, scale, zero = node.input[0], stored[node.input[1]].astype(np.float64), stored[node.input[2]].astype(np.float64)
        source, name = made_by[value].input[0] if value in made_by else None, node.output[0]
        if value in stored:
            if scale.size > 1:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shape = [-1 if side == axis else 1 for side in range(stored[value].ndim)]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            real = ((stored[value] - zero) * scale).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(real, name))
        elif zero.item() == 0 and source in made_by and made_by[source].op_type in ("Conv", "Add", "Mul"):
            for end, limit in (("_low", 0), ("_high", 255 * scale.item())):
                graph.initializer.append(numpy_helper.from_array(np.float32(limit), name + end))
            nodes.append(helper.make_node("Clip", [source, name + "_low", name + "_high"], [name], name=name))
        else:
            same[name] = source
    for node in nodes:
        for at, name in enumerate(node.input):
            node.input[at] = plain(name)
    outputs = [output.name for output in graph.output]
    nodes += [helper.make_node("Identity", [plain(name)], [name]) for name in outputs if plain(name) != name]
    save(model, nodes, out)
    return outputs


def save(model, nodes, out):
    """Of `nodes` and constants those that the outputs need."""
    import onnx

    graph = model.graph
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
    onnx.save(model, out)


def resident():
    fields = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def main():
    engine, manifest, threads = sys.argv[1], judge.load_manifest(sys.argv[2]), int(sys.argv[3])
    twin = manifest["path"].parent / manifest["onnx"]["file"]
    value = np.zeros((1, manifest["input"]["height"], manifest["input"]["width"], 3), np.float32)
    try:
        before = resident()
        model = {"openvino": OpenVino, "ncnn": Ncnn, "onnxruntime": OnnxRuntime}[engine](twin, threads)
        model(value)
    except Exception as why:  # whatever it is, the others are measured
        print(json.dumps({"why": f"{type(why).__name__}: {why}"}), flush=True)
        return
    print(json.dumps({"name": model.name, "bytes": max(0, resident() - before)}), flush=True)
    for line in sys.stdin:
        if line.startswith("ap"):
            _, images, instances = line.split()
            print(json.dumps(judge.average_precision(model, manifest, images, instances)), flush=True)
        else:
            start = time.perf_counter()
            model(value)
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
