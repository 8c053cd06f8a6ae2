"""Layers in int8: what each costs, what a search decided and why."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sandglass.quantization.output_noise import decibels
from sandglass.search.costs import LayerCost
from sandglass.search.quantize import Quantization
from sandglass.table.markdown import Row
from sandglass.table.rows import change, metric_cells, part

ROW, LABEL, WIDTH = 18, 380, 900
NOISE, GAIN, LOSS, INK = (60, 110, 200), (70, 170, 90), (210, 80, 60), (40, 40, 40)


def search_report(result: Quantization) -> list[list[Row] | str]:
    """The layers and why, the three artifacts side by side, and the verdict."""
    bits = result.choice.bits
    layers = [
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
    metric = next(iter(result.evaluations[0].metrics))
    rows: list[Row] = []
    for i, kind in enumerate(("float", "full int8", "chosen")):
        row = {"artifact": kind, **metric_cells(result.evaluations[i].metrics, [metric]),
               "median ms": f"{result.speeds[i].median:.2f}",
               "to float": f"{result.speeds[i].median / result.speeds[0].median:.2f}"}  # fmt: skip
        if i and result.changes[i - 1]:
            row["change in points (95 %)"] = change(result.changes[i - 1][metric])
        if i:
            row |= {
                f"{name} to float": f"{value['value']:.4f} ({value['low']:.4f} .. {value['high']:.4f})"
                for name, value in result.agreements[i - 1].items()
            }
        rows.append(row | part(result.evaluations[i].protocol))
    measured = result.speeds[2].median
    conclusion = (
        f"{result.integer_share:.0%} of the multiply-accumulates run in int8; the time model predicted "
        f"{result.expected_ms:.2f} ms ({result.expected_ms / measured - 1:+.0%}). {result.verdict}."
    )
    if measured >= result.speeds[0].median:
        conclusion += " On this machine it is not faster than the float artifact."
    return [layers, rows, conclusion]


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
    """A bar chart, HWC uint8 RGB: blue the noise at the network's output, green or red the time that int8 saves."""
    bars = [
        (
            cost.name if variant is cost.variants[0] else f"{cost.name}, {variant.bits} bits",
            variant.noise,
            cost.float_ms - variant.milliseconds,
        )
        for cost in costs
        for variant in cost.variants
    ]
    picture = np.full((ROW * (len(bars) + 2), WIDTH, 3), 255, np.uint8)
    most = max((power for _, power, _ in bars), default=0.0) or 1.0
    time = max((abs(gain) for _, _, gain in bars), default=0.0) or 1.0
    middle, bar = LABEL + 10, (WIDTH - LABEL - 30) // 2

    def write(text: str, column: int, row: int) -> None:
        cv2.putText(picture, text, (column, ROW * row + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)

    write(f"noise at the output, longest bar {decibels(most):.1f} dB", middle, 0)
    write(f"time saved by int8, longest bar {time:.3f} ms", middle + bar + 10, 0)
    for row, (name, power, gain) in enumerate(bars, 1):
        write(name[-52:], 4, row)
        top, bottom = ROW * row + 3, ROW * (row + 1) - 3
        cv2.rectangle(picture, (middle, top), (middle + round(bar * power / most), bottom), NOISE, -1)
        right = middle + bar + 10
        length = round(bar * abs(gain) / time)
        cv2.rectangle(picture, (right, top), (right + length, bottom), GAIN if gain > 0 else LOSS, -1)
    return picture
