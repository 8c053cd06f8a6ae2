"""Single nodes of a graph: attributes, branches, input tensors, and changed copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import onnx
from onnx import helper, numpy_helper

Attributes = dict[str, Any]


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """The attributes of a node by name; texts are str."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The branches and loop bodies of nodes, but not those nested inside them."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def read_tensors(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that a node reads, including those that its branches and loop bodies read."""
    inner = (part for graph in subgraphs([node]) for part in graph.node)
    return set(filter(None, node.input)).union(*map(read_tensors, inner))


def number(constants: Mapping[str, onnx.TensorProto], tensor: str) -> float | None:
    """The value of a constant with one element; None for any other tensor."""
    entry = constants.get(tensor)
    return float(numpy_helper.to_array(entry).item()) if entry is not None and prod(entry.dims) == 1 else None


def changed_node(
    node: onnx.NodeProto, inputs: Sequence[str] = (), output: str = "", **attributes: object
) -> onnx.NodeProto:
    """A copy of a node with new inputs, a new output or new attributes; an attribute that is None is removed."""
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    copy.input[:] = inputs or node.input
    copy.output[:] = [output] if output else node.output
    del copy.attribute[:]
    copy.attribute.extend(attribute for attribute in node.attribute if attribute.name not in attributes)
    copy.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items() if v is not None)
    return copy
