"""Run a compiled model (.om) on a Huawei accelerator with the vendor's Python package `acl`.

A build kit contains a copy of this file. It needs `acl`, numpy and Python 3.7 or newer, but not Sandglass. The names,
the order and the codes of the calls follow CANN's pyACL reference.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import acl
import numpy as np

HUGE_PAGES_FIRST = 0
TO_DEVICE, FROM_DEVICE = 1, 2
TYPES = {0: np.float32, 1: np.float16}
ALREADY_INITIALIZED = 100002


def version() -> str:
    """The version of `acl`, which is the version of CANN."""
    major, minor, patch, code = acl.get_version()
    _check(code, "get_version")
    return f"acl {major}.{minor}.{patch}"


class Model:
    """A loaded model, with memory on the device for its inputs and outputs, which are in the graph's order.

    `inputs` are the graph's input names, and `outputs` maps output names to shapes. Several threads may call `run`; the
    calls run one after the other. Raises RuntimeError, with the code of `acl`, if a call of the device fails.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: dict[str, tuple[int, ...]], device: int = 0) -> None:
        self.lock, self.inputs, self.outputs = threading.Lock(), list(inputs), dict(outputs)
        code = acl.init()
        if code != ALREADY_INITIALIZED:
            _check(code, "init")
        _check(acl.rt.set_device(device), "rt.set_device")
        self.context = _value(acl.rt.create_context(device), "rt.create_context")
        self.model = _value(acl.mdl.load_from_file(str(path)), "mdl.load_from_file")
        description = acl.mdl.create_desc()
        _check(acl.mdl.get_desc(description, self.model), "mdl.get_desc")
        counts = acl.mdl.get_num_inputs(description), acl.mdl.get_num_outputs(description)
        if counts != (len(self.inputs), len(self.outputs)):
            raise RuntimeError(
                f"{path} has {counts[0]} inputs and {counts[1]} outputs, expected {len(self.inputs)} and "
                f"{len(self.outputs)}"
            )
        self.input_buffers = _Buffers([acl.mdl.get_input_size_by_index(description, i) for i in range(counts[0])])
        self.output_buffers = _Buffers([acl.mdl.get_output_size_by_index(description, i) for i in range(counts[1])])
        kinds = [acl.mdl.get_output_data_type(description, i) for i in range(counts[1])]
        unknown = [kind for kind in kinds if kind not in TYPES]
        if unknown:
            raise RuntimeError(f"{path} has outputs of acl's data type {unknown[0]}, expected float32 or float16")
        self.types = [TYPES[kind] for kind in kinds]
        weakref.finalize(self, _release, self.context, self.model, description, self.input_buffers, self.output_buffers)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, float32, for one image {input: (1, 3, H, W) float32}."""
        with self.lock:
            _check(acl.rt.set_context(self.context), "rt.set_context")
            for i, name in enumerate(self.inputs):
                self.input_buffers.write(i, np.ascontiguousarray(inputs[name], np.float32))
            _check(acl.mdl.execute(self.model, self.input_buffers.dataset, self.output_buffers.dataset), "mdl.execute")
            outputs = {}
            for i, (name, shape) in enumerate(self.outputs.items()):
                outputs[name] = self.output_buffers.read(i, np.empty(shape, self.types[i])).astype(np.float32)
            return outputs


class _Buffers:
    """Memory on the device for all inputs, or for all outputs, of a model."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.dataset = sizes, acl.mdl.create_dataset()
        self.places = [_value(acl.rt.malloc(size, HUGE_PAGES_FIRST), "rt.malloc") for size in sizes]
        self.handles = [acl.create_data_buffer(self.places[i], size) for i, size in enumerate(sizes)]
        for handle in self.handles:
            _value(acl.mdl.add_dataset_buffer(self.dataset, handle), "mdl.add_dataset_buffer")

    def write(self, index: int, array: np.ndarray) -> None:
        size, place = array.nbytes, self.places[index]
        if size != self.sizes[index]:
            raise RuntimeError(f"an input {list(array.shape)} has {size} bytes, expected {self.sizes[index]}")
        _check(acl.rt.memcpy(place, size, array.ctypes.data, size, TO_DEVICE), "rt.memcpy")

    def read(self, index: int, array: np.ndarray) -> np.ndarray:
        size, place = array.nbytes, self.places[index]
        if size > self.sizes[index]:
            raise RuntimeError(f"an output {list(array.shape)} has {size} bytes, but the model has {self.sizes[index]}")
        _check(acl.rt.memcpy(array.ctypes.data, size, place, size, FROM_DEVICE), "rt.memcpy")
        return array

    def release(self) -> None:
        acl.mdl.destroy_dataset(self.dataset)
        for i, handle in enumerate(self.handles):
            acl.destroy_data_buffer(handle)
            acl.rt.free(self.places[i])


def _release(context: int, model: int, description: int, inputs: _Buffers, outputs: _Buffers) -> None:
    acl.rt.set_context(context)
    inputs.release()
    outputs.release()
    acl.mdl.destroy_desc(description)
    acl.mdl.unload(model)
    acl.rt.destroy_context(context)


def _value(result: tuple[int, int], call: str) -> int:
    handle, code = result
    _check(code, call)
    return handle


def _check(code: int, call: str) -> None:
    if code != 0:
        raise RuntimeError(f"acl.{call} failed with code {code}")
