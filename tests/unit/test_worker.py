"""Artifacts in processes of their own, from whatever kind of program asks for them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from artifacts import write_null

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.core.errors import ArtifactError, CrashError, SandglassError
from sandglass.measure.benchmarking import benchmark, benchmark_each
from sandglass.measure.worker import Worker

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


def test_death_of_the_process_is_an_error(artifact: Artifact) -> None:
    """One line names the artifact and how it ended."""
    worker = Worker(artifact, 1, 1)
    try:
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(CrashError, match=f"{artifact.folder} crashed.*SIGSEGV"):
            worker.burst(0.01)
    finally:
        worker.close()


def test_one_that_dies_stops_no_other(artifact: Artifact, tmp_path: Path) -> None:
    """Neither while it is opened nor while it is timed."""
    other = load_artifact(write_null(tmp_path / "other"))
    shutil.rmtree(other.folder)
    found, missing = benchmark_each([artifact, other], seconds=0.1)
    assert isinstance(missing, ArtifactError)
    assert not isinstance(found, SandglassError)
    assert found[0].runs > 0
    with pytest.raises(ArtifactError):
        benchmark([artifact, other], seconds=0.1)


def test_sessions_of_other_processes_answer_several_threads(artifact: Artifact) -> None:
    """As many as there are callers; each gets its own answer."""
    with artifact.isolated(1, {}, callers=3) as session, ThreadPoolExecutor(3) as pool:
        sizes = range(1, 13)
        found = list(pool.map(lambda size: session.run({"x": np.zeros((size, 3, 8, 8), np.float32)}), sizes))
    assert [outputs["y"].shape for outputs in found] == [(size, 2) for size in sizes]
