"""Find the fastest tile of each kernel by timing candidates in turns. Results are stored for the next run.

TVM's own search (MetaSchedule) is not used, because it crashes with its rules for CPUs in the packages of TVM 0.27.
"""

from __future__ import annotations

import time
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from sandglass.backends._tvm_kernels import Registers, Tile, functions, registers, scheduled, tile_space
from sandglass.core import host
from sandglass.core.files import sha256
from sandglass.core.resume import Journal, cache_folder
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.target import Target
    from tvm.tirx import PrimFunc

CANDIDATES = 12
ROUNDS = 5
BURST_MILLISECONDS = 4


def best_tiles(module: IRModule, target: Target, source: Source) -> dict[str, Tile]:
    """The fastest tile by kernel: from earlier runs for this graph, target and version of TVM, and from this one.

    Kernels are measured until `source.tune_seconds` are over, those with the most products first. Each result is
    written to disk before the next measurement, so that a killed run can continue.
    """
    import tvm

    versions = {"tvm": tvm.__version__, "sandglass": host.own_version()}
    key = {"graph": sha256(source.graph), "target": str(target), **versions}
    journal = Journal[Tile | None](key, cache_folder() / "tvm")
    kernels, have = functions(module), registers(target)
    costly = sorted(range(len(kernels)), key=lambda number: -_products(kernels[number][1]))
    end = time.perf_counter() + source.tune_seconds
    with journal:
        for number in costly:
            if time.perf_counter() >= end:
                break
            if number not in journal.done:
                journal.append({number: _fastest(kernels[number][1], target, have)})
    return {kernels[number][0].name_hint: Tile(*tile) for number, tile in journal.done.items() if tile}


def _fastest(function: PrimFunc, target: Target, have: Registers) -> Tile | None:
    """The fastest of the first CANDIDATES tiles; None if there are fewer than two. A tie goes to the higher rank."""
    import tvm

    space = tile_space(function, have)[:CANDIDATES]
    if len(space) < 2:
        return None
    generator = np.random.default_rng(0)
    shapes = [tuple(int(size) for size in parameter.shape) for parameter in function.params]
    arrays = [tvm.runtime.tensor(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]
    timers = {}
    for tile in space:
        kernel = scheduled(function, have, tile).with_attr("global_symbol", "main")
        library = tvm.tirx.build(tvm.IRModule({"main": kernel}), target=target)
        timers[tile] = library.time_evaluator("main", tvm.cpu(), number=1, min_repeat_ms=BURST_MILLISECONDS)
    times = [[timer(*arrays).mean for timer in timers.values()] for _ in range(ROUNDS)]
    return space[int(np.argmin(np.median(times, axis=0)))]


def _products(function: PrimFunc) -> int:
    """The number of products in a kernel's largest block, as a measure of its cost."""
    import tvm
    from tvm import s_tir

    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    return max((prod(int(axis.dom.extent) for axis in schedule.get(block).iter_vars) for block in blocks), default=0)
