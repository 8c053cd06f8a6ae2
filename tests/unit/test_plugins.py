"""Members of seams that other packages add: found by entry points, and a broken one stops only what uses it.

Each case runs in a new process, whose path has a folder with the files of an installed package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import network

BACKEND = """
from sandglass.backends.reference import *
from sandglass.backends.reference import CAPABILITIES, Notes, PURPOSE, SETTINGS, SPEC
"""
REPAIR = '''
"""Offsets of a hundredth: the float network is the same."""

NAME, SOURCE = "new repair", "a test"

def _nothing(state):
    return state

from sandglass.quantization.repairs import NetworkStep
STEPS = (NetworkStep(1, _nothing),)
'''
CARD = """
name = "a"
task = "classification"
graph = "g.onnx"
[input]
size = [8, 8]
mean = [0, 0, 0]
std = [1, 1, 1]
"""


def install(folder: Path, package: str, entries: dict[str, dict[str, str]], **modules: str) -> None:
    """The files that an installation of `package` 1.2 leaves: its modules, and its entry points by group."""
    metadata = folder / f"{package.replace('-', '_')}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [[f"[{group}]", *(f"{name} = {module}" for name, module in names.items())]
             for group, names in entries.items()]  # fmt: skip
    (metadata / "entry_points.txt").write_text("\n".join(line for group in lines for line in group) + "\n")
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(code)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `folder` on its path."""
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def sandglass(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line with `folder` on its path."""
    return python(folder, "-m", "sandglass", *map(str, arguments))


REPORT = """
import json, sys
from sandglass.backends import load_backend, usable_backends
from sandglass.core import host
from sandglass.core.errors import PluginError
report = {"usable": list(usable_backends()), "problems": {row["name"]: row["problem"] for row in host.plugins()}}
try:
    report["module"] = load_backend(sys.argv[1]).__name__
except PluginError as error:
    report["error"], report["fix"] = error.message, error.fix
print(json.dumps(report))
"""


def report(folder: Path, name: str) -> dict[str, Any]:
    """The usable backends, what `doctor` reports of plugins, and the module of the backend `name` or its error."""
    report: dict[str, Any] = json.loads(python(folder, "-c", REPORT, name).stdout)
    return report


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A model card of a small graph."""
    model = network("g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] y) { y = Relu(image) }", {})
    onnx.save(model, tmp_path / "g.onnx")
    (tmp_path / "card.toml").write_text(CARD)
    return tmp_path / "card.toml"


def test_plugin_is_used_like_a_file(card: Path, tmp_path: Path) -> None:
    """A backend of another package deploys, and the artifact's manifest names the package."""
    install(tmp_path / "site", "sandglass-other", {"sandglass.backends": {"other_one": "other"}}, other=BACKEND)
    ended = sandglass(tmp_path / "site", "deploy", card, "--to", "other-one:fp32", "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((tmp_path / "out/other-one-fp32/sandglass.json").read_text())
    assert manifest["versions"]["sandglass-other"] == "1.2"
    assert report(tmp_path / "site", "other-one")["problems"] == {"other-one": ""}


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("broken", "import package_that_is_absent", "No module named 'package_that_is_absent'"),
        ("broken", "raise RuntimeError('no device')", "importing 'other' raised RuntimeError: no device"),
        ("broken", "def available(): ...", "'other' lacks CAPABILITIES, INSTALL, Notes, PRECISIONS"),
        ("Broken", BACKEND, "the name must consist of lower-case letters"),
    ],
)
def test_broken_plugin_stops_only_what_uses_it(name: str, code: str, problem: str, tmp_path: Path) -> None:
    """Its use is an error with a fix; the backends that `demo` runs leave it out; `doctor` reports the problem."""
    install(tmp_path, "sandglass-other", {"sandglass.backends": {name: "other"}}, other=code)
    broken = report(tmp_path, name)
    assert "the package sandglass-other 1.2" in broken["error"]
    assert problem in broken["error"]
    assert "`pip uninstall sandglass-other`" in broken["fix"]
    assert broken["problems"][name] == f"{broken['error']} ({broken['fix']})"
    assert {"null", "reference"} < set(broken["usable"])
    assert name not in broken["usable"]


