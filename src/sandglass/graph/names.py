"""Names for the tensors and nodes that a rewrite adds to a graph: none of them is taken."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from sandglass.graph.nodes import subgraphs


class Names:
    """The names in a graph: of tensors, weights and nodes, also in branches and loops, and the names added later.

    A rewrite creates one such object for the model that it changes, and gets all new names from it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken = {part for name in _names(model.graph) for part in _stems(name)}

    def fresh(self, base: str) -> str:
        """`base`, or `base` with a number after it if that name is taken.

        No name in the graph begins with the result and a dot, so that one call is enough for a group of names.
        """
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.update(_stems(name))
        return name


def name_nodes(model: onnx.ModelProto, reserved: str) -> None:
    """Give each node a unique name, because plans refer to nodes by name. Changes the model.

    A node is named after its first output if it has no name, the name of an earlier node, or a name that contains
    `reserved`, with which rewrites name the parts of a layer.
    """
    names, earlier = Names(model), set[str]()
    for node in model.graph.node:
        if not node.name or node.name in earlier or reserved in node.name:
            output = next(filter(None, node.output), "")
            node.name = names.fresh(f"{node.op_type}_{output.replace(reserved, '_')}")
        earlier.add(node.name)


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer, *graph.node)}
    names |= {entry.values.name for entry in graph.sparse_initializer}
    names.update(*((*node.input, *node.output) for node in graph.node))
    return names.union(*map(_names, subgraphs(graph.node))) - {""}


def _stems(name: str) -> Iterator[str]:
    """A name, and its part before each dot: "a.b.c" gives "a.b.c", "a.b", "a"."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
