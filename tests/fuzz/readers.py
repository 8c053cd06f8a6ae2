"""Every reader of a file that somebody else made: its seeds, how they are changed, and how an input is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.kit_manifest import FORMAT, KIT
from sandglass.artifacts.manifest import MANIFEST, SEAL, seal
from sandglass.artifacts.tuned_settings import TUNING, read_tuned
from sandglass.core.errors import CheckpointError
from sandglass.core.files import sha256, write_json
from sandglass.datasets import cifar10, coco_keypoints, ctw1500, icdar2015, imagenet
from sandglass.formats import ncnn_bin, ncnn_param, ncnn_table
from sandglass.graph.io import load_graph, static_inputs
from sandglass.kit.collect import RESULTS, TIMINGS, load_kit
from sandglass.kit.make import PROBES
from sandglass.quantization.edits_file import load_arrays
from sandglass.quantization.plan import Plan
from sandglass.sources import ncnn_onnx
from sandglass.sources.checkpoint import read_checkpoint
from sandglass.sources.load_card import load_card
from sandglass.table.file import read_table
from sandglass.vision.image import image_size, read_image

from . import seeds


@dataclass(frozen=True)
class Reader:
    """`file` is where an input is written, below the worker's folder, and `read` reads it there.

    `kind` is the kind of changes, `share` how many inputs it gets for each one of a plain reader.
    """

    name: str
    kind: str
    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    share: float = 1.0


def readers(folder: Path) -> list[Reader]:
    """All of them; `folder` gets the files that belong to those that are fuzzed."""
    people, boxes = seeds.annotations(folder / "coco")
    pictures, truths = folder / "coco" / "images", folder / "coco" / "annotations.json"
    texts = seeds.outlines(folder)
    labels = "\n".join(f"{path.name} {i}" for i, path in enumerate(sorted(pictures.iterdir()))).encode()
    return [
        Reader("checkpoint", "zip", "a.pth", seeds.checkpoints(), _checkpoint, 3),
        Reader("safetensors", "bytes", "a.safetensors", seeds.safetensors(), read_checkpoint),
        Reader("cifar10", "zip", "test_batch", seeds.batches(), cifar10.read_batch),
        Reader("config", "text", "a.py", seeds.configs(), load_card, 2),
        Reader("card", "text", "a.toml", seeds.cards(), load_card),
        Reader("table", "text", "t.toml", [seeds.TABLE.encode()], read_table),
        Reader("plan-arrays", "bytes", "p.safetensors", seeds.plan_arrays(), load_arrays, 0.5),
        Reader("plan", "json", "plan.json", seeds.plans(), Plan.load),
        Reader("manifest", "json", f"artifact/{MANIFEST}", seeds.manifests(folder / "artifact"), _artifact),
        Reader("tuning", "json", TUNING, seeds.tunings(), lambda path: read_tuned(path.parent, "0")),
        Reader("ncnn-param", "text", "a.param", [seeds.PARAM.encode()], ncnn_param.read_param),
        Reader("ncnn-layers", "text", "a.param", [seeds.PARAM.encode()], _layers),
        Reader("ncnn-bin", "bytes", "a.bin", [seeds.ncnn_bin()], _bin),
        Reader("ncnn-table", "text", "a.table", [seeds.NCNN_TABLE], ncnn_table.read_table),
        Reader("ncnn-onnx", "text", "b.param", [seeds.CONVOLUTION.encode()], _rewrite),
        Reader("onnx", "bytes", "a.onnx", seeds.graphs(), lambda path: static_inputs(load_graph(path))),
        Reader("image", "bytes", "a.png", seeds.images(), lambda path: (image_size(path), read_image(path))),
        Reader("annotations", "json", "a.json", [people], lambda path: coco_keypoints.load(pictures, path), 0.5),
        Reader("detections", "json", "d.json", [boxes], lambda path: coco_keypoints.load(pictures, truths, path), 0.5),
        Reader("icdar", "text", "a.txt", texts["icdar"], icdar2015.parse),
        Reader("ctw-text", "text", "a.txt", texts["ctw-text"], ctw1500.parse),
        Reader("ctw-xml", "text", "a.xml", texts["ctw-xml"], ctw1500.parse),
        Reader("imagenet", "text", "a.txt", [labels], lambda path: imagenet.load(pictures, path)),
        *_kit_readers(folder / "kit"),
    ]


def _checkpoint(path: Path) -> None:
    """With the averaged weights where it has them, too."""
    with suppress(CheckpointError):
        read_checkpoint(path, ema=True)
    read_checkpoint(path)


def _artifact(path: Path) -> None:
    """Everything that the commands ask a manifest for before a runtime is started."""
    (path.parent / "model.bin").write_bytes(b"weights")
    with suppress(ValueError, TypeError, AttributeError, RecursionError):  # sealed again, as a hostile one would be
        manifest = json.loads(path.read_bytes())
        manifest[SEAL] = seal({key: value for key, value in manifest.items() if key != SEAL})
        path.write_text(json.dumps(manifest))
    artifact = load_artifact(path.parent)
    artifact.files(), artifact.shapes, artifact.size, artifact.threads


def _layers(path: Path) -> None:
    """A changed .param with weights that were its own."""
    weights = path.with_suffix(".bin")
    weights.write_bytes(seeds.ncnn_bin())
    ncnn_bin.read_bin(ncnn_param.read_param(path), weights)


def _bin(path: Path) -> None:
    ncnn_bin.read_bin(ncnn_param.parse_param(seeds.PARAM), path)


def _rewrite(path: Path) -> None:
    path.with_suffix(".bin").write_bytes(seeds.convolution_bin())
    ncnn_onnx.rewrite(path, (8, 8), path.with_suffix(".onnx"))


def _kit_readers(folder: Path) -> list[Reader]:
    """A kit that came back: its description, what its host reports, and its outputs."""
    (folder / RESULTS).mkdir(parents=True)
    kit = {
        "format": FORMAT,
        "card": seeds.CARD,
        "backend": "null",
        "precision": "fp32",
        "model": "model.bin",
        "graph_sha256": "0",
        "inputs": {"x": [1, 3, 8, 8]},
        "outputs": {"y": [1, 2]},
        "rows": {PROBES: ["0"]},
    }
    write_json(folder / KIT, kit)
    outputs = _npz()
    (folder / RESULTS / PROBES).write_bytes(outputs)
    timings = {
        "kit": sha256(folder / KIT),
        "model_bytes": 10,
        "runtime": "1",
        "host": {},
        "batch": 1,
        "seconds": [0.1],
    }
    write_json(folder / RESULTS / TIMINGS, timings)
    reported = (folder / RESULTS / TIMINGS).read_bytes()

    def described(path: Path) -> None:
        """The host's report names the changed description, as a hostile one would."""
        results = path.parent / RESULTS
        results.mkdir(exist_ok=True)
        write_json(results / TIMINGS, {**timings, "kit": sha256(path)})
        (results / PROBES).write_bytes(outputs)
        load_kit(path.parent).open().outputs(PROBES)

    def reports(path: Path) -> None:
        write_json(path.parent.parent / KIT, kit)
        (path.parent / PROBES).write_bytes(outputs)
        load_kit(path.parent.parent).speed_dict()

    def arrays(path: Path) -> None:
        write_json(path.parent.parent / KIT, kit)
        write_json(path.parent / TIMINGS, timings)
        load_kit(path.parent.parent).open().outputs(PROBES)

    return [
        Reader("kit", "json", f"k/{KIT}", [(folder / KIT).read_bytes()], described, 0.5),
        Reader("kit-report", "json", f"r/{RESULTS}/{TIMINGS}", [reported], reports, 0.5),
        Reader("kit-outputs", "zip", f"o/{RESULTS}/{PROBES}", [outputs], arrays, 0.5),
    ]


def _npz() -> bytes:
    import io

    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, y=np.zeros((1, 2), np.float32))
    return stream.getvalue()
