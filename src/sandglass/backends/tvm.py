"""TVM on the CPU: Relax and LLVM compile the graph to a library for the processor of this machine.

The schedules of kernels come from `_tvm_kernels`, because TVM has no schedules of its own for CPUs. With
`--tune-minutes`, `_tvm_search` finds the tile of each kernel by measurement.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.backends import (
    DEFAULTS,
    FLOAT,
    PROFILED_RUNS,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
    all_settings,
)
from sandglass.backends._batches import run_by_one
from sandglass.core import host
from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendError, BackendUnavailable
from sandglass.graph.layers import find_layers
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.relax import VirtualMachine
    from tvm.target import Target

INSTALL = install_command("tvm")
PRECISIONS = ("fp32",)
PURPOSE: Final = "deploy"
SPEC = None
SETTINGS: OfferedSettings = {"streams": (1, 2, 4)}
CAPABILITIES = Capabilities(tunes_kernels=True)
LIBRARY = "model.so"
SHARE_CORES = -3  # affinity mode of runtime.config_threadpool in which threads are not bound to cores


class Notes(BuildNotes, frozen=True):
    """The graph's inputs and outputs in order, the processor of the library, and its kernels.

    `calls` has the kernel and the layer of each call, in order. `work` has, for each layer, its multiply-accumulates,
    and those for one element of the output.
    """

    inputs: list[str]
    outputs: list[str]
    machine: str
    instruction_sets: list[str]
    tuned_kernels: int
    calls: list[tuple[str, str]]
    work: dict[str, tuple[int, int]]


def available() -> str:
    """The version of TVM. Raises BackendUnavailable if it is missing or has no Relax, as in some vendors' versions."""
    try:
        import tvm.relax
    except ImportError as error:
        raise BackendUnavailable("TVM is not installed", INSTALL) from error
    return str(tvm.__version__)


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Compile `model.so`.

    Raises UnsupportedOperator for an operator that TVM lacks, and BackendError for a graph that TVM cannot compile or
    if there is no C compiler for linking.
    """
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline
    from tvm.support import cc

    from sandglass.backends import _tvm_import, _tvm_kernels, _tvm_search
    from sandglass.graph.io import load_graph, static_inputs, static_outputs
    from sandglass.graph.work import layer_work

    if cc.get_cc() is None:
        raise BackendError("TVM needs a C compiler to link its kernels", "install gcc or clang")
    model, target = load_graph(source.graph), host_target()
    module = _tvm_import.kernels(model, target)
    calls = _calls(module, model)
    _use_threads(host.threads())
    tiles = _tvm_search.best_tiles(module, target, source)
    have = _tvm_kernels.registers(target)
    for variable, function in _tvm_kernels.functions(module):
        module[variable] = _tvm_kernels.scheduled(function, have, tiles.get(variable.name_hint))
    passes = pipeline.dataflow_lower_passes(target) + pipeline.finalize_passes(target)
    try:
        with target:
            library = tvm.relax.build(module, target=target, relax_pipeline=tvm.transform.Sequential(passes))
        library.export_library(str(folder / LIBRARY))
    except _tvm_import.ERRORS as error:
        raise BackendError(f"TVM cannot compile the graph: {_tvm_import.reason(error)}",
                           "choose another backend") from error  # fmt: skip
    return Notes(
        inputs=list(static_inputs(model)),
        outputs=list(static_outputs(model)),
        machine=platform.machine(),
        instruction_sets=host.instruction_sets(),
        tuned_kernels=len(tiles),
        calls=calls,
        work=layer_work(model),
    )


def host_target() -> Target:
    """The LLVM target for the processor of this machine, with all its instruction sets."""
    from tvm.target import Target, codegen

    return Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "num-cores": host.threads()})


def _calls(module: IRModule, model: onnx.ModelProto) -> list[tuple[str, str]]:
    """The kernel and the layer of each call, in order. The layer is "" for a kernel without weights.

    The importer drops the names of nodes, so layers are found by their weights: by the sum of their bits as integers,
    which does not depend on the layout or on padding with zeros.
    """
    from tvm import relax
    from tvm.ir import GenericConst, Op

    values = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    layers: defaultdict[int, deque[str]] = defaultdict(deque)
    for name, layer in find_layers(model).items():
        layers[_fingerprint(values[layer.weight])].append(name)
    calls = []
    for block in module["main"].body.blocks:
        for call in (binding.value for binding in block.bindings):
            if isinstance(call, relax.Call) and call.op == Op.get("relax.call_tir"):
                constants = [field.value.numpy() for field in call.args[1].fields if isinstance(field, GenericConst)]
                known = [layers[mark].popleft() for mark in map(_fingerprint, constants) if layers.get(mark)]
                calls.append((call.args[0].name_hint, known[0] if known else ""))
    return calls


def _fingerprint(weights: np.ndarray) -> int:
    return int(np.ascontiguousarray(weights, np.float32).view(np.uint32).sum(dtype=np.uint64))


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> TvmSession:
    """A session of the library. Raises BackendError on a processor without the instruction sets of the library."""
    missing = sorted(set(notes.instruction_sets) - set(host.instruction_sets()))
    if missing or notes.machine != platform.machine():
        raise BackendError(
            f"{folder / LIBRARY} was compiled for a processor with {', '.join(missing) or notes.machine}",
            "deploy the model again on this machine",
        )
    streams = int(all_settings(SETTINGS, settings)["streams"])
    return TvmSession(folder / LIBRARY, notes, max(1, threads // streams), streams)


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """All kernel calls in order, with the median time of several runs."""
    session = open(folder, notes, threads)
    kernels = {kernel for kernel, _ in notes.calls}
    times: list[float] = []

    def instrument(function: object, symbol: str, before: bool, *_: object) -> int:
        if symbol in kernels:
            now = time.perf_counter()
            times.append(now) if before else times.append(now - times.pop())
        return 0  # means: continue

    session.machine().set_instrument(instrument)
    for _ in range(1 + PROFILED_RUNS):
        session.run(inputs)
    count = len(notes.calls)
    medians = np.median(np.reshape(times, (-1, count))[1:], axis=0) * 1e3
    runs = []
    for (kernel, layer), spent in zip(notes.calls, medians, strict=True):
        macs, terms = notes.work.get(layer, (0, 0))
        runs.append(LayerRun(layer or kernel, kernel.rstrip("0123456789"), FLOAT, macs, float(spent), terms=terms))
    return runs


_pools = threading.local()


def _use_threads(count: int) -> None:
    """Use `count` threads for the next calls of this thread. Its pool of threads is created at the first call."""
    import tvm

    if getattr(_pools, "count", 0) == count:
        return
    # TVM binds threads to cores in a fixed order, so the threads of all callers would share the same cores.
    os.environ["TVM_BIND_THREADS"] = "0"
    configure = tvm.get_global_func("runtime.config_threadpool")
    if not hasattr(_pools, "count"):
        configure(SHARE_CORES, 0, [str(core) for core in range(max(count, host.threads()))])  # a pool cannot grow later
    configure(SHARE_CORES, 0, [str(core) for core in range(count)])
    _pools.count = count


class TvmSession:
    """A session with one virtual machine for each calling thread, like TVM's pools of worker threads.

    Raises BackendError if the library cannot be loaded.
    """

    def __init__(self, path: Path, notes: Notes, threads: int, streams: int = 1) -> None:
        import tvm

        self.inputs, self.outputs, self.threads = notes.inputs, notes.outputs, threads
        try:
            self.library = tvm.runtime.load_module(str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise BackendError(
                f"{path} cannot be loaded: {str(error).splitlines()[0]}", "deploy the model again on this machine"
            ) from error
        self.local = threading.local()
        self.pool = ThreadPoolExecutor(streams) if streams > 1 else None

    def machine(self) -> VirtualMachine:
        """The virtual machine of the calling thread."""
        import tvm

        if not hasattr(self.local, "machine"):
            self.local.machine = tvm.relax.VirtualMachine(self.library, tvm.cpu())
        return self.local.machine

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first. The graph runs one image at a time."""
        return run_by_one(self._one, inputs, self.pool)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        import tvm

        _use_threads(self.threads)
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(inputs[name])) for name in self.inputs]
        try:
            result = self.machine()["main"](*tensors)
        except (RuntimeError, ValueError, TypeError) as error:
            raise BackendError(
                f"the input is invalid: {str(error).strip().splitlines()[-1]}", "check the shape of the input"
            ) from error
        values = [result] if len(self.outputs) == 1 else list(result)
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}


if TYPE_CHECKING:
    from sandglass.backends import tvm as this_module

    _: Backend[Notes] = this_module
