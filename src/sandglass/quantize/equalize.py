"""Cross-layer equalization: channels of unlike range are brought together where the network stays exactly the same.

Between two layers a channel may be divided by a factor if the next layer multiplies by it (Nagel et al., 2019), through
ReLU as through nothing. Weights have a scale for each output channel, so the producer does not care; activations have
one scale for all channels, and gain. A depthwise consumer does not care either; a dense one does, and the factor is
a compromise of both ranges (as in SmoothQuant, Xiao et al., 2022). Sums tie the factors of all their terms together
and are left alone. A Clip at a constant stops a factor unless the constant is never reached: it then moves with the
channel, which changes the network only beyond MARGIN times anything seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.execute import GraphSession
from sandglass.quantize.layers import CLAMPS, Facts, facts, own_constants

SHARE = 0.5  # of the activation's range in the compromise with the weights'
MARGIN = 2.0
SMALLEST = 1e-3  # factor, beside the largest: a channel that is nearly dead is left so
CLOSE = 1e-6


@dataclass(frozen=True)
class Link:
    """A tensor that one layer makes and only layers read. `limit` is the upper bound of a Clip, or infinite."""

    tensor: str
    producer: str
    consumers: tuple[str, ...]
    limit: float


def links(model: onnx.ModelProto) -> list[Link]:
    """Every place where channels can be scaled, in the graph's order."""
    known = facts(model)
    nodes = {node.name: node for node in model.graph.node}
    values = {i.name: i for i in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    outputs = {value.name for value in model.graph.output}
    found = []
    for name in known:
        if any(given and given not in values for given in nodes[name].input[2:]):
            continue  # a bias that is computed
        tensor, limit = nodes[name].output[0], float("inf")
        following = readers.get(tensor, [])
        if len(following) == 1 and following[0].op_type in CLAMPS and tensor not in outputs:
            bounds = _bounds(following[0], values)
            if bounds is None:
                continue
            tensor, limit = following[0].output[0], bounds
            following = readers.get(tensor, [])
        names = tuple(node.name for node in following)
        if not names or tensor in outputs or any(n not in known or nodes[n].input[0] != tensor for n in names):
            continue
        if all(_scalable(known[n], as_input=True) for n in names) and _scalable(known[name], as_input=False):
            found.append(Link(tensor, name, names, limit))
    return found


def channel_peaks(
    graph: Path, tensors: list[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Largest magnitude of each channel (axis 1) over all batches, by tensor."""
    session = GraphSession(graph, outputs=tensors)
    peaks: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, value in session.run(batch).items():
            largest = np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != 1))
            peaks[name] = np.maximum(peaks[name], largest) if name in peaks else largest
    return peaks


def choose_factors(model: onnx.ModelProto, found: list[Link], peaks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Factors by tensor, (channels,) float32: each channel is divided by its own."""
    known = facts(model)
    weights = {i.name: i for i in model.graph.initializer}
    chosen: dict[str, np.ndarray] = {}
    for link in found:
        peak = np.maximum(peaks[link.tensor].astype(np.float64), CLOSE)
        consumers = [known[name] for name in link.consumers]
        factors = peak / peak.max()
        if not all(_depthwise(consumer) for consumer in consumers):
            ranges = np.max(
                [_input_ranges(numpy_helper.to_array(weights[c.layer.weight]), c) for c in consumers], axis=0
            )
            factors = peak**SHARE / np.maximum(ranges, CLOSE) ** (1 - SHARE)
        factors = np.maximum(factors / factors.max(), SMALLEST)
        if np.isfinite(link.limit):
            factors = np.minimum(np.maximum(factors, MARGIN * peak / link.limit), 1.0)
        if factors.min() < 1:
            chosen[link.tensor] = factors.astype(np.float32)
    return chosen


def scale_channels(model: onnx.ModelProto, factors: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The same network with the channels of each tensor in `factors` divided by them; the model is changed."""
    own_constants(model)
    known = facts(model)
    constants = {i.name: i for i in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    for link in links(model):
        if link.tensor not in factors:
            continue
        values = factors[link.tensor].astype(np.float64)
        producer = known[link.producer]
        _multiply(constants[producer.layer.weight], 1 / values, producer.axis)
        if len(nodes[link.producer].input) > 2 and nodes[link.producer].input[2]:
            _multiply(constants[nodes[link.producer].input[2]], 1 / values, 0)
        for name in link.consumers:
            _multiply(constants[known[name].layer.weight], values, _input_axis(known[name]))
    return model


def _multiply(initializer: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    weight = numpy_helper.to_array(initializer)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    initializer.CopyFrom(numpy_helper.from_array((weight * values.reshape(shape)).astype(np.float32), initializer.name))


def _bounds(clamp: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]) -> float | None:
    """The upper bound of a clamp whose lower one is 0; None for any other."""
    if clamp.op_type == "Relu":
        return float("inf")
    if len(clamp.input) < 3 or any(name and name not in values for name in clamp.input[1:3]):
        return None
    low, high = (float(numpy_helper.to_array(values[n])) if n else None for n in clamp.input[1:3])
    return high if low == 0 and high is not None and high > 0 else None


def _depthwise(fact: Facts) -> bool:
    """One filter a channel, forward or transposed, as many channels out as in."""
    return fact.group > 1 and fact.shape[:2] == (fact.group, 1)


def _scalable(fact: Facts, as_input: bool) -> bool:
    """Whether a layer's channels, on that side, lie along one axis of its weight."""
    if fact.layer.operator not in ("Conv", "ConvTranspose"):
        return False
    if fact.group == 1 or _depthwise(fact):
        return True
    return fact.layer.operator == "Conv" and not as_input


def _input_axis(fact: Facts) -> int:
    return 0 if fact.layer.operator == "ConvTranspose" or _depthwise(fact) else 1


def _input_ranges(weight: np.ndarray, fact: Facts) -> np.ndarray:
    """Largest weight that each input channel meets."""
    axis = _input_axis(fact)
    largest: np.ndarray = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    return largest
