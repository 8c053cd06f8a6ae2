"""ncnn's calibration `.table` file: for each layer a line with its weight scales and a line with its input scale.

The lines begin with `NAME_param_0` and `NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sandglass.core.errors import FormatError
from sandglass.core.reading import read_text
from sandglass.core.text_lines import END


@dataclass(frozen=True)
class Scales:
    """The factors from float to integer: `weight` has one for each output channel or group, `activation` is one."""

    weight: np.ndarray
    activation: float


def read_table(path: Path) -> dict[str, Scales]:
    """The scales by layer name. Raises FormatError, with the number of the line, for a malformed or negative scale."""
    return parse_table(END.split(read_text(path, FormatError)), str(path))


def parse_table(lines: list[str], where: str = "table") -> dict[str, Scales]:
    """Parse the lines of a table. `where` names the file in errors. Raises FormatError for a malformed line."""
    weights: dict[str, np.ndarray] = {}
    activations: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *numbers = line.split()
        try:
            values = np.array([float(n) for n in numbers], np.float32)
        except ValueError as error:
            raise FormatError(f"{where}, line {number}: {error}", "create the table again") from error
        if not values.size or not np.isfinite(values).all() or (values < 0).any():
            raise FormatError(
                f"{where}, line {number}: the scales of {name} must be finite and not negative",
                "create the table again",
            )
        if name.endswith("_param_0"):
            weights[name.removesuffix("_param_0")] = values
        else:
            activations[name] = float(values[0])
    if incomplete := sorted(set(weights) ^ set(activations)):
        raise FormatError(
            f"{where}: {incomplete[0]} has only one of its two lines", "the file is truncated; create it again"
        )
    return {name: Scales(scale, activations[name]) for name, scale in weights.items()}


def table_text(scales: dict[str, Scales]) -> str:
    """The text of a table in the form of ncnn2table, with all lines of weights first."""
    lines = [f"{name}_param_0 {' '.join(f'{v:.6f}' for v in entry.weight)}" for name, entry in scales.items()]
    lines += [f"{name} {entry.activation:.6f}" for name, entry in scales.items()]
    return "".join(f"{line} \n" for line in lines)
