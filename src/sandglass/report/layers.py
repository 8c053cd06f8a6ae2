"""Layers in int8: what each costs, what a search decided and why."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sandglass.quantization import Quantization
from sandglass.quantize.search import Cost
from sandglass.quantize.sensitivity import decibels
from sandglass.report.table import markdown, part

ROW, LABEL, WIDTH = 18, 380, 900
NOISE, GAIN, LOSS, INK = (60, 110, 200), (70, 170, 90), (210, 80, 60), (40, 40, 40)


def search_report(result: Quantization) -> str:
    """The layers and why, the three artifacts side by side, and the verdict."""
    layers = [
        {
            "layer": cost.name,
            "noise dB": f"{decibels(cost.noise):.1f}",
            "float ms": f"{cost.float_ms:.3f}",
            "int8 ms": f"{cost.int8_ms:.3f}",
            "runs in": "float" if cost.name in result.choice.reasons else "int8",
            "because": result.choice.reasons.get(cost.name, ""),
        }
        for cost in result.costs
    ]
    metric = next(iter(result.changes[0]))
    rows = []
    for i, kind in enumerate(("float", "full int8", "chosen")):
        row = {"artifact": kind, metric: f"{result.evaluations[i].metrics[metric]['value']:.3f}",
               "median ms": f"{result.speeds[i].median:.2f}",
               "to float": f"{result.speeds[i].median / result.speeds[0].median:.2f}"}  # fmt: skip
        if i:
            change = {key: 100 * value for key, value in result.changes[i - 1][metric].items()}
            row["change in points (95 %)"] = f"{change['value']:+.2f} ({change['low']:+.2f} .. {change['high']:+.2f})"
            row |= {
                f"{name} to float": f"{found['value']:.4f} ({found['low']:.4f} .. {found['high']:.4f})"
                for name, found in result.agreements[i - 1].items()
            }
        rows.append(row | part(result.evaluations[i].protocol))
    share = f"{result.integer_share:.0%} of the multiply-accumulates run in int8."
    return "\n\n".join([markdown(layers), markdown(rows), f"{share} {result.verdict}."])


def sensitivity_table(costs: Sequence[Cost]) -> str:
    """One row a layer, in the graph's order."""
    work = max(1, sum(cost.macs for cost in costs))
    return markdown([
        {
            "layer": cost.name,
            "share of MACs": f"{cost.macs / work:.1%}",
            "dB at its output": f"{decibels(cost.local):.1f}",
            "dB at the network's": f"{decibels(cost.noise):.1f}",
            "fidelity": f"{cost.fidelity:.4f}",
            "float ms": f"{cost.float_ms:.3f}",
            "int8 ms": f"{cost.int8_ms:.3f}",
        }
        for cost in costs
    ])  # fmt: skip


def draw_costs(costs: Sequence[Cost]) -> np.ndarray:
    """A bar chart, HWC uint8 RGB: blue the noise at the network's output, green or red the time that int8 saves."""
    picture = np.full((ROW * (len(costs) + 2), WIDTH, 3), 255, np.uint8)
    most = max((cost.noise for cost in costs), default=0.0) or 1.0
    time = max((abs(cost.gain) for cost in costs), default=0.0) or 1.0
    middle, bar = LABEL + 10, (WIDTH - LABEL - 30) // 2

    def write(text: str, column: int, row: int) -> None:
        cv2.putText(picture, text, (column, ROW * row + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)

    write(f"noise at the output, longest bar {decibels(most):.1f} dB", middle, 0)
    write(f"time saved by int8, longest bar {time:.3f} ms", middle + bar + 10, 0)
    for row, cost in enumerate(costs, 1):
        write(cost.name[-52:], 4, row)
        top, bottom = ROW * row + 3, ROW * (row + 1) - 3
        cv2.rectangle(picture, (middle, top), (middle + round(bar * cost.noise / most), bottom), NOISE, -1)
        right = middle + bar + 10
        length = round(bar * abs(cost.gain) / time)
        cv2.rectangle(picture, (right, top), (right + length, bottom), GAIN if cost.gain > 0 else LOSS, -1)
    return picture
