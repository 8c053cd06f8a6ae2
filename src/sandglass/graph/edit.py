"""Edits of a whole graph: replace its nodes, remove unused nodes and weights. `GraphIndex` edits single nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from sandglass.graph.nodes import read_tensors


def set_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of the graph by `nodes`, which may include its own; removes inferred shapes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)


def drop_unread(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto] | None = None) -> None:
    """Remove nodes on which no output depends, weights that no node reads, and inferred shapes. Changes the model.

    With `nodes` these replace the graph's own nodes, as in `set_nodes`.
    """
    read, used_nodes = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node if nodes is None else nodes):
        if not read.isdisjoint(node.output):
            used_nodes.append(node)
            read |= read_tensors(node)
    set_nodes(model, reversed(used_nodes))
    initializers = model.graph.initializer
    for place in reversed([i for i, entry in enumerate(initializers) if entry.name not in read]):
        del initializers[place]  # without a copy of the others: weights may fill most of the memory


def drop_weights(model: onnx.ModelProto) -> None:
    """Free the memory of all initializers' values; their names and shapes stay."""
    for initializer in model.graph.initializer:
        initializer.ClearField("raw_data")
