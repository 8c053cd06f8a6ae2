"""Images rounded on their own grid: what a camera gives has 256 levels, and so have 8 bits.

A normalized image has, in each channel, the levels of a byte at a step of their own. One scale for all channels lays
another grid over them, and every pixel is off by up to half a level before the first layer has begun. Where
calibration shows the levels, the input is turned back into bytes, less a zero point, and the first layer's weights and
bias do the normalization: rounding is then exact. Beside a zero point padding adds the mean level of 0 of all channels,
and a channel is off by the distance of its own from that mean. Where integers are around 0 they are one fewer than the
levels, and white, which is rarer than black, is off by one. There a target has to be told what to pad with in any case:
the image is padded before it becomes bytes, and nothing is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.edit import set_nodes
from sandglass.graph.layers import add_to_bias, facts, own_constants
from sandglass.graph.names import Names
from sandglass.graph.work import spread
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.repairs import center_activations
from sandglass.quantization.repairs.equalize import multiply

LEVELS = 256
MIDDLE = 127.0  # the largest of the integers around 0
LEAST_LEVELS = 128  # seen in a channel: fewer leave open which levels lie between them
EXACT = 0.02  # of a step: how far from the grid a value may lie
IMAGES = 16


@dataclass(frozen=True)
class Pixels:
    """How an input becomes integers: divided by `factors`, `offsets` taken off, both (channels,) float32.

    The integers are those of the tensor `name`. At `range` one step is one level, whether calibration had it or not.
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
    found = [_channel(np.concatenate([array[:, c].ravel() for array in arrays])) for c in range(arrays[0].shape[1])]
    kept = [entry for entry in found if entry]
    if len(kept) < len(found):
        return None
    steps, zeros = np.array(kept).T
    return steps, zeros


def _channel(values: np.ndarray) -> tuple[float, float] | None:
    seen = np.unique(values[values != 0]).astype(np.float64)
    if len(seen) < LEAST_LEVELS or not np.isfinite(seen[[0, -1]]).all():
        return None
    gaps = np.diff(seen)
    apart = gaps > (seen[-1] - seen[0]) / LEVELS / 10  # less is float rounding
    if not LEAST_LEVELS < apart.sum() < LEVELS:
        return None
    step = float(np.median(gaps[apart]))
    places = (seen - seen[0]) / step
    count = round(places[-1]) + 1
    if np.abs(places - places.round()).max() > EXACT or count > LEVELS:
        return None
    spare = (LEVELS - count) // 2  # levels that nothing was seen of, on either side
    return step, spare - seen[0] / step


def readers(model: onnx.ModelProto, name: str, layers: set[str]) -> list[str]:
    """Those of `layers` that can read an input as bytes: convolutions with constant biases."""
    constants = {entry.name for entry in model.graph.initializer}
    known = facts(model)
    return [
        node.name
        for node in model.graph.node
        if node.name in layers
        and known[node.name].layer.input == name
        and node.op_type == "Conv"
        and known[node.name].group == 1
        and all(bias in constants for bias in node.input[2:] if bias)
    ]


def find(
    model: onnx.ModelProto, layers: set[str], batches: Sequence[Mapping[str, np.ndarray]], asymmetric: bool
) -> dict[str, Pixels]:
    """How to turn the graph's inputs into bytes: those with levels that some of `layers` read.

    Targets that are not `asymmetric` have no zero point. An input that is padded before has readers that pad alike.
    """
    found, known = {}, facts(model)
    for value in model.graph.input:
        reading = [known[name] for name in readers(model, value.name, layers)]
        if not reading or not (seen := levels(batches, value.name)):
            continue
        steps, zeros = seen
        zero = float(np.clip(np.round(zeros.mean()), 0, LEVELS - 1)) if asymmetric else MIDDLE
        offsets = (zero - zeros).astype(np.float32)
        alike = len({fact.pads for fact in reading}) == 1 and all(fact.explicit for fact in reading)
        if alike or not _padded_before(offsets):
            highest = LEVELS - 1 - zero if asymmetric else MIDDLE
            seen_as = TensorRange(-zero, highest, max(zero, highest))
            found[value.name] = Pixels(tensor(Names(model), value.name), steps.astype(np.float32), offsets, seen_as)
    return found


def _padded_before(offsets: np.ndarray) -> bool:
    """Whether the mean level of 0 is not at 0, so that zeros which bytes are padded with would be another level."""
    return bool(round(float(offsets.mean())))


def tensor(names: Names, value: str) -> str:
    """A name for the tensor of an input's bytes: the same in all graphs that name the same tensors and nodes."""
    return names.fresh(f"{value}.bytes")


def put(
    model: onnx.ModelProto, factors: Mapping[str, np.ndarray], offsets: Mapping[str, np.ndarray], layers: set[str]
) -> onnx.ModelProto:
    """The network with those of `layers` that can reading their input as bytes; the model is changed.

    Inputs are divided by their `factors`, and the `offsets` then taken off: both are (channels,) float32. Where that
    moves 0 to another level they are padded before, and the layers pad no longer.
    """
    own_constants(model)
    constants, known = {entry.name: entry for entry in model.graph.initializer}, facts(model)
    names = Names(model)
    for name in (value.name for value in model.graph.input):
        wanted = set(readers(model, name, layers)) if name in factors and name in offsets else set()
        if not wanted:
            continue
        channels = len(factors[name])
        parts = {"factor": 1 / factors[name], "offset": -offsets[name]}
        parts |= {"mean": np.zeros(channels), "variance": np.ones(channels)}  # none: one node scales and shifts
        constant = {part: names.fresh(f"{name}.{part}") for part in parts}
        for part, values in parts.items():
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), constant[part]))
        source, rounded, made = name, tensor(names, name), list[onnx.NodeProto]()
        pads = known[min(wanted)].pads
        if any(pads) and _padded_before(offsets[name]):
            source = names.fresh(f"{name}.padded")
            made.append(center_activations.padding(model, name, source, pads, 0.0))
        for node in model.graph.node:
            if node.name in wanted:
                node.input[0] = rounded
                if made:
                    center_activations.drop_pads(node)
                weight, fact = constants[node.input[1]], known[node.name]
                shifted = factors[name].astype(np.float64) * offsets[name]
                add_to_bias(
                    model, node, fact.channels, center_activations.through(numpy_helper.to_array(weight), fact, shifted)
                )
                multiply(weight, factors[name].astype(np.float64), axis=1)
        inputs, scale = [source, *constant.values()], names.fresh(f"{name}.scale")
        made.append(helper.make_node("BatchNormalization", inputs, [rounded], scale, epsilon=0.0))
        set_nodes(model, [*made, *model.graph.node])
    return model
