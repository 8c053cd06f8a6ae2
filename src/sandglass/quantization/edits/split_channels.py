"""Two copies of each channel of a tensor: layers compute both copies, and the layers that read them average them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layer_edits import own_constants
from sandglass.graph.layers import facts
from sandglass.quantization.channel_links import named_links


@dataclass(frozen=True)
class SplitChannels:
    """In the groups named in `tensors` each channel has two copies: all channels, and then all channels again.

    If no layer that reads a group runs in int8, the edit leaves the group as it is. Arrays of later edits then have
    more entries than the tensor has channels, and the first ones count.
    """

    KIND: ClassVar[str] = "split channels"
    FIELDS: ClassVar[tuple[str, ...]] = ()
    RENAMES: ClassVar[bool] = False

    tensors: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors."""
        return self.tensors

    @property
    def arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
        """The edit has none."""
        return {}

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> SplitChannels:
        """The edit of the tensors in `names`; it has no arrays."""
        return SplitChannels(tuple(names))

    def then(self, other: SplitChannels) -> SplitChannels:
        """Both edits as one."""
        return SplitChannels((*self.tensors, *other.tensors))

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The network with split channels in the groups that one of `layers` reads; it computes the same.

        `layers` are those that run in int8. Changes the model.
        """
        chosen = [link for link in named_links(model, self.tensors) if not {*link.consumers}.isdisjoint(layers)]
        if not chosen:
            return model
        own_constants(model)
        known, constants = facts(model), {entry.name: entry for entry in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        for link in chosen:
            for name in link.producers:
                for constant in filter(None, nodes[name].input[1:]):
                    _replace(constants[constant], _twice(numpy_helper.to_array(constants[constant]), 0))
            for name in link.consumers:
                # (outputs, inputs, height, width) to twice as many inputs: W x = (W / 2) x + (W / 2) x
                weight = constants[known[name].layer.weight]
                _replace(weight, _twice(numpy_helper.to_array(weight), 1) / np.float32(2))
        del model.graph.value_info[:]  # the shapes before the edit
        return model


def _twice(values: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([values, values], axis)


def _replace(initializer: onnx.TensorProto, values: np.ndarray) -> None:
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), initializer.name))
