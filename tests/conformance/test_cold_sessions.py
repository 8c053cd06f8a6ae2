"""The first calls of a session, by several threads at once, return on every runtime.

Bindings initialize something on their first call, which two threads may wait for each other in. Each cold start needs
a fresh process, and some hundred of them to see a deadlock that happens in one of seven: those are marked as slow.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from conformance.test_backends import save_graph
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.deployment import deploy
from sandglass.sources.card import Card, Input

CALLERS = 4
SECONDS = 300  # a start takes one or two, and many times that where others are at work; a deadlock never ends
# As users do it: a session in their own process, and several threads whose first calls begin together.
SCRIPT = """
import sys, threading
from pathlib import Path
from sandglass.artifacts.artifact import load_artifact
artifact = load_artifact(Path(sys.argv[1]))
callers = int(sys.argv[2])
session, inputs, barrier = artifact.open(threads=1, callers=callers), artifact.noise(), threading.Barrier(callers)
def call():
    barrier.wait(60)
    session.run(inputs)
    done.append(1)
done = []
threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(done))
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a float artifact of the small graph, or of the embedded model where the runtime takes no ONNX file."""
    folder = tmp_path_factory.mktemp("cold")
    save_graph(folder / "small.onnx")
    card = Card("small", "topdown-pose", Input((32, 24), (0, 0, 0), (1, 1, 1)), graph=folder / "small.onnx")

    @cache
    def made(name: str) -> Path:
        backend = discover.load("backends", name)
        try:
            backend.available()
        except BackendUnavailable as error:
            pytest.skip(str(error))
        source = card if backend.CAPABILITIES.runs_graphs else "hourglass-tiny-synthetic"
        (outcome,) = deploy(source, [f"{name}:{backend.PRECISIONS[0]}"], folder / "out")
        assert outcome.artifact is not None, outcome.error
        return outcome.artifact.folder

    return made


@pytest.mark.parametrize("starts", [2, pytest.param(200, marks=pytest.mark.stress)])
@pytest.mark.parametrize("name", discover.names("backends"))
def test_first_calls_return(name: str, starts: int, artifact: Callable[[str], Path]) -> None:
    """Of so many cold starts every one ends, with an answer for each caller."""
    command = [sys.executable, "-c", SCRIPT, str(artifact(name)), str(CALLERS)]
    for number in range(starts):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert ended.stdout.strip() == str(CALLERS), f"start {number}: {ended.stderr}"


def test_session_is_warm_when_it_is_opened(artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that opens a session calls it first, on any runtime: here is how many calls each has had."""
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.backends import null

    calls = []
    monkeypatch.setattr(null.NullSession, "run", lambda session, inputs: calls.append(inputs))
    load_artifact(artifact("null")).open(callers=CALLERS)
    assert [{name: array.shape for name, array in inputs.items()} for inputs in calls] == [{"image": (1, 3, 32, 24)}]
