"""Thresholds by what rounding does to a layer's output, not to its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sandglass.quantize.layers import Facts
from sandglass.quantize.plan import TensorRange
from sandglass.quantize.qdq import clipped_range
from sandglass.quantize.rounding import round_input
from sandglass.quantize.samples import weight_matrix

CANDIDATES = np.geomspace(0.05, 1, 20)  # of the largest magnitude
ROWS = 512


def output_threshold(
    found: TensorRange, readers: list[tuple[Facts, np.ndarray, np.ndarray]], asymmetric: bool
) -> TensorRange:
    """The range whose rounding changes the outputs of `readers` least, in mean square.

    `readers` are the layers that read the tensor: facts, weight, and rows of input as `samples.draw` gives them. The
    mean error of values inside the range does not count: the bias takes it up. That of clipped ones does.
    """
    largest = max(-found.minimum, found.maximum)
    prepared = [(weight_matrix(weight, fact).astype(np.float32), rows[:ROWS]) for fact, weight, rows in readers]
    best, least = found, float("inf")
    for share in CANDIDATES:
        candidate = replace(found, threshold=float(share * largest))
        error = sum(_output_error(matrix, rows, candidate, asymmetric) for matrix, rows in prepared)
        if error < least:
            best, least = candidate, error
    return best


def output_thresholds(
    ranges: Mapping[str, TensorRange],
    facts: Mapping[str, Facts],
    weights: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    asymmetric: bool,
) -> dict[str, TensorRange]:
    """`ranges` with new thresholds for the inputs of the layers in `rows`."""
    readers: dict[str, list[tuple[Facts, np.ndarray, np.ndarray]]] = {}
    for name, drawn in rows.items():
        readers.setdefault(facts[name].layer.input, []).append((facts[name], weights[name], drawn))
    return {
        name: output_threshold(found, readers[name], asymmetric) if name in readers and found.threshold > 0 else found
        for name, found in ranges.items()
    }


def _output_error(matrix: np.ndarray, rows: np.ndarray, found: TensorRange, asymmetric: bool) -> float:
    seen = round_input(rows, found, asymmetric)
    change = seen - rows - (seen - np.clip(rows, *clipped_range(found))).mean(0)
    outputs = change.transpose(1, 0, 2) @ matrix.transpose(0, 2, 1)
    return float((outputs**2).mean())
