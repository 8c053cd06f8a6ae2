"""From a graph to kernels for TVM's LLVM code generator: import, layout, fusion, and a schedule for each kernel.

TVM runs a kernel that nobody scheduled as one scalar loop on one core. Every kernel here gets the same form, with a
tile of its result in vector registers: rows of pixels by vectors of channels, which therefore come last in memory
(NHWC, weights HWIO). Which tile is best depends on the processor: `tiles` ranks them by a count of loads, and the
search in `_tvm_search` measures the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.core.errors import BackendError, UnsupportedOperator
from sandglass.graph.names import Names

LAYOUT = {"relax.nn.conv2d": ["NHWC", "HWIO"], "relax.nn.conv2d_transpose": ["NHWC", "IOHW"]}
CLAMPS = ("maximum", "minimum")
TRANSPOSED = "conv2d_transpose"  # name of a transposed convolution's reduction
UNROLLED = 16  # steps of a reduction written out
FEWEST_LANES = 4  # with fewer in use, more channels are faster
FLAT = 64  # elements of the innermost loop of a kernel that only moves or maps values
REDUCTION = 2  # tvm.tirx.IterVar.CommReduce
# What TVM raises has no common base class but Exception.
ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, LookupError, AttributeError)


class Tile(NamedTuple):
    """How much of a result is in registers at once: `pixels` of a row, for each `vectors` of `lanes` channels."""

    pixels: int
    vectors: int
    lanes: int


class Registers(NamedTuple):
    """Vector registers of a processor: float32 in each, and how many hold results while others hold operands."""

    lanes: int
    results: int


def registers(target: Any) -> Registers:
    """Those of a TVM target. AVX-512 and Arm have 32 registers, what came before has 16."""
    from tvm.target import codegen

    lanes = int(codegen.llvm_get_vector_width(target)) // 32
    return Registers(lanes, 12 if lanes == 8 else 24)


def kernels(model: onnx.ModelProto, target: Any) -> Any:
    """The graph as a Relax module: fused kernels without schedules, and the function that calls them.

    Raises UnsupportedOperator naming the operators that TVM's importer lacks, BackendError for any other refusal.
    """
    import tvm
    from tvm.relax import transform
    from tvm.relax.frontend.onnx import from_onnx

    try:
        module = _named_clamps(from_onnx(_whole_vectors(model, registers(target).lanes)))
        passes = [
            transform.DecomposeOpsForInference(),
            transform.CanonicalizeBindings(),
            transform.ConvertLayout(LAYOUT),
            transform.FoldConstant(),
            transform.LegalizeOps({"relax.nn.conv2d_transpose": _transposed}),
            transform.AnnotateTIROpPattern(),
            transform.FoldConstant(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
        with target:
            return tvm.transform.Sequential(passes)(module)
    except tvm.error.OpNotImplemented as error:
        names = str(error).rpartition(":")[2].strip()
        raise UnsupportedOperator(f"TVM lacks operators of the graph: {names}", "choose another backend") from error
    except ERRORS as error:
        raise BackendError(f"TVM cannot read the graph: {reason(error)}", "choose another backend") from error


def _whole_vectors(model: onnx.ModelProto, lanes: int) -> onnx.ModelProto:
    """The graph with convolutions to an odd number of channels computing whole vectors, of which a part is cut off.

    Heads have as many channels as there are keypoints or classes. 17 of them would be computed one by one.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    values, names = {entry.name: entry for entry in graph.initializer}, Names(model)
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Conv" or any(a.name == "group" and a.i > 1 for a in node.attribute):
            continue
        weights = [values[name] for name in node.input[1:] if name in values]
        if len(weights) < len(node.input) - 1:
            continue
        channels, output = weights[0].dims[0], node.output[0]
        if gcd(channels, lanes) >= FEWEST_LANES:
            continue
        for i, entry in enumerate(weights, 1):
            array = numpy_helper.to_array(entry)
            zeros = np.zeros((-channels % lanes, *array.shape[1:]), array.dtype)
            node.input[i] = names.fresh(f"{output}_whole_{i}")
            graph.initializer.append(numpy_helper.from_array(np.concatenate([array, zeros]), node.input[i]))
        node.output[0] = names.fresh(f"{output}_whole")
        ends = [names.fresh(f"{output}_{name}") for name in ("start", "end", "axis")]
        graph.initializer.extend(numpy_helper.from_array(np.array([value], np.int64), name)
                                 for name, value in zip(ends, (0, channels, 1), strict=True))  # fmt: skip
        graph.node.insert(place + 1, onnx.helper.make_node("Slice", [node.output[0], *ends], [output]))
    del graph.value_info[:]  # they name tensors that have grown
    return changed


def functions(module: Any) -> list[tuple[Any, Any]]:
    """Kernels of a module with the variables that name them, in a fixed order."""
    from tvm.tirx import PrimFunc

    found = [(variable, function) for variable, function in module.functions_items() if isinstance(function, PrimFunc)]
    return sorted(found, key=lambda item: item[0].name_hint)


