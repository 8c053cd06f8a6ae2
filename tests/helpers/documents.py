"""The examples of the documents: blocks of shell and Python that are marked to be run, and the data that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from graphs import network, normal

from sandglass.datasets import cifar10, coco_keypoints
from sandglass.vision.image import write_image

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- run: ([\w-]+) -->\n```(sh|python)\n(.*?)```", re.DOTALL)
SECONDS = 1800  # after which a block counts as hanging, also on a busy machine
CLASSIFIER = """
agraph (float[1, 3, 32, 32] image) => (float[1, 10] logits) {
    one = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1)
    two = Relu (one)
    three = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (two, w2)
    four = Relu (three)
    pooled = GlobalAveragePool (four)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w3, b3)
}
"""
CONFIG = """
codec = dict(type='MSRAHeatmap', input_size=(96, 64), heatmap_size=(24, 16), sigma=2)
widths = [8, 16, 32, 64]
extra = dict(
    stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1, ), num_channels=(8, )),
    stage2=dict(num_modules=1, num_branches=2, block='BASIC', num_blocks=(1, 1), num_channels=widths[:2]),
    stage3=dict(num_modules=1, num_branches=3, block='BASIC', num_blocks=(1, 1, 1), num_channels=widths[:3]),
    stage4=dict(num_modules=1, num_branches=4, block='BASIC', num_blocks=(1, 1, 1, 1), num_channels=widths))
model = dict(type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(type='HRNet', in_channels=3, extra=extra),
    head=dict(type='HeatmapHead', in_channels=8, out_channels=17, deconv_out_channels=None,
        loss=dict(type='KeypointMSELoss'), decoder=codec),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True))
val_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'), dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='PackPoseInputs')]))
test_dataloader = val_dataloader
"""


def blocks(page: str) -> dict[str, tuple[str, str]]:
    """The marked blocks of a page, named by their marks: language and text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {name: (language, code) for name, language, code in BLOCK.findall(text)}


def run_block(language: str, code: str, folder: Path) -> str:
    """Run a block in `folder` and return its output; `sandglass` is the command line of this checkout."""
    shell = f'set -eu\nsandglass() {{ "{sys.executable}" -m sandglass "$@"; }}\n{code}'
    command = ["bash", "-c", shell] if language == "sh" else [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def write_people(folder: Path) -> None:
    """`train2017`, `val2017`, their annotations in COCO's format, and a photo."""
    for name in ("train", "val"):
        coco_keypoints.example(folder / name)
        (folder / name / "images").rename(folder / f"{name}2017")
        (folder / name / "annotations.json").rename(folder / f"{name}.json")
    write_photo(folder / "photo.jpg", (480, 640))


def write_openmmlab(folder: Path) -> None:
    """A config of a very small HRNet, and a checkpoint of it with random weights."""
    import torch

    from sandglass.models import hrnet

    (folder / "my_config.py").write_text(CONFIG)
    torch.manual_seed(0)
    module = hrnet.build(width=8, modules=(1, 1, 1), blocks=1, stem_channels=8)
    torch.save({"state_dict": module.state_dict()}, folder / "my_checkpoint.pth")


def write_classifier(folder: Path) -> None:
    """An ONNX file with random weights, and images to calibrate and evaluate it."""
    weights = {
        "w1": normal(0, 16, 3, 3, 3),
        "w2": normal(1, 16, 16, 3, 3),
        "w3": normal(2, 10, 16),
        "b3": normal(3, 10),
    }
    onnx.save(network(CLASSIFIER, weights), folder / "my_model.onnx")
    for name in ("train", "test"):
        cifar10.example(folder / name)
        (folder / name / "images").rename(folder / "images")
        (folder / name).rmdir()
        (folder / "images").rename(folder / name)
    for i in range(4):
        write_photo(folder / "photos" / f"{i}.jpg", (48, 40), seed=i)
    write_photo(folder / "photo.jpg", (480, 640))


def write_photo(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """An image of noise, height x width."""
    path.parent.mkdir(exist_ok=True)
    write_image(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
