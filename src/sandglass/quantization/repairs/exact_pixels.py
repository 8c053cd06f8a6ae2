"""Images rounded on their own grid: an image from a camera has 256 levels, and so have 8 bits.

A normalized image has, in each channel, the levels of a byte at a step of their own. One scale for all channels lays
another grid over them, and every pixel is off by up to half a level before the first layer has begun. Where
calibration shows the levels, the input is turned back into bytes, less a zero point, and the first layer's weights and
bias do the normalization: rounding is then exact. With a zero point padding adds the mean level of 0 of all channels,
and a channel is off by the distance of its own level of 0 from that mean. Integers around 0 are one fewer than the
levels, and white, which is rarer than black, is off by one. The image is then padded before it becomes bytes, and
nothing is off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sandglass.graph.io import load_graph
from sandglass.graph.layers import facts
from sandglass.graph.names import Names
from sandglass.graph.work import spread
from sandglass.quantization.edits import ReadBytes
from sandglass.quantization.edits.read_bytes import byte_readers, bytes_tensor, pads_change_level
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.repair_state import NetworkState
from sandglass.quantization.repairs import NetworkStep

NAME = "exact pixels"
SOURCE = "this project"
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None
LEVELS = 256  # of a byte
MIDDLE = 127.0  # the largest of the integers around 0
LEAST_LEVELS = 128  # seen in a channel: with fewer it is open which levels lie between them
EXACT = 0.02  # of a step: how far from the grid a value may lie
IMAGES = 16  # that levels are looked for in


@dataclass(frozen=True)
class Pixels:
    """How an input becomes integers: divided by `factors`, `offsets` taken off, both (channels,) float32.

    The integers are those of the tensor `name`. In `range` one step is one level, whether calibration had it or not.
    """

    name: str
    factors: np.ndarray
    offsets: np.ndarray
    range: TensorRange


def levels(batches: Sequence[Mapping[str, np.ndarray]], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Step of each channel of an input (1, channels, ...), and the level of 0, (channels,) float64; None without.

    Zeros are left out: padding has them, between the levels of an image.
    """
    arrays = [batch[name] for batch in spread(batches, IMAGES)]
    if not arrays or any(array.dtype != np.float32 or array.ndim != 4 for array in arrays):
        return None
    channels = range(arrays[0].shape[1])
    pairs = [_channel_levels(np.concatenate([array[:, channel].ravel() for array in arrays])) for channel in channels]
    known = [pair for pair in pairs if pair]
    if len(known) < len(pairs):
        return None
    steps, zeros = np.array(known).T
    return steps, zeros


def _channel_levels(values: np.ndarray) -> tuple[float, float] | None:
    """Step and level of 0 of a channel's values; None where they are not on a grid of LEVELS."""
    seen = np.unique(values[values != 0]).astype(np.float64)
    if len(seen) < LEAST_LEVELS or not np.isfinite(seen[[0, -1]]).all():
        return None
    gaps = np.diff(seen)
    apart = gaps > (seen[-1] - seen[0]) / LEVELS / 10  # less is float rounding
    if not LEAST_LEVELS < apart.sum() < LEVELS:
        return None
    step = float(np.median(gaps[apart]))
    positions = (seen - seen[0]) / step  # whole numbers, where the values are on a grid
    count = round(positions[-1]) + 1
    if np.abs(positions - positions.round()).max() > EXACT or count > LEVELS:
        return None
    spare = (LEVELS - count) // 2  # levels below the least one that was seen, and as many above the largest
    return step, spare - seen[0] / step


def find_pixels(
    model: onnx.ModelProto, layers: Collection[str], batches: Sequence[Mapping[str, np.ndarray]], asymmetric: bool
) -> dict[str, Pixels]:
    """How to turn the graph's inputs into bytes, for those with levels that some of `layers` read.

    Targets that are not `asymmetric` have no zero point. The layers that read an input which is padded before have to
    pad alike.
    """
    pixels, known = {}, facts(model)
    for name in (value.name for value in model.graph.input):
        readers = [known[layer] for layer in byte_readers(model, name, layers)]
        if not readers or not (grid := levels(batches, name)):
            continue
        steps, zeros = grid
        zero = float(np.clip(np.round(zeros.mean()), 0, LEVELS - 1)) if asymmetric else MIDDLE
        offsets = (zero - zeros).astype(np.float32)
        alike = len({fact.pads for fact in readers}) == 1 and all(fact.explicit for fact in readers)
        if alike or not pads_change_level(offsets):
            highest = LEVELS - 1 - zero if asymmetric else MIDDLE
            seen = TensorRange(-zero, highest, max(zero, highest))
            pixels[name] = Pixels(bytes_tensor(Names(model), name), steps.astype(np.float32), offsets, seen)
    return pixels


def _exact_pixels(state: NetworkState) -> NetworkState:
    network = state.network
    pixels = find_pixels(load_graph(network.graph), network.integer, state.batches, state.spec.asymmetric)
    if not pixels:
        return state
    state.say(f"repair: {', '.join(pixels)} is rounded on its own levels")
    factors = {name: entry.factors for name, entry in pixels.items()}
    offsets = {name: entry.offsets for name, entry in pixels.items()}
    ranges = {entry.name: entry.range for entry in pixels.values()}
    return replace(state.with_edit(ReadBytes(factors, offsets)), known_ranges={**state.known_ranges, **ranges})


STEPS = (NetworkStep(50, _exact_pixels),)  # of the graph's inputs alone, which no other repair changes
