"""Killed at random moments, again and again: nothing that loads is wrong, and the end is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandglass.artifacts.artifact import load_artifact
from sandglass.cli.conformance.networks import save_graph
from sandglass.core.errors import ArtifactError
from unit.test_cli import CARD, SYNTHETIC

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "helpers" / "kill_driver.py"
KILLS_IN_TURN = 3  # at most, before a run is left alone
SEARCH = ["--gain", "work", "--best-effort", "--evaluation-dataset", "synthetic-people", "--limit", "2"]
FEW = {"deploy": 2, "evaluate": 2, "quantize": 1}
ALL = {"deploy": 100, "evaluate": 50, "quantize": 50}


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card beside the small graph."""
    folder = tmp_path_factory.mktemp("card")
    save_graph(folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    return folder / "small.toml"


class Runs:
    """Runs of one command, each with its output in a folder of its own."""

    def __init__(self, driver: subprocess.Popen[str], card: Path, folder: Path, command: str) -> None:
        self.driver, self.card, self.folder, self.command = driver, card, folder, command

    def arguments(self, out: Path) -> list[str]:
        """The command line that writes to `out`."""
        if self.command == "deploy":
            targets = ["onnxruntime:fp32", "onnxruntime:int8", "reference:fp32"]
            return ["deploy", str(self.card), "--to", *targets, "--out", str(out), *SYNTHETIC]
        if self.command == "quantize":
            return ["quantize", str(self.card), "--to", "onnxruntime:int8", "--out", str(out), *SEARCH, *SYNTHETIC[1:]]
        artifact = self.folder / "artifacts/onnxruntime-fp32"
        files = ["--json", str(out / "numbers.json"), "--results", str(out / "predictions.json")]
        return ["evaluate", str(artifact), "--dataset", "synthetic-people", "--limit", "60", "--threads", "1", *files]

    def run(self, out: Path, seconds: float = 0.0) -> tuple[int, float]:
        """Exit code, or negative signal, and seconds of a run that is killed after `seconds`."""
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write("\t".join([str(seconds), *self.arguments(out)]) + "\n")
        self.driver.stdin.flush()
        code, spent = self.driver.stdout.readline().split()
        return int(code), float(spent)


@pytest.fixture(params=list(FEW))
def runs(request: pytest.FixtureRequest, card: Path, tmp_path: Path) -> Iterator[Runs]:
    """Runs of each command, with temporary files and the cache in folders of their own."""
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch"), "SANDGLASS_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=environment, text=True) as driver:  # fmt: skip
        made = Runs(driver, card, tmp_path, request.param)
        if request.param == "evaluate":
            assert Runs(driver, card, tmp_path, "deploy").run(tmp_path / "artifacts")[0] == 0
        yield made
        assert driver.stdin is not None
        driver.stdin.close()


def results(out: Path) -> dict[str, bytes]:
    """What a finished run wrote, without times and the conditions of the machine."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    if "numbers.json" in found:
        rows = json.loads(found["numbers.json"])
        kept = [{name: row[name] for name in ("metrics", "samples", "protocol", "change")} for row in rows]
        found["numbers.json"] = json.dumps(kept).encode()
    return found


def assert_nothing_is_wrong(out: Path, expected: dict[str, bytes]) -> None:
    """What loads has the bytes of an undisturbed run, and what has an artifact's name loads."""
    for folder in (path for path in out.glob("*") if path.is_dir()):
        try:
            load_artifact(folder)
        except ArtifactError:
            assert folder.name.startswith("."), f"{folder.name} has an artifact's name and does not load"
            continue
        if not folder.name.startswith("."):
            for name, content in results(folder).items():
                assert content == expected[f"{folder.name}/{name}"], name
    for path in (path for path in out.glob("*.json") if path.is_file()):
        json.loads(path.read_text())


def kill_and_resume(runs: Runs, kills: int) -> None:
    """Kill runs at `kills` random moments in all; after some kills one comes to its end, which is the right one."""
    chance = random.Random(len(runs.command))
    code, seconds = runs.run(runs.folder / "expected")
    assert code == 0
    expected = results(runs.folder / "expected")
    killed = turn = 0
    while killed < kills:
        turn += 1
        out = runs.folder / f"out{turn}"
        for _ in range(chance.randint(1, KILLS_IN_TURN)):
            code, _ = runs.run(out, chance.uniform(0.01, seconds))
            assert code in (0, -signal.SIGKILL)
            if code == 0:  # it was faster than this time
                break
            killed += 1
            assert_nothing_is_wrong(out, expected)
        if code != 0:
            code, seconds = runs.run(out)  # as long as a run takes now: the machine may be busier, or less busy
        assert code == 0
        assert results(out) == expected
        assert list((runs.folder / "scratch").glob("sandglass-*")) == []


def test_killed_now_and_then(runs: Runs) -> None:
    """A few moments."""
    kill_and_resume(runs, FEW[runs.command])


@pytest.mark.stress
def test_killed_often(runs: Runs) -> None:
    """As many moments as an unlucky user meets in years."""
    kill_and_resume(runs, ALL[runs.command])
