"""Transposed convolutions as convolutions: one for each phase of the stride, whose results interleave.

Output o of a transposed convolution with stride s meets only the taps k with k = o + pad (mod s). For outputs that are
equal modulo s these are always the same taps, so that they are a convolution of their own, and the s x s results
interleave. The arithmetic is the same. Runtimes that have no fast kernel for the one, or none for integers, have it for
the other. What follows the layer alone, a clamp and its rounding, is done before the results interleave.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.io import drop_unread, set_nodes, sole_reader
from sandglass.graph.layers import CLAMPS, Facts, fact_of
from sandglass.graph.names import Names
from sandglass.graph.shapes import inferred_shapes
from sandglass.lowering.interleave import interleaved

ROUNDING = ("QuantizeLinear", "DequantizeLinear")
MARK = ".phase"


@dataclass(frozen=True)
class Taps:
    """One axis of one phase: which taps of the kernel it meets, in the order of a convolution, and its padding."""

    taps: tuple[int, ...]
    before: int
    after: int


Phases = list[tuple[Taps, Taps]]  # rows and columns, of each phase


def split_depthwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every depthwise ConvTranspose split that can be; the model is changed.

    Weights may be float constants or int8 constants behind a DequantizeLinear. The new nodes are called as the layer,
    `MARK` and a number. One whose output is no multiple of its stride, or would need cropping, stays as it is.
    """
    return _split(model, late=False)


def split_late(model: onnx.ModelProto) -> onnx.ModelProto:
    """`split_depthwise`, and dense ones too, where taps overlap or weights are integers; the model is changed.

    Results interleave as late as can be: what is done pixel by pixel, a 1x1 convolution, is done for each phase, and
    what is rounded interleaves as integers.
    """
    return _split(model, late=True)


def layer_of(name: str) -> str:
    """The layer's own name for one of its parts."""
    return name.partition(MARK)[0]


def can_be_split(fact: Facts) -> bool:
    """Whether `split_late` splits a transposed convolution whose weights are integers."""
    return phases_of(fact) is not None


def phase_taps(kernel: int, stride: int, pads: tuple[int, int]) -> list[Taps] | None:
    """How each phase of one axis reads the input, or None where convolutions cannot."""
    longer, rest = divmod(kernel - sum(pads), stride)
    if rest:
        return None
    found = []
    for phase in range(stride):
        reach, first = divmod(phase + pads[0], stride)
        taps = tuple(range(first, kernel, stride))[::-1]
        before = len(taps) - 1 - reach
        after = longer - 1 - before + len(taps) - 1
        if not taps or before < 0 or after < 0:
            return None
        found.append(Taps(taps, before, after))
    return found


def phases_of(fact: Facts) -> Phases | None:
    """The phases of a transposed convolution, depthwise or dense, or None where it cannot be split."""
    if len(fact.shape) != 4 or not fact.explicit or fact.stride[0] != fact.stride[1] or fact.stride[0] == 1:
        return None
    if not (fact.group == 1 or fact.shape[:2] == (fact.group, 1)) or any(hole != 1 for hole in fact.dilation):
        return None
    rows, columns = (phase_taps(fact.shape[2 + i], fact.stride[i], (fact.pads[i], fact.pads[2 + i])) for i in (0, 1))
    return None if rows is None or columns is None else list(product(rows, columns))


