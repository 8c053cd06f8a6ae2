"""Whole files of every format that Sandglass reads, small, built here: what the fuzzer starts from."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnx

from sandglass.artifacts.manifest import MANIFEST, write_manifest
from sandglass.datasets import cifar10, coco_keypoints, ctw1500, icdar2015
from sandglass.formats.torch_files import LEGACY_MAGIC
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange
from sandglass.sources.card import zoo

CARD = {
    "name": "toy",
    "task": "topdown-pose",
    "model": "hourglass",
    "input": {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
}


def text(value: str) -> bytes:
    """A text in a pickle."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    """A name in a pickle."""
    return f"c{module}\n{attribute}\n".encode()


def group(*parts: bytes) -> bytes:
    """A tuple in a pickle."""
    return b"(" + b"".join(parts) + b"t"


def number(value: int) -> bytes:
    """A whole number in a pickle."""
    return b"J" + struct.pack("<i", value)


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage", legacy: bool = False) -> bytes:
    """A reference to a storage."""
    rest = [b"N"] if legacy else []
    return group(text("storage"), name("torch", kind), text(key), text("cpu"), number(count), *rest) + b"Q"


def tensor(source: bytes, offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    """A tensor over a storage."""
    shape, steps = (group(*map(number, values)) for values in (size, stride))
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2") + group(source, number(offset), shape, steps, b"\x89", hooks) + b"R"
    )


def dictionary(**entries: bytes) -> bytes:
    """A dictionary in a pickle."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def pickled(value: bytes) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + value + b"."


STORAGE = struct.pack("<4f", 1, 2, 3, 4)


def torch_zip(content: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint of today with the given pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, data in (storages or {"0": STORAGE}).items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


def torch_legacy(content: bytes) -> bytes:
    """A checkpoint from before PyTorch 1.6."""
    head = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, 1001, {"little_endian": True}))
    return head + content + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + STORAGE


def checkpoints() -> list[bytes]:
    """Weights alone, with what a training saves besides, averaged, in both formats."""
    weights = dictionary(a=tensor(storage()), b=tensor(storage(), 1, (2,), (1,)))
    log = name("mmengine.logging.history_buffer", "HistoryBuffer") + b")\x81" + dictionary(values=b"]") + b"b"
    training = dictionary(
        meta=dictionary(epoch=number(3), seed=b"N"),
        state_dict=name("collections", "OrderedDict") + b")R(" + text("a") + tensor(storage()) + b"u",
        message_hub=dictionary(log=log),
        optimizer=dictionary(state=b"}(" + number(0) + tensor(storage()) + b"u"),
    )
    averaged = dictionary(state_dict=weights, ema_state_dict=dictionary(steps=tensor(storage()), a=tensor(storage())))
    half = dictionary(w=tensor(storage(count=8, kind="BFloat16Storage"), 0, (2, 2), (2, 1)))
    parameter = dictionary(
        w=name("torch._utils", "_rebuild_parameter") + group(tensor(storage()), b"\x88", b"N") + b"R"
    )
    return [
        *(torch_zip(pickled(content)) for content in (weights, training, averaged, half, parameter)),
        torch_zip(pickled(training), compression=zipfile.ZIP_DEFLATED),
        torch_legacy(pickled(dictionary(a=tensor(storage(legacy=True))))),
    ]


def safetensors() -> list[bytes]:
    """A file of two tensors."""
    from safetensors.numpy import save

    return [save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})]


def batches() -> list[bytes]:
    """CIFAR-10 as Python, binary and NumPy files."""
    rows = np.random.default_rng(0).integers(0, 256, (2, cifar10.BYTES), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, images=rows.reshape(2, 32, 32, 3), labels=np.array([1, 2]))
    binary = b"".join(bytes([label]) + row.tobytes() for label, row in enumerate(rows))
    python = [pickle.dumps({"data": rows, "labels": [1, 2]}, protocol) for protocol in (2, 4)]
    return [*python, binary, stream.getvalue()]


CLASSIFIER = """
_base_ = ['mmpretrain::_base_/default_runtime.py']
width: int = 32
width += 0
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3, ),
             style='pytorch'), neck=dict(type='GlobalAveragePooling'),
             head=dict(type='LinearClsHead', num_classes=1000, in_channels=16 * width, topk=(1, 5)))
data_preprocessor = dict(num_classes=1000, **norm)
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=256, edge='short'),
                 dict(type='CenterCrop', crop_size=7 * width), dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(type='ImageNet', pipeline=test_pipeline))
lr = float(1e-3) * 2 ** 3
"""
LAZY = """
from mmengine.config import read_base
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet
with read_base():
    from mmpretrain.configs._base_.default_runtime import *
model = dict(type=ImageClassifier, backbone=dict(type=ResNet, depth=18, num_stages=4, out_indices=(3, )))
model.update(dict(neck=dict(type=GlobalAveragePooling)))
model.merge(dict(head=dict(type=LinearClsHead, num_classes=1000, in_channels=512)))
data_preprocessor = dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True)
steps = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)]
test_dataloader = dict(dataset=dict(type='ImageNet', pipeline=[*steps, dict(type='PackInputs')]))
"""
GROWING = "a = [1, 2]\nb = [*a, 3][::-1]\nc = dict(x=a, **dict(y=-b[0] / 2))\nd = f'{b[0]}' + 'x' * 3\na += b\n"


