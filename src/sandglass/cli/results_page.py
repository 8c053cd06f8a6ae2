"""The results page: one row for each artifact, what failed included, and the conditions under the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sandglass.artifacts.target import Outcome
from sandglass.measure.benchmarking import Speed
from sandglass.measure.evaluation import Evaluation
from sandglass.sources.card import Card
from sandglass.table.markdown import Row, change, identity, markdown, megabytes, metric_cells, part


def results_rows(
    results: Sequence[Evaluation],
    differences: Sequence[Mapping[str, Any] | None],
    speeds: Sequence[Speed],
    metrics: Sequence[str],
) -> list[Row]:
    """Accuracy, change against float, latency and size of each artifact."""
    return [
        {
            **identity(result.artifact),
            **metric_cells(result.metrics, metrics),
            f"{metrics[0]} change in points (95 %)": change(difference[metrics[0]]) if difference else "",
            "median ms": f"{speed.median:.2f}",
            "MB": megabytes(result.artifact.size),
            **part(result.protocol),
        }
        for result, difference, speed in zip(results, differences, speeds, strict=True)
    ]


def failure_row(card: Card, outcome: Outcome) -> Row:
    """A target that could not be made, with its reason."""
    height, width = card.input.size
    target = outcome.target
    return {
        "model": card.name,
        "input": f"{height}x{width}",
        "backend": target.backend,
        "precision": target.precision,
        "failed": str(outcome.error),
    }


def results_page(rows: Sequence[Row], example: Evaluation, machine: Mapping[str, Any]) -> str:
    """The table as Markdown, with the protocol and the machine under it."""
    protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in example.protocol.items())
    conditions = (
        f"Protocol: {protocol}.\n"
        f"Machine: {machine['processor']}, {machine['threads']} threads, {' '.join(machine['instruction_sets'])}; "
        f"Python {machine['python']}, sandglass {machine['sandglass']}.\n"
        "Intervals are bootstrapped over images; a change is paired with the first fp32 row. "
        "Latency is inference alone, batch 1, the median of interleaved bursts.\n"
    )
    return f"{markdown(rows)}\n\n{conditions}"
