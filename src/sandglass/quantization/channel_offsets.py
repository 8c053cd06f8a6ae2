"""Tensors that can be less by an offset while the network stays the same, and how offsets go through sums.

The layer that makes a tensor takes the offset off its bias. A layer that reads it adds to its own bias what its weights
W make of the offset o, because W (x - o) + (b + W o) = W x + b. A clamp moves its bounds: clamp(x - o, low - o,
high - o) = clamp(x, low, high) - o. A sum is less by the sum of its terms' offsets; a term that a layer makes for the
sum alone is free: its offset can be chosen so that the sum has the one that is needed.

An offset cannot pass through padding, whose zeros stay, unless the padding can have any value, nor through anything but
sums and clamps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layers import CLAMPS, Facts, facts


@dataclass(frozen=True)
class OffsetTensors:
    """Tensors that can have offsets: `linear` one for each channel, `clamped` one for all channels.

    `clamped` are results of clamps, and sums that can hold an offset in such a term alone.
    """

    linear: tuple[str, ...]
    clamped: tuple[str, ...]


def offset_tensors(model: onnx.ModelProto, layers: set[str], pads: bool = False) -> OffsetTensors:
    """The tensors that one of `layers` rounds, and that nothing reads but nodes which can take an offset up.

    With `pads` layers can pad with any value, so that their padding does not stop the offset of a clamp.
    """
    graph = OffsetGraph(model)
    linear, clamped = [], []
    for name in dict.fromkeys(graph.known[layer].layer.input for layer in graph.known if layer in layers):
        node = graph.makers.get(name)
        if node is None or name in graph.outputs:
            continue
        clamp, in_clamped_term = node.op_type in CLAMPS, bool(graph.clamped_term(node))
        one_offset = clamp or in_clamped_term
        if not all(graph.folds(reader, padded=pads and one_offset) for reader in graph.readers[name]):
            continue
        if one_offset:
            if in_clamped_term or graph.shiftable(node):
                clamped.append(name)
        elif node.op_type == "Add" or (node.name in graph.known and graph.own_bias(node)):
            linear.append(name)
    return OffsetTensors(tuple(linear), tuple(clamped))


def through_weights(weight: np.ndarray, fact: Facts, offset: np.ndarray) -> np.ndarray:
    """A layer's change of output for an `offset` of its input, (input channels,) or (1,), to (output channels,).

    An array of more entries than the layer has input channels counts by its first ones (see `SplitChannels`).
    """
    sums = weight.reshape(*weight.shape[:2], -1).sum(2, dtype=np.float64)  # (outputs, inputs of a group)
    sums = sums.reshape(fact.group, -1, weight.shape[1])
    inputs = fact.group * weight.shape[1]
    offsets = np.broadcast_to(offset[:inputs], (inputs,)).reshape(fact.group, -1)
    return np.asarray(np.einsum("goi,gi->go", sums, offsets).ravel())


class OffsetGraph:
    """A graph with the nodes that make and read each tensor, to follow offsets through it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.known = model, facts(model)
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in model.graph.output}

    def weight(self, node: onnx.NodeProto) -> np.ndarray:
        """A layer's weights."""
        return numpy_helper.to_array(self.constants[node.input[1]])

    def folds(self, node: onnx.NodeProto, padded: bool = False) -> bool:
        """Whether a reader takes an offset up exactly, with `padded` also where it pads its input."""
        if node.op_type == "Add":
            return self._open_sum(node)
        if node.op_type != "Conv" or node.name not in self.known or not self.own_bias(node):
            return False
        automatic = any(a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in node.attribute)
        return not automatic and (padded or not any(self.known[node.name].pads))

    def _open_sum(self, node: onnx.NodeProto) -> bool:
        """Whether a sum's own readers can take an offset, or one of its terms can keep it from them."""
        return bool(self._free_terms(node)) or (
            node.output[0] not in self.outputs and all(self.folds(reader) for reader in self.readers[node.output[0]])
        )

    def _free_terms(self, node: onnx.NodeProto) -> list[str]:
        """Terms of a sum that a layer makes for it alone, each channel its own: their offset can be anything."""
        return [
            name
            for name in node.input
            if (maker := self.makers.get(name)) is not None
            and maker.name in self.known
            and self.known[maker.name].channels > 1
            and self.own_bias(maker)
            and len(self.readers[name]) == 1
            and name not in self.outputs
        ]

    def clamped_term(self, node: onnx.NodeProto) -> str:
        """A clamp's result that a sum alone reads and that can hold its offset; "" where another term can have one."""
        if node.op_type != "Add" or self._free_terms(node) or len(set(node.input)) < len(node.input):
            return ""
        term = ""
        for name in node.input:
            maker = self.makers.get(name)
            if maker is not None and maker.op_type in CLAMPS and len(self.readers[name]) == 1:
                term = term or (name if name not in self.outputs and self.shiftable(maker) else "")
            elif maker is not None and (maker.op_type in ("Add", *CLAMPS) or maker.name in self.known):
                return ""
        return term

    def own_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a layer has a bias that is a constant, or can be given one."""
        return node.op_type in ("Conv", "ConvTranspose") and all(name in self.constants for name in node.input[2:])

    def shiftable(self, node: onnx.NodeProto) -> bool:
        """Whether a clamp alone follows a layer, or a sum with a free term, and its bounds are constants."""
        maker = self.makers.get(node.input[0])
        return (
            maker is not None
            and self._movable(maker)
            and len(self.readers[node.input[0]]) == 1
            and node.input[0] not in self.outputs
            and all(name in self.constants for name in node.input[1:] if name)
        )

    def _movable(self, node: onnx.NodeProto) -> bool:
        """Whether the result of a node can be less by an offset: that of a layer, or of a sum with a free term."""
        if node.op_type == "Add":
            return bool(self._free_terms(node))
        return node.name in self.known and self.own_bias(node)

    def propagated(self, offsets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The offset of every tensor that has one so that those in `offsets` have theirs, in the graph's order."""
        sums = [node for node in self.model.graph.node if node.output[0] in offsets]
        wanted = {**offsets, **{term: offsets[node.output[0]] for node in sums if (term := self.clamped_term(node))}}
        clamps = [node for node in self.model.graph.node if node.op_type in CLAMPS and node.output[0] in wanted]
        wanted |= {clamp.input[0]: wanted[clamp.output[0]] for clamp in clamps}
        every: dict[str, np.ndarray] = {}
        for node in self.model.graph.node:
            name = node.output[0]
            if node.op_type == "Add":
                every |= self._through_sum(node, wanted.get(name), every)
            elif name in wanted:
                every[name] = wanted[name].astype(np.float64)
        return every

    def _through_sum(
        self, node: onnx.NodeProto, wanted: np.ndarray | None, every: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The offsets of a sum and of its first free term, so that the sum has the `wanted` one (none is 0)."""
        target = np.zeros(1) if wanted is None else wanted
        total = sum((every[term] for term in node.input if term in every), np.zeros(1))
        free = [term for term in self._free_terms(node) if term not in every]
        found: dict[str, np.ndarray] = {}
        if free and (wanted is not None or np.any(total)):
            found[free[0]] = target - total
            total = total + found[free[0]]
        return found | ({node.output[0]: total} if np.any(total) else {})
