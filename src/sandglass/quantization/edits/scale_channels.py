"""Divide the channels of tensors by factors: the layers that compute a tensor divide, the layers that read it multiply.

Cross-layer equalization (Nagel et al., 2019) chooses such factors so that channels have similar ranges. Example: two
channels reach 1 and 4, and a layer reads them with the weights 1 and 1. With the factors 0.5 and 1, half of the way to
equal ranges, the channels reach 2 and 4, and the weights become 0.5 and 1. The sum is 5 before and after.

    >>> peaks, weights = np.array([1.0, 4.0]), np.array([1.0, 1.0])
    >>> factors = (peaks / peaks.max()) ** 0.5
    >>> peaks / factors, weights * factors, float((peaks / factors) @ (weights * factors))
    (array([2., 4.]), array([0.5, 1. ]), 5.0)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layer_edits import own_constants
from sandglass.graph.layers import Facts, facts
from sandglass.quantization.channel_links import named_links


@dataclass(frozen=True)
class ScaleChannels:
    """Each channel of a tensor is divided by its factor; `factors` are (channels,) float32 by tensor.

    All tensors of a `Link` that layers read have an entry, with the same factors.
    """

    KIND: ClassVar[str] = "scale channels"
    FIELDS: ClassVar[tuple[str, ...]] = ("factors",)
    RENAMES: ClassVar[bool] = False

    factors: Mapping[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors."""
        return tuple(self.factors)

    @property
    def arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
        """The arrays by field and tensor, as a plan's file has them."""
        return {"factors": self.factors}

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> ScaleChannels:
        """The edit with these arrays by field."""
        return ScaleChannels(arrays["factors"])

    def then(self, other: ScaleChannels) -> ScaleChannels:
        """Both edits as one: x / a / b = x / (a b)."""
        product = {name: self.factors[name] * other.factors[name] for name in self.factors.keys() & other.factors}
        return ScaleChannels({**self.factors, **other.factors, **product})

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The network with scaled channels, for any `layers` in int8; it computes the same. Changes the model."""
        own_constants(model)
        layer_facts = facts(model)
        constants = {entry.name: entry for entry in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        for link in named_links(model, self.factors):
            # A layer that computes the tensor: (W x + b) / f = (W / f) x + b / f. A reader: W x = (W f) (x / f).
            factors = self.factors[link.tensor].astype(np.float64)[: layer_facts[link.producers[0]].channels]
            for name in link.producers:
                multiply(constants[layer_facts[name].layer.weight], 1 / factors, layer_facts[name].axis)
                if len(nodes[name].input) > 2 and nodes[name].input[2]:
                    multiply(constants[nodes[name].input[2]], 1 / factors, 0)
            for name in link.consumers:
                multiply(constants[layer_facts[name].layer.weight], factors, _input_axis(layer_facts[name]))
        return model


def multiply(initializer: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    """Multiply a constant along an axis, in place; `values` is one-dimensional and as long as the axis."""
    weight = numpy_helper.to_array(initializer)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    initializer.CopyFrom(numpy_helper.from_array((weight * values.reshape(shape)).astype(np.float32), initializer.name))


def _input_axis(fact: Facts) -> int:
    return 0 if fact.layer.operator == "ConvTranspose" or fact.channelwise else 1
