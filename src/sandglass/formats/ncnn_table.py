"""ncnn's calibration `.table`: for each layer its weight scales (`NAME_param_0`) and its input's scale (`NAME`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sandglass.core.errors import FormatError
from sandglass.core.reading import read_text
from sandglass.core.text_lines import END


@dataclass(frozen=True)
class Scales:
    """Factors from float to integer: `weight` one for each output channel (or group), `activation` one."""

    weight: np.ndarray
    activation: float


def read_table(path: Path) -> dict[str, Scales]:
    """Scales by layer name. Raises FormatError, naming the line, for one that is cut off or not positive."""
    return parse_table(END.split(read_text(path, FormatError)), str(path))


def parse_table(lines: list[str], where: str = "table") -> dict[str, Scales]:
    """Parse a table's lines."""
    weights: dict[str, np.ndarray] = {}
    activations: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *numbers = line.split()
        try:
            values = np.array([float(n) for n in numbers], np.float32)
        except ValueError as error:
            raise FormatError(f"{where}, line {number}: {error}", "the file was edited") from error
        if not values.size or not np.isfinite(values).all() or (values < 0).any():
            raise FormatError(f"{where}, line {number}: {name} needs finite scales, not negative", "make it again")
        if name.endswith("_param_0"):
            weights[name.removesuffix("_param_0")] = values
        else:
            activations[name] = float(values[0])
    if strangers := sorted(set(weights) ^ set(activations)):
        raise FormatError(f"{where}: {strangers[0]} has only one of its two lines", "the file is cut off")
    return {name: Scales(scale, activations[name]) for name, scale in weights.items()}


def table_text(scales: dict[str, Scales]) -> str:
    """The text of a table, weight lines first, as ncnn2table writes it."""
    lines = [f"{name}_param_0 {' '.join(f'{v:.6f}' for v in entry.weight)}" for name, entry in scales.items()]
    lines += [f"{name} {entry.activation:.6f}" for name, entry in scales.items()]
    return "".join(f"{line} \n" for line in lines)
