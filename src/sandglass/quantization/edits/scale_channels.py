"""Divide the channels of tensors by factors: the layers that compute a tensor divide, the layers that read it multiply.

Example with one channel and the factor 4: a layer computes 6 x + 2, and the next one reads it with the weight 0.5.
After the edit the first computes 1.5 x + 0.5, and the next one has the weight 2. For x = 1 both give 4.
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
        known = facts(model)
        constants = {entry.name: entry for entry in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        for link in named_links(model, self.factors):
            # A layer that computes the tensor: (W x + b) / f = (W / f) x + b / f. A reader: W x = (W f) (x / f).
            factors = self.factors[link.tensor].astype(np.float64)[: known[link.producers[0]].channels]
            for name in link.producers:
                multiply(constants[known[name].layer.weight], 1 / factors, known[name].axis)
                if len(nodes[name].input) > 2 and nodes[name].input[2]:
                    multiply(constants[nodes[name].input[2]], 1 / factors, 0)
            for name in link.consumers:
                multiply(constants[known[name].layer.weight], factors, _input_axis(known[name]))
        return model


def multiply(initializer: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    """Multiply a constant along an axis, in place; `values` is one-dimensional and as long as the axis."""
    weight = numpy_helper.to_array(initializer)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    initializer.CopyFrom(numpy_helper.from_array((weight * values.reshape(shape)).astype(np.float32), initializer.name))


def _input_axis(fact: Facts) -> int:
    return 0 if fact.layer.operator == "ConvTranspose" or fact.channelwise else 1
