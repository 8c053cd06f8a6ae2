"""When a measurement is made again: while all threads are slower than one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sandglass.measure import benchmarking
from sandglass.measure.benchmarking import ATTEMPTS, undisturbed

ALONE = 5.0  # milliseconds on one thread


@pytest.mark.parametrize(
    ("seen", "taken", "attempts"),
    [([3.0], 3.0, 1), ([ALONE, 3.0], 3.0, 2), ([8.0, 3.5], 3.5, 2), ([8.0, 7.5, 9.0], 7.5, ATTEMPTS)],
    ids=["undisturbed", "no faster than one thread", "disturbed once", "always disturbed"],
)
def test_measured_again_while_disturbed(
    seen: list[float], taken: float, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all threads are faster than one, at most ATTEMPTS times; the fastest attempt counts, as a whole."""
    left, lines = list(seen), list[str]()

    def benchmark(artifacts: Any, *, threads: int | None = None, seconds: float) -> list[Any]:
        if threads == 1:
            return [SimpleNamespace(median=ALONE)]
        first = left.pop(0)
        return [SimpleNamespace(median=first), SimpleNamespace(median=first / 2)]

    monkeypatch.setattr(benchmarking, "benchmark", benchmark)
    artifacts: Any = [SimpleNamespace(threads=2, backend="null", precision="fp32"), SimpleNamespace(threads=2)]
    speeds = undisturbed(artifacts, say=lines.append)
    assert [speed.median for speed in speeds] == [taken, taken / 2]
    assert not left
    assert len(lines) == attempts - 1
    assert all("null:fp32 takes" in line and "5.00 ms on one" in line for line in lines)


def test_one_thread_is_not_held_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an artifact runs on one thread there is nothing to tell a disturbance by."""
    calls = []

    def benchmark(artifacts: Any, *, threads: int | None = None, seconds: float) -> list[Any]:
        calls.append(threads)
        return [SimpleNamespace(median=9.0)]

    monkeypatch.setattr(benchmarking, "benchmark", benchmark)
    artifacts: Any = [SimpleNamespace(threads=1)]
    assert undisturbed(artifacts)[0].median == 9.0
    assert calls == [None]
