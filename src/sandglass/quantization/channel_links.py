"""Groups of tensors whose channels can be scaled by the same factors while the network computes the same.

Between two layers a channel may be divided by a factor a > 0 if the next layer multiplies by it, because ReLU and the
other operators in HOMOGENEOUS have f(a x) = a f(x). All terms of a sum need the same factors, so that a chain of
residual blocks is one group:

    conv1 -- a -- Relu -- b --+                        producers: conv1, conv2     members: a, b, c, d
                              +-- Add -- d -- conv3    consumers: conv3            tensors: d, which a layer reads
    conv2 -- c ---------------+
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import onnx

from sandglass.graph.layers import Facts, clamp_ends, facts

# Operators with f(a x) = a f(x) for a > 0.
HOMOGENEOUS = ("Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Identity")
UNLIMITED = float("inf")


@dataclass(frozen=True)
class Link:
    """A group of tensors whose channels are scaled together.

    tensor     the name of the group: the first of `tensors`
    tensors    the tensors of the group that layers read
    members    all tensors of the group, including those that only sums, clamps and the like read
    producers  the layers that compute them
    consumers  the layers that read them
    limit      the least upper bound of a Clip in the group, or infinite
    """

    tensor: str
    tensors: tuple[str, ...]
    members: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    limit: float

    @property
    def moves_clip(self) -> bool:
        """Whether factors move the bound of a Clip, which changes the network for values that calibration lacks."""
        return self.limit < UNLIMITED


def links(model: onnx.ModelProto) -> list[Link]:
    """All groups of tensors whose channels can be scaled, in the graph's order."""
    known = facts(model)
    constants = {entry.name: entry for entry in model.graph.initializer}
    groups = _Groups({*constants, *(value.name for value in (*model.graph.input, *model.graph.output))})
    for node in model.graph.node:
        if node.op_type in HOMOGENEOUS:
            groups.join([*(node.input if node.op_type == "Add" else node.input[:1]), node.output[0]])
        elif node.op_type == "Clip" and (bound := _upper_bound(node, constants)) is not None:
            groups.join([node.input[0], node.output[0]], bound)
        elif node.name in known:
            fact = known[node.name]
            computed = any(name and name not in constants for name in node.input[2:])
            groups.add_user(
                node.output[0], "producers", node.name, fixed=computed or not _scalable(fact, as_input=False)
            )
            groups.add_user(node.input[0], "consumers", node.name, fixed=not _scalable(fact, as_input=True))
        else:  # an unknown operator: scaled channels could change its result
            groups.fixed.update((*node.input, *node.output))
    return groups.links()


def named_links(model: onnx.ModelProto, tensors: Container[str]) -> list[Link]:
    """The groups that are named after one of `tensors`."""
    return [link for link in links(model) if link.tensor in tensors]


def gaining(groups: Iterable[Link], model: onnx.ModelProto, integer: Container[str]) -> list[Link]:
    """The groups for which scaled channels can reduce rounding errors.

    Layers in `integer` read such a group, and if it has a Clip, all of these layers are depthwise. For dense layers
    behind a Clip there is nothing to gain, because the Clip gives all channels similar ranges.
    """
    known, chosen = facts(model), []
    for link in groups:
        readers = [known[name] for name in link.consumers if name in integer]
        if readers and (not link.moves_clip or all(reader.channelwise for reader in readers)):
            chosen.append(link)
    return chosen


class _Groups:
    """Tensors that must be scaled by the same factors (union-find), and the layers that compute and read them."""

    def __init__(self, fixed: set[str]) -> None:
        self.parents: dict[str, str] = {}
        self.fixed = fixed  # tensors that cannot be scaled
        self.limits: dict[str, float] = {}
        self.users: dict[str, list[tuple[str, str]]] = {}  # tensor to (role, layer)

    def root(self, tensor: str) -> str:
        """The tensor that represents a tensor's group."""
        while (parent := self.parents.setdefault(tensor, tensor)) != tensor:
            tensor = parent
        return tensor

    def join(self, tensors: list[str], limit: float = UNLIMITED) -> None:
        """Put all of `tensors` into one group; `limit` is the upper bound of the last of them."""
        for tensor in tensors:
            self.parents[self.root(tensor)] = self.root(tensors[0])
        self.limits[tensors[-1]] = limit

    def add_user(self, tensor: str, role: str, layer: str, fixed: bool) -> None:
        """Record that a layer computes or reads a tensor; `fixed` says that it does not allow scaled channels."""
        self.users.setdefault(tensor, []).append((role, layer))
        if fixed:
            self.fixed.add(tensor)

    def links(self) -> list[Link]:
        """The groups without a fixed tensor that layers both compute and read."""
        fixed = {self.root(tensor) for tensor in self.fixed}
        members: dict[str, list[str]] = {}
        for tensor in (*self.parents, *self.users):
            members.setdefault(self.root(tensor), []).append(tensor)
        groups = [self._link(tensors) for root, tensors in members.items() if root not in fixed]
        return [link for link in groups if link]

    def _link(self, tensors: list[str]) -> Link | None:
        users = [(tensor, *user) for tensor in dict.fromkeys(tensors) for user in self.users.get(tensor, [])]
        read = tuple(dict.fromkeys(tensor for tensor, role, _ in users if role == "consumers"))
        producers = tuple(layer for _, role, layer in users if role == "producers")
        if not read or not producers:
            return None
        consumers = tuple(layer for _, role, layer in users if role == "consumers")
        limit = min(self.limits.get(tensor, UNLIMITED) for tensor in tensors)
        return Link(read[0], read, tuple(dict.fromkeys(tensors)), producers, consumers, limit)


def _upper_bound(clip: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    """The upper bound of a Clip with the lower bound 0, infinite if it has none; None for any other Clip."""
    if any(name and name not in constants for name in clip.input[1:]):
        return None
    low, high = clamp_ends(clip, constants)
    return high if low == 0 and high > 0 else None


def _scalable(fact: Facts, as_input: bool) -> bool:
    """Whether a layer's input channels (`as_input`) or output channels lie along one axis of its weight."""
    if fact.layer.operator not in ("Conv", "ConvTranspose"):
        return False
    if fact.group == 1 or fact.channelwise:
        return True
    return fact.layer.operator == "Conv" and not as_input
