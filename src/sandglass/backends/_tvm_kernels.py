"""A schedule for each kernel, for TVM's LLVM code generator.

TVM runs a kernel that nobody scheduled as one scalar loop on one core. Every kernel here gets the same form, with a
tile of its result in vector registers: rows of pixels by vectors of channels, which therefore come last in memory
(NHWC, weights HWIO; see `_tvm_import`). Which tile is best depends on the processor: `tiles` ranks them by a count of
loads, and the search in `_tvm_search` measures the first of them.
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
UNROLLED = 16  # steps of a reduction written out
FEWEST_LANES = 4  # with fewer in use, more channels are faster
FLAT = 64  # elements of the innermost loop of a kernel that only moves or maps values
REDUCTION = 2  # tvm.tirx.IterVar.CommReduce


class Tile(NamedTuple):
    """How much of a result is in registers at once: `pixels` of a row, for each `vectors` of `lanes` channels."""

    pixels: int
    vectors: int
    lanes: int


class Registers(NamedTuple):
    """Vector registers of a processor: float32 in each, and how many hold results while others hold operands."""

    lanes: int
    results: int


def registers(target: Target) -> Registers:
    """Those of a TVM target. AVX-512 and Arm have 32 registers, what came before has 16."""
    from tvm.target import codegen

    lanes = int(codegen.llvm_get_vector_width(target)) // 32
    return Registers(lanes, 12 if lanes == 8 else 24)


def functions(module: IRModule) -> list[tuple[GlobalVar, PrimFunc]]:
    """Kernels of a module with the variables that name them, in a fixed order."""
    from tvm.tirx import PrimFunc

    kernels = [(name, function) for name, function in module.functions_items() if isinstance(function, PrimFunc)]
    return sorted(kernels, key=lambda item: item[0].name_hint)


def tiles(pixels: int, channels: int, have: Registers) -> list[Tile]:
    """Tiles of a row of `pixels` with `channels` that fit the registers, what should be fastest first.

    Lanes are a power of two: LLVM takes vectors of any other length apart.
    """
    lanes = gcd(channels, have.lanes)
    ranked = []
    for vectors in _divisors(channels // lanes):
        for long in _divisors(pixels):
            if vectors * long <= have.results:
                loads = (long + vectors) / (long * vectors)  # for one product of vectors
                ranked.append((loads, Tile(long, vectors, lanes)))
    return [tile for _, tile in sorted(ranked)]


def tile_space(function: PrimFunc, have: Registers) -> list[Tile]:
    """Tiles that a kernel can be scheduled with, ranked; empty where it has no single reduction."""
    shape, reductions = _core(_schedule(function))
    return tiles(shape[-2] if len(shape) > 1 else 1, shape[-1], have) if shape and reductions == 1 else []


def scheduled(function: PrimFunc, have: Registers, tile: Tile | None = None) -> PrimFunc:
    """The kernel with a schedule, with `tile` or the tile ranked first; as it was where none of the forms fits it."""
    from tvm import s_tir

    ranked, schedule = tile_space(function, have), _schedule(function)
    try:
        if ranked:
            _tile(schedule, tile or ranked[0])
        elif _core(schedule)[1] == 0:
            _map(schedule)
        else:
            return function
    except s_tir.ScheduleError:  # it is not of the form: scalar, and right
        return function
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def _schedule(function: PrimFunc) -> Schedule:
    import tvm
    from tvm import s_tir

    return s_tir.Schedule(tvm.IRModule({"main": function}))


def _core(schedule: Schedule) -> tuple[list[int], int]:
    """Shape of what a kernel reduces to, or computes last where it reduces nothing, and how many of its blocks reduce.

    The shape is empty where it is not static.
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
    """One reduction: tiles in parallel; in each the sums stay in registers, and what follows is done to them there."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    place = next(i for i, block in enumerate(blocks) if _reduces(schedule, block))
    before, core, after = blocks[:place], blocks[place], blocks[place + 1 :]
    shape = _shape(schedule, core)
    same = list(takewhile(lambda block: _shape(schedule, block) == shape, after))
    other = after[len(same) :]  # a part of the result, cut off: done to the whole of it
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
        # In one loop over both, TVM 0.27 takes the phase of a row for that of a column: wrong results.
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
    """The inner loops that together have few enough steps to be written out."""
    inner: list[LoopRV] = []
    for loop in reversed(loops):
        inner.append(loop)
        if prod(int(schedule.get(one).extent) for one in inner) > UNROLLED:
            return inner[:-1]
    return inner


def _map(schedule: Schedule) -> None:
    """No reduction: one pass over the result, everything before it done on the way."""
    *before, last = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in before:
        schedule.compute_inline(block)
    _flatten(schedule, last)


def _flatten(schedule: Schedule, block: SBlockRV) -> None:
    """Rows in parallel, a piece of the last axis as vectors where it has enough elements."""
    loops = schedule.get_loops(block)
    piece = gcd(int(schedule.get(loops[-1]).extent), FLAT)
    outer, inner = schedule.split(loops[-1], [None, piece])
    if piece >= FEWEST_LANES:
        schedule.vectorize(inner)
    schedule.parallel(schedule.fuse(*loops[:-1], outer) if len(loops) > 1 else outer)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
