"""Centred activations: the middle of a tensor's range moves into the biases around it.

Rounding spends its steps on the whole range between the least and the largest value. A channel that lies away from 0
wastes them: its offset is taken off by the layer that makes it and put back by those that read it, through their
weights. The result of a clamp has one offset for all channels, half its range, and its bounds move with it: a target
whose integers are symmetric around 0 then uses all of them for the result of a ReLU, as if it had a zero point. So does
a sum with the result of a clamp, by way of that term. Where a target can pad with any value the offset is taken off the
zeros of a layer's padding too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sandglass.quantization.edits import ShiftChannels
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import clipped_range
from sandglass.quantization.repair_state import NetworkState, RangeState
from sandglass.quantization.repairs import NetworkStep, RangeStep

NAME = "centre"
SOURCE = "this project"
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None


def _center_linear(state: NetworkState) -> NetworkState:
    """Take the middle of its range off each channel of linear tensors, and note the clamps to be centred."""
    network = state.network
    state = replace(state, centered=() if state.spec.asymmetric else network.offsets.clamped)
    ranges = {name: network.channel_ranges[name] for name in network.offsets.linear if name in network.channel_ranges}
    if not ranges:
        return state
    return state.with_edit(ShiftChannels({name: (seen.low + seen.high) / 2 for name, seen in ranges.items()}))


def _center_clamped(state: RangeState) -> RangeState:
    """Take the middle of the clipped range off each result of a clamp that is not always 0."""
    ends = {name: clipped_range(state.ranges[name]) for name in state.centered if state.ranges[name].threshold > 0}
    if not ends:
        return state
    state.say(f"repair: centring {len(ends)} results of clamps")
    middles = {name: (low + high) / 2 for name, (low, high) in ends.items()}
    ranges = {}
    for name, (low, high) in ends.items():
        seen, middle = state.ranges[name], middles[name]
        ranges[name] = TensorRange(seen.minimum - middle, seen.maximum - middle, (high - low) / 2)
    shifted = state.shifted({name: np.array([middle], np.float32) for name, middle in middles.items()})
    return replace(shifted.with_ranges(ranges), centered=())


STEPS = (
    NetworkStep(20, _center_linear),  # before equalization, which brings centred ranges together
    RangeStep(80, _center_clamped),  # after thresholds and factors are chosen: the middle follows from them
)
