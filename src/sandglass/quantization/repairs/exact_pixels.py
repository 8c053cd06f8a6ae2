"""Exact pixels: an image is rounded to its own 256 levels, which 8 bits hold exactly.

After normalization each channel of an image has 256 levels with a step of its own. A single scale for all channels does
not match these levels, so that pixels lose up to half a level before the first layer. If the calibration images show
the levels, the input is turned back into bytes minus a zero point, and the weights and the bias of the first layer do
the normalization. Rounding is then exact.

Example: the mean 120 and the standard deviation 60 turn the bytes 0, 1, ... 255 into -2, -1.983, ... 2.25. The step is
1 / 60, and the value 0 is level 120: byte = value * 60 + 120.

Padding needs care, because the value 0 is another level in each channel. With a zero point, padding adds the mean of
these levels, and the error of a channel is the distance of its level from the mean. Without a zero point there are only
255 integers around 0: white, which is rarer than black, is one level too dark. There the image is padded before it
becomes bytes, and padding is exact.
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
LEVELS = 256  # levels of a byte
MIDDLE = 127.0  # largest integer of a target without a zero point; level 127 is its integer 0
LEAST_LEVELS = 128  # different values that a channel needs: with fewer the step would be uncertain
EXACT = 0.02  # largest distance of a value from its level, in steps
IMAGES = 16  # images in which levels are searched


@dataclass(frozen=True)
class Pixels:
    """The conversion of an input to integers: it is divided by `factors`, then `offsets` are subtracted.

    Both arrays are (channels,) float32. `name` is the tensor with the integers, and `range` its range, in which one
    step is one level. The range includes levels that the calibration images do not have.
    """

    name: str
    factors: np.ndarray
    offsets: np.ndarray
    range: TensorRange


def levels(batches: Sequence[Mapping[str, np.ndarray]], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The step of each channel of an input, and the level of its value 0, both (channels,) float64.

    The input is (1, channels, height, width). None if a channel has no levels. Values of exactly 0 are ignored: they
    come from padding and may be between two levels.
    """
    arrays = [batch[name] for batch in spread(batches, IMAGES)]
    if not arrays or any(array.dtype != np.float32 or array.ndim != 4 for array in arrays):
        return None
    channels = range(arrays[0].shape[1])
    pairs = [_channel_levels(np.concatenate([array[:, channel].ravel() for array in arrays])) for channel in channels]
    on_grid = [pair for pair in pairs if pair]
    if len(on_grid) < len(pairs):
        return None
    steps, zeros = np.array(on_grid).T
    return steps, zeros


def _channel_levels(values: np.ndarray) -> tuple[float, float] | None:
    """The step of a channel's values and the level of the value 0; None if the values are not on a grid of LEVELS."""
    distinct = np.unique(values[values != 0]).astype(np.float64)  # in rising order
    if len(distinct) < LEAST_LEVELS or not np.isfinite(distinct[[0, -1]]).all():
        return None
    gaps = np.diff(distinct)
    apart = gaps > (distinct[-1] - distinct[0]) / LEVELS / 10  # smaller gaps are float rounding within one level
    if not LEAST_LEVELS < apart.sum() < LEVELS:
        return None
    step = float(np.median(gaps[apart]))
    positions = (distinct - distinct[0]) / step  # whole numbers if the values are on a grid
    count = round(positions[-1]) + 1
    if np.abs(positions - positions.round()).max() > EXACT or count > LEVELS:
        return None
    spare = (LEVELS - count) // 2  # unused levels below the smallest value, and as many above the largest
    return step, spare - distinct[0] / step


def find_pixels(
    model: onnx.ModelProto, layers: Collection[str], batches: Sequence[Mapping[str, np.ndarray]], asymmetric: bool
) -> dict[str, Pixels]:
    """The conversion of the graph's inputs to bytes, by input, for inputs with levels that some of `layers` read.

    Targets that are not `asymmetric` have no zero point. If an input has to be padded before it becomes bytes, all of
    its readers must have the same padding.
    """
    pixels, layer_facts = {}, facts(model)
    for name in (value.name for value in model.graph.input):
        readers = [layer_facts[layer] for layer in byte_readers(model, name, layers)]
        if not readers or not (grid := levels(batches, name)):
            continue
        steps, zeros = grid
        zero = float(np.clip(np.round(zeros.mean()), 0, LEVELS - 1)) if asymmetric else MIDDLE
        offsets = (zero - zeros).astype(np.float32)
        alike = len({fact.pads for fact in readers}) == 1 and all(fact.explicit for fact in readers)
        if alike or not pads_change_level(offsets):
            highest = LEVELS - 1 - zero if asymmetric else MIDDLE
            byte_range = TensorRange(-zero, highest, max(zero, highest))
            pixels[name] = Pixels(bytes_tensor(Names(model), name), steps.astype(np.float32), offsets, byte_range)
    return pixels


def _exact_pixels(state: NetworkState) -> NetworkState:
    network = state.network
    pixels = find_pixels(load_graph(network.graph), network.integer, state.batches, state.spec.asymmetric)
    if not pixels:
        return state
    state.say(f"repair: rounding the pixels of {', '.join(pixels)} to their own levels")
    factors = {name: entry.factors for name, entry in pixels.items()}
    offsets = {name: entry.offsets for name, entry in pixels.items()}
    ranges = {entry.name: entry.range for entry in pixels.values()}
    return replace(state.with_edit(ReadBytes(factors, offsets)), known_ranges={**state.known_ranges, **ranges})


STEPS = (NetworkStep(50, _exact_pixels),)  # at any place: no other repair changes the graph's inputs
