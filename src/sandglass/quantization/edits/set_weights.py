"""Set the weights of layers to multiples of their scales, and set their biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layer_edits import own_constants
from sandglass.graph.layers import facts
from sandglass.graph.names import Names


@dataclass(frozen=True)
class Rounded:
    """A layer's weights as integers: `integers` are int8 in the weight's shape.

    `scales` and `bias` are (channels,) float32.
    """

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray

    @property
    def levels(self) -> int:
        """The largest magnitude among the integers."""
        return int(np.abs(self.integers.astype(np.int16)).max(initial=0))

    def weights(self, axis: int) -> np.ndarray:
        """The weights as floats: integers times scales; `axis` is the axis of channels."""
        shape = [-1 if i == axis else 1 for i in range(self.integers.ndim)]  # for example (outputs, 1, 1, 1)
        return np.asarray(self.integers.astype(np.float32) * self.scales.reshape(shape))


@dataclass(frozen=True)
class SetWeights:
    """Layers in int8 get the weights and biases in `rounded`, by layer; layers in float keep their own."""

    KIND: ClassVar[str] = "set weights"
    FIELDS: ClassVar[tuple[str, ...]] = ("integers", "scales", "bias")
    RENAMES: ClassVar[bool] = False

    rounded: Mapping[str, Rounded]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(self.rounded)

    @property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays by field and layer, as a plan's file has them."""
        return {
            field: {name: getattr(entry, field) for name, entry in self.rounded.items()} for field in SetWeights.FIELDS
        }

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> SetWeights:
        """The edit with these arrays by field."""
        return SetWeights({name: Rounded(*(arrays[field][name] for field in SetWeights.FIELDS)) for name in names})

    def then(self, other: SetWeights) -> SetWeights:
        """Both edits as one; for a layer in both the weights of `other` count."""
        return SetWeights({**self.rounded, **other.rounded})

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The network in which `layers`, the ones in int8, have their rounded weights. Changes the model."""
        own_constants(model)  # layers that share a weight round it differently
        constants = {entry.name: entry for entry in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        layer_facts, names = facts(model), Names(model)
        for name, entry in self.rounded.items():
            if name not in layers:
                continue
            node = nodes[name]
            weight = constants[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(entry.weights(layer_facts[name].axis), weight.name))
            if len(node.input) > 2 and node.input[2]:
                bias = constants[node.input[2]]
                bias.CopyFrom(numpy_helper.from_array(entry.bias, bias.name))
            elif node.op_type != "MatMul":
                del node.input[2:]
                node.input.append(names.fresh(f"{name}.correction"))
                model.graph.initializer.append(numpy_helper.from_array(entry.bias, node.input[2]))
        return model
