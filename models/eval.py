"""Prints COCO mAP and milliseconds a picture for any model manifest; builds and changes nothing.

    python models/eval.py models/X.toml --images DIR --instances FILE [--float FILE | --onnx] [--threads 1 2]

AP is pycocotools' bbox AP over all classes of the labels that the instances file knows, and over the ten
animals of COCO. Time is the fastest of many bare `invoke` calls, pre- and postprocessing excluded: the
fastest, because other work on the machine can only add.
"""

import argparse
import contextlib
import hashlib
import io
import json
import pathlib
import sys
import time
import tomllib

import numpy as np
from PIL import Image

import heads

ANIMALS = ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"]
LOWEST_SCORE = 0.001  # AP integrates over all scores, so the default threshold of a manifest is not used


def load_manifest(path):
    """The manifest as a dict, with `labels` a list, `path` of the model, and its sha256 verified."""
    path = pathlib.Path(path)
    manifest = tomllib.loads(path.read_text())
    if isinstance(manifest["labels"], str):
        manifest["labels"] = (path.parent / manifest["labels"]).read_text().splitlines()
    manifest["path"] = path.parent / manifest["file"]
    found = hashlib.sha256(manifest["path"].read_bytes()).hexdigest()
    if found != manifest["sha256"]:
        raise SystemExit(f"{manifest['path']}: sha256 is {found}, the manifest says {manifest['sha256']}")
    return manifest


def bilinear(pixels, width, height):
    """Plain two-tap bilinear scaling with half-pixel centres, as video scalers do it."""

    def taps(size, old):
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), old - 1)
        return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)

    rows, rows_next, down = taps(height, pixels.shape[0])
    columns, columns_next, right = taps(width, pixels.shape[1])
    pixels = pixels.astype(np.float32)
    down, right = down[:, None, None], right[None, :, None]
    lines = pixels[rows] * (1 - down) + pixels[rows_next] * down
    scaled = lines[:, columns] * (1 - right) + lines[:, columns_next] * right
    return np.rint(scaled).astype(np.uint8)


def resize(image, width, height, resample):
    if resample == "two-tap":
        return bilinear(np.asarray(image), width, height)
    return np.asarray(image.resize((width, height), Image.BILINEAR))


