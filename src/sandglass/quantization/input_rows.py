"""What repairs learn from: for each layer, rows of its input as its weights see them, drawn from calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sandglass.graph.layers import Facts
from sandglass.graph.session import GraphSession

FLOATS = 1_500_000  # kept for a layer
MOST_ROWS = 4096


def weight_matrix(weight: np.ndarray, fact: Facts) -> np.ndarray:
    """A layer's weights as (groups, rows, columns): a row makes one output, or one tap of a transposed convolution."""
    if fact.layer.operator == "Conv":
        return weight.reshape(fact.group, weight.shape[0] // fact.group, -1)
    if fact.layer.operator == "ConvTranspose":
        inputs = weight.shape[0] // fact.group
        return weight.reshape(fact.group, inputs, -1).transpose(0, 2, 1)
    return (weight if fact.axis == 0 else weight.T)[np.newaxis]


def from_matrix(matrix: np.ndarray, fact: Facts) -> np.ndarray:
    """The inverse of `weight_matrix`."""
    if fact.layer.operator == "Conv":
        return matrix.reshape(fact.shape)
    if fact.layer.operator == "ConvTranspose":
        return matrix.transpose(0, 2, 1).reshape(fact.shape)
    return matrix[0] if fact.axis == 0 else matrix[0].T


def row_channels(fact: Facts) -> np.ndarray:
    """The output channel that each row of a weight matrix belongs to, (groups, rows)."""
    if fact.layer.operator == "ConvTranspose":
        outputs = fact.shape[1]
        taps = int(np.prod(fact.shape[2:]))
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
    """Rows (rows, groups, columns) float32 for each layer in `facts`, from `count` batches, in bounded memory."""
    random = np.random.default_rng(seed)
    names = dict.fromkeys(fact.layer.input for fact in facts.values())
    session: GraphSession | None = None
    found: dict[str, list[np.ndarray]] = {name: [] for name in facts}
    for batch in batches:
        if session is None:
            session = GraphSession(graph, outputs=[name for name in names if name not in batch] or None)
        values = {**session.run(batch), **batch}
        for name, fact in facts.items():
            found[name].append(_rows(values[fact.layer.input], fact, count, random))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _rows(values: np.ndarray, fact: Facts, count: int, random: np.random.Generator) -> np.ndarray:
    columns = int(np.prod(fact.shape)) // max(1, fact.channels) * fact.group
    if fact.layer.operator == "ConvTranspose":
        columns = fact.shape[0]
    wanted = max(1, min(MOST_ROWS, FLOATS // max(1, columns)) // count)
    if fact.layer.operator == "Conv":
        return _patches(values, fact, wanted, random)
    if fact.layer.operator == "ConvTranspose":
        pixels = values.reshape(values.shape[1], -1).T
        return _some(pixels, wanted, random).reshape(-1, fact.group, values.shape[1] // fact.group)
    return _some(values.reshape(-1, values.shape[-1]), wanted, random)[:, np.newaxis]


def _some(rows: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    return rows[random.choice(len(rows), min(wanted, len(rows)), replace=False)]


def _patches(values: np.ndarray, fact: Facts, wanted: int, random: np.random.Generator) -> np.ndarray:
    """Windows of a convolution's input, (rows, groups, channels of a group x kernel)."""
    top, left, bottom, right = fact.pads
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
    kernel, (down, across) = fact.shape[2:], fact.dilation
    reach = ((kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    windows = windows[:, :: fact.stride[0], :: fact.stride[1], ::down, ::across]
    rows, columns = windows.shape[1:3]
    places = random.choice(rows * columns, min(wanted, rows * columns), replace=False)
    chosen = windows[:, places // columns, places % columns]  # (channels, rows, kernel)
    return np.ascontiguousarray(chosen.transpose(1, 0, 2, 3)).reshape(len(places), fact.group, -1)


def drawable(model: onnx.ModelProto, facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """Layers whose rows can be drawn: two-dimensional convolutions with explicit padding, and products of matrices.

    Their biases are constants, one for each channel or for all.
    """
    nodes: dict[str, Any] = {node.name: node for node in model.graph.node}
    sizes = {entry.name: int(np.prod(entry.dims)) for entry in model.graph.initializer}

    def plain(name: str, fact: Facts) -> bool:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[name].attribute}
        if any(bias and sizes.get(bias) not in (1, fact.channels) for bias in nodes[name].input[2:]):
            return False
        if fact.layer.operator in ("Conv", "ConvTranspose"):
            return len(fact.shape) == 4 and given.get("auto_pad", b"NOTSET") == b"NOTSET"
        factors = given.get("alpha", 1.0), given.get("beta", 1.0)
        return len(fact.shape) == 2 and not given.get("transA", 0) and factors == (1.0, 1.0)

    return {name: fact for name, fact in facts.items() if plain(name, fact)}
