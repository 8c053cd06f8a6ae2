"""The first calls of a session return on every runtime, in hundreds of cold starts.

A deadlock may happen in one start of seven. The tests of the contract make two starts of each runtime.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.artifacts.artifact import load_artifact
from sandglass.backends import load_backend, null
from sandglass.cli.conformance.backends import CALLERS, calibration, card, cold_start, deployed  # noqa: F401
from sandglass.core import discover
from sandglass.sources.card import Card

STARTS = 200


@pytest.mark.stress
@pytest.mark.parametrize("name", discover.names("backends"))
def test_first_calls_always_return(name: str, card: Card, calibration: object, tmp_path: Path) -> None:  # noqa: F811
    """Every one of many cold starts ends, with an answer for each caller."""
    _, artifact = deployed(name, load_backend(name).PRECISIONS[0], card, calibration, tmp_path)
    for _ in range(STARTS):
        cold_start(artifact.folder)


def test_session_is_warm_when_it_is_opened(
    card: Card,  # noqa: F811
    calibration: object,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that opens a session calls it first, on any runtime: here is how many calls each has had."""
    _, artifact = deployed("null", "fp32", card, calibration, tmp_path)
    calls = []
    monkeypatch.setattr(null.NullSession, "run", lambda session, inputs: calls.append(inputs))
    load_artifact(artifact.folder).open(callers=CALLERS)
    assert [{name: array.shape for name, array in inputs.items()} for inputs in calls] == [{"image": (1, 3, 32, 24)}]
