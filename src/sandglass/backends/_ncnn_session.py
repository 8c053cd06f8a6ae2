"""Open and run ncnn networks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sandglass.backends import Arrays, BuildNotes, Settings
from sandglass.backends._batches import run_by_one
from sandglass.backends._ncnn_convert import BIN, PARAM
from sandglass.core.errors import BackendError

if TYPE_CHECKING:
    import ncnn


class Notes(BuildNotes, frozen=True):
    """Names in the ncnn model, in which pnnx gives its own names.

    `inputs` has the blob of each input of the graph. `outputs` has the blob and the shape of each output of the graph,
    with -1 for a dynamic side. `names` has the graph's name of each ncnn layer. `storage` is the type of weights and
    activations of an fp16 artifact.
    """

    inputs: dict[str, str]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    names: dict[str, str] = {}
    storage: Literal["float16", "float32"] | None = None


class NcnnSession:
    """A session of the model in `folder`, with the settings `values`."""

    def __init__(self, folder: Path, notes: Notes, threads: int, values: Settings) -> None:
        import ncnn

        self.ncnn, self.notes, self.net = ncnn, notes, ncnn.Net()
        _set_options(self.net.opt, notes, threads, values)
        if self.net.load_param(str(folder / PARAM)) or self.net.load_model(str(folder / BIN)):
            raise BackendError(f"ncnn cannot load {folder}", "deploy the model again")

    def walk(self, inputs: Arrays, blobs: list[str]) -> tuple[list[ncnn.Mat], list[float]]:
        """Compute blobs in order. Returns their values, in ncnn's storage, and the seconds that each one took."""
        images = {name: np.ascontiguousarray(array[0], np.float32) for name, array in inputs.items()}
        extractor = self.net.create_extractor()
        extractor.set_light_mode(False)  # light mode would free blobs that the next layers read
        for name, array in images.items():
            extractor.input(self.notes.inputs[name], self.ncnn.Mat(array))
        mats, seconds = [], []
        for blob in blobs:
            started = time.perf_counter()
            status, mat = extractor.extract(blob, 1)
            seconds.append(time.perf_counter() - started)
            if status:
                raise BackendError(f"ncnn failed to compute {blob}", "deploy the model again")
            mats.append(mat)
        return mats, seconds

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first. ncnn runs one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        extractor = self.net.create_extractor()
        for name, array in inputs.items():
            # A Mat over an array's memory has no reference count; a first layer that works in place then crashes.
            image = np.ascontiguousarray(array[0], np.float32)
            extractor.input(self.notes.inputs[name], self.ncnn.Mat(image).clone())
        results = {}
        for name, (blob, shape) in self.notes.outputs.items():
            status, mat = extractor.extract(blob)
            if status:
                raise BackendError(f"ncnn failed to compute {name}", "deploy the model again")
            values = np.array(mat, np.float32)
            if -1 not in shape and values.size != np.prod(shape):
                raise BackendError(
                    f"ncnn's output {name} has the shape {values.shape}, expected {shape}", "choose another backend"
                )
            results[name] = values[np.newaxis] if -1 in shape else values.reshape(shape)
        return results


def _set_options(options: ncnn.Option, notes: Notes, threads: int, values: Settings) -> None:
    options.num_threads = threads
    half, brain = values["storage"] == "float16", values["storage"] == "bfloat16"
    options.use_fp16_packed = options.use_fp16_storage = half
    options.use_fp16_arithmetic = half and notes.storage == "float16"
    options.use_bf16_packed = options.use_bf16_storage = brain
    options.use_winograd_convolution = values["winograd"] != "off"
    for kind in ("23", "43", "63"):
        setattr(options, f"use_winograd{kind}_convolution", values["winograd"] in ("all", f"f{kind}"))
    options.use_sgemm_convolution, options.use_packing_layout = values["sgemm"], values["packing"]
    options.openmp_blocktime = values["blocktime"]