def reason(error: Exception) -> str:
    """The last line of an exception's message, which says what was wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _named_clamps(module: Any) -> Any:
    """Clips as operators that layout conversion knows: the importer writes them as kernels, which are opaque to it."""
    import tvm
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    @mutator
    class Clamps(PyExprMutator):
        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            if call.op == tvm.ir.Op.get("relax.call_tir"):
                name, given = call.args[0].name_hint.rstrip("0123456789"), call.args[1]
                if name in CLAMPS and len(given.fields) == 2:
                    return getattr(relax.op, name)(*given.fields)
            return call

    rewriter = Clamps(module)
    module["main"] = rewriter.visit_expr(module["main"])
    return module


def _transposed(builder: Any, call: Any) -> Any:
    """A transposed convolution, NHWC, as a sum over the pixels that really reach an output.

    TVM's own writes zeros between the pixels and multiplies by them: 3 of 4 products at stride 2. Here output y takes
    the weights y + pad, modulo the stride, and every stride-th after it.
    """
    from tvm import te, topi

    given = call.attrs
    down, right = (int(step) for step in given.strides)
    top, left = (int(pad) for pad in given.padding[:2])
    groups, holes = int(given.groups), [int(hole) for hole in given.dilation]
    _, height, width, channels = (int(size) for size in call.ty.shape)
    into, out, *_ = (int(size) for size in call.args[1].ty.shape)  # of the weight: all inputs, a group's outputs

    def arranged(weight: Any) -> Any:
        """HWIO, with zeros behind so that the stride divides it."""
        weight = topi.nn.dilate(weight, [1, 1, *holes]) if holes != [1, 1] else weight
        rows, columns = (int(size) for size in weight.shape[2:])
        weight = topi.nn.pad(weight, (0, 0, 0, 0), (0, 0, -rows % down, -columns % right))
        shape = (*weight.shape[2:], into // groups, channels)
        return te.compute(shape, lambda y, x, i, o: weight[(o // out) * (into // groups) + i, o % out, y, x])

    def convolved(image: Any, weight: Any) -> Any:
        rows, columns, depth, _ = (int(size) for size in weight.shape)
        rows, columns = rows // down, columns // right
        missing = [max(0, (size - 1 + pad) // step + 1 - int(have)) for size, pad, step, have in
                   ((height, top, down, image.shape[1]), (width, left, right, image.shape[2]))]  # fmt: skip
        padded = topi.nn.pad(image, (0, rows - 1, columns - 1, 0), (0, *missing, 0), name="pad_temp")
        r = te.reduce_axis((0, rows), "ry")
        s = te.reduce_axis((0, columns), "rx")
        i = te.reduce_axis((0, depth), "rc")

        def value(n: Any, y: Any, x: Any, o: Any) -> Any:
            pixel = padded[n, (y + top) // down + rows - 1 - r, (x + left) // right + columns - 1 - s,
                           i if groups == 1 else (o // out) * depth + i]  # fmt: skip
            return te.sum(pixel * weight[(y + top) % down + down * r, (x + left) % right + right * s, i, o], [r, s, i])

        return te.compute((image.shape[0], height, width, channels), value, name=TRANSPOSED)

    weight = builder.emit(builder.call_te(arranged, call.args[1], primfunc_name_hint="arranged"))
    return builder.call_te(convolved, call.args[0], weight, primfunc_name_hint=TRANSPOSED)


def tiles(pixels: int, channels: int, have: Registers) -> list[Tile]:
    """Tiles of a row of `pixels` with `channels` that fit the registers, what should be fastest first.

    Lanes are a power of two: LLVM takes vectors of any other length apart.
    """
    lanes = gcd(channels, have.lanes)
    found = []
    for vectors in _divisors(channels // lanes):
        for long in _divisors(pixels):
            if vectors * long <= have.results:
                loads = (long + vectors) / (long * vectors)  # for one product of vectors
                found.append((loads, Tile(long, vectors, lanes)))
    return [tile for _, tile in sorted(found)]


def tile_space(function: Any, have: Registers) -> list[Tile]:
    """Tiles that a kernel can be scheduled with, ranked; empty where it has no single reduction."""
    shape, reductions = _core(_schedule(function))
    return tiles(shape[-2] if len(shape) > 1 else 1, shape[-1], have) if shape and reductions == 1 else []


def scheduled(function: Any, have: Registers, tile: Tile | None = None) -> Any:
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


def _schedule(function: Any) -> Any:
    import tvm
    from tvm import s_tir

    return s_tir.Schedule(tvm.IRModule({"main": function}))


def _core(schedule: Any) -> tuple[list[int], int]:
    """Shape of what a kernel reduces to, or computes last where it reduces nothing, and how many of its blocks reduce.

    The shape is empty where it is not static.
    """
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    cores = [block for block in blocks if _reduces(schedule, block)]
    return _shape(schedule, (cores or blocks)[-1]), len(cores)


def _shape(schedule: Any, block: Any) -> list[int]:
    extents = [axis.dom.extent for axis in schedule.get(block).iter_vars if axis.iter_type != REDUCTION]
    return [int(extent) for extent in extents] if all(hasattr(extent, "value") for extent in extents) else []


def _reduces(schedule: Any, block: Any) -> bool:
    return any(axis.iter_type == REDUCTION for axis in schedule.get(block).iter_vars)


def _tile(schedule: Any, tile: Tile) -> None:
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


def _inner(schedule: Any, loops: Sequence[Any]) -> list[Any]:
    """The inner loops that together have few enough steps to be written out."""
    found: list[Any] = []
    for loop in reversed(loops):
        found.append(loop)
        if prod(int(schedule.get(one).extent) for one in found) > UNROLLED:
            return found[:-1]
    return found


def _map(schedule: Any) -> None:
    """No reduction: one pass over the result, everything before it done on the way."""
    *before, last = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in before:
        schedule.compute_inline(block)
    _flatten(schedule, last)


def _flatten(schedule: Any, block: Any) -> None:
    """Rows in parallel, a piece of the last axis as vectors where it has enough elements."""
    loops = schedule.get_loops(block)
    piece = gcd(int(schedule.get(loops[-1]).extent), FLAT)
    outer, inner = schedule.split(loops[-1], [None, piece])
    if piece >= FEWEST_LANES:
        schedule.vectorize(inner)
    schedule.parallel(schedule.fuse(*loops[:-1], outer) if len(loops) > 1 else outer)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
