"""A graph in half precision, with float32 at its inputs and outputs and for values that do not fit.

The largest number of half precision is 65504. A tensor that comes near it, such as a sum over many channels, stays in
float32, and the nodes that compute and read it compute in float32. Tensors for which ONNX allows only float32, such as
the scales of a Resize, stay unchanged.
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

LARGEST = 65504.0  # largest number of float16
HEADROOM = 4.0  # factor between LARGEST and the values on the tested inputs: other images may have larger ones


def wide_tensors(graph: Path, feeds: Iterable[Mapping[str, np.ndarray]]) -> set[str]:
    """Names of the tensors that half precision cannot hold on inputs such as `feeds`.

    These are results with a magnitude above LARGEST / HEADROOM, and weights with one above LARGEST.
    """
    model = load_graph(graph)
    wide = {
        entry.name
        for entry in model.graph.initializer
        if entry.data_type == TensorProto.FLOAT and _peak(numpy_helper.to_array(entry)) > LARGEST
    }
    floats = _floats(model)
    results = [name for node in model.graph.node for name in node.output if name in floats]
    session = GraphSession(model, outputs=results)
    for feed in feeds:
        # `not <=` also holds for NaN.
        wide |= {name for name, value in session.run(feed).items() if not _peak(value) * HEADROOM <= LARGEST}
    return wide


def _peak(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def half_precision(model: onnx.ModelProto, wide: Collection[str]) -> None:
    """Convert weights and arithmetic to float16, except around the tensors in `wide`. Changes the model.

    Inputs and outputs keep their names and types. Raises UnsupportedOperator for a graph with branches or loops.
    """
    with GraphIndex(model) as graph:
        halves = _Halves(graph, wide)
        for node in graph:
            halves.replace(node)
        for output in model.graph.output:
            halves.finish(output.name)


def float_layers(model: onnx.ModelProto, wide: Collection[str]) -> list[str]:
    """The nodes that stay in float32 because of a tensor in `wide`; a node without a name is named by its output."""
    return [node.name or node.output[0] for node in model.graph.node if _touches(node, wide)]


def _touches(node: onnx.NodeProto, tensors: Collection[str]) -> bool:
    return any(name in tensors for name in (*node.input, *node.output))


class _Halves:
    """The names of each tensor in the types in which it exists."""

    def __init__(self, graph: GraphIndex, wide: Collection[str]) -> None:
        self.graph, self.wide, self.floats = graph, wide, _floats(graph.model)
        self.opset = next(entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.names = {(name, TensorProto.FLOAT): name for name in self.floats}

    def replace(self, node: onnx.NodeProto) -> None:
        """Convert the inputs of a node, and the node itself if none of its tensors is wide."""
        if next(subgraphs([node]), None) is not None:
            raise UnsupportedOperator(f"half precision of {node.op_type}, which has a graph inside",
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
        """Convert an output of the graph back to float32."""
        if output in self.floats and (output, TensorProto.FLOAT) not in self.names:
            self.graph.insert_before(
                None, [self._cast(self.names[output, TensorProto.FLOAT16], output, TensorProto.FLOAT)]
            )

    def _read(self, name: str, kind: int, casts: list[onnx.NodeProto]) -> str:
        """The name of a tensor in one of the types; if it does not exist yet, its conversion is added to `casts`."""
        if (name, kind) not in self.names:
            if kind == TensorProto.FLOAT16 and (values := self.graph.value(name)) is not None:
                self.names[name, kind] = self.graph.add_constant(f"{name}.half", values.astype(np.float16))
            else:
                back = kind == TensorProto.FLOAT and name in self.graph.outputs
                suffix = "half" if kind == TensorProto.FLOAT16 else "float"
                converted = name if back else self.graph.fresh(f"{name}.{suffix}")
                (other,) = (self.names[name, k] for k in (TensorProto.FLOAT, TensorProto.FLOAT16) if k != kind)
                casts.append(self._cast(other, converted, kind))
                self.names[name, kind] = converted
        return self.names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], self.graph.fresh(f"{target}.cast"), to=kind)

    def _flexible(self, node: onnx.NodeProto) -> tuple[list[bool], list[bool]]:
        """For each input and each output of a node, whether it may be float16 and not only float32."""
        if node.domain not in ("", "ai.onnx"):
            return [False] * len(node.input), [False] * len(node.output)
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        free = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
        sides = []
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            # The last formal parameter may stand for several tensors, as the inputs of a Concat.
            types = [formals[min(i, len(formals) - 1)].type_str for i in range(len(names))]
            sides.append([kind in free for kind in types])
        return sides[0], sides[1]


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors and weights."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {entry.name for entry in graph.initializer if entry.data_type == TensorProto.FLOAT} - {""}


def _retype(node: onnx.NodeProto) -> None:
    """Change float32 to float16 in the attributes of a node: target types and constant tensors."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
