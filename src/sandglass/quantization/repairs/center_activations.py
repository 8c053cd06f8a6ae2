"""Centred activations: what a tensor is on average moves into the biases around it, where the network stays the same.

Rounding spends its steps on the whole range between the least and the largest value. A channel that lies away from 0
wastes them: its offset is taken off by the layer that makes it and put back by those that read it, through their
weights. A clamp's result has one offset for all channels, half its range, and its bounds move with it: a target whose
integers are symmetric around 0 then uses all of them for what a ReLU leaves, as if it had a zero point. So does a sum
with a clamp's result, of two branches of an Hourglass for one, by way of that term. What such a target pads with may be
any value: the offset is then taken off the zeros of a layer's padding too, by a Pad before it.

An offset cannot pass through other padding, whose zeros stay, nor through anything but sums and clamps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.edit import set_nodes
from sandglass.graph.layers import CLAMPS, Facts, add_to_bias, clamp_ends, facts, own_constants
from sandglass.graph.names import Names

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Places:
    """Tensors that can be centred: `linear` with an offset for each channel, `clamped` with one for all.

    `clamped` are results of clamps, and sums that can hold an offset in such a term alone.
    """

    linear: tuple[str, ...]
    clamped: tuple[str, ...]


def places(model: onnx.ModelProto, layers: set[str], pads: bool = False) -> Places:
    """Where offsets pay: tensors that one of `layers` rounds, and that nothing reads but what can take an offset up.

    With `pads` layers can pad with any value, so that theirs do not keep what has one offset from being centred.
    """
    graph = _Graph(model)
    linear, clamped = [], []
    for name in dict.fromkeys(graph.known[layer].layer.input for layer in graph.known if layer in layers):
        node = graph.makers.get(name)
        if node is None or name in graph.outputs:
            continue
        clamp, held = node.op_type in CLAMPS, bool(graph.clamped_term(node))
        if not all(graph.folds(reader, padded=pads and (clamp or held)) for reader in graph.readers[name]):
            continue
        if clamp or held:
            if held or graph.shiftable(node):
                clamped.append(name)
        elif node.op_type == "Add" or (node.name in graph.known and graph.own_bias(node)):
            linear.append(name)
    return Places(tuple(linear), tuple(clamped))


def shift(model: onnx.ModelProto, wanted: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The same network with each tensor in `wanted` less its offset, (channels,) float32; the model is changed.

    `wanted` are tensors that `places` names. A sum of terms that others read too is less by their offsets.
    """
    own_constants(model)
    graph = _Graph(model)
    padding: dict[str, float] = {}  # of layers
    for name, values in graph.offsets(wanted).items():
        maker = graph.makers[name]
        if maker.name in graph.known:
            add_to_bias(model, maker, graph.known[maker.name].channels, -values)
        elif maker.op_type in CLAMPS:
            graph.move_bounds(maker, float(values[0]))
        for reader in graph.readers[name]:
            if reader.name in graph.known:
                fact = graph.known[reader.name]
                add_to_bias(model, reader, fact.channels, through(graph.weight(reader), fact, values))
                if any(fact.pads):
                    padding[reader.name] = -float(values[0])
    return pad(model, padding)


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.known, self.names = model, facts(model), Names(model)
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
        """Whether a reader takes an offset up exactly, of its padding too where it may be `padded`."""
        if node.op_type == "Add":
            return self._open_sum(node)
        if node.op_type != "Conv" or node.name not in self.known or not self.own_bias(node):
            return False
        named = any(a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in node.attribute)
        return not named and (padded or not any(self.known[node.name].pads))

    def _open_sum(self, node: onnx.NodeProto) -> bool:
        """Whether a sum's own readers can take an offset, or one of its terms can hold it off."""
        return bool(self._free(node)) or (
            node.output[0] not in self.outputs and all(self.folds(reader) for reader in self.readers[node.output[0]])
        )

    def _free(self, node: onnx.NodeProto) -> list[str]:
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
        if node.op_type != "Add" or self._free(node) or len(set(node.input)) < len(node.input):
            return ""
        found = ""
        for name in node.input:
            maker = self.makers.get(name)
            if maker is not None and maker.op_type in CLAMPS and len(self.readers[name]) == 1:
                found = found or (name if name not in self.outputs and self.shiftable(maker) else "")
            elif maker is not None and (maker.op_type in ("Add", *CLAMPS) or maker.name in self.known):
                return ""
        return found

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
        """Whether what a node makes can be less by an offset: a layer's result, or a sum with a free term."""
        return bool(self._free(node)) if node.op_type == "Add" else node.name in self.known and self.own_bias(node)

    def offsets(self, wanted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Offsets of every tensor that has one, so that those in `wanted` have theirs, in the graph's order."""
        found: dict[str, np.ndarray] = {}
        sums = [node for node in self.model.graph.node if node.output[0] in wanted]
        wanted = {**wanted, **{term: wanted[node.output[0]] for node in sums if (term := self.clamped_term(node))}}
        clamps = [node for node in self.model.graph.node if node.op_type in CLAMPS and node.output[0] in wanted]
        wanted = {**wanted, **{clamp.input[0]: wanted[clamp.output[0]] for clamp in clamps}}
        for node in self.model.graph.node:
            name = node.output[0]
            if node.op_type == "Add":
                free = [term for term in self._free(node) if term not in found]
                given = sum((found[term] for term in node.input if term in found), np.zeros(1))
                if free and (name in wanted or np.any(given)):
                    found[free[0]] = wanted.get(name, np.zeros(1)) - given
                    given = given + found[free[0]]
                if np.any(given):
                    found[name] = given
            elif name in wanted:
                found[name] = wanted[name].astype(np.float64)
        return found

    def move_bounds(self, node: onnx.NodeProto, offset: float) -> None:
        """A ReLU or Clip whose input and output are less by `offset`."""
        low, high = clamp_ends(node, self.constants)
        names = [self.names.fresh(f"{node.name}.{end}") for end in ("minimum", "maximum")]
        for name, value in zip(names, (low - offset, high - offset), strict=True):
            constant = np.array(np.clip(value, -LARGEST, LARGEST), np.float32)
            self.model.graph.initializer.append(numpy_helper.from_array(constant, name))
        node.CopyFrom(helper.make_node("Clip", [node.input[0], *names], list(node.output), node.name))


def pad(model: onnx.ModelProto, values: Mapping[str, float]) -> onnx.ModelProto:
    """The network whose layers in `values` pad with these in place of 0, by a Pad before each; the model is changed."""
    if not values:
        return model
    known, names, nodes = facts(model), Names(model), list[onnx.NodeProto]()
    for node in model.graph.node:
        if node.name in values:
            made = names.fresh(f"{node.name}.padded")
            nodes.append(padding(model, node.input[0], made, known[node.name].pads, values[node.name]))
            node.input[0] = nodes[-1].output[0]
            drop_pads(node)
        nodes.append(node)
    set_nodes(model, nodes)
    return model


def padding(model: onnx.ModelProto, tensor: str, made: str, pads: Sequence[int], value: float) -> onnx.NodeProto:
    """A Pad of a tensor by a layer's `pads` with `value`, which makes the tensor `made`, a fresh name."""
    starts, ends = np.reshape(pads, (2, -1))
    constants = {
        f"{made}.pads": np.array([0, 0, *starts, 0, 0, *ends], np.int64),
        f"{made}.value": np.array(value, np.float32),
    }
    for name, constant in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(constant, name))
    # pnnx lets the layer pad where the mode is written out, though it is the default.
    return helper.make_node("Pad", [tensor, *constants], [made], f"{made}.by", mode="constant")


def drop_pads(node: onnx.NodeProto) -> None:
    """A layer that no longer pads."""
    node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "pads"))


def through(weight: np.ndarray, fact: Facts, values: np.ndarray) -> np.ndarray:
    """What a layer makes of an offset of its input, (output channels,)."""
    sums = weight.reshape(*weight.shape[:2], -1).sum(2, dtype=np.float64).reshape(fact.group, -1, weight.shape[1])
    inputs = np.broadcast_to(values, (fact.group * weight.shape[1],)).reshape(fact.group, -1)
    return np.asarray(np.einsum("goi,gi->go", sums, inputs).ravel())