def configs() -> list[bytes]:
    """Configs of both styles."""
    return [text.encode() for text in (CLASSIFIER, LAZY, GROWING + CLASSIFIER)]


def cards() -> list[bytes]:
    """The smallest and the largest cards of the zoo."""
    return sorted((path.read_bytes() for path in zoo().values()), key=len)[:: max(1, len(zoo()) - 1)]


TABLE = """backends = ["onnxruntime"]
precisions = ["fp32", "int8"]
max_drop = 0.5
[[row]]
model = "hourglass-tiny-synthetic"
[row.data]
dataset = "synthetic-people"
limit = 10
[row.calibration]
dataset = "synthetic-people"
size = 8
"""


def plans() -> list[bytes]:
    """A plan of one layer."""
    layer = PlannedLayer("conv", "Conv", "image", "y", "w")
    plan = Plan("0" * 64, "kl", {"image": TensorRange(-1.0, 1.0, 1.0)}, {"conv": layer}, {"dataset": "d"}, ("centre",))
    return [plan.to_json().encode()]


def plan_arrays() -> list[bytes]:
    """Offsets of a tensor and a rounded layer."""
    from safetensors.numpy import save

    ones = np.ones(4, np.float32)
    rounded = {"integers:conv": np.ones((4, 3), np.int8), "scales:conv": ones, "bias:conv": ones}
    return [save({"offsets:image": ones, **rounded})]


def manifests(folder: Path) -> list[bytes]:
    """The manifest of an artifact of one file in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(b"weights")
    fields = {"card": CARD, "backend": "null", "precision": "fp32", "inputs": {"x": [1, 3, 8, 8]},
              "graph_sha256": "0", "check": {}, "backend_notes": {"outputs": {"y": [1, 2]}}}  # fmt: skip
    write_manifest(folder, fields)
    return [(folder / MANIFEST).read_bytes()]


def tunings() -> list[bytes]:
    """Settings for two processors."""
    entry = {"goal": "latency", "threads": 2, "batch": 1, "settings": {"streams": 2}, "gain": 1.5}
    return [json.dumps({"format": 1, "artifact": "0", "processors": {"a": entry, "b": entry}}).encode()]


PARAM = """7767517
5 6
Input            image                    0 1 image 0=8 1=8 2=3
Convolution      conv                     1 1 image a 0=4 1=3 11=3 2=1 3=1 4=1 5=1 6=108
Split            split                    1 2 a b c
Scale            scale                    1 1 b d 0=4 1=1
InnerProduct     fc                       1 1 d y 0=2 1=1 2=512 -23310=2,0.0,6.0
"""


CONVOLUTION = """7767517
5 6
Input            image                    0 1 image
Convolution      conv                     1 1 image a 0=4 1=3 11=3 2=1 3=1 4=1 5=1 6=108 9=1
Split            split                    1 2 a b c
BinaryOp         add                      2 1 b c d 0=0
Sigmoid          last                     1 1 d y
"""


def convolution_bin() -> bytes:
    """The weights of CONVOLUTION."""
    return bytes(4 + 4 * 108 + 4 * 4)


def ncnn_bin() -> bytes:
    """The weights of PARAM."""
    floats = [4 * 27, 4, 8, 512, 2]
    tagged = (0, 3)
    return b"".join(bytes(4) * (i in tagged) + bytes(4 * count) for i, count in enumerate(floats))


NCNN_TABLE = b"conv_param_0 12.5 13.5 14.5 15.5\nfc_param_0 3.5 2.5\nconv 127.5\nfc 30.25\n"


def graphs() -> list[bytes]:
    """Small ONNX files, with weights, a branch and a function."""
    header = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] y)'
    model = onnx.parser.parse_model(f"{header} {{ a = Conv<pads = [1, 1, 1, 1]>(image, w, b) y = Relu(a) }}")
    for key, shape in (("w", (4, 3, 3, 3)), ("b", (4,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), key))
    return [model.SerializeToString()]


def images() -> list[bytes]:
    """A small image in every format."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    kinds = (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm", ".gif")
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return [progressive, *(cv2.imencode(kind, pixels)[1].tobytes() for kind in kinds)]


def annotations(folder: Path) -> tuple[bytes, bytes]:
    """COCO's annotations and detections of the images in `folder/images`."""
    files = coco_keypoints.example(folder)
    return files["annotations"].read_bytes(), files["detections"].read_bytes()


def outlines(folder: Path) -> dict[str, list[bytes]]:
    """Text annotations: ICDAR's, CTW's lines and CTW's XML."""
    icdar, ctw = icdar2015.example(folder / "icdar"), ctw1500.example(folder / "ctw")
    kinds = {"icdar": icdar["annotations"].glob("*"), "ctw-text": ctw["annotations"].glob("*.txt"),
             "ctw-xml": ctw["annotations"].glob("*.xml")}  # fmt: skip
    relative = ",".join(map(str, [10, 10, 90, 40, *range(28)])).encode()
    found = {kind: [path.read_bytes() for path in sorted(paths)[:2]] for kind, paths in kinds.items()}
    return {**found, "ctw-text": [*found["ctw-text"], relative]}
