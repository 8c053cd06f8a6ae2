"""A graph with its edges: the node that computes a tensor, the nodes that read it, and edits that keep both up to date.

`onnx-ir` offers this too. It is not used here because it converts whole models: after the conversion back, a model has
shape records for all weights and has lost its sparse weights, so that the bytes of artifacts would change.

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
    index as a context manager and edit the graph only through its methods. The changes are written to the model when
    the context ends; nodes and weights that no output needs and inferred shapes are removed then:

        with GraphIndex(model) as graph:
            for node in graph:
                if node.op_type == "HardSwish":
                    graph.replace(node, [...])

    An iteration skips nodes that were added or removed after it began.
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
        """The node that computes a tensor; None for inputs and constants, and if its operator is not in `operators`."""
        return _of_type(self._producers.get(tensor), operators)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once, including nodes whose branches read it."""
        return list(self._consumers.get(tensor, {}).values())

    def only_consumer(self, tensor: str, *operators: str) -> onnx.NodeProto | None:
        """The only node that reads a tensor, if its operator is in `operators`; None for an output of the graph."""
        consumers = self._consumers.get(tensor, {})
        if len(consumers) != 1 or tensor in self.outputs:
            return None
        return _of_type(next(iter(consumers.values())), operators)

    def read_once(self, tensor: str) -> bool:
        """Whether a tensor is read by one input of one node and by nothing else."""
        node = self.only_consumer(tensor)
        return node is not None and list(node.input).count(tensor) == 1

    def value(self, tensor: str) -> np.ndarray | None:
        """The values of a constant; None for a tensor that is computed."""
        return self.constant(tensor) if tensor in self.constants else None

    def constant(self, tensor: str) -> np.ndarray:
        """The values of a constant. Raises KeyError for a tensor that is computed."""
        return numpy_helper.to_array(self.constants[tensor])

    def number(self, tensor: str) -> float | None:
        """The value of a constant with one element; None for any other tensor."""
        return number(self.constants, tensor)

    def fresh(self, name: str) -> str:
        """A name that is not taken in the graph: `name`, or `name` with a number after it."""
        return self.names.fresh(name)

    def add_constant(self, name: str, values: np.ndarray | np.generic) -> str:
        """Add an initializer with a fresh name based on `name`, and return that name."""
        return self.copy_constant(name, numpy_helper.from_array(np.asarray(values)))

    def copy_constant(self, name: str, stored: onnx.TensorProto) -> str:
        """Add a copy of an initializer of any type with a fresh name based on `name`, and return that name."""
        entry = self.model.graph.initializer.add()
        entry.CopyFrom(stored)
        entry.name = self.fresh(name)
        self.constants[entry.name] = entry
        return str(entry.name)

    def set_constant(self, tensor: str, values: np.ndarray) -> None:
        """Replace the values of a constant."""
        self.constants[tensor].CopyFrom(numpy_helper.from_array(values, tensor))

    def insert_before(self, node: onnx.NodeProto | None, added: Iterable[onnx.NodeProto]) -> None:
        """Add nodes, in order, before a node of the graph, or at the end for None.

        Raises GraphError for a node with an output that exists already.
        """
        for new in added:
            self._order.insert(new, node)
            self._link(new)
        self._changed = True

    def insert_after(self, node: onnx.NodeProto | None, added: Iterable[onnx.NodeProto]) -> None:
        """Add nodes, in order, after a node of the graph, or at the start for None. Raises as `insert_before` does."""
        self.insert_before(self._order.after(node), added)

    def replace(self, node: onnx.NodeProto, added: Iterable[onnx.NodeProto]) -> None:
        """Replace a node by other nodes. They may include the node, and may have its outputs.

        Raises as `insert_before` does.
        """
        following = self._order.after(node)
        self.remove(node)
        self.insert_before(following, added)

    def remove(self, node: onnx.NodeProto) -> None:
        """Remove a node. It may be inserted again at another place."""
        self._unlink(node)
        self._order.remove(node)
        self._changed = True

    def set_inputs(self, node: onnx.NodeProto, tensors: Iterable[str]) -> None:
        """Set the inputs of a node."""
        self._relink(node, list(tensors), list(node.output))

    def set_input(self, node: onnx.NodeProto, place: int, tensor: str) -> None:
        """Set one input of a node."""
        self.set_inputs(node, [tensor if i == place else name for i, name in enumerate(node.input)])

    def set_outputs(self, node: onnx.NodeProto, tensors: Iterable[str]) -> None:
        """Set the outputs of a node. Raises GraphError for a tensor that another node computes."""
        self._relink(node, list(node.input), list(tensors))

    def set_output(self, node: onnx.NodeProto, place: int, tensor: str) -> None:
        """Set one output of a node. Raises GraphError for a tensor that another node computes."""
        self.set_outputs(node, [tensor if i == place else name for i, name in enumerate(node.output)])

    def _relink(self, node: onnx.NodeProto, inputs: list[str], outputs: list[str]) -> None:
        self._unlink(node)
        node.input[:], node.output[:] = inputs, outputs
        self._link(node)
        self._changed = True

    def _link(self, node: onnx.NodeProto) -> None:
        for name in filter(None, node.output):
            if name in self._producers or name in self.constants:
                raise GraphError(f"the graph computes the tensor {name} twice", "export the model again")
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
    """Nodes in order, as a linked list: an insertion or removal takes constant time."""

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
        """The node after `node`, or the first node for None; None after the last one."""
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
