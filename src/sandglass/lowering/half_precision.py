"""A graph in half precision, with float32 at its inputs and outputs and wherever a value does not fit.

Half precision ends at 65504. A tensor that comes near it, as a sum over many channels may, stays in float32, and so
does the arithmetic of the nodes that make and read it. What ONNX defines for float32 alone, as the scales of a Resize,
stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.core.errors import UnsupportedOperator
from sandglass.graph.index import GraphIndex
from sandglass.graph.io import load_graph
from sandglass.graph.nodes import subgraphs
from sandglass.graph.session import GraphSession

LARGEST = 65504.0
HEADROOM = 4.0  # other images may bring larger values than those that were seen


def wide_tensors(graph: Path, feeds: Iterable[Mapping[str, np.ndarray]]) -> set[str]:
    """Names of the tensors that half precision cannot hold on inputs like `feeds`: results and weights.

    A result counts that comes within HEADROOM of LARGEST, a weight that is beyond it.
    """
    model = load_graph(graph)
    wide = {
        entry.name
        for entry in model.graph.initializer
        if entry.data_type == TensorProto.FLOAT and _peak(numpy_helper.to_array(entry)) > LARGEST
    }
    floats = _floats(model)
    made = [name for node in model.graph.node for name in node.output if name in floats]
    session = GraphSession(model, outputs=made)
    for feed in feeds:
        wide |= {name for name, value in session.run(feed).items() if not _peak(value) * HEADROOM <= LARGEST}
    return wide


def _peak(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def half_precision(model: onnx.ModelProto, wide: Collection[str]) -> None:
    """Turn weights and arithmetic to float16, except around the tensors in `wide`.

    Inputs and outputs keep names and types. Raises UnsupportedOperator for a graph with branches or loops.
    """
    with GraphIndex(model) as graph:
        halves = _Halves(graph, wide)
        for node in graph:
            halves.replace(node)
        for output in model.graph.output:
            halves.finish(output.name)


def float_layers(model: onnx.ModelProto, wide: Collection[str]) -> list[str]:
    """Nodes that stay in float32 because of a tensor in `wide`, by name or by the tensor that they make."""
    return [node.name or node.output[0] for node in model.graph.node if _touches(node, wide)]


def _touches(node: onnx.NodeProto, tensors: Collection[str]) -> bool:
    return any(name in tensors for name in (*node.input, *node.output))


class _Halves:
    """In which of the two types each tensor exists, and under which name."""

    def __init__(self, graph: GraphIndex, wide: Collection[str]) -> None:
        self.graph, self.wide, self.floats = graph, wide, _floats(graph.model)
        self.opset = next(entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.names = {(name, TensorProto.FLOAT): name for name in self.floats}

    def replace(self, node: onnx.NodeProto) -> None:
        """Replace a node by the conversions of what it reads, and the node that reads them."""
        if next(subgraphs([node]), None) is not None:
            raise UnsupportedOperator(f"half precision of {node.op_type}, which runs a graph of its own",
                                      "choose fp32")  # fmt: skip
        takes, makes = self._flexible(node)
        half, casts = not _touches(node, self.wide), list[onnx.NodeProto]()
        inputs, outputs = list(node.input), list(node.output)
        for i, name in enumerate(inputs):
            if name in self.floats:
                kind = TensorProto.FLOAT16 if half and takes[i] else TensorProto.FLOAT
                inputs[i] = self._read(name, kind, casts)
        for i, name in enumerate(outputs):
            if name in self.floats and half and makes[i]:
                del self.names[name, TensorProto.FLOAT]
                outputs[i] = self.names[name, TensorProto.FLOAT16] = self.graph.fresh(f"{name}.half")
        self.graph.insert_before(node, casts)
        self.graph.set_inputs(node, inputs)
        self.graph.set_outputs(node, outputs)
        if half:
            _retype(node)

    def finish(self, output: str) -> None:
        """Give an output of the graph its own type again."""
        if output in self.floats and (output, TensorProto.FLOAT) not in self.names:
            self.graph.insert_before(
                None, [self._cast(self.names[output, TensorProto.FLOAT16], output, TensorProto.FLOAT)]
            )

    def _read(self, name: str, kind: int, casts: list[onnx.NodeProto]) -> str:
        """The tensor in one of the types; where it is not there yet, its conversion is added to `casts`."""
        if (name, kind) not in self.names:
            if kind == TensorProto.FLOAT16 and (values := self.graph.value(name)) is not None:
                self.names[name, kind] = self.graph.add_constant(f"{name}.half", values.astype(np.float16))
            else:
                back = kind == TensorProto.FLOAT and name in self.graph.outputs
                suffix = "half" if kind == TensorProto.FLOAT16 else "float"
                made = name if back else self.graph.fresh(f"{name}.{suffix}")
                (other,) = (self.names[name, k] for k in (TensorProto.FLOAT, TensorProto.FLOAT16) if k != kind)
                casts.append(self._cast(other, made, kind))
                self.names[name, kind] = made
        return self.names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], self.graph.fresh(f"{target}.cast"), to=kind)

    def _flexible(self, node: onnx.NodeProto) -> tuple[list[bool], list[bool]]:
        """For each input and output of a node whether it may be float16 as well as float32."""
        if node.domain not in ("", "ai.onnx"):
            return [False] * len(node.input), [False] * len(node.output)
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        free = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
        sides = []
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            types = [formals[min(i, len(formals) - 1)].type_str for i in range(len(names))]  # the last may repeat
            sides.append([kind in free for kind in types])
        return sides[0], sides[1]


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors, those without a name left out."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {entry.name for entry in graph.initializer if entry.data_type == TensorProto.FLOAT} - {""}


def _retype(node: onnx.NodeProto) -> None:
    """Turn what a node itself says of float32 into float16."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
