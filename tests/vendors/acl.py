"""Stands in for Huawei's `acl`: a compiled model is an ONNX file, and the device is ONNX Runtime on this processor.

It has the calls that a build kit makes, with their order of arguments and results, and answers misuse with a code: an
address that was not allocated, a copy in the wrong direction or of too many bytes, a thread without a context.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime

INVALID, NO_CONTEXT, REPEATED = 100000, 107002, 100002
TO_DEVICE, FROM_DEVICE = 1, 2
HALF = bool(os.environ.get("FAKE_ACL_HALF"))
_memory: dict[int, ctypes.Array] = {}
_objects: dict[int, object] = {}
_numbers = itertools.count(1)
_here = threading.local()
_state = SimpleNamespace(initialized=False)


def _keep(thing: object) -> int:
    number = next(_numbers)
    _objects[number] = thing
    return number


def init() -> int:
    code = REPEATED if _state.initialized else 0
    _state.initialized = True
    return code


def get_version() -> tuple[int, int, int, int]:
    return 1, 2, 3, 0


def create_data_buffer(address: int, size: int) -> int:
    return _keep((address, size))


def destroy_data_buffer(buffer: int) -> int:
    return 0 if _objects.pop(buffer, None) else INVALID


def _set_context(context: int) -> int:
    _here.context = context
    return 0


def _create_context(device: int) -> tuple[int, int]:
    _here.context = _keep("context")
    return _here.context, 0


def _malloc(size: int, policy: int) -> tuple[int, int]:
    if not hasattr(_here, "context"):
        return 0, NO_CONTEXT
    block = (ctypes.c_char * size)()
    _memory[ctypes.addressof(block)] = block
    return ctypes.addressof(block), 0


def _memcpy(target: int, room: int, source: int, size: int, kind: int) -> int:
    device = {TO_DEVICE: target, FROM_DEVICE: source}.get(kind)
    if device not in _memory or size > room or size > len(_memory[device]):
        return INVALID
    ctypes.memmove(target, source, size)
    return 0


rt = SimpleNamespace(
    set_device=lambda device: 0 if device == 0 else INVALID,
    create_context=_create_context,
    set_context=_set_context,
    destroy_context=lambda context: 0,
    malloc=_malloc,
    free=lambda address: 0 if _memory.pop(address, None) else INVALID,
    memcpy=_memcpy,
)


def _load_from_file(path: str) -> tuple[int, int]:
    if not path.endswith(".om") or not os.path.isfile(path):
        return 0, INVALID
    return _keep(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])), 0


def _get_desc(described: int, model: int) -> int:
    _objects[described] = _objects[model]
    return 0


def _inputs(described: int) -> list:
    return _objects[described].get_inputs()


def _outputs(described: int) -> list:
    return _objects[described].get_outputs()


def _bytes(shape: list[int], half: bool = False) -> int:
    return int(np.prod(shape)) * (2 if half else 4)


def _add(dataset: int, buffer: int) -> tuple[int, int]:
    _objects[dataset].append(buffer)
    return dataset, 0


def _execute(model: int, given: int, made: int) -> int:
    if not hasattr(_here, "context"):
        return NO_CONTEXT
    session = _objects[model]
    feeds = {}
    for value, buffer in zip(session.get_inputs(), _objects[given], strict=True):
        address, _ = _objects[buffer]
        feeds[value.name] = np.frombuffer(_memory[address], np.float32).reshape(value.shape).copy()
    for result, buffer in zip(session.run(None, feeds), _objects[made], strict=True):
        address, size = _objects[buffer]
        data = result.astype(np.float16 if HALF else np.float32).tobytes()
        if len(data) != size:
            return INVALID
        ctypes.memmove(address, data, size)
    return 0


mdl = SimpleNamespace(
    load_from_file=_load_from_file,
    unload=lambda model: 0,
    create_desc=lambda: _keep(None),
    destroy_desc=lambda described: 0,
    get_desc=_get_desc,
    get_num_inputs=lambda described: len(_inputs(described)),
    get_num_outputs=lambda described: len(_outputs(described)),
    get_input_size_by_index=lambda described, i: _bytes(_inputs(described)[i].shape),
    get_output_size_by_index=lambda described, i: _bytes(_outputs(described)[i].shape, HALF),
    get_output_data_type=lambda described, i: 1 if HALF else 0,
    create_dataset=lambda: _keep([]),
    destroy_dataset=lambda dataset: 0,
    add_dataset_buffer=_add,
    execute=_execute,
)
