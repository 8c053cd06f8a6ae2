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

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import CLAMPS, Facts, fact_of
from sandglass.graph.nodes import changed_node
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


def split_depthwise(model: onnx.ModelProto) -> None:
    """Split every depthwise ConvTranspose that can be split.

    Weights may be float constants or int8 constants behind a DequantizeLinear. The new nodes have the layer's name,
    `MARK` and a number. One whose output is no multiple of its stride, or would need cropping, stays as it is.
    """
    _split(model, late=False)


def split_late(model: onnx.ModelProto) -> None:
    """Do `split_depthwise`, and split dense ones too, where taps overlap or weights are integers.

    Results interleave as late as can be: what is done pixel by pixel, a 1x1 convolution, is done for each phase, and
    what is rounded interleaves as integers.
    """
    _split(model, late=True)


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


def _split(model: onnx.ModelProto, late: bool) -> None:
    with GraphIndex(model) as graph:
        splitter = _Splitter(graph, late)
        for node in graph:
            if (phases := splitter.phases(node)) is not None:
                splitter.split(node, phases)


class _Splitter:
    def __init__(self, graph: GraphIndex, late: bool) -> None:
        self.graph, self.late = graph, late

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors before any split."""
        return inferred_shapes(self.graph.model)

    def split(self, node: onnx.NodeProto, phases: Phases) -> None:
        """Replace a layer, and the nodes that alone follow it, by a convolution for each phase and the interleaving."""
        chain = self._chain(node)
        last = (chain or [node])[-1]
        pixels = self.late and last.op_type == "QuantizeLinear"
        shape = self.shapes.get(last.output[0], ()) if pixels else ()
        new, results = self._convolutions(node, chain, phases)
        for follower in chain:
            self.graph.remove(follower)
        shape = shape if min(shape, default=0) > 0 else ()
        joined = interleaved(self.graph, f"{node.name}{MARK}s", results, last.output[0], shape)
        self.graph.replace(node, [*new, *joined])

    def _stored(self, name: str) -> onnx.TensorProto | None:
        """A constant as it is stored, perhaps behind a DequantizeLinear."""
        source = self.graph.producer(name, "DequantizeLinear")
        return self.graph.constants.get(name if source is None else source.input[0])

    def phases(self, node: onnx.NodeProto) -> Phases | None:
        """The phases of a layer that is to be split, else None."""
        weight = self._stored(node.input[1]) if node.op_type == "ConvTranspose" else None
        if weight is None:
            return None
        fact = fact_of(node, weight.dims)
        overlap = min(fact.shape[2:]) > max(fact.stride)
        gains = fact.group > 1 or (self.late and (overlap or weight.name != node.input[1]))
        return phases_of(fact) if gains else None

    def _chain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What alone follows a layer, and is done for each phase."""
        chain: list[onnx.NodeProto] = []
        while (follower := self._follower((chain or [node])[-1].output[0])) is not None:
            chain.append(follower)
        if self.late and chain and chain[-1].op_type == "DequantizeLinear":
            chain.pop()  # the nodes that read the integers must find them right before it
        return chain

    def _follower(self, made: str) -> onnx.NodeProto | None:
        follower = self.graph.only_consumer(made)
        if follower is None or follower.input[0] != made:
            return None
        known = follower.op_type in (*CLAMPS, *ROUNDING) or (self.late and self._pointwise(follower))
        constant = all(self._stored(name) is not None for name in follower.input[1:] if name)
        return follower if known and constant else None

    def _pointwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a 1x1 convolution that makes no more channels than it reads."""
        weight = self._stored(node.input[1]) if node.op_type == "Conv" else None
        return weight is not None and weight.dims[0] <= weight.dims[1] and fact_of(node, weight.dims).pointwise

    def _convolutions(
        self, node: onnx.NodeProto, chain: list[onnx.NodeProto], phases: Phases
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes of all phases, and what each of them makes."""
        weight = self._stored(node.input[1])
        assert weight is not None
        values, new, results = numpy_helper.to_array(weight), [], []
        group = fact_of(node, weight.dims).group
        values = values if group > 1 else values.transpose(1, 0, 2, 3)  # by output channels, as convolutions have them
        for number, (rows, columns) in enumerate(phases):
            name = self.graph.fresh(f"{node.name}{MARK}{number}")
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
            name, inputs = self.graph.fresh(f"{follower.name}{MARK}{number}"), [made, *follower.input[1:]]
            made = self.graph.fresh(f"{follower.output[0]}{MARK}{number}")
            scaled = self.graph.producer(follower.input[1]) if follower.op_type == "Conv" else None
            if scaled is not None:
                integers = numpy_helper.to_array(self.graph.constants[scaled.input[0]])
                weights, inputs[1] = self._constant(follower.input[1], f"{name}.taps", integers)
                new += weights
            copy = changed_node(follower, inputs, made)
            copy.name = name
            new.append(copy)
        return new

    def _constant(self, like: str, wanted: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], str]:
        """Weights stored as those called `like` are: nodes that scale integers, and the tensor to read.

        Integers have a zero point of their own too: ONNX Runtime rewrites both for processors without VNNI, and does
        not load a graph in which layers share one.
        """
        graph, name = self.graph, self.graph.add_constant(wanted, values)
        source = graph.producer(like)
        if source is None:
            return [], name
        _, scale, zero = source.input
        own = graph.copy_constant(f"{name}.zero_point", graph.constants[zero])
        read = graph.fresh(f"{name}.float")
        return [helper.make_node("DequantizeLinear", [name, scale, own], [read], read, axis=0)], read