def _split(model: onnx.ModelProto, late: bool) -> onnx.ModelProto:
    graph = _Graph(model)
    found = {node.output[0]: phases for node in model.graph.node if (phases := graph.phases(node, late)) is not None}
    if not found:
        return model
    nodes: list[onnx.NodeProto] = []
    absorbed: set[str] = set()
    for node in model.graph.node:
        phases = found.get(node.output[0])
        if phases is None:
            if node.output[0] not in absorbed:
                nodes.append(node)
            continue
        chain = graph.chain(node, late)
        absorbed |= {follower.output[0] for follower in chain}
        new, results = graph.convolutions(node, chain, phases)
        last = (chain or [node])[-1]
        shape = graph.shapes.get(last.output[0], ()) if late and last.op_type == "QuantizeLinear" else ()
        nodes += new + interleaved(model, graph.names.fresh(f"{node.name}{MARK}s"), results, last.output[0], shape)
    return drop_unread(set_nodes(model, nodes))


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.names = model, Names(model)
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Dimensions of the tensors that have all of them known."""
        return {name: dims for name, dims in inferred_shapes(self.model).items() if min(dims, default=0) > 0}

    def stored(self, name: str) -> onnx.TensorProto | None:
        """A constant as it is stored, perhaps behind a DequantizeLinear."""
        if name in self.makers and self.makers[name].op_type == "DequantizeLinear":
            name = self.makers[name].input[0]
        return self.constants.get(name)

    def phases(self, node: onnx.NodeProto, late: bool) -> Phases | None:
        """The phases of a layer that is to be split, else None."""
        weight = self.stored(node.input[1]) if node.op_type == "ConvTranspose" else None
        if weight is None:
            return None
        fact = fact_of(node, weight.dims)
        overlap = min(fact.shape[2:]) > max(fact.stride)
        wanted = fact.group > 1 or (late and (overlap or weight.name != node.input[1]))
        return phases_of(fact) if wanted else None

    def chain(self, node: onnx.NodeProto, late: bool) -> list[onnx.NodeProto]:
        """What alone follows a layer, and is done for each phase."""
        chain: list[onnx.NodeProto] = []
        while (follower := self._follower((chain or [node])[-1].output[0], late)) is not None:
            chain.append(follower)
        if late and chain and chain[-1].op_type == "DequantizeLinear":
            chain.pop()  # who reads the integers is to find them right before it
        return chain

    def _follower(self, made: str, late: bool) -> onnx.NodeProto | None:
        found = sole_reader(self.model, made)
        if found is None or found.input[0] != made:
            return None
        known = found.op_type in (*CLAMPS, *ROUNDING) or (late and self._pointwise(found))
        constant = all(self.stored(name) is not None for name in found.input[1:] if name)
        return found if known and constant else None

    def _pointwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a 1x1 convolution that makes no more channels than it reads."""
        weight = self.stored(node.input[1]) if node.op_type == "Conv" else None
        return weight is not None and weight.dims[0] <= weight.dims[1] and fact_of(node, weight.dims).pointwise

    def convolutions(
        self, node: onnx.NodeProto, chain: list[onnx.NodeProto], phases: Phases
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes of all phases, and what each of them makes."""
        weight = self.stored(node.input[1])
        assert weight is not None
        values, new, results = numpy_helper.to_array(weight), [], []
        group = fact_of(node, weight.dims).group
        values = values if group > 1 else values.transpose(1, 0, 2, 3)  # by output channels, as convolutions have them
        for number, (rows, columns) in enumerate(phases):
            name = self.names.fresh(f"{node.name}{MARK}{number}")
            taps = np.ascontiguousarray(values[:, :, list(rows.taps)][:, :, :, list(columns.taps)])
            scaled, read = self._constant(node.input[1], f"{name}.taps", taps)
            pads = [rows.before, columns.before, rows.after, columns.after]
            kernel, inputs = list(taps.shape[2:]), [node.input[0], read, *node.input[2:]]
            new += scaled
            new.append(helper.make_node("Conv", inputs, [name], name, group=group, pads=pads, kernel_shape=kernel))
            new += self._copies(chain, name, number)
            results.append(new[-1].output[0])
        return new, results

    def _copies(self, chain: list[onnx.NodeProto], made: str, number: int) -> list[onnx.NodeProto]:
        """The chain once more, behind the part `number` of a layer, which makes the tensor `made`."""
        new = []
        for follower in chain:
            copy = onnx.NodeProto.FromString(follower.SerializeToString())
            copy.name, copy.input[0] = self.names.fresh(f"{follower.name}{MARK}{number}"), made
            copy.output[0] = made = self.names.fresh(f"{follower.output[0]}{MARK}{number}")
            if follower.op_type == "Conv" and follower.input[1] in self.makers:
                integers = numpy_helper.to_array(self.constants[self.makers[follower.input[1]].input[0]])
                scaled, copy.input[1] = self._constant(follower.input[1], f"{copy.name}.taps", integers)
                new += scaled
            new.append(copy)
        return new

    def _constant(self, like: str, name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], str]:
        """Weights stored as those called `like` are: nodes that scale integers, and the tensor to read.

        Integers have a zero point of their own too: ONNX Runtime rewrites both for processors without VNNI, and does
        not load a graph in which layers share one.
        """
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        if like in self.constants:
            return [], name
        _, scale, zero = self.makers[like].input
        own = onnx.TensorProto.FromString(self.constants[zero].SerializeToString())
        own.name = f"{name}.zero_point"
        self.model.graph.initializer.append(own)
        read = f"{name}.float"
        return [helper.make_node("DequantizeLinear", [name, scale, own.name], [read], read, axis=0)], read
