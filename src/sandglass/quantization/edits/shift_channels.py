"""Subtract offsets from tensors; the biases and the bounds of clamps around them compensate it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.layer_edits import add_to_bias, own_constants
from sandglass.graph.layers import CLAMPS, clamp_ends
from sandglass.quantization.channel_offsets import OffsetGraph, through_weights
from sandglass.quantization.explicit_padding import pad_layers

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ShiftChannels:
    """The offset of each channel is subtracted from it; `offsets` are (channels,) or (1,) float32 by tensor.

    The tensors are those of `offset_tensors`. If such a tensor is a term of a sum without a free term, the offset of
    the sum changes too (see `channel_offsets`).
    """

    KIND: ClassVar[str] = "shift channels"
    FIELDS: ClassVar[tuple[str, ...]] = ("offsets",)
    RENAMES: ClassVar[bool] = False

    offsets: Mapping[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors."""
        return tuple(self.offsets)

    @property
    def arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
        """The arrays by field and tensor, as a plan's file has them."""
        return {"offsets": self.offsets}

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> ShiftChannels:
        """The edit with these arrays by field."""
        return ShiftChannels(arrays["offsets"])

    def then(self, other: ShiftChannels) -> ShiftChannels:
        """Both edits as one: x - a - b = x - (a + b)."""
        zero = np.float32(0)
        added = {name: self.offsets.get(name, zero) + values for name, values in other.offsets.items()}
        return ShiftChannels({**self.offsets, **added})

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The network with offsets subtracted, for any `layers` in int8; it computes the same. Changes the model."""
        own_constants(model)
        graph, index = OffsetGraph(model), GraphIndex(model)
        padding: dict[str, float] = {}  # by layer
        for name, offset in graph.propagated(self.offsets).items():
            maker = graph.makers[name]
            if maker.name in graph.layer_facts:
                add_to_bias(index, maker, graph.layer_facts[maker.name].channels, -offset)
            elif maker.op_type in CLAMPS:
                _move_bounds(index, maker, float(offset[0]))
            # W (x - o) + (b + W o) = W x + b; the padding becomes 0 - o.
            for reader in graph.readers[name]:
                if reader.name in graph.layer_facts:
                    fact = graph.layer_facts[reader.name]
                    add_to_bias(index, reader, fact.channels, through_weights(graph.weight(reader), fact, offset))
                    if any(fact.pads):
                        padding[reader.name] = -float(offset[0])
        pad_layers(model, padding)
        return model


def _move_bounds(graph: GraphIndex, clamp: onnx.NodeProto, offset: float) -> None:
    """Turn a ReLU or Clip into a Clip from whose input and output `offset` is subtracted."""
    ends = zip(("minimum", "maximum"), clamp_ends(clamp, graph.constants), strict=True)
    bounds = [
        graph.add_constant(f"{clamp.name}.{end}", np.array(np.clip(value - offset, -LARGEST, LARGEST), np.float32))
        for end, value in ends
    ]
    clamp.CopyFrom(helper.make_node("Clip", [clamp.input[0], *bounds], list(clamp.output), clamp.name))
