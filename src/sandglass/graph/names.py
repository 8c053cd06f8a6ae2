"""Names for what a rewrite adds to a graph: none that the graph has, whatever its author called things."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from sandglass.graph.nodes import subgraphs


class Names:
    """The names of a graph's tensors, weights and nodes, those in branches and loops too, and those given since.

    A rewrite makes one of these for the model that it changes, and asks it for every name that it adds.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken = {part for name in _names(model.graph) for part in _stems(name)}

    def fresh(self, wanted: str) -> str:
        """`wanted`, or `wanted` with a number behind it where that is taken.

        No name of the graph continues the result after a dot, so that a group of names needs one call.
        """
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.update(_stems(name))
        return name


def name_nodes(model: onnx.ModelProto, reserved: str) -> None:
    """Give every node a name of its own, in place: plans refer to nodes by name.

    A node without a name, with that of a node before it, or with one that holds `reserved`, which rewrites use to name
    the parts of a layer, is named after its first output.
    """
    names, seen = Names(model), set[str]()
    for node in model.graph.node:
        if not node.name or node.name in seen or reserved in node.name:
            output = next(filter(None, node.output), "")
            node.name = names.fresh(f"{node.op_type}_{output.replace(reserved, '_')}")
        seen.add(node.name)


def _names(graph: onnx.GraphProto) -> set[str]:
    found = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer, *graph.node)}
    found |= {entry.values.name for entry in graph.sparse_initializer}
    found.update(*((*node.input, *node.output) for node in graph.node))
    return found.union(*map(_names, subgraphs(graph.node))) - {""}


def _stems(name: str) -> Iterator[str]:
    """A name, and what stands before each of its dots."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
