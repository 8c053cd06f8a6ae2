"""Schedules of kernels for TVM's LLVM code generator.

TVM runs a kernel without a schedule as one scalar loop on one core. Here, all kernels get the same kind of schedule: a
tile of the result is in vector registers, with rows of pixels and vectors of channels. For this, channels are the last
axis (NHWC, weights HWIO; see `_tvm_import`). The best tile depends on the processor: `tiles` ranks the tiles by the
number of loads, and the search in `_tvm_search` measures the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import gcd, prod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tvm.ir import GlobalVar, IRModule
    from tvm.s_tir.schedule import LoopRV, SBlockRV, Schedule
    from tvm.target import Target
    from tvm.tirx import PrimFunc

TRANSPOSED = "conv2d_transpose"  # name of a transposed convolution's reduction
UNROLLED = 16  # largest number of steps of a reduction that are unrolled
FEWEST_LANES = 4  # smallest number of used lanes; with fewer, added channels of zeros are faster
FLAT = 64  # elements of the innermost loop of a kernel that only moves or maps values
REDUCTION = 2  # tvm.tirx.IterVar.CommReduce


class Tile(NamedTuple):
    """The part of a result in registers: `pixels` of a row, and for each pixel `vectors` of `lanes` channels."""

    pixels: int
    vectors: int
    lanes: int


class Registers(NamedTuple):
    """The vector registers of a processor: float32 lanes of each, and the number that is available for results."""

    lanes: int
    results: int


def registers(target: Target) -> Registers:
    """The registers of a TVM target. AVX-512 and ARM have 32 registers, older x86 processors have 16."""
    from tvm.target import codegen

    lanes = int(codegen.llvm_get_vector_width(target)) // 32
    return Registers(lanes, 12 if lanes == 8 else 24)


def functions(module: IRModule) -> list[tuple[GlobalVar, PrimFunc]]:
    """The kernels of a module with the variables that name them, sorted by name."""
    from tvm.tirx import PrimFunc

    kernels = [(name, function) for name, function in module.functions_items() if isinstance(function, PrimFunc)]
    return sorted(kernels, key=lambda item: item[0].name_hint)


def tiles(pixels: int, channels: int, have: Registers) -> list[Tile]:
    """The tiles of a row of `pixels` with `channels` that fit into the registers, the probably fastest first.

    Lanes are a power of two, because LLVM splits vectors of other lengths.
    """
    lanes = gcd(channels, have.lanes)
    ranked = []
    for vectors in _divisors(channels // lanes):
        for long in _divisors(pixels):
            if vectors * long <= have.results:
                loads = (long + vectors) / (long * vectors)  # loads for one product of vectors
                ranked.append((loads, Tile(long, vectors, lanes)))
    return [tile for _, tile in sorted(ranked)]


def tile_space(function: PrimFunc, have: Registers) -> list[Tile]:
    """The possible tiles of a kernel, ranked; empty for a kernel without exactly one reduction."""
    shape, reductions = _core(_schedule(function))
    return tiles(shape[-2] if len(shape) > 1 else 1, shape[-1], have) if shape and reductions == 1 else []


def scheduled(function: PrimFunc, have: Registers, tile: Tile | None = None) -> PrimFunc:
    """The kernel with a schedule that uses `tile` or the first ranked tile; unchanged if no schedule fits."""
    from tvm import s_tir

    ranked, schedule = tile_space(function, have), _schedule(function)
    try:
        if ranked:
            _tile(schedule, tile or ranked[0])
        elif _core(schedule)[1] == 0:
            _map(schedule)
        else:
            return function
    except s_tir.ScheduleError:  # the schedule does not fit: the unchanged kernel is slow but correct
        return function
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def _schedule(function: PrimFunc) -> Schedule:
    import tvm
    from tvm import s_tir

    return s_tir.Schedule(tvm.IRModule({"main": function}))


def _core(schedule: Schedule) -> tuple[list[int], int]:
    """The shape of a kernel's reduction, or of its last block if it has no reduction, and the number of reductions.

    The shape is empty if it is not static.
    """
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    cores = [block for block in blocks if _reduces(schedule, block)]
    return _shape(schedule, (cores or blocks)[-1]), len(cores)


def _shape(schedule: Schedule, block: SBlockRV) -> list[int]:
    extents = [axis.dom.extent for axis in schedule.get(block).iter_vars if axis.iter_type != REDUCTION]
    return [int(extent) for extent in extents] if all(hasattr(extent, "value") for extent in extents) else []


def _reduces(schedule: Schedule, block: SBlockRV) -> bool:
    return any(axis.iter_type == REDUCTION for axis in schedule.get(block).iter_vars)


def _tile(schedule: Schedule, tile: Tile) -> None:
    """Schedule a kernel with one reduction: tiles run in parallel, and sums and later operations stay in registers."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    place = next(i for i, block in enumerate(blocks) if _reduces(schedule, block))
    before, core, after = blocks[:place], blocks[place], blocks[place + 1 :]
    shape = _shape(schedule, core)
    same = list(takewhile(lambda block: _shape(schedule, block) == shape, after))
    other = after[len(same) :]  # blocks that read a part of the result, after all of it is computed
    for block in (*before[:-1], *same[:-1], *other[:-1]):
        schedule.compute_inline(block)
    last = same[-1] if same else schedule.cache_write(core, 0, "global")
    loops = schedule.get_loops(last)
    if len(loops) == 1:
        loops = [schedule.add_unit_loop(loops[0]), *loops]
    rows, row, channels = loops[:-2], loops[-2], loops[-1]
    row, pixel = schedule.split(row, [None, tile.pixels])
    channels, vector, lane = schedule.split(channels, [None, tile.vectors, tile.lanes])
    schedule.reorder(row, channels, pixel, vector, lane)
    if TRANSPOSED in schedule.get(core).name_hint:
        # With one loop over both, TVM 0.27 confuses the phases of rows and columns and gives wrong results.
        outer = [schedule.fuse(*rows), schedule.fuse(row, channels)]
    else:
        outer = [schedule.fuse(*rows, row, channels)]
    schedule.parallel(outer[0])
    schedule.compute_at(core, outer[-1], preserve_unit_loops=True)
    reductions = sum(axis.iter_type == REDUCTION for axis in schedule.get(core).iter_vars)
    loops = schedule.get_loops(core)[len(outer) :]
    reduced, (*spatial, channels) = loops[-reductions:], loops[:-reductions]
    spatial += schedule.split(channels, [tile.vectors, tile.lanes])
    schedule.reorder(*reduced, *spatial)
    for loop in (lane, spatial[-1]):
        schedule.vectorize(loop)
    for loop in (pixel, vector, *spatial[:-1], *_inner(schedule, reduced)):
        schedule.unroll(loop)
    schedule.set_scope(core, 0, "local")
    schedule.decompose_reduction(core, reduced[0])
    for block in (*before[-1:], *other[-1:]):
        _flatten(schedule, block)


def _inner(schedule: Schedule, loops: Sequence[LoopRV]) -> list[LoopRV]:
    """The inner loops that together have at most UNROLLED steps."""
    inner: list[LoopRV] = []
    for loop in reversed(loops):
        inner.append(loop)
        if prod(int(schedule.get(one).extent) for one in inner) > UNROLLED:
            return inner[:-1]
    return inner


def _map(schedule: Schedule) -> None:
    """Schedule a kernel without a reduction: one pass over the result, with all earlier blocks inlined."""
    *before, last = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in before:
        schedule.compute_inline(block)
    _flatten(schedule, last)


def _flatten(schedule: Schedule, block: SBlockRV) -> None:
    """Run rows in parallel, and vectorize a part of the last axis if it has enough elements."""
    loops = schedule.get_loops(block)
    piece = gcd(int(schedule.get(loops[-1]).extent), FLAT)
    outer, inner = schedule.split(loops[-1], [None, piece])
    if piece >= FEWEST_LANES:
        schedule.vectorize(inner)
    schedule.parallel(schedule.fuse(*loops[:-1], outer) if len(loops) > 1 else outer)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
