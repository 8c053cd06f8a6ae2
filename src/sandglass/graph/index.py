"""A graph with its edges: the node that makes a tensor, the nodes that read it, and edits that keep both right.

`onnx-ir` offers this too. It is not used here because it converts whole models: after its conversion back a model has
shape records for all weights and lacks sparse weights, so that artifacts would have other bytes.

One rule holds for all rewrites of graphs, here and in `lowering` and `sources.rewrites`: a rewrite takes a model,
changes it in place and returns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.core.errors import GraphError
from sandglass.graph.edit import drop_unread
from sandglass.graph.names import Names
from sandglass.graph.nodes import number, read_tensors

Index = TypeVar("Index", bound="GraphIndex")


class GraphIndex:
    """The edges of a model's graph, by the names of tensors. Nodes are compared by identity, not by content.

    `constants` holds the initializers by name, `outputs` the names of the graph's outputs. To change a graph, use the
    index as a context and edit it by its methods alone. The model has the changes when the context ends; it is then
    without nodes and weights that no output needs, and without the shapes that were inferred:

        with GraphIndex(model) as graph:
            for node in graph:
                if node.op_type == "HardSwish":
                    graph.replace(node, [...])

    An iteration leaves out nodes that were added or removed since it began.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.names = model, Names(model)
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self._order = _Order()
        self._producers: dict[str, onnx.NodeProto] = {}
        self._consumers: dict[str, dict[int, onnx.NodeProto]] = {}
        for node in model.graph.node:
            self._order.insert(node, None)
            self._link(node)
        self._changed = False

    def __enter__(self: Index) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._changed:
            drop_unread(self.model, list(self._order))

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        return (node for node in list(self._order) if node in self)

    def __reversed__(self) -> Iterator[onnx.NodeProto]:
        return (node for node in reversed(list(self._order)) if node in self)

    def __contains__(self, node: onnx.NodeProto) -> bool:
        return node in self._order

    def producer(self, tensor: str, *operators: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and constants, and for a node of none of the `operators`."""
        return _of_type(self._producers.get(tensor), operators)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once, also those whose branches read it."""
        return list(self._consumers.get(tensor, {}).values())

    def only_consumer(self, tensor: str, *operators: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor, if it is of one of the `operators`; an output is read by others too."""
        consumers = self._consumers.get(tensor, {})
        if len(consumers) != 1 or tensor in self.outputs:
            return None
        return _of_type(next(iter(consumers.values())), operators)

    def read_once(self, tensor: str) -> bool:
        """Whether one input of one node is all that reads a tensor."""
        node = self.only_consumer(tensor)
        return node is not None and list(node.input).count(tensor) == 1

    def value(self, tensor: str) -> np.ndarray | None:
        """The values of a constant; None for a tensor that is computed."""
        return self.constant(tensor) if tensor in self.constants else None

    def constant(self, tensor: str) -> np.ndarray:
        """The values of a tensor that is a constant. Raises KeyError for one that is computed."""
        return numpy_helper.to_array(self.constants[tensor])

    def number(self, tensor: str) -> float | None:
        """The value of a constant that has one element; None for any other tensor."""
        return number(self.constants, tensor)

    def fresh(self, name: str) -> str:
        """A name for a tensor and its node that nothing in the graph has: `name`, or `name` and a number."""
        return self.names.fresh(name)

    def add_constant(self, name: str, values: np.ndarray | np.generic) -> str:
        """Add an initializer under a fresh name like `name`, and return its name."""
        return self.copy_constant(name, numpy_helper.from_array(np.asarray(values)))

    def copy_constant(self, name: str, stored: onnx.TensorProto) -> str:
        """Add a copy of an initializer, whatever its type, under a fresh name like `name`, and return its name."""
        entry = self.model.graph.initializer.add()
        entry.CopyFrom(stored)
        entry.name = self.fresh(name)
        self.constants[entry.name] = entry
        return str(entry.name)

    def set_constant(self, tensor: str, values: np.ndarray) -> None:
        """Give a constant other values."""
        self.constants[tensor].CopyFrom(numpy_helper.from_array(values, tensor))

    def insert_before(self, node: onnx.NodeProto | None, added: Iterable[onnx.NodeProto]) -> None:
        """Add nodes, in order, before one of the graph's, or at the end for None.

        Raises GraphError for a node that makes a tensor that is there already.
        """
        for new in added:
            self._order.insert(new, node)
            self._link(new)
        self._changed = True

    def insert_after(self, node: onnx.NodeProto | None, added: Iterable[onnx.NodeProto]) -> None:
        """Add nodes, in order, after one of the graph's, or at the start for None. Raises as `insert_before` does."""
        self.insert_before(self._order.after(node), added)

    def replace(self, node: onnx.NodeProto, added: Iterable[onnx.NodeProto]) -> None:
        """Put nodes in the place of one, which may be among them. They may make its tensors.

        Raises as `insert_before` does.
        """
        following = self._order.after(node)
        self.remove(node)
        self.insert_before(following, added)

    def remove(self, node: onnx.NodeProto) -> None:
        """Remove a node. It may be inserted again, elsewhere."""
        self._unlink(node)
        self._order.remove(node)
        self._changed = True

    def set_inputs(self, node: onnx.NodeProto, tensors: Iterable[str]) -> None:
        """Let a node read these tensors, in this order."""
        self._relink(node, list(tensors), list(node.output))

    def set_input(self, node: onnx.NodeProto, place: int, tensor: str) -> None:
        """Let one input of a node read a tensor."""
        self.set_inputs(node, [tensor if i == place else name for i, name in enumerate(node.input)])

    def set_outputs(self, node: onnx.NodeProto, tensors: Iterable[str]) -> None:
        """Let a node make tensors under these names. Raises GraphError for one that another node makes."""
        self._relink(node, list(node.input), list(tensors))

    def set_output(self, node: onnx.NodeProto, place: int, tensor: str) -> None:
        """Let a node make one of its tensors under another name. Raises GraphError for one that another node makes."""
        self.set_outputs(node, [tensor if i == place else name for i, name in enumerate(node.output)])

    def _relink(self, node: onnx.NodeProto, inputs: list[str], outputs: list[str]) -> None:
        self._unlink(node)
        node.input[:], node.output[:] = inputs, outputs
        self._link(node)
        self._changed = True

    def _link(self, node: onnx.NodeProto) -> None:
        for name in filter(None, node.output):
            if name in self._producers or name in self.constants:
                raise GraphError(f"the graph makes the tensor {name} twice", "export the model again")
            self._producers[name] = node
        for name in read_tensors(node):
            self._consumers.setdefault(name, {})[id(node)] = node

    def _unlink(self, node: onnx.NodeProto) -> None:
        for name in filter(None, node.output):
            del self._producers[name]
        for name in read_tensors(node):
            del self._consumers[name][id(node)]


def _of_type(node: onnx.NodeProto | None, operators: tuple[str, ...]) -> onnx.NodeProto | None:
    return node if node is not None and (not operators or node.op_type in operators) else None


class _Order:
    """Nodes in order, as a linked list: inserting and removing take the same time in a graph of any size."""

    def __init__(self) -> None:
        self._nodes: dict[int, onnx.NodeProto] = {}  # by identity; 0 stands before the first and after the last
        self._next, self._previous = {0: 0}, {0: 0}

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        key = self._next[0]
        while key:
            yield self._nodes[key]
            key = self._next[key]

    def __contains__(self, node: onnx.NodeProto) -> bool:
        return id(node) in self._nodes

    def after(self, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
        """The next node, for None the first; None after the last."""
        return self._nodes.get(self._next[0 if node is None else id(node)])

    def insert(self, node: onnx.NodeProto, before: onnx.NodeProto | None) -> None:
        """Insert a node before another one, or at the end."""
        key, after = id(node), 0 if before is None else id(before)
        previous = self._previous[after]
        self._next[previous], self._previous[key] = key, previous
        self._next[key], self._previous[after] = after, key
        self._nodes[key] = node

    def remove(self, node: onnx.NodeProto) -> None:
        """Remove a node."""
        previous, after = self._previous.pop(id(node)), self._next.pop(id(node))
        self._next[previous], self._previous[after] = after, previous
        del self._nodes[id(node)]
