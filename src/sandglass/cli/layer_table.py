"""Tables and a chart of the layers in int8: the cost of each, and the decisions of a search with their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sandglass.quantization.output_noise import decibels
from sandglass.search.costs import LayerCost, LayerVariant
from sandglass.search.quantize import Quantization
from sandglass.table.markdown import Row
from sandglass.table.rows import change, metric_cells, part

ARTIFACTS = ("float", "full int8", "chosen")  # in the order of `Quantization.evaluations` and `speeds`
ROW, LABEL, WIDTH = 18, 380, 900  # pixels of the chart: height of a row, width of the names, total width
NOISE, GAIN, LOSS, INK = (60, 110, 200), (70, 170, 90), (210, 80, 60), (40, 40, 40)  # RGB


def search_report(result: Quantization) -> list[list[Row] | str]:
    """A table of the layers with reasons, a table of the three artifacts, and a conclusion."""
    artifacts = [_artifact_row(result, number) for number in range(len(ARTIFACTS))]
    return [_layer_rows(result), artifacts, _conclusion(result)]


def _layer_rows(result: Quantization) -> list[Row]:
    """One row for each layer, with its chosen int8 variant, or with its first one if the layer stays in float."""
    bits = result.choice.bits
    return [
        {
            "layer": layer.name,
            "noise dB": f"{decibels(variant.noise):.1f}",
            "float ms": f"{layer.float_ms:.3f}",
            "int8 ms": f"{variant.milliseconds:.3f}",
            "runs in": _precision(bits[layer.name]) if layer.name in bits else "float",
            "because": result.choice.reasons.get(layer.name, ""),
        }
        for layer in result.costs
        for variant in layer.variants
        if variant.bits == bits.get(layer.name, layer.variants[0].bits)
    ]


def _artifact_row(result: Quantization, number: int) -> Row:
    """Accuracy and speed of one of ARTIFACTS. Those in int8 also have the change and the fidelity against float."""
    evaluation, speed = result.evaluations[number], result.speeds[number]
    metric = next(iter(evaluation.metrics))
    row: Row = {
        "artifact": ARTIFACTS[number],
        **metric_cells(evaluation.metrics, [metric]),
        "median ms": f"{speed.median:.2f}",
        "to float": f"{speed.median / result.speeds[0].median:.2f}",
    }
    if number:
        if changes := result.changes[number - 1]:
            row["change in points (95 %)"] = change(changes[metric])
        for name, interval in result.agreements[number - 1].items():
            row[f"{name} to float"] = f"{interval['value']:.4f} ({interval['low']:.4f} .. {interval['high']:.4f})"
    return row | part(evaluation.protocol)


def _conclusion(result: Quantization) -> str:
    """A sentence with the share of int8, the time that the time model predicted and its error, and the verdict."""
    base, _, chosen = (speed.median for speed in result.speeds)
    text = (
        f"{result.integer_share:.0%} of the multiply-accumulates run in int8; the time model predicted "
        f"{result.expected_ms:.2f} ms ({result.expected_ms / chosen - 1:+.0%}). {result.verdict}."
    )
    return text if chosen < base else f"{text} On this machine it is not faster than the float artifact."


def _precision(bits: int) -> str:
    return "int8" if bits == 8 else f"int8, {bits}-bit weights"


def sensitivity_rows(costs: Sequence[LayerCost]) -> list[Row]:
    """One row for each int8 variant of each layer, in the graph's order."""
    work = max(1, sum(cost.macs for cost in costs))
    return [
        {
            "layer": cost.name,
            "runs in": _precision(variant.bits),
            "share of MACs": f"{cost.macs / work:.1%}",
            "dB at its output": f"{decibels(variant.local):.1f}",
            "dB at the network's": f"{decibels(variant.noise):.1f}",
            "fidelity": f"{variant.fidelity:.4f}",
            "float ms": f"{cost.float_ms:.3f}",
            "int8 ms": f"{variant.milliseconds:.3f}",
        }
        for cost in costs
        for variant in cost.variants
    ]


def draw_costs(costs: Sequence[LayerCost]) -> np.ndarray:
    """A bar chart, (H, W, 3) uint8 RGB, with one row for each int8 variant of each layer.

    Blue bars show the noise at the network's output, green bars the time that int8 saves, red bars the time it costs.
    """
    bars = [
        _Bar(_label(cost, variant), variant.noise, cost.float_ms - variant.milliseconds)
        for cost in costs
        for variant in cost.variants
    ]
    picture = np.full((ROW * (len(bars) + 2), WIDTH, 3), 255, np.uint8)
    most = max((bar.noise for bar in bars), default=0.0) or 1.0
    longest = max((abs(bar.saved_ms) for bar in bars), default=0.0) or 1.0
    left, length = LABEL + 10, (WIDTH - LABEL - 30) // 2
    right = left + length + 10
    _write(picture, f"noise at the output, longest bar {decibels(most):.1f} dB", left, 0)
    _write(picture, f"time saved by int8, longest bar {longest:.3f} ms", right, 0)
    for row, bar in enumerate(bars, 1):
        _write(picture, bar.label[-52:], 4, row)
        _draw_bar(picture, left, row, length * bar.noise / most, NOISE)
        _draw_bar(picture, right, row, length * abs(bar.saved_ms) / longest, GAIN if bar.saved_ms > 0 else LOSS)
    return picture


@dataclass(frozen=True)
class _Bar:
    """One row of the chart: label, noise over the power of the output, and saved milliseconds (below 0 if slower)."""

    label: str
    noise: float
    saved_ms: float


def _label(cost: LayerCost, variant: LayerVariant) -> str:
    return cost.name if variant is cost.variants[0] else f"{cost.name}, {variant.bits} bits"


def _write(picture: np.ndarray, text: str, column: int, row: int) -> None:
    cv2.putText(picture, text, (column, ROW * row + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)


def _draw_bar(picture: np.ndarray, column: int, row: int, length: float, color: tuple[int, int, int]) -> None:
    top, bottom = ROW * row + 3, ROW * (row + 1) - 3
    cv2.rectangle(picture, (column, top), (column + round(length), bottom), color, -1)
