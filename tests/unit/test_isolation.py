"""One target's failure takes no other along, whatever a runtime does: the command line with runtimes that fail.

They are files in a copy of the package, for the folder of backends is all that it knows of them.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import heed_interrupts

import sandglass
from sandglass.cli.conformance.networks import save_graph
from unit.test_cli import CARD, SYNTHETIC

pytestmark = pytest.mark.slow

HEAD = '''"""A runtime that fails."""
import os, signal, time
import numpy as np
from sandglass.backends import reference
from sandglass.backends.reference import (
    CAPABILITIES, INSTALL, SETTINGS, SPEC, Notes, available, build, layers, open,
)
from sandglass.core.errors import BackendUnavailable
PRECISIONS, PURPOSE = ("fp32",), "test"

class Session:
    def __init__(self, folder, run):
        self.right, self.changed = reference.open(folder, Notes(), 1).run, run
    def run(self, inputs):
        return self.changed(self.right(inputs))
'''
BUILD = "def build(source, precision, folder, plan):\n    "
OPEN = (
    "def open(folder, notes, threads, settings={}, callers=1):\n    return Session(folder, run)\n"
    "def run(outputs):\n    "
)
BACKENDS = {
    "absent": "def available():\n    raise BackendUnavailable('it is not installed', 'pip install it')\n",
    "raising": BUILD + "return {}['cls_8']\n",
    "crashing": BUILD + "os.kill(os.getpid(), signal.SIGSEGV)\n",
    "starving": BUILD + "os.kill(os.getpid(), signal.SIGKILL)\n",
    "hanging": BUILD + "time.sleep(600)\n",
    "full": BUILD + "raise OSError(28, 'No space left on device')\n",
    "wrong": OPEN + "return {name: 1.1 * values for name, values in outputs.items()}\n",
    "unready": OPEN + "os.kill(os.getpid(), signal.SIGABRT)\n",
    # Well until the tenth run of a process.
    "fading": "runs = []\n" + OPEN + "runs.append(1)\n    len(runs) < 10 or os.kill(os.getpid(), signal.SIGSEGV)\n"
    "    return outputs\n",
    "blind": "def layers(folder, notes, threads, inputs):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    # Rounding hides what is wrong in float: outputs that are off by a hundredth.
    "coarse": "PRECISIONS = ('fp32', 'int8')\nfrom sandglass.quantization.spec import Spec\n"
    "SPEC = Spec(('Conv',), asymmetric=True)\n"
    + OPEN
    + "return {name: 1.01 * values for name, values in outputs.items()}\n",
}


class House:
    """The command line of a copy of the package, run in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sandglass", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Exit code, output and messages."""
        with self.start(*arguments, **variables) as process:
            output, messages = process.communicate(timeout=300)
        assert "Traceback" not in output + messages
        return process.returncode, output, messages

    def rows(self, output: str) -> dict[str, dict[str, str]]:
        """The rows of a table, by backend and precision."""
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line[:1] == "|"]
        rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
        return {f"{row['backend']}:{row['precision']}": row for row in rows}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """With a card beside the small graph, and a backend for each way to fail."""
    folder = tmp_path_factory.mktemp("house")
    package = folder / "src" / "sandglass"
    shutil.copytree(Path(sandglass.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in BACKENDS.items():
        (package / "backends" / f"{name}.py").write_text(HEAD + code)
    save_graph(folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    (folder / "tmp").mkdir()
    own = {"PYTHONPATH": str(package.parent), "SANDGLASS_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    return House(folder, os.environ | own)


def test_every_failure_is_a_row(house: House) -> None:
    """The row says what happened, with a log where that is not our own error; the targets after it are made."""
    failing = ["absent", "raising", "crashing", "starving", "full", "wrong", "unready"]
    code, output, _ = house.run("deploy", "small.toml", "--to", *failing, "reference", "--out", "all")
    rows = house.rows(output)
    assert code == 2
    assert rows["reference:fp32"]["check"].startswith("relative difference to the graph ")
    assert sorted(path.name for path in (house.folder / "all").iterdir()) == ["reference-fp32"]
    said = {name: rows[f"{name}:fp32"]["check"].removeprefix("failed: ") for name in failing}
    assert said["absent"] == "it is not installed (pip install it)"
    assert said["full"] == "[Errno 28] No space left on device (free disk space, or check the permissions)"
    assert "difference at most 0.002" in said["wrong"]
    assert said["starving"].startswith("starving:fp32 was killed (signal 9, SIGKILL), probably because memory ran out")
    for name, why, where in (
        ("raising", "raising:fp32: unexpected KeyError: 'cls_8'", "raising.py"),
        ("crashing", "crashing:fp32 crashed (signal 11, SIGSEGV)", "crashing.py"),
        ("unready", "unready:fp32 crashed (signal 6, SIGABRT)", "unready.py"),
    ):
        assert said[name].startswith(f"{why} (report this line with the log file ")
        log = Path(said[name].rstrip(")").split()[-1]).read_text()
        assert log.startswith(why.split(": ")[0].split(" crashed")[0])
        assert where in log
        assert "sandglass deploy" in log or "deploy small.toml" in log
    assert not list((house.folder / "tmp").glob("sandglass-*"))


def test_hanging_target_has_a_limit(house: House) -> None:
    """It is ended after it, by name, and the log says where it was."""
    code, output, _ = house.run("deploy", "small.toml", "--to", "hanging", "--out", "hung", SANDGLASS_TIME_LIMIT="5")
    assert code == 2
    said = house.rows(output)["hanging:fp32"]["check"]
    assert said.startswith("failed: hanging:fp32 took more than 5 s (if it needs more time, set SANDGLASS_")
    assert Path(said.rstrip(")").split()[-1]).is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_hanging_target_can_be_interrupted(house: House, number: signal.Signals) -> None:
    """At once; its process ends too, and temporary files are gone."""
    with house.start("deploy", "small.toml", "--to", "hanging", "--out", "interrupted") as process:
        assert process.stderr is not None
        while "hanging:fp32: building" not in process.stderr.readline():
            assert process.poll() is None
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        children = [Path("/proc") / child for child in listed.split()]
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        assert "interrupted" in process.stderr.read()
    end = time.monotonic() + 60
    while any(child.exists() for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(child.exists() for child in children)
    assert not list((house.folder / "tmp").glob("sandglass-*"))


def test_evaluation_goes_on_after_a_crash(house: House) -> None:
    """The others have their rows; the same command again starts after the samples that were done."""
    assert house.run("deploy", "small.toml", "--to", "fading", "reference", "--out", "e")[0] == 0
    data = ["--dataset", "synthetic-people", "--limit", "8", "--threads", "1"]
    command = ["evaluate", "e/fading-fp32", "e/reference-fp32", *data, "--json", "e.json"]
    code, output, _ = house.run(*command)
    assert code == 2
    assert house.rows(output)["reference:fp32"]["AP"]
    assert "e/fading-fp32 crashed (signal 11, SIGSEGV)" in house.rows(output)["fading:fp32"]["failed"]
    seen = []
    while code == 2 and len(seen) < 10:
        code, output, _ = house.run(*command)
        seen.append(json.loads((house.folder / "e.json").read_text())[0].get("resumed_samples"))
    assert code == 0
    assert seen[-1] > 0
    rows = json.loads((house.folder / "e.json").read_text())
    assert rows[0]["metrics"] == rows[1]["metrics"]


def test_measurements_survive_a_crash(house: House) -> None:
    """`benchmark` times the others, `inspect` and `tune` end with one line."""
    house.run("deploy", "small.toml", "--to", "fading", "blind", "reference", "--out", "m")
    code, output, _ = house.run("benchmark", "m/fading-fp32", "m/reference-fp32", "--seconds", "0.3", "--threads", "1")
    assert code == 2
    assert "SIGSEGV" in house.rows(output)["fading:fp32"]["failed"]
    assert house.rows(output)["reference:fp32"]["median ms"]
    for command, name in (("inspect", "m/blind-fp32"), ("tune", "m/fading-fp32")):
        code, _, messages = house.run(command, name)
        assert code == 2
        assert messages.startswith(
            f"sandglass: {name} crashed (signal 11, SIGSEGV)\n  report this line with the log file "
        )


def test_rounded_artifact_needs_a_right_float_build(house: House) -> None:
    """What rounding may differ by hides what a runtime computes wrongly; with and without float in the same deploy."""
    for targets in (["coarse:int8"], ["coarse:int8", "coarse:fp32"]):
        code, output, _ = house.run("deploy", "small.toml", "--to", *targets, "--out", "coarse", "--force", *SYNTHETIC)
        assert code == 2
        said = house.rows(output)["coarse:int8"]["check"]
        assert said.startswith("failed: coarse computes this graph wrongly even in float: the artifact's outputs are")


TABLE = """
backends = ["raising", "crashing", "reference"]
precisions = ["fp32"]
[[row]]
model = "small.toml"
[row.data]
dataset = "synthetic-people"
limit = 4
"""


def test_table_has_a_reason_for_every_failure(house: House) -> None:
    """`deploy all-of` fills the other cells."""
    (house.folder / "table.toml").write_text(TABLE)
    code, _, messages = house.run("deploy", "all-of", "table.toml", "--out", "table")
    assert code == 2, messages
    rows = csv.DictReader((house.folder / "table/table.csv").read_text().splitlines())
    why = {row["backend"]: row["why empty"] for row in rows}
    assert why["reference"] == ""
    assert why["raising"].startswith("fp32: crashed: raising:fp32: unexpected KeyError: 'cls_8' (report this line with")
    assert why["crashing"].startswith("fp32: crashed: crashing:fp32 crashed (signal 11, SIGSEGV)")
