"""Rows of layers' inputs, drawn at random from calibration images, on which repairs measure errors.

A row holds the values that make one output of a layer: for a convolution those under its kernel at one position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sandglass.graph.layers import Facts
from sandglass.graph.session import GraphSession

FLOATS = 1_500_000  # values in the rows of a layer, at most: 6 MB
MOST_ROWS = 4096  # rows of a layer, at most


def weight_matrix(weight: np.ndarray, fact: Facts) -> np.ndarray:
    """A layer's weights as a matrix for each group, (groups, rows, columns).

    A row computes one output channel, or one output channel at one tap for a transposed convolution. Its columns are
    the input channels of the group x the taps of the kernel; for a transposed convolution the input channels alone.
    """
    if fact.layer.operator == "Conv":
        return weight.reshape(fact.group, weight.shape[0] // fact.group, -1)
    if fact.layer.operator == "ConvTranspose":  # (inputs, outputs of a group, height, width)
        inputs = weight.shape[0] // fact.group
        return weight.reshape(fact.group, inputs, -1).transpose(0, 2, 1)
    return (weight if fact.axis == 0 else weight.T)[np.newaxis]  # one group; output channels become rows


def from_matrix(matrix: np.ndarray, fact: Facts) -> np.ndarray:
    """The inverse of `weight_matrix`."""
    if fact.layer.operator == "Conv":
        return matrix.reshape(fact.shape)
    if fact.layer.operator == "ConvTranspose":
        return matrix.transpose(0, 2, 1).reshape(fact.shape)
    return matrix[0] if fact.axis == 0 else matrix[0].T


def row_channels(fact: Facts) -> np.ndarray:
    """The output channel of each row of a weight matrix, (groups, rows) integers."""
    if fact.layer.operator == "ConvTranspose":
        outputs = fact.shape[1]
        taps = int(np.prod(fact.shape[2:]))  # rows of the matrix: outputs by taps, outputs first
        first = np.arange(fact.group)[:, None] * outputs
        return first + np.repeat(np.arange(outputs), taps)[None]
    return np.arange(fact.channels).reshape(fact.group, -1)


def draw(
    graph: Path,
    facts: Mapping[str, Facts],
    batches: Iterable[Mapping[str, np.ndarray]],
    count: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Rows of the input of each layer in `facts`, (rows, groups, columns) float32 by layer, in bounded memory.

    `graph` is the network that the layers belong to, and `count` the number of batches.
    """
    random = np.random.default_rng(seed)
    names = dict.fromkeys(fact.layer.input for fact in facts.values())
    session: GraphSession | None = None
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in facts}
    for batch in batches:
        if session is None:
            session = GraphSession(graph, outputs=[name for name in names if name not in batch] or None)
        values = {**session.run(batch), **batch}
        for name, fact in facts.items():
            drawn[name].append(_rows(values[fact.layer.input], fact, count, random))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _rows(values: np.ndarray, fact: Facts, count: int, random: np.random.Generator) -> np.ndarray:
    columns = int(np.prod(fact.shape)) // max(1, fact.channels) * fact.group
    if fact.layer.operator == "ConvTranspose":
        columns = fact.shape[0]
    quota = max(1, min(MOST_ROWS, FLOATS // max(1, columns)) // count)  # rows of one batch
    if fact.layer.operator == "Conv":
        return _patches(values, fact, quota, random)
    if fact.layer.operator == "ConvTranspose":
        pixels = values.reshape(values.shape[1], -1).T  # (positions, channels)
        return _sample(pixels, quota, random).reshape(-1, fact.group, values.shape[1] // fact.group)
    return _sample(values.reshape(-1, values.shape[-1]), quota, random)[:, np.newaxis]


def _sample(rows: np.ndarray, quota: int, random: np.random.Generator) -> np.ndarray:
    """At most `quota` different rows of (rows, columns), drawn at random."""
    return rows[random.choice(len(rows), min(quota, len(rows)), replace=False)]


def _patches(values: np.ndarray, fact: Facts, quota: int, random: np.random.Generator) -> np.ndarray:
    """At most `quota` windows of a convolution's input, (rows, groups, channels of a group x taps)."""
    top, left, bottom, right = fact.pads
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))  # (channels, height, width)
    kernel, (down, across) = fact.shape[2:], fact.dilation
    reach = ((kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    # (channels, output height, output width, kernel height, kernel width); a view, nothing is copied yet
    windows = windows[:, :: fact.stride[0], :: fact.stride[1], ::down, ::across]
    height, width = windows.shape[1:3]
    positions = random.choice(height * width, min(quota, height * width), replace=False)
    chosen = windows[:, positions // width, positions % width]  # (channels, rows, kernel height, kernel width)
    return np.ascontiguousarray(chosen.transpose(1, 0, 2, 3)).reshape(len(positions), fact.group, -1)


def drawable(model: onnx.ModelProto, facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """The layers whose rows can be drawn: two-dimensional convolutions with explicit padding, and matrix products.

    Their biases are constants, with one value for each channel or one for all.
    """
    nodes: dict[str, Any] = {node.name: node for node in model.graph.node}
    sizes = {entry.name: int(np.prod(entry.dims)) for entry in model.graph.initializer}

    def plain(name: str, fact: Facts) -> bool:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[name].attribute}
        if any(bias and sizes.get(bias) not in (1, fact.channels) for bias in nodes[name].input[2:]):
            return False
        if fact.layer.operator in ("Conv", "ConvTranspose"):
            return len(fact.shape) == 4 and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        return len(fact.shape) == 2 and not attributes.get("transA", 0) and factors == (1.0, 1.0)

    return {name: fact for name, fact in facts.items() if plain(name, fact)}
