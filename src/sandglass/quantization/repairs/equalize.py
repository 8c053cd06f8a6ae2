"""Cross-layer equalization: channels of unlike range are brought together where the network stays exactly the same.

Between two layers a channel may be divided by a factor if the next layer multiplies by it (Nagel et al., 2019), through
ReLU as through nothing. Weights have a scale for each output channel, so the producer does not care; activations have
one scale for all channels, and gain. A depthwise consumer does not care either; for a dense one even activations mean
uneven weights, and the factor goes half of the way (in SmoothQuant, Xiao et al., 2022, the other half is that of the
weights' own range, which makes activations uneven and was worse). A sum ties the factors of all its terms together, so
that a whole chain of residual blocks is scaled alike. A Clip at a constant stops a factor unless the constant is never
reached: it then moves with the channel, which changes the network only beyond anything seen by more than MARGIN.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layers import Facts, clamp_ends, facts, own_constants
from sandglass.graph.session import GraphSession

SHARE = 0.5  # of the way to channels of one range, for a dense consumer
MARGIN = 0.5  # of a channel's span: a Clip stays that far above the largest value seen
SMALLEST = 1e-3  # factor, beside the largest: a channel that is nearly dead is left so
CLOSE = 1e-6
EVEN = ("Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Identity")  # f(a x) = a f(x), a > 0


@dataclass(frozen=True)
class Link:
    """Tensors whose channels are scaled together: `producers` make them, `consumers` read them, all are layers.

    `limit` is the least upper bound of a Clip among them, or infinite. `tensor` names the group and is read by layers,
    as all of `tensors` are; `members` are those that nothing but sums, clamps and the like reads as well.
    """

    tensor: str
    tensors: tuple[str, ...]
    members: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    limit: float

    @property
    def moves_clip(self) -> bool:
        """Whether factors move a Clip, which changes the network beyond what was seen."""
        return self.limit < float("inf")


def links(model: onnx.ModelProto) -> list[Link]:
    """Every group of tensors whose channels can be scaled, in the graph's order."""
    known = facts(model)
    values = {i.name: i for i in model.graph.initializer}
    groups = _Groups({*values, *(v.name for v in (*model.graph.input, *model.graph.output))})
    for node in model.graph.node:
        if node.op_type in EVEN:
            groups.join([*(node.input if node.op_type == "Add" else node.input[:1]), node.output[0]])
        elif node.op_type == "Clip" and (bound := _bound(node, values)) is not None:
            groups.join([node.input[0], node.output[0]], bound)
        elif node.name in known:
            fact, computed = known[node.name], any(name and name not in values for name in node.input[2:])
            groups.note(node.output[0], "producers", node.name, fixed=computed or not _scalable(fact, as_input=False))
            groups.note(node.input[0], "consumers", node.name, fixed=not _scalable(fact, as_input=True))
        else:
            for tensor in (*node.input, *node.output):
                groups.fix(tensor)
    return groups.links()


class _Groups:
    """Tensors that must be scaled alike (union-find), and who makes and reads them."""

    def __init__(self, fixed: set[str]) -> None:
        self.parents: dict[str, str] = {}
        self.fixed = fixed
        self.limits: dict[str, float] = {}
        self.users: dict[str, list[tuple[str, str]]] = {}  # tensor to (role, layer)

    def find(self, tensor: str) -> str:
        """The group's representative."""
        while (parent := self.parents.setdefault(tensor, tensor)) != tensor:
            tensor = parent
        return tensor

    def join(self, tensors: list[str], limit: float = float("inf")) -> None:
        """All of `tensors` have the same factors."""
        for tensor in tensors:
            self.parents[self.find(tensor)] = self.find(tensors[0])
        self.limits[tensors[-1]] = limit

    def fix(self, tensor: str) -> None:
        """A tensor cannot be scaled."""
        self.fixed.add(tensor)

    def note(self, tensor: str, role: str, layer: str, fixed: bool) -> None:
        """A layer makes or reads a tensor."""
        self.users.setdefault(tensor, []).append((role, layer))
        if fixed:
            self.fixed.add(tensor)

    def links(self) -> list[Link]:
        """The groups that nothing holds fixed and that layers make and read."""
        held = {self.find(tensor) for tensor in self.fixed}
        members: dict[str, list[str]] = {}
        for tensor in (*self.parents, *self.users):
            members.setdefault(self.find(tensor), []).append(tensor)
        found = []
        for root, tensors in members.items():
            users = [(tensor, *user) for tensor in dict.fromkeys(tensors) for user in self.users.get(tensor, [])]
            read = tuple(dict.fromkeys(tensor for tensor, role, _ in users if role == "consumers"))
            made = tuple(layer for _, role, layer in users if role == "producers")
            if root not in held and read and made:
                consumers = tuple(layer for _, role, layer in users if role == "consumers")
                limit = min(self.limits.get(tensor, float("inf")) for tensor in tensors)
                found.append(Link(read[0], read, tuple(dict.fromkeys(tensors)), made, consumers, limit))
        return found


