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
from sandglass.graph.io import drop_unread, load_graph
from sandglass.graph.names import Names
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


def half_precision(model: onnx.ModelProto, wide: Collection[str]) -> onnx.ModelProto:
    """The graph with float16 weights and arithmetic, except around the tensors in `wide`; the model is changed.

    Its inputs and outputs keep names and types. Raises UnsupportedOperator for a graph with branches or loops.
    """
    graph, halves = model.graph, _Halves(model, wide)
    given = list(graph.node)
    del graph.node[:]
    for node in given:
        halves.add(node)
    for output in graph.output:
        halves.finish(output.name)
    return drop_unread(model)


def float_layers(model: onnx.ModelProto, wide: Collection[str]) -> list[str]:
    """Nodes that stay in float32 because of a tensor in `wide`, by name or by the tensor that they make."""
    return [node.name or node.output[0] for node in model.graph.node if _touches(node, wide)]


def _touches(node: onnx.NodeProto, tensors: Collection[str]) -> bool:
    return any(name in tensors for name in (*node.input, *node.output))


class _Halves:
    """The nodes written so far, and in which of the two types each tensor is to be had under which name."""

    def __init__(self, model: onnx.ModelProto, wide: Collection[str]) -> None:
        self.graph, self.wide, self.floats, self.fresh = model.graph, wide, _floats(model), Names(model).fresh
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.weights = {entry.name: entry for entry in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.names = {(name, TensorProto.FLOAT): name for name in self.floats}

    def add(self, node: onnx.NodeProto) -> None:
        """Write a node after the conversions of what it reads."""
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UnsupportedOperator(f"half precision of {node.op_type}, which runs a graph of its own",
                                      "choose fp32")  # fmt: skip
        takes, makes = self._flexible(node)
        half = not _touches(node, self.wide)
        written = onnx.NodeProto()
        written.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name in self.floats:
                written.input[i] = self._read(name, TensorProto.FLOAT16 if half and takes[i] else TensorProto.FLOAT)
        for i, name in enumerate(node.output):
            if name in self.floats and half and makes[i]:
                del self.names[name, TensorProto.FLOAT]
                written.output[i] = self.names[name, TensorProto.FLOAT16] = self.fresh(f"{name}.half")
        if half:
            _retype(written)
        self.graph.node.append(written)

    def finish(self, output: str) -> None:
        """Give an output of the graph its own type again."""
        if output in self.floats and (output, TensorProto.FLOAT) not in self.names:
            self._cast(self.names[output, TensorProto.FLOAT16], output, TensorProto.FLOAT)

    def _read(self, name: str, kind: int) -> str:
        """The tensor in one of the types, converted where it is not there yet."""
        if (name, kind) not in self.names:
            back = kind == TensorProto.FLOAT and name in self.outputs
            found = name if back else self.fresh(f"{name}.{'half' if kind == TensorProto.FLOAT16 else 'float'}")
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, found))
            else:
                (other,) = (self.names[name, k] for k in (TensorProto.FLOAT, TensorProto.FLOAT16) if k != kind)
                self._cast(other, found, kind)
            self.names[name, kind] = found
        return self.names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.graph.node.append(helper.make_node("Cast", [source], [target], self.fresh(f"{target}.cast"), to=kind))

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
