"""Rows of tables for models, artifacts, evaluations, speeds, inspected layers and trials of tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sandglass.artifacts.artifact import Artifact
from sandglass.core import host
from sandglass.core.sizes import text
from sandglass.measure.benchmarking import Speed, mean_throughput
from sandglass.measure.evaluation import Evaluation
from sandglass.measure.inspection import Inspection, scale_problem
from sandglass.measure.tuning import Trial
from sandglass.metrics import Interval
from sandglass.sources.card import Card
from sandglass.table.markdown import Row

OWN_COLUMN = {"precision": "precision (metric)"}  # the column `precision` says fp32, fp16 or int8


def identity(artifact: Artifact) -> Row:
    """The first columns of a row for an artifact: model, input size, backend and precision."""
    shapes = artifact.shapes or (artifact.card.input.size,)
    return {
        "model": artifact.card.name,
        "input": "x".join(map(str, *shapes)) if len(shapes) == 1 else f"{len(shapes)} shapes",
        "backend": artifact.backend,
        "precision": f"{artifact.precision} ({note})" if (note := artifact.precision_note) else artifact.precision,
    }


def failed_row(artifact: Artifact, error: Exception) -> Row:
    """The row of an artifact that could not be measured, with the error."""
    return {**identity(artifact), "failed": str(error)}


def part(protocol: Mapping[str, object]) -> Row:
    """The column `subset` for a result on a subset of its dataset: its size and how it was drawn; otherwise empty."""
    return {"subset": str(protocol["subset"])} if protocol.get("partial") else {}


def metric_cells(metrics: Mapping[str, Interval], names: Sequence[str]) -> Row:
    """Values of metrics by name, with three digits; a metric without ground truth (-1 in COCO) becomes "n/a"."""
    values = {name: metrics[name]["value"] for name in names}
    return {OWN_COLUMN.get(name, name): "n/a" if value < 0 else f"{value:.3f}" for name, value in values.items()}


def evaluation_row(evaluation: Evaluation) -> Row:
    """All metrics of one evaluation. The first one has its interval, and its score threshold if it depends on one."""
    names = list(evaluation.metrics)
    first = evaluation.metrics[names[0]]
    return {
        **identity(evaluation.artifact),
        **metric_cells(evaluation.metrics, names[:1]),
        f"{names[0]} 95 %": f"{first['low']:.3f} .. {first['high']:.3f}",
        **({"score threshold": f"{first['threshold']:.2f}"} if "threshold" in first else {}),
        **metric_cells(evaluation.metrics, names[1:]),
        **part(evaluation.protocol),
    }


def speed_row(speed: Speed, fastest: float) -> Row:
    """Latency, throughput and memory of an artifact. `fastest` is the smallest median of all, in milliseconds."""
    widened = speed.artifact.precision == "fp16" and not host.half_arithmetic()
    return {
        **identity(speed.artifact),
        **({"input": text(speed.shape), "images": str(speed.artifact.shapes[speed.shape])} if speed.shape else {}),
        "median ms": f"{speed.median:.2f}",
        "p90 ms": f"{speed.p90:.2f}",
        "p99 ms": f"{speed.p99:.2f}",
        "images/s": f"{speed.throughput:.1f}",
        "to fastest": f"{speed.median / fastest:.2f}",
        "peak MiB": f"{speed.peak_memory:.0f}",
        "runs": str(speed.runs),
        **({"tuned for": speed.tuned_for} if speed.tuned_for else {}),
        **({"note": "this processor has no fp16 arithmetic: fp16 saves memory, not time"} if widened else {}),
    }


def change(difference: Interval) -> str:
    """A paired difference with its interval, in points (hundredths)."""
    return f"{100 * difference['value']:+.2f} ({100 * difference['low']:+.2f} .. {100 * difference['high']:+.2f})"


def megabytes(size: int) -> str:
    """A size in bytes as MB of 10^6 bytes."""
    return f"{size / 1e6:.2f}"


def evaluation_rows(
    results: Sequence[Evaluation],
    changes: Sequence[Mapping[str, Interval] | None],
    speeds: Sequence[Sequence[Speed]] = (),
) -> list[Row]:
    """One row for each evaluation, with its change against float if there is a float result.

    `speeds` has, for each result, the speeds of its artifact, one for each input shape.
    """
    rows: list[Row] = []
    for result, difference, timed in zip(results, changes, speeds or [()] * len(results), strict=True):
        row = evaluation_row(result)
        if any(changes):
            name = next(iter(result.metrics))
            row[f"{name} change in points (95 %)"] = change(difference[name]) if difference else ""
        rows.append({**row, **throughput_cells(timed)})
    return rows


def speed_rows(speeds: Sequence[Speed]) -> list[Row]:
    """One row for each measurement. The rows of an artifact's input shapes end with the mean, weighted by images."""
    fastest = min(speed.median for speed in speeds)
    rows: list[Row] = []
    for artifact, group in groupby(speeds, key=lambda speed: speed.artifact):
        measured = list(group)
        rows += [speed_row(speed, fastest) for speed in measured]
        mean = mean_throughput(measured)
        if mean is not None:
            images = str(sum(artifact.shapes.values()))
            rows.append({**identity(artifact), "input": "all, weighted", "images": images, "images/s": f"{mean:.1f}"})
    return rows


