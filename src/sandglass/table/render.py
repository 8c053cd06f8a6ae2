"""A matrix as a table: the precisions of a model and backend side by side, as Markdown, CSV and JSON-able data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from sandglass.core.records import to_data
from sandglass.metrics import Interval
from sandglass.table.markdown import Row
from sandglass.table.rows import change, machine_text, megabytes, part, protocol_text
from sandglass.table.run import FLOAT, Cell, Line
from sandglass.tasks import load_task


def sides(lines: Sequence[Line]) -> list[tuple[Line, list[Cell]]]:
    """For each model and backend its cells, one a precision."""
    return [
        (line, [cell for cell in line.cells if cell.target.backend == backend])
        for line in lines
        for backend in dict.fromkeys(cell.target.backend for cell in line.cells)
    ]


def table_row(line: Line, cells: Sequence[Cell]) -> Row:
    """A line of the Markdown table: what cannot be filled is said in its last column."""
    metric, (height, width) = first_metric(line), line.row.card.input.size
    row = {
        "model": line.row.card.name,
        "input": f"{height}x{width}",
        "backend": cells[0].target.backend,
        "metric": metric,
    }
    for cell in cells:
        name = cell.target.precision
        row[f"{name} (95 %)"] = _interval(cell.result.metrics[metric]) if cell.result else "-"
        if name != FLOAT:
            row[f"{name} change in points (95 %)"] = change(cell.change[metric]) if cell.change else "-"
    for cell in cells:
        row[f"{cell.target.precision} ms"] = f"{speed:.2f}" if (speed := median(cell)) else "-"
    for cell in cells:
        if cell.target.precision != FLOAT:
            row[f"{cell.target.precision} / {FLOAT}"] = f"{ratio:.2f}" if (ratio := to_float(cell, cells)) else "-"
    for cell in cells:
        row[f"{cell.target.precision} MB"] = megabytes(cell.artifact.size) if cell.artifact else "-"
    return row | _subset(cells) | ({"why empty": why} if (why := empty(cells)) else {})


def _interval(metric: Interval) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} .. {metric['high']:.3f})"


def _subset(cells: Sequence[Cell]) -> Row:
    """The column that says which part of its dataset was measured."""
    return next((part(cell.result.protocol) for cell in cells if cell.result), {})


def first_metric(line: Line) -> str:
    """The metric that a model's task is known by."""
    return load_task(line.row.card.task).METRICS[0]


def median(cell: Cell) -> float | None:
    """Milliseconds; None where the cell was not timed."""
    return cell.speed.latency_ms.median if cell.speed else None


def to_float(cell: Cell, cells: Sequence[Cell]) -> float | None:
    """Its latency over that of float on the same backend; None where either is missing."""
    base = next((median(other) for other in cells if other.target.precision == FLOAT), None)
    mine = median(cell)
    return mine / base if mine and base else None


def empty(cells: Sequence[Cell]) -> str:
    """Why cells of a line are empty."""
    reasons = {cell.target.precision: cell.reason or cell.speed_reason for cell in cells}
    if len(reasons) > 1 and len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{precision}: {text}" for precision, text in reasons.items() if text)


def table_rows(lines: Sequence[Line]) -> list[Row]:
    """A row for each model and backend."""
    return [table_row(line, cells) for line, cells in sides(lines)]


def conditions(lines: Sequence[Line], machine: Mapping[str, object]) -> str:
    """The protocol of each model, and the machine."""
    protocols = "".join(f"{line.row.card.name}: {_conditions(line)}.\n" for line in lines)
    return (
        f"{protocols}{machine_text(machine)}\n"
        "Intervals are bootstrapped over images; a change is paired with fp32 on the same backend. "
        "Latency is inference alone, batch 1, the median of interleaved bursts."
    )


def _conditions(line: Line) -> str:
    """The protocol of a model's evaluation, and how its int8 was made."""
    protocol = next((cell.result.protocol for cell in line.cells if cell.result), {})
    texts = [protocol_text(protocol, "; ")] if protocol else []
    if any(cell.artifact and cell.target.precision == "int8" for cell in line.cells):
        budget = line.row.budget
        texts.append(
            f"int8: searched, at most {budget.max_drop:g} points and a fidelity of at least {budget.min_fidelity:g}"
            if budget
            else "int8: as deploy makes it by default"
        )
    return "; ".join(texts) or "nothing was measured"


def numbers(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Every cell as JSON-able data: the evaluation, change, speed, bytes, or the reason."""
    return [
        {
            "model": line.row.card.name,
            "backend": cell.target.backend,
            "precision": cell.target.precision,
            **(cell.result.results() if cell.result else {}),
            "change": cell.change,
            "speed": to_data(cell.speed) if cell.speed else {"reason": cell.speed_reason} if cell.artifact else None,
            "bytes": cell.artifact.size if cell.artifact else None,
            "reason": cell.reason,
        }
        for line in lines
        for cell in line.cells
    ]


def comma_separated(lines: Sequence[Line]) -> str:
    """The table as CSV, one number a column, empty where there is none."""
    rows = [csv_row(line, cells) for line, cells in sides(lines)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def csv_row(line: Line, cells: Sequence[Cell]) -> dict[str, object]:
    """A line with a column for each number; changes are in points."""
    metric, (height, width) = first_metric(line), line.row.card.input.size
    row: dict[str, object] = {"model": line.row.card.name, "height": height, "width": width,
                              "backend": cells[0].target.backend, "metric": metric}  # fmt: skip
    for cell in cells:
        name = cell.target.precision
        row |= _columns(name, cell.result.metrics.get(metric) if cell.result else None)
        if name != FLOAT:
            row |= _columns(f"{name} change", cell.change[metric] if cell.change else None, 100)
            row[f"{name} to {FLOAT}"] = to_float(cell, cells) or ""
        row[f"{name} ms"] = median(cell) or ""
        row[f"{name} bytes"] = cell.artifact.size if cell.artifact else ""
        row["samples"] = cell.result.samples if cell.result else row.get("samples", "")
    return row | {"subset": _subset(cells).get("subset", ""), "why empty": empty(cells)}


def _columns(name: str, interval: Interval | None, factor: float = 1) -> dict[str, object]:
    """The columns of a value with its interval, which are empty where there is none."""
    return {
        f"{name} {key}".removesuffix(" value"): factor * interval[key] if interval else ""
        for key in ("value", "low", "high")
    }
