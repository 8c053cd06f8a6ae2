"""Tensors from which an offset can be subtracted while the network computes the same, and offsets through sums.

The layer that computes a tensor subtracts the offset o from its bias. A layer with weights W that reads the tensor adds
W o to its bias, because W (x - o) + (b + W o) = W x + b. A clamp moves its bounds: clamp(x - o, low - o, high - o) =
clamp(x, low, high) - o. The offset of a sum is the sum of the offsets of its terms. A term that a layer computes for
this sum alone is free: its offset can be chosen so that the sum has a given offset.

    x - 2  --+
             +--> (x + y) - 5      the sum needs the offset 5, and x has 2: the free term y gets 3
    y - 3  --+

An offset cannot pass through padding with zeros, because the zeros do not move with it, unless the target can pad with
other values. It passes through no operators but sums and clamps.
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
    """Tensors that can have offsets: those in `linear` one for each channel, those in `clamped` one for all channels.

    `clamped` holds the results of clamps, and sums whose offset can only come from such a term.
    """

    linear: tuple[str, ...]
    clamped: tuple[str, ...]


def offset_tensors(model: onnx.ModelProto, layers: set[str], pads: bool = False) -> OffsetTensors:
    """The tensors that one of `layers` rounds and whose readers can all compensate an offset.

    With `pads` layers can pad with any value, so that padding does not prevent the offset of a clamp.
    """
    graph = OffsetGraph(model)
    linear, clamped = [], []
    for name in dict.fromkeys(graph.layer_facts[layer].layer.input for layer in graph.layer_facts if layer in layers):
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
        elif node.op_type == "Add" or (node.name in graph.layer_facts and graph.own_bias(node)):
            linear.append(name)
    return OffsetTensors(tuple(linear), tuple(clamped))


def through_weights(weight: np.ndarray, fact: Facts, offset: np.ndarray) -> np.ndarray:
    """W o: the change of a layer's output for an `offset` of its input, (output channels,) float64.

    `offset` is (input channels,) or (1,).
    """
    sums = weight.reshape(*weight.shape[:2], -1).sum(2, dtype=np.float64)  # (outputs, inputs of a group)
    sums = sums.reshape(fact.group, -1, weight.shape[1])
    inputs = fact.group * weight.shape[1]
    offsets = np.broadcast_to(offset, (inputs,)).reshape(fact.group, -1)
    # Each output of a group sums over the inputs of the group: (groups, outputs, inputs), (groups, inputs) to
    # (groups, outputs).
    return np.asarray(np.einsum("goi,gi->go", sums, offsets).ravel())


class OffsetGraph:
    """A graph with the nodes that write and read each tensor, to follow offsets through it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.layer_facts = model, facts(model)
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in model.graph.output}

    def weight(self, node: onnx.NodeProto) -> np.ndarray:
        """The weights of a layer, in the shape of the graph."""
        return numpy_helper.to_array(self.constants[node.input[1]])

    def folds(self, node: onnx.NodeProto, padded: bool = False) -> bool:
        """Whether a reader can compensate an offset exactly; with `padded` a layer may pad its input."""
        if node.op_type == "Add":
            return self._open_sum(node)
        if node.op_type != "Conv" or node.name not in self.layer_facts or not self.own_bias(node):
            return False
        automatic = any(a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in node.attribute)
        return not automatic and (padded or not any(self.layer_facts[node.name].pads))

    def _open_sum(self, node: onnx.NodeProto) -> bool:
        """Whether a sum has a free term that cancels an offset, or readers that can all compensate it."""
        return bool(self._free_terms(node)) or (
            node.output[0] not in self.outputs and all(self.folds(reader) for reader in self.readers[node.output[0]])
        )

    def _free_terms(self, node: onnx.NodeProto) -> list[str]:
        """Terms of a sum with several channels that a layer computes for it alone: they can have any offsets."""
        return [
            name
            for name in node.input
            if (maker := self.makers.get(name)) is not None
            and maker.name in self.layer_facts
            and self.layer_facts[maker.name].channels > 1
            and self.own_bias(maker)
            and len(self.readers[name]) == 1
            and name not in self.outputs
        ]

    def clamped_term(self, node: onnx.NodeProto) -> str:
        """The result of a clamp that only this sum reads and that can have an offset.

        "" if there is none, or if another term can have an offset of its own.
        """
        if node.op_type != "Add" or self._free_terms(node) or len(set(node.input)) < len(node.input):
            return ""
        term = ""
        for name in node.input:
            maker = self.makers.get(name)
            if maker is not None and maker.op_type in CLAMPS and len(self.readers[name]) == 1:
                term = term or (name if name not in self.outputs and self.shiftable(maker) else "")
            elif maker is not None and (maker.op_type in ("Add", *CLAMPS) or maker.name in self.layer_facts):
                return ""
        return term

    def own_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a layer has a constant bias, or can get one."""
        return node.op_type in ("Conv", "ConvTranspose") and all(name in self.constants for name in node.input[2:])

    def shiftable(self, node: onnx.NodeProto) -> bool:
        """Whether a clamp has constant bounds and is the only reader of a layer or of a sum with a free term."""
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
        return node.name in self.layer_facts and self.own_bias(node)

    def propagated(self, offsets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The offsets of all tensors that need one so that those in `offsets` have theirs, in the graph's order.

        Arrays are (channels,) or (1,) float64.
        """
        sums = [node for node in self.model.graph.node if node.output[0] in offsets]
        targets = {**offsets, **{term: offsets[node.output[0]] for node in sums if (term := self.clamped_term(node))}}
        clamps = [node for node in self.model.graph.node if node.op_type in CLAMPS and node.output[0] in targets]
        targets |= {clamp.input[0]: targets[clamp.output[0]] for clamp in clamps}  # both sides of a clamp move
        propagated: dict[str, np.ndarray] = {}
        for node in self.model.graph.node:
            name = node.output[0]
            if node.op_type == "Add":
                propagated |= self._through_sum(node, targets.get(name), propagated)
            elif name in targets:
                propagated[name] = targets[name].astype(np.float64)
        return propagated

    def _through_sum(
        self, node: onnx.NodeProto, target: np.ndarray | None, propagated: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The offsets of a sum and of its first free term, so that the sum has the offset `target` (None: 0)."""
        total = sum((propagated[term] for term in node.input if term in propagated), np.zeros(1))
        free = [term for term in self._free_terms(node) if term not in propagated]
        offsets: dict[str, np.ndarray] = {}
        if free and (target is not None or np.any(total)):
            offsets[free[0]] = (np.zeros(1) if target is None else target) - total  # the free term adds the difference
            total = total + offsets[free[0]]
        return offsets | ({node.output[0]: total} if np.any(total) else {})
