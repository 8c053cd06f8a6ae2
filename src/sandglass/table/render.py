"""A filled table as Markdown, CSV and JSON data, with the precisions of a model and backend side by side."""

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
    """For each model and backend, its line and its cells, one for each precision."""
    return [
        (line, [cell for cell in line.cells if cell.target.backend == backend])
        for line in lines
        for backend in dict.fromkeys(cell.target.backend for cell in line.cells)
    ]


def table_row(line: Line, cells: Sequence[Cell]) -> Row:
    """A row of the Markdown table. Its last column gives the reasons for empty cells."""
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
    """The column with the measured subset of the dataset; empty if all of it was measured."""
    return next((part(cell.result.protocol) for cell in cells if cell.result), {})


def first_metric(line: Line) -> str:
    """The first metric of the model's task."""
    return load_task(line.row.card.task).METRICS[0]


def median(cell: Cell) -> float | None:
    """The median latency in milliseconds; None if the cell was not timed."""
    return cell.speed.latency_ms.median if cell.speed else None


def to_float(cell: Cell, cells: Sequence[Cell]) -> float | None:
    """The cell's latency over that of float on the same backend; None if one of them is missing."""
    float_median = next((median(other) for other in cells if other.target.precision == FLOAT), None)
    cell_median = median(cell)
    return cell_median / float_median if cell_median and float_median else None


def empty(cells: Sequence[Cell]) -> str:
    """The reasons for the empty cells of a line, with their precisions; "" if none is empty."""
    reasons = {cell.target.precision: cell.reason or cell.speed_reason for cell in cells}
    if len(reasons) > 1 and len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{precision}: {text}" for precision, text in reasons.items() if text)


def table_rows(lines: Sequence[Line]) -> list[Row]:
    """One row for each model and backend."""
    return [table_row(line, cells) for line, cells in sides(lines)]


def conditions(lines: Sequence[Line], machine: Mapping[str, object]) -> str:
    """The text under the table: the protocol of each model, and the machine."""
    protocols = "".join(f"{line.row.card.name}: {_conditions(line)}.\n" for line in lines)
    return (
        f"{protocols}{machine_text(machine)}\n"
        "Intervals are bootstrapped over images; a change is the paired difference to fp32 on the same backend. "
        "Latency is inference only, batch 1, the median over bursts in which the artifacts take turns."
    )


def _conditions(line: Line) -> str:
    """The protocol of a model's evaluation, and the way its int8 was found."""
    protocol = next((cell.result.protocol for cell in line.cells if cell.result), {})
    texts = [protocol_text(protocol, "; ")] if protocol else []
    if any(cell.artifact and cell.target.precision == "int8" for cell in line.cells):
        budget = line.row.budget
        texts.append(
            f"int8: search with a drop of at most {budget.max_drop:g} points and a fidelity of at least "
            f"{budget.min_fidelity:g}"
            if budget
            else "int8: the default of `sandglass deploy`"
        )
    return "; ".join(texts) or "nothing was measured"


def numbers(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Each cell as JSON data: evaluation, change, speed and bytes, or the reason why it is empty."""
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
    """The table as CSV, with one number in each column; a missing number is empty."""
    rows = [csv_row(line, cells) for line, cells in sides(lines)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def csv_row(line: Line, cells: Sequence[Cell]) -> dict[str, object]:
    """A row of the CSV file, with a column for each number. Changes are in points."""
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
    """The columns of a value and its interval; empty texts without a value."""
    return {
        f"{name} {key}".removesuffix(" value"): factor * interval[key] if interval else ""
        for key in ("value", "low", "high")
    }
