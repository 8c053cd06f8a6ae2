"""Centered activations: the middle of a tensor's range moves into the biases around it.

The integers of a tensor cover one range for all of its channels. A channel with values far from 0 makes that range
wider. So the layer that computes the tensor subtracts the middle of each channel's range, and the layers that read it
add it back through their weights (see `edits.ShiftChannels`).

The result of a clamp has one offset for all channels, half of its range, and the bounds of the clamp move with it.
Example: a ReLU has values from 0 to 6. A target with integers from -127 to 127 and no zero point uses only those from 0
to 127, with steps of 6 / 127. After the offset 3 the values are between -3 and 3, all integers are used, and the step
is half as large. A sum with such a result among its terms gets its offset through this term. If a target can pad with
any value, the offset is subtracted from the zeros of a layer's padding too.

Most results of a ReLU are small, and in the example they are now close to -3. They are multiplied by the errors of the
rounded weights, and the products have a mean. Bias correction removes it; without bias correction, noise may grow after
a ReLU.
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


def _center_linear(state: NetworkState) -> NetworkState:
    """Subtract the middle of its range from each channel of linear tensors, and record the clamps to center later."""
    network = state.network
    state = replace(state, centered=() if state.spec.asymmetric else network.offsets.clamped)
    ranges = {name: network.channel_ranges[name] for name in network.offsets.linear if name in network.channel_ranges}
    if not ranges:
        return state
    return state.with_edit(ShiftChannels({name: (entry.low + entry.high) / 2 for name, entry in ranges.items()}))


def _center_clamped(state: RangeState) -> RangeState:
    """Subtract the middle of its clipped range from each result of a clamp that is not always 0."""
    ends = {name: clipped_range(state.ranges[name]) for name in state.centered if state.ranges[name].threshold > 0}
    if not ends:
        return state
    state.say(f"repair: centering {len(ends)} results of clamps around 0")
    middles = {name: (low + high) / 2 for name, (low, high) in ends.items()}
    ranges = {}
    for name, (low, high) in ends.items():
        before, middle = state.ranges[name], middles[name]
        ranges[name] = TensorRange(before.minimum - middle, before.maximum - middle, (high - low) / 2)
    shifted = state.shifted({name: np.array([middle], np.float32) for name, middle in middles.items()})
    return replace(shifted.with_ranges(ranges), centered=())


STEPS = (
    NetworkStep(20, _center_linear),  # before ranges are measured: the offsets follow from the ranges of channels
    RangeStep(80, _center_clamped),  # after thresholds and factors are chosen: the middle depends on them
)
