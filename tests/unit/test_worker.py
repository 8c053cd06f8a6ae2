"""Artifacts in processes of their own, from whatever kind of program asks for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from artifacts import write_null
from sandglass.artifact import Artifact, load_artifact
from sandglass.errors import BackendError
from sandglass.worker import Worker

SCRIPT = """
from pathlib import Path
from sandglass import benchmark, load_artifact
print("begun")
print(benchmark([load_artifact(Path({folder!r}))], seconds=0.1)[0].runs > 0)
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """An artifact of the backend that computes nothing."""
    return load_artifact(write_null(tmp_path / "artifact"))


@pytest.mark.parametrize("by", ["file", "standard input"])
def test_scripts_need_no_guard(by: str, artifact: Artifact, tmp_path: Path) -> None:
    """What measures may stand at a script's top level: it is run once."""
    text = SCRIPT.format(folder=str(artifact.folder))
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    command = [sys.executable, *([str(tmp_path / "script.py")] if by == "file" else [])]
    given = None if by == "file" else text
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["begun", "True"], done.stderr


def test_death_of_the_process_is_told(artifact: Artifact) -> None:
    """One line names the artifact, and what may help."""
    worker = Worker(artifact, 1, 1)
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(BackendError, match="process died"):
        worker.burst(0.01)
    worker.close()


def test_process_ends_with_its_parent(artifact: Artifact) -> None:
    """Where the other end is gone there is nobody to answer, and nothing is printed."""
    worker = Worker(artifact, 1, 1)
    worker.pipe.close()
    assert worker.process.wait(timeout=30) == 0
