"""Transposed convolutions as convolutions: one for each phase of the stride, with interleaved results.

Output o of a transposed convolution with stride s uses only the taps k with k = o + pad (mod s). All outputs that are
equal modulo s use the same taps: they are the result of one convolution, and the s x s results are interleaved. The
arithmetic is the same. Some runtimes have no fast kernel, or no integer kernel, for a transposed convolution, but have
one for a convolution. A clamp and the rounding after the layer are computed before the results are interleaved.

Example in one dimension: kernel [k0 k1 k2 k3], stride 2, padding 1.

    output 0: k1 x0            output 1: k2 x0 + k0 x1
    output 2: k3 x0 + k1 x1    output 3: k2 x1 + k0 x2

The even outputs are a convolution with [k3 k1], the odd ones with [k2 k0].
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
MARK = ".phase"  # in the names of the parts of a layer


@dataclass(frozen=True)
class Taps:
    """One axis of one phase: the taps of the kernel that it uses, in the order of a convolution, and its padding."""

    taps: tuple[int, ...]
    before: int
    after: int


Phases = list[tuple[Taps, Taps]]  # for each phase the taps of rows and of columns


def split_depthwise(model: onnx.ModelProto) -> None:
    """Split each depthwise ConvTranspose that can be split. Changes the model.

    Weights may be float constants, or int8 constants with a DequantizeLinear. The new nodes are named after the layer,
    with `MARK` and a number. A layer stays as it is if its output is not a multiple of its stride or has to be cropped.
    """
    _split(model, late=False)


def split_late(model: onnx.ModelProto) -> None:
    """`split_depthwise`, and also split dense ConvTranspose whose taps overlap or whose weights are integers.

    Results are interleaved as late as possible: 1x1 convolutions after the layer are computed for each phase, and
    rounded results are interleaved as integers. Changes the model.
    """
    _split(model, late=True)


def layer_of(name: str) -> str:
    """The name of a layer, from the name of one of its parts."""
    return name.partition(MARK)[0]


def can_be_split(fact: Facts) -> bool:
    """Whether `split_late` splits a transposed convolution whose weights are integers."""
    return phases_of(fact) is not None


def phase_taps(kernel: int, stride: int, pads: tuple[int, int]) -> list[Taps] | None:
    """The taps of each phase along one axis, or None if convolutions cannot compute the phases."""
    longer, rest = divmod(kernel - sum(pads), stride)  # output length = stride * (input length + longer - 1)
    if rest:
        return None
    phases = []
    for phase in range(stride):
        reach, first = divmod(phase + pads[0], stride)
        taps = tuple(range(first, kernel, stride))[::-1]
        before = len(taps) - 1 - reach
        after = longer - 1 - before + len(taps) - 1
        if not taps or before < 0 or after < 0:
            return None
        phases.append(Taps(taps, before, after))
    return phases


def phases_of(fact: Facts) -> Phases | None:
    """The phases of a transposed convolution, depthwise or dense, or None if it cannot be split."""
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
        """The shapes of the tensors before the first split."""
        return inferred_shapes(self.graph.model)

    def split(self, node: onnx.NodeProto, phases: Phases) -> None:
        """Replace a layer and the nodes of its chain by the nodes of each phase and the interleaving."""
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
        """The stored values of a constant, which may be integers with a DequantizeLinear; None if it is computed."""
        source = self.graph.producer(name, "DequantizeLinear")
        return self.graph.constants.get(name if source is None else source.input[0])

    def phases(self, node: onnx.NodeProto) -> Phases | None:
        """The phases of a layer that should be split; None for other nodes."""
        weight = self._stored(node.input[1]) if node.op_type == "ConvTranspose" else None
        if weight is None:
            return None
        fact = fact_of(node, weight.dims)
        overlap = min(fact.shape[2:]) > max(fact.stride)
        gains = fact.group > 1 or (self.late and (overlap or weight.name != node.input[1]))
        return phases_of(fact) if gains else None

    def _chain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes after a layer, each the only reader of the one before, that are computed for each phase."""
        chain: list[onnx.NodeProto] = []
        while (follower := self._follower((chain or [node])[-1].output[0])) is not None:
            chain.append(follower)
        if self.late and chain and chain[-1].op_type == "DequantizeLinear":
            chain.pop()  # its readers must read it directly: a runtime fuses it with them
        return chain

    def _follower(self, tensor: str) -> onnx.NodeProto | None:
        follower = self.graph.only_consumer(tensor)
        if follower is None or follower.input[0] != tensor:
            return None
        known = follower.op_type in (*CLAMPS, *ROUNDING) or (self.late and self._pointwise(follower))
        constant = all(self._stored(name) is not None for name in follower.input[1:] if name)
        return follower if known and constant else None

    def _pointwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a 1x1 convolution with no more output channels than input channels."""
        weight = self._stored(node.input[1]) if node.op_type == "Conv" else None
        return weight is not None and weight.dims[0] <= weight.dims[1] and fact_of(node, weight.dims).pointwise

    def _convolutions(
        self, node: onnx.NodeProto, chain: list[onnx.NodeProto], phases: Phases
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes of all phases, and the output of each phase."""
        weight = self._stored(node.input[1])
        assert weight is not None
        values, new, results = numpy_helper.to_array(weight), [], []
        group = fact_of(node, weight.dims).group
        # A ConvTranspose has (inputs, outputs, height, width), a Conv (outputs, inputs, height, width).
        values = values if group > 1 else values.transpose(1, 0, 2, 3)
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

    def _copies(self, chain: list[onnx.NodeProto], output: str, number: int) -> list[onnx.NodeProto]:
        """A copy of the chain for phase `number`, whose convolution has the output `output`."""
        new = []
        for follower in chain:
            name, inputs = self.graph.fresh(f"{follower.name}{MARK}{number}"), [output, *follower.input[1:]]
            output = self.graph.fresh(f"{follower.output[0]}{MARK}{number}")
            scaled = self.graph.producer(follower.input[1]) if follower.op_type == "Conv" else None
            if scaled is not None:
                integers = numpy_helper.to_array(self.graph.constants[scaled.input[0]])
                weights, inputs[1] = self._constant(follower.input[1], f"{name}.taps", integers)
                new += weights
            copy = changed_node(follower, inputs, output)
            copy.name = name
            new.append(copy)
        return new

    def _constant(self, like: str, name: str, values: np.ndarray) -> tuple[list[onnx.NodeProto], str]:
        """Add weights in the form of the weights `like`: a DequantizeLinear if they are integers, and the output name.

        Integers also get a copy of the zero point: for processors without VNNI ONNX Runtime rewrites weights and zero
        points, and it does not load a graph in which layers share a zero point.
        """
        graph, name = self.graph, self.graph.add_constant(name, values)
        source = graph.producer(like)
        if source is None:
            return [], name
        _, scale, zero = source.input
        zero_point = graph.copy_constant(f"{name}.zero_point", graph.constants[zero])
        output = graph.fresh(f"{name}.float")
        return [helper.make_node("DequantizeLinear", [name, scale, zero_point], [output], output, axis=0)], output
