"""Write each channel of a tensor twice: the layers that make it compute it twice, those that read it take the mean."""

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
    """The groups named after `tensors` have each channel twice, first all channels and then all again.

    Where none of a group's readers runs in int8 the edit leaves the group as it is. Arrays of later edits then have
    more entries than the tensor has channels, of which the first ones count.
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
        """The same network with split tensors where one of `layers`, which run in int8, reads them; changes it."""
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
                weight = constants[known[name].layer.weight]
                _replace(weight, _twice(numpy_helper.to_array(weight), 1) / np.float32(2))
        del model.graph.value_info[:]  # shapes of before
        return model


def _twice(values: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([values, values], axis)


def _replace(initializer: onnx.TensorProto, values: np.ndarray) -> None:
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), initializer.name))
