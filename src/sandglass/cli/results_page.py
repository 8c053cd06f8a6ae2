"""The demo's results: one row for each artifact, failed ones included, and the conditions under the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandglass.artifacts.target import Outcome
from sandglass.measure.benchmarking import Speed
from sandglass.measure.evaluation import Evaluation
from sandglass.sources.card import Card
from sandglass.table.markdown import Row
from sandglass.table.rows import change, identity, machine_text, megabytes, metric_cells, part, protocol_text


def results_rows(
    results: Sequence[Evaluation],
    differences: Sequence[Mapping[str, Mapping[str, float]] | None],
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
    """A target that could not be built, and the reason."""
    height, width = card.input.size
    target = outcome.target
    return {
        "model": card.name,
        "input": f"{height}x{width}",
        "backend": target.backend,
        "precision": target.precision,
        "failed": str(outcome.error),
    }


def conditions_text(example: Evaluation | None, machine: Mapping[str, object]) -> str:
    """The protocol, if there is a result, and the machine."""
    protocol = f"Protocol: {protocol_text(example.protocol, '; ')}.\n" if example else ""
    return (
        f"{protocol}{machine_text(machine)}\n"
        "Intervals are bootstrapped over images; a change is paired with the first fp32 row. "
        "Latency is inference alone, batch 1, the median of interleaved bursts."
    )