def throughput_cells(speeds: Sequence[Speed]) -> Row:
    """Batch size and images per second; for several input shapes the mean, weighted by the images of each shape."""
    if not speeds:
        return {}
    rate = mean_throughput(speeds) if speeds[0].shape else speeds[0].throughput
    return {"batch": str(speeds[0].batch), "images/s": "" if rate is None else f"{rate:.1f}"}


def model_row(card: Card) -> Row:
    """The row of a zoo model: task, input size, and the metrics that its publisher reports."""
    height, width = card.input.size
    return {
        "model": card.name,
        "task": card.task,
        "input": f"{height}x{width}",
        "published": ", ".join(f"{key} {value}" for key, value in card.published.items()),
        "checkpoint": card.checkpoint.file if card.checkpoint else "",
    }


def doctor_row(backend: Mapping[str, Any]) -> Row:
    """The row of a backend: whether it can be used here, or the command that installs it."""
    return {
        "backend": backend["backend"],
        "usable": "yes" if backend["usable"] else "no",
        "version": backend["version"],
        "precisions": " ".join(backend["precisions"]),
        "install": "" if backend["usable"] else backend["install"],
    }


def inspection_rows(inspection: Inspection) -> list[Row]:
    """One row for each layer, in the order of execution: arithmetic, shares of compute and time, and the reason."""
    known, slower, total = inspection.float_times(), inspection.slower(), inspection.time
    rows: list[Row] = []
    for run in inspection.runs:
        spent, late = run.milliseconds, slower.get(run.name, "") if run.macs else ""
        row = {
            "layer": run.name,
            "operator": run.operator,
            "runs in": run.arithmetic,
            "MACs %": f"{100 * run.macs / inspection.macs:.1f}" if run.macs else "",
            "ms": "" if spent is None else f"{spent:.3f}",
            "time %": f"{100 * spent / total:.1f}" if total and spent is not None else "",
            "float ms": f"{known[run.name]:.3f}" if run.macs and run.name in known else "",
            "why": f"slower than float: {late}" if late else run.note,
            "scales": scale_problem(run.steps),
        }
        rows.append(row)
    return [{column: text for column, text in row.items() if any(other[column] for other in rows)} for row in rows]


def trial_row(trial: Trial) -> Row:
    """The row of one trial of tuning: the settings, their speed, and the verdict."""
    return {
        "trial": trial.changed,
        "threads": str(trial.threads),
        "batch": str(trial.batch),
        "processes": str(trial.processes),
        "ms": "" if trial.milliseconds is None else f"{trial.milliseconds:.2f}",
        "images/s": "" if trial.throughput is None else f"{trial.throughput:.1f}",
        "relative to best": "" if trial.ratio is None else f"{trial.ratio:.2f}",
        "verdict": trial.verdict,
    }


def protocol_text(protocol: Mapping[str, object], separator: str = ", ") -> str:
    """The protocol of an evaluation in one line."""
    return separator.join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items())


def machine_text(machine: Mapping[str, object]) -> str:
    """The processor and the versions of `host.describe()` in one sentence."""
    sets = machine["instruction_sets"]
    extensions = " ".join(sets) if isinstance(sets, list) else ""
    return (
        f"Machine: {machine['processor']}, {machine['threads']} threads, {extensions}; "
        f"Python {machine['python']}, sandglass {machine['sandglass']}."
    )
