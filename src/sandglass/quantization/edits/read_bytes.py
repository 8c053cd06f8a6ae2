"""Let layers read an input of the graph as bytes: one step of a byte is one level of the image.

The input x becomes b = x / factor - offset. A layer with weights W reads b, where x = factor (b + offset): its weights
are multiplied by the factors, and W (factor * offset) is added to its bias.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.edit import set_nodes
from sandglass.graph.index import GraphIndex
from sandglass.graph.layer_edits import add_to_bias, own_constants
from sandglass.graph.layers import facts
from sandglass.graph.names import Names
from sandglass.quantization.channel_offsets import through_weights
from sandglass.quantization.explicit_padding import drop_pads, pad_node


@dataclass(frozen=True)
class ReadBytes:
    """Inputs of the graph are divided by `factors`, and then `offsets` are subtracted: (channels,) float32 by input.

    If that moves the value 0 to another integer, a Pad before the division replaces the padding of the layers.
    """

    KIND: ClassVar[str] = "read bytes"
    FIELDS: ClassVar[tuple[str, ...]] = ("byte factors", "byte offsets")
    RENAMES: ClassVar[bool] = True

    factors: Mapping[str, np.ndarray]
    offsets: Mapping[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(self.factors)

    @property
    def arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
        """The arrays by field and input, as a plan's file has them."""
        return {"byte factors": self.factors, "byte offsets": self.offsets}

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> ReadBytes:
        """The edit with these arrays by field."""
        return ReadBytes(arrays["byte factors"], arrays["byte offsets"])

    def then(self, other: ReadBytes) -> ReadBytes:
        """Both edits as one; they have different inputs."""
        return ReadBytes({**self.factors, **other.factors}, {**self.offsets, **other.offsets})

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The network in which those of `layers` that can (see `byte_readers`) read bytes. Changes the model."""
        own_constants(model)
        for name in (value.name for value in model.graph.input):
            readers = byte_readers(model, name, layers) if name in self.factors else []
            if readers:
                self._read(model, name, readers)
        return model

    def _read(self, model: onnx.ModelProto, name: str, readers: Collection[str]) -> None:
        factors, offsets, layer_facts, graph = self.factors[name], self.offsets[name], facts(model), GraphIndex(model)
        batch_norm = _affine(graph, name, 1 / factors, -offsets)
        new_nodes, source, integers = list[onnx.NodeProto](), name, bytes_tensor(graph.names, name)
        pads = layer_facts[min(readers)].pads
        if any(pads) and pads_change_level(offsets):
            new_nodes.append(pad_node(graph, name, f"{name}.padded", pads, 0.0))
            source = new_nodes[0].output[0]
        for node in (node for node in graph if node.name in readers):
            graph.set_input(node, 0, integers)
            if new_nodes:
                drop_pads(node)
            weight, fact = graph.constants[node.input[1]], layer_facts[node.name]
            shifted = factors.astype(np.float64) * offsets  # (channels,), in units of the input
            change = through_weights(numpy_helper.to_array(weight), fact, shifted)  # (outputs,)
            add_to_bias(graph, node, fact.channels, change)
            multiply(weight, factors.astype(np.float64), axis=1)
        scale = graph.fresh(f"{name}.scale")
        new_nodes.append(helper.make_node("BatchNormalization", [source, *batch_norm], [integers], scale, epsilon=0.0))
        set_nodes(model, [*new_nodes, *model.graph.node])


def _affine(graph: GraphIndex, name: str, factor: np.ndarray, offset: np.ndarray) -> list[str]:
    """The constants of a BatchNormalization that computes x * factor + offset: its mean is 0 and its variance 1."""
    parts = {"factor": factor, "offset": offset, "mean": np.zeros(len(factor)), "variance": np.ones(len(factor))}
    return [graph.add_constant(f"{name}.{part}", values.astype(np.float32)) for part, values in parts.items()]


def byte_readers(model: onnx.ModelProto, name: str, layers: Collection[str]) -> list[str]:
    """The layers in `layers` that can read the input `name` as bytes: dense convolutions with constant biases."""
    constants = {entry.name for entry in model.graph.initializer}
    layer_facts = facts(model)
    return [
        node.name
        for node in model.graph.node
        if node.name in layers
        and node.name in layer_facts
        and layer_facts[node.name].layer.input == name
        and node.op_type == "Conv"
        and layer_facts[node.name].group == 1
        and all(bias in constants for bias in node.input[2:] if bias)
    ]


def pads_change_level(offsets: np.ndarray) -> bool:
    """Whether the value 0 is not at the integer 0 on average, so that padding with the integer 0 would be wrong."""
    return bool(round(float(offsets.mean())))


def bytes_tensor(names: Names, value: str) -> str:
    """A name for the tensor with an input's bytes; graphs with the same names of tensors and nodes give the same."""
    return names.fresh(f"{value}.bytes")


def multiply(initializer: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    """Multiply a constant along an axis, in place; `values` is one-dimensional and as long as the axis."""
    weight = numpy_helper.to_array(initializer)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    initializer.CopyFrom(numpy_helper.from_array((weight * values.reshape(shape)).astype(np.float32), initializer.name))