def fit(image, spec, resample="antialias"):
    """Pixels of the model's input size, and the map back: picture = (input - pad) * scale, per axis."""
    width, height = spec["width"], spec["height"]
    if spec["fit"] == "stretch":
        return resize(image, width, height, resample), (0, 0), (image.width / width, image.height / height)
    # darknet truncates the shorter side and the border alike
    if width / image.width < height / image.height:
        inner = (width, max(1, image.height * width // image.width))
    else:
        inner = (max(1, image.width * height // image.height), height)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), spec["pad"], np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = resize(image, *inner, resample)
    return canvas, (left, top), (image.width / inner[0], image.height / inner[1])


def real_input(pixels, spec):
    """Pixels to the real values of the manifest's input section, batch of one in its layout and order."""
    if spec["channels"] == "bgr":
        pixels = pixels[..., ::-1]
    value = (pixels - np.asarray(spec["mean"], np.float32)) / np.asarray(spec["std"], np.float32)
    return (value.transpose(2, 0, 1) if spec["layout"] == "nchw" else value)[None].astype(np.float32)


class Model:
    """A TFLite file that takes real values and gives real values, whatever it computes in."""

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]
        self.outputs = self.interpreter.get_output_details()

    def __call__(self, value):
        kind = self.input["dtype"]
        if kind != np.float32:
            scale, zero = self.input["quantization"]
            limits = np.iinfo(kind)
            value = np.clip(np.rint(value / scale + zero), limits.min, limits.max).astype(kind)
        self.interpreter.set_tensor(self.input["index"], value)
        self.interpreter.invoke()
        found = {}
        for output in self.outputs:
            raw = self.interpreter.get_tensor(output["index"])
            if raw.dtype != np.float32:
                scale, zero = output["quantization"]
                raw = (raw.astype(np.float32) - zero) * scale
            found[output["name"]] = raw
        return found

    def milliseconds(self, runs=60):
        """Time of the fastest invocation after a warm-up."""
        self.interpreter.set_tensor(self.input["index"], np.zeros(self.input["shape"], self.input["dtype"]))
        times = []
        for run in range(runs + 5):
            start = time.perf_counter()
            self.interpreter.invoke()
            times.append(time.perf_counter() - start)
        return min(times[5:]) * 1e3


class OnnxModel:
    """The manifest's ONNX twin in ONNX Runtime on the CPU; real values in and out."""

    def __init__(self, path, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, value):
        return dict(zip(self.names, self.session.run(self.names, {self.input.name: value})))

    def milliseconds(self, runs=60):
        """Time of the fastest invocation after a warm-up."""
        value = np.zeros(self.input.shape, np.float32)
        times = []
        for run in range(runs + 5):
            start = time.perf_counter()
            self.session.run(self.names, {self.input.name: value})
            times.append(time.perf_counter() - start)
        return min(times[5:]) * 1e3


def detect_picture(model, manifest, image, threshold, resample="antialias"):
    """Class ids, scores and boxes (clipped, pixels of the picture) of one PIL image."""
    spec = manifest["input"]
    pixels, pad, scale = fit(image, spec, resample)
    ids, scores, boxes = heads.detect(
        manifest["head"], model(real_input(pixels, spec)), (spec["width"], spec["height"]),
        len(manifest["labels"]), threshold,
    )
    boxes = (boxes - [*pad, *pad]) * [*scale, *scale]
    return ids, scores, np.clip(boxes, 0, [image.width, image.height] * 2)


def average_precision(model, manifest, images, instances, resample="antialias"):
    """AP and AP50 over all classes and over animals, as a dict of four numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(instances))
    category = {entry["name"]: number for number, entry in truth.cats.items()}
    results = []
    for number, entry in sorted(truth.imgs.items()):
        image = Image.open(pathlib.Path(images) / entry["file_name"]).convert("RGB")
        for which, score, box in zip(*detect_picture(model, manifest, image, LOWEST_SCORE, resample)):
            label = manifest["labels"][which]
            if label in category:
                left, top, right, bottom = map(float, box)
                results.append({
                    "image_id": number, "category_id": category[label], "score": float(score),
                    "bbox": [left, top, right - left, bottom - top],
                })
    if not results:
        return {"AP": 0.0, "AP50": 0.0, "animals AP": 0.0, "animals AP50": 0.0}
    answer = {}
    for prefix, labels in (("", manifest["labels"]), ("animals ", ANIMALS)):
        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(truth, truth.loadRes(results), "bbox")
            judge.params.catIds = sorted(category[name] for name in labels if name in category)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        answer[prefix + "AP"], answer[prefix + "AP50"] = float(judge.stats[0]), float(judge.stats[1])
    return answer


def judge_detections(lines, images, instances):
    """AP by size of what `spotter detect --json` printed: all, small (under 32 x 32 pixels), medium, and animals of each."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(instances))
    category = {entry["name"]: number for number, entry in truth.cats.items()}
    image = {entry["file_name"]: number for number, entry in truth.imgs.items()}
    results = []
    for line in map(json.loads, lines):
        for found in line["detections"]:
            if found["label"] in category:
                left, top, right, bottom = found["bbox"]
                results.append({
                    "image_id": image[pathlib.Path(line["file"]).name], "category_id": category[found["label"]],
                    "score": found["confidence"], "bbox": [left, top, right - left, bottom - top],
                })
    answer = {}
    for prefix, labels in (("", list(category)), ("animals ", ANIMALS)):
        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(truth, truth.loadRes(results), "bbox")
            judge.params.catIds = sorted(category[name] for name in labels if name in category)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        for name, index in (("AP", 0), ("small", 3), ("medium", 4), ("large", 5), ("recall small", 9)):
            answer[prefix + name] = round(float(judge.stats[index]), 3)
    return answer


def main():
    parser = argparse.ArgumentParser(description="COCO mAP and time of a model manifest")
    parser.add_argument("manifests", nargs="*", help="models/*.toml")
    parser.add_argument("--detections", type=pathlib.Path, help="judge what `spotter detect --json` printed, by size")
    parser.add_argument("--images", required=True, help="folder of pictures")
    parser.add_argument("--instances", required=True, help="COCO instances JSON")
    parser.add_argument("--float", dest="twin", help="judge this float .tflite in place of the manifest's file")
    parser.add_argument("--onnx", action="store_true", help="judge the manifest's ONNX twin (needs onnxruntime)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--resample", choices=["antialias", "two-tap"], default="antialias")
    parser.add_argument("--json", action="store_true", help="one JSON object a line in place of the table")
    args = parser.parse_args()
    if args.detections:
        print(json.dumps(judge_detections(args.detections.read_text().splitlines(), args.images, args.instances)))
        return
    if args.twin and len(args.manifests) > 1:
        parser.error("--float takes one manifest at a time")
    if not args.json:
        print("| model | AP | AP50 | animals AP | animals AP50 | ms at " + " / ".join(map(str, args.threads)) + " |")
        print("|---|---|---|---|---|---|")
    for path in args.manifests:
        manifest = load_manifest(path)
        file, kind = args.twin or manifest["path"], Model
        if args.onnx:
            file, kind = manifest["path"].parent / manifest["onnx"]["file"], OnnxModel
        row = {"name": manifest["name"] + (" float" if args.twin else " onnx" if args.onnx else " int8")}
        row |= average_precision(kind(file, max(args.threads)), manifest, args.images, args.instances, args.resample)
        row["ms"] = [round(kind(file, count).milliseconds(), 1) for count in args.threads]
        if args.json:
            print(json.dumps(row))
        else:
            figures = [f"{row[key]:.3f}" for key in ("AP", "AP50", "animals AP", "animals AP50")]
            print(f"| {row['name']} | " + " | ".join(figures) + f" | {' / '.join(map(str, row['ms']))} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
