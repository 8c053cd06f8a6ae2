"""Edits of a whole graph: its nodes replaced, what no output needs removed. Edits of single nodes: `GraphIndex`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from sandglass.graph.nodes import read_tensors


def set_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of the graph, in place, by `nodes`, which may be its own; inferred shapes are removed."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)


def drop_unread(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto] | None = None) -> None:
    """Remove, in place, nodes that lead to no output, and weights that no node reads; inferred shapes are removed.

    With `nodes` these replace the graph's own, as in `set_nodes`.
    """
    read, kept = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node if nodes is None else nodes):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read |= read_tensors(node)
    set_nodes(model, reversed(kept))
    initializers = model.graph.initializer
    for place in reversed([i for i, entry in enumerate(initializers) if entry.name not in read]):
        del initializers[place]  # the others are not copied: weights may fill most of the memory


def drop_weights(model: onnx.ModelProto) -> None:
    """Free the values of all initializers, in place; their names and shapes stay."""
    for initializer in model.graph.initializer:
        initializer.ClearField("raw_data")