def test_error_of_a_command_is_two_lines(card: Path, tmp_path: Path) -> None:
    """What is wrong with the plugin, and what to do."""
    install(tmp_path / "site", "sandglass-other", {"sandglass.backends": {"broken": "other"}}, other="1 / 0")
    ended = sandglass(tmp_path / "site", "deploy", card, "--to", "broken", "--out", tmp_path / "out")
    assert ended.returncode == 2
    problem, fix = ended.stderr.splitlines()
    assert "cannot be used: importing 'other' raised ZeroDivisionError: division by zero" in problem
    assert "pip uninstall sandglass-other" in fix


def test_name_of_a_file_stays_the_files(tmp_path: Path) -> None:
    """A plugin cannot replace a member of this package; `doctor` reports that its name is taken."""
    install(tmp_path, "sandglass-other", {"sandglass.backends": {"null": "other"}}, other="1 / 0")
    taken = report(tmp_path, "null")
    assert taken["module"] == "sandglass.backends.null"
    assert "sandglass itself has a member of this name" in taken["problems"]["null"]


def test_name_of_two_plugins_is_refused(tmp_path: Path) -> None:
    """Which of them is meant is not guessed."""
    for number in "12":
        entries = {"sandglass.backends": {"twice": f"other{number}"}}
        install(tmp_path, f"sandglass-{number}", entries, **{f"other{number}": BACKEND})
    error = report(tmp_path, "twice")["error"]
    assert "the package sandglass-1 1.2" in error
    assert "the package sandglass-2 adds a member of the same name" in error


def test_unknown_name_lists_plugins(tmp_path: Path) -> None:
    """The list of known names has those of plugins; no module is imported for it."""
    install(tmp_path, "sandglass-other", {"sandglass.datasets": {"mine": "absent"}})
    ended = sandglass(tmp_path, "evaluate", "x", "--dataset", "yours")
    assert "imagenet, mine, synthetic-crowd" in ended.stderr


def test_repair_of_a_plugin_is_in_every_plan(tmp_path: Path) -> None:
    """Repairs are all used, so a plugin's is in its place among them, and a broken one is an error."""
    names = "from sandglass.quantization.repairs import repair_names; print(repair_names())"
    install(tmp_path / "good", "sandglass-other", {"sandglass.repairs": {"new": "other"}}, other=REPAIR)
    assert python(tmp_path / "good", "-c", names).stdout.startswith("('new repair', ")
    install(tmp_path / "bad", "sandglass-other", {"sandglass.repairs": {"new": "other"}}, other="1 / 0")
    assert "PluginError: the package sandglass-other 1.2" in python(tmp_path / "bad", "-c", names).stderr
    same = REPAIR.replace("new repair", "centre")
    install(tmp_path / "same", "sandglass-other", {"sandglass.repairs": {"new": "other"}}, other=same)
    assert "are repairs of the same NAME 'centre'" in python(tmp_path / "same", "-c", names).stderr


@pytest.mark.slow
def test_conformance_tests_run_on_one_member(tmp_path: Path) -> None:
    """The exit code says whether they pass: a copy of a dataset that has the name of the original does not."""
    copy = "from sandglass.datasets.synthetic_shapes import *\nfrom sandglass.datasets.synthetic_shapes import KIND"
    install(tmp_path, "sandglass-other", {"sandglass.datasets": {"copy": "other"}}, other=copy)
    passed, failed = (sandglass(tmp_path, "conformance", "datasets", name) for name in ("synthetic-shapes", "copy"))
    assert passed.returncode == 0
    assert "17 passed" in passed.stdout
    assert failed.returncode == 2
    assert "FAILED" in failed.stdout


def test_entry_points_are_not_read_for_help_or_for_files(tmp_path: Path) -> None:
    """Reading them would take a third of the time of `sandglass --help`."""
    code = """
import sys
from sandglass.cli.main import main
from sandglass.backends import load_backend
assert main(["--help"]) == 0
load_backend("null")
assert "importlib.metadata" not in sys.modules
"""
    ended = python(tmp_path, "-c", code)
    assert ended.returncode == 0, ended.stderr
