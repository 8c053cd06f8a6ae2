"""Every file in quantization/repairs is tested here because it exists: by the contract, and that it is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sandglass
from sandglass.cli.conformance.repairs import *  # noqa: F403 - the tests of the contract
from sandglass.cli.conformance.repairs import SIZE, SYMMETRIC, TARGETS, graph, images
from sandglass.core.errors import InputError
from sandglass.quantization.repaired_plan import repaired_plan

NEW_REPAIR = '''"""Offsets of a hundredth: the float network is the same."""

import numpy as np

from sandglass.quantization.edits import ShiftChannels
from sandglass.quantization.repairs import NetworkStep

NAME, SOURCE = "new repair", "a test"


def _shift(state):
    offsets = {name: np.float32([0.01]) for name in state.network.offsets.linear}
    return state.with_edit(ShiftChannels(offsets))


STEPS = (NetworkStep(15, _shift),)
'''


def test_new_file_is_a_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder is found, in its place, and plans; no other file knows of it."""
    package = tmp_path / "sandglass"
    shutil.copytree(Path(sandglass.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "quantization" / "repairs" / "new_one.py").write_text(NEW_REPAIR)
    (package / "quantization" / "repairs" / "_helper.py").write_text("raise ImportError('not a repair')")
    script = f"""
from pathlib import Path
import numpy as np
from sandglass.quantization.repaired_plan import repaired_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.spec import Spec
batches = [{{"image": np.random.default_rng(i).standard_normal({SIZE}, np.float32)}} for i in range(2)]
spec = Spec(("Conv",), asymmetric=True)
graph, scratch = Path({str(graph("residual"))!r}), Path({str(tmp_path)!r})
plan, _ = repaired_plan(graph, batches, spec, scratch, "minmax", ["new repair"])
print(", ".join(repair_names()))
print(plan.repairs, [edit.KIND for edit in plan.edits])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, plan = done.stdout.splitlines()
    assert names.split(", ")[0] == "new repair"  # its step has the lowest number
    assert plan == "('new repair',) ['shift channels']"


def test_unknown_repair_is_refused(tmp_path: Path) -> None:
    """A name that no file has, with those that there are."""
    with pytest.raises(InputError, match=r"unknown repair 'magic'.*known: "):
        repaired_plan(graph("plain"), images("plain", 1, 0), TARGETS[SYMMETRIC], tmp_path, "minmax", ["magic"])