@dataclass(frozen=True)
class ChannelRange:
    """Least and largest value of each channel, (channels,): `low` and `high` ever, the usual ones a mean over batches.

    An image may have peaks that are many times as high as those of others; factors for it would be none for the rest.
    What is clipped anyway does not count for the usual ones either.
    """

    low: np.ndarray
    high: np.ndarray
    usual_low: np.ndarray
    usual_high: np.ndarray


def gaining(found: Iterable[Link], model: onnx.ModelProto, integer: Container[str]) -> list[Link]:
    """The links that rounding gains by: layers in `integer` read them, and behind a Clip all of these are depthwise.

    Dense ones gain nothing there, because a Clip leaves channels that are much alike.
    """
    known, gain = facts(model), []
    for link in found:
        readers = [known[name] for name in link.consumers if name in integer]
        if readers and (not link.moves_clip or all(reader.channelwise for reader in readers)):
            gain.append(link)
    return gain


def channel_ranges(
    graph: Path,
    tensors: Iterable[str],
    batches: Iterable[Mapping[str, np.ndarray]],
    ends: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, ChannelRange]:
    """The range of each channel (axis 1) over batches, by tensor; `ends` are where some tensors' values are clipped."""
    session, ends = GraphSession(graph, outputs=list(tensors)), ends or {}
    seen: defaultdict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for batch in batches:
        for name, value in session.run(batch).items():
            others = tuple(i for i in range(value.ndim) if i != 1)
            seen[name].append((value.min(axis=others), value.max(axis=others)))
    found = {}
    for name, pairs in seen.items():
        lows, highs = (np.stack(values) for values in zip(*pairs, strict=True))
        usual = [np.clip(values, *ends[name]) if name in ends else values for values in (lows, highs)]
        found[name] = ChannelRange(lows.min(0), highs.max(0), usual[0].mean(0), usual[1].mean(0))
    return found


def choose_factors(
    model: onnx.ModelProto, found: list[Link], peaks: Mapping[str, np.ndarray], seen: Mapping[str, ChannelRange]
) -> dict[str, np.ndarray]:
    """Factors by the name of a link, (channels,) float32: each channel is divided by its own.

    `peaks` are the magnitudes of each tensor's channels that are brought together, `seen` their ranges.
    """
    known = facts(model)
    chosen: dict[str, np.ndarray] = {}
    for link in found:
        peak = np.maximum(np.max([peaks[tensor] for tensor in link.tensors], axis=0).astype(np.float64), CLOSE)
        share = 1.0 if all(known[name].channelwise for name in link.consumers) else SHARE
        factors = np.maximum((peak / peak.max()) ** share, SMALLEST)
        if link.moves_clip:
            ranges = [seen[tensor] for tensor in link.tensors]
            reach = np.max([(1 + MARGIN) * entry.high - MARGIN * entry.low for entry in ranges], axis=0)
            factors = np.minimum(np.maximum(factors, reach / link.limit), 1.0)
        if factors.min() < 1:
            chosen[link.tensor] = factors.astype(np.float32)
    return chosen


def scale_channels(model: onnx.ModelProto, factors: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The same network with the channels of each tensor in `factors` divided by them; the model is changed."""
    own_constants(model)
    known = facts(model)
    constants = {i.name: i for i in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    for link in links(model):
        if link.tensor not in factors:
            continue
        values = factors[link.tensor].astype(np.float64)
        for name in link.producers:
            multiply(constants[known[name].layer.weight], 1 / values, known[name].axis)
            if len(nodes[name].input) > 2 and nodes[name].input[2]:
                multiply(constants[nodes[name].input[2]], 1 / values, 0)
        for name in link.consumers:
            multiply(constants[known[name].layer.weight], values, _input_axis(known[name]))
    return model


def multiply(initializer: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    """Multiply a constant along an axis, in place; `values` has the axis's length."""
    weight = numpy_helper.to_array(initializer)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    initializer.CopyFrom(numpy_helper.from_array((weight * values.reshape(shape)).astype(np.float32), initializer.name))


def _bound(clip: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]) -> float | None:
    """The upper bound of a Clip whose lower one is 0, infinite without one; None for any other Clip."""
    if any(name and name not in values for name in clip.input[1:]):
        return None
    low, high = clamp_ends(clip, values)
    return high if low == 0 and high > 0 else None


def _scalable(fact: Facts, as_input: bool) -> bool:
    """Whether a layer's channels, on that side, lie along one axis of its weight."""
    if fact.layer.operator not in ("Conv", "ConvTranspose"):
        return False
    if fact.group == 1 or fact.channelwise:
        return True
    return fact.layer.operator == "Conv" and not as_input


def _input_axis(fact: Facts) -> int:
    return 0 if fact.layer.operator == "ConvTranspose" or fact.channelwise else 1
