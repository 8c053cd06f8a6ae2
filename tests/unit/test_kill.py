"""A run that is killed at any moment leaves no artifact that loads but is wrong, and the next run succeeds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.parity import FLOAT_TOLERANCE
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import ArtifactError, BackendUnavailable
from sandglass.graph.session import GraphSession
from unit.test_cli import CARD, SYNTHETIC

MOMENTS = 6  # of those at which a file or folder is about to be opened, made, renamed or removed
PATTERNS = (".*.part/model.*", "*/sandglass.json")
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 32, 24)).astype(np.float32)

# Forks a run for each line on standard input: the number of the event at which it kills itself, and its arguments.
# Answers with the number of events that the run came to. A fork saves the seconds that importing takes.
DRIVER = """
import os, signal, sys
from sandglass import deployment
from sandglass.backends import onnxruntime
from sandglass.cli.main import main
from sandglass.quantization import make_plan, qdq
from sandglass.sources import bring_up, export
from sandglass.tasks import topdown_pose
from sandglass.datasets import synthetic_people
from sandglass.table import rows

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}

for line in sys.stdin:
    last, folder, *arguments = line.rstrip("\\n").split("\\t")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event, details):
            global seen
            if event in EVENTS and str(details[0]).startswith(folder):
                seen += 1
                os.write(writer, b".")
                if seen == int(last):
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        sys.stdout = open(os.devnull, "w")
        os._exit(main(arguments))
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        print(len(stream.read()), status, flush=True)
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card beside the small graph."""
    folder = tmp_path_factory.mktemp("card")
    save_graph(folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    return folder / "small.toml"


@pytest.fixture(scope="module")
def driver() -> Iterator[subprocess.Popen[str]]:
    """The process that forks runs."""
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()


def deployment(card: Path, out: Path, *targets: str) -> list[str]:
    """The command's arguments; results are replaced."""
    return ["deploy", str(card), "--to", *targets, "--out", str(out), "--force", *SYNTHETIC]


def run(driver: subprocess.Popen[str], kill_at: int, out: Path, arguments: list[str]) -> tuple[int, int]:
    """Events under `out` that a run came to, and how it ended."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    driver.stdin.write("\t".join([str(kill_at), str(out), *arguments]) + "\n")
    driver.stdin.flush()
    events, status = driver.stdout.readline().split()
    return int(events), int(status)


def assert_whole(out: Path, graph: Path) -> list[str]:
    """Whatever loads is right, and what has an artifact's name loads; returns these names."""
    expected = GraphSession(graph).run({"image": IMAGE})["heatmaps"]
    published = []
    for folder in (path for path in out.iterdir() if path.is_dir()) if out.is_dir() else ():
        try:
            artifact = load_artifact(folder)
        except ArtifactError:
            assert folder.name.startswith("."), f"{folder.name} has an artifact's name and does not load"
            continue
        found = artifact.open(1).run({"image": IMAGE})["heatmaps"]
        if artifact.precision == "fp32":
            assert relative_difference(expected, found) < FLOAT_TOLERANCE
        else:
            assert correlation(expected, found) > 0.99
        if not folder.name.startswith("."):
            published.append(folder.name)
    return published


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
def test_killed_at_any_step(driver: subprocess.Popen[str], card: Path, tmp_path: Path, existing: bool) -> None:
    """Killed before any of its steps on disk, a run leaves whole artifacts or none, and the next one succeeds."""
    graph, out = card.with_name("small.onnx"), tmp_path / "out"
    arguments = deployment(card, out, "onnxruntime:fp32", "onnxruntime:int8")
    events, status = run(driver, 0, out, arguments)
    assert status == 0
    moments = sorted(random.Random(0).sample(range(1, events + 1), min(MOMENTS, events)))
    seen = set()
    for number, moment in enumerate(moments):
        place = out if existing else tmp_path / f"out-{number}"
        arguments = deployment(card, place, "onnxruntime:fp32", "onnxruntime:int8")
        _, status = run(driver, moment, place, arguments)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        seen.add(tuple(sorted(assert_whole(place, graph))))
    assert existing or len(seen) > 1, "all kills were at the same stage"
    _, status = run(driver, 0, place, arguments)
    assert status == 0
    assert len(assert_whole(place, graph)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_killed_when_a_file_appears(card: Path, tmp_path: Path, pattern: str) -> None:
    """Killed from outside while a runtime's own code writes, the same holds."""
    from sandglass.backends import ncnn

    try:
        ncnn.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    out = tmp_path / "out"
    arguments = deployment(card, out, "ncnn:fp32", "onnxruntime:fp32")
    with subprocess.Popen([sys.executable, "-m", "sandglass", *arguments], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while process.poll() is None and not any(out.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
    assert_whole(out, card.with_name("small.onnx"))
    assert main(arguments) == 0
    assert sorted(assert_whole(out, card.with_name("small.onnx"))) == ["ncnn-fp32", "onnxruntime-fp32"]


def test_termination_clears_temporary_folders_away(card: Path, tmp_path: Path) -> None:
    """SIGTERM, as schedulers and `timeout` send it, ends with one line, and nothing is left behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [
        sys.executable,
        "-m",
        "sandglass",
        "deploy",
        str(card),
        "--to",
        "onnxruntime",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        while not list(scratch.glob("sandglass-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 130
    assert told.splitlines()[-1] == "sandglass: interrupted; run the same command again to continue"
    assert "Traceback" not in told
    assert not list(scratch.glob("sandglass-*"))
    assert not list((tmp_path / "out").glob(".*.part"))


def test_termination_within_code_made_from_text(tmp_path: Path) -> None:
    """Where a dataclass is being made, say: the end is the same, not a death by SIGINT."""
    (tmp_path / "stopped.py").write_text(
        "import sys\n"
        "from sandglass.cli.main import main\n"
        "from sandglass.core import host\n"
        "stop = 'import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)'\n"
        "host.backends = lambda: exec(stop)\n"
        "sys.exit(main(['doctor']))\n"
    )
    ended = subprocess.run([sys.executable, "-m", "stopped"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr == "sandglass: interrupted; run the same command again to continue\n"
