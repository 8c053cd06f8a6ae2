"""A few thousand changed files of every format: each is read, or refused with one clear line, within limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .readers import readers

pytestmark = pytest.mark.slow

INPUTS = 3000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m tests.fuzz` finds, by reader; its processes are not those of the tests."""
    report = tmp_path_factory.mktemp("fuzz") / "report.json"
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS), "--json", str(report)]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    return {entry["reader"]: entry for entry in json.loads(report.read_text())}


def test_every_reader_is_fuzzed(results: dict[str, Any], tmp_path: Path) -> None:
    """The whole number of inputs went to all readers, and each has inputs that are read and inputs that are refused."""
    known = {reader.name for reader in readers(tmp_path)}
    assert set(results) == known
    assert sum(entry["inputs"] for entry in results.values()) == pytest.approx(INPUTS, rel=0.02)
    assert all(entry["outcomes"].get("refused") for entry in results.values())


def test_nothing_fails(results: dict[str, Any]) -> None:
    """No other error than ours, no crash, nothing over 5 s or 1 GiB; a failure is repeated with `--only NUMBER`."""
    failures = {f"{name} {number}": why for name, entry in results.items() for number, why in entry["failures"].items()}
    assert failures == {}


def test_whole_files_are_read(tmp_path: Path) -> None:
    """The files that the fuzzer starts from are good ones."""
    for reader in readers(tmp_path / "seeds"):
        for number, data in enumerate(reader.seeds):
            path = tmp_path / f"{reader.name}-{number}" / reader.file
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            reader.read(path)
