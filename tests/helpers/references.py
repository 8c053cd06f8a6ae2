"""Expected numbers as data: `reference/NAME.toml` holds what a model, named as its card, must reach or have.

[metrics]     of fp32 on any backend, on `dataset`, within `tolerance`; `origin` says who gave the numbers
[int8]        of int8 from the plan alone on any backend: the most points of top-1 that it may lose, and the least share
              of images to which it gives the same class as fp32
[state]       of the module that the card describes: number of keys, and a hash of them with their shapes, in order
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "reference"


def names(table: str) -> list[str]:
    """Models of which a table is known."""
    return [path.stem for path in sorted(FOLDER.glob("*.toml")) if table in _read(path)]


def reference(name: str, table: str) -> dict[str, Any]:
    """A table of the model's file; the test fails, saying so, where there is none."""
    path = FOLDER / f"{name}.toml"
    if not path.is_file() or table not in _read(path):
        pytest.fail(f"{path.name} has no [{table}] for {name}: measure it once and write it there")
    found: dict[str, Any] = _read(path)[table]
    return found


def assert_metrics(name: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """The measured metrics are the model's, each within its tolerance."""
    table = reference(name, "metrics")
    expected = {key: value for key, value in table.items() if key not in ("dataset", "tolerance", "origin")}
    found = {key: metrics[key]["value"] for key in expected}
    assert found == pytest.approx(expected, abs=table["tolerance"])


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
