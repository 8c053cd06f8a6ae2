"""The command line in surroundings that lack something: a reader, UTF-8, a home, a place for temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from artifacts import write_null

from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.cli.system import one_line
from sandglass.core.files import run_folder
from sandglass.core.process import keep_log
from sandglass.sources.load_card import load_card
from sandglass.sources.prepare import find_checkpoint
from unit.test_cli import CARD

COMMAND = [sys.executable, "-m", "sandglass"]
EVALUATE = ["--dataset", "synthetic-people", "--limit", "1"]


def run(*arguments: object, **options: str | None) -> subprocess.CompletedProcess[str]:
    """A run in its own process, with environment variables set, or taken away where they are None."""
    environment = {name: value for name, value in ({**os.environ} | options).items() if value is not None}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="surrogateescape",
                          check=False)  # fmt: skip


def assert_clear(ended: subprocess.CompletedProcess[str], code: int = 2) -> None:
    """It ended with the code, and with a line of what is wrong and a line of what to do."""
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    if code:
        first, second = ended.stderr.splitlines()[-2:]
        assert first.startswith("sandglass: ")
        assert second.startswith("  ")


@pytest.mark.parametrize("errors_too", [False, True])
@pytest.mark.parametrize(("arguments", "code"), [(["models"], 141), (["fetch", "nothing"], 2)])
def test_nobody_reads(arguments: list[str], code: int, errors_too: bool) -> None:
    """As after `| head`: no stack trace, and the exit code of a broken pipe, or of what went wrong before it."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([*COMMAND, *arguments], stdout=writer, stderr=writer if errors_too else subprocess.PIPE,
                           text=True, check=False)  # fmt: skip
    os.close(writer)
    assert ended.returncode == code
    assert errors_too or "Traceback" not in ended.stderr
    assert errors_too or "Exception ignored" not in ended.stderr


def test_output_is_full_or_closed() -> None:
    """A full disk is an error in one line; who closes the output wants none."""
    for redirection, code in ((">/dev/full", 2), (">&-", 0), (">&- 2>&-", 0)):
        ended = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, "models"], capture_output=True,
                               text=True, check=False)  # fmt: skip
        assert_clear(ended, code)


ASCII = {"PYTHONIOENCODING": "ascii"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("surroundings", [ASCII, C, {"LC_ALL": "C"}], ids=["ascii", "C", "C as it is"])
def test_terminal_that_is_not_utf8(tmp_path: Path, surroundings: dict[str, str]) -> None:
    """Names with other letters are printed as escape sequences."""
    folder = write_null(tmp_path / "modèle-图")
    ended = run("inspect", folder, **surroundings)
    if surroundings is C:  # there the argument itself cannot be read
        assert_clear(ended)
    else:
        assert_clear(ended, 0)
    assert_clear(run("inspect", tmp_path / "nichts-图", **surroundings))


def test_names_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and control characters of a file's name are escaped: an error is one line."""
    assert main(["fetch", "a\nb\x1b[31m.toml"]) == 2
    assert r"a\nb\x1b[31m.toml" in capsys.readouterr().err
    assert one_line("é图 ok") == "é图 ok"


def test_argument_that_is_not_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A name that is not UTF-8 is refused before anything is done."""
    assert main(["deploy", os.fsdecode(b"\xff\xfe.toml"), "--to", "null", "--out", str(tmp_path / "out")]) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err


def test_cache_that_cannot_be_had(tmp_path: Path) -> None:
    """A file in its place, or in that of a folder above it, is one line that names it."""
    folder = write_null(tmp_path / "artifact")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/deeper"):
        ended = run("evaluate", folder, *EVALUATE, SANDGLASS_CACHE=str(place))
        assert_clear(ended)
        assert str(place) in ended.stderr
        assert "SANDGLASS_CACHE" in ended.stderr


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What needs the cache says how to name one; what needs none works."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SANDGLASS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert main(["evaluate", str(write_null(tmp_path / "artifact")), *EVALUATE]) == 2
    assert "SANDGLASS_CACHE" in capsys.readouterr().err
    assert main(["fetch", "hourglass52-coco-256x256"]) == 2
    assert find_checkpoint(load_card("hourglass-tiny-synthetic"), None).is_file()


def test_log_outlives_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache cannot be written a log lies with the temporary files, not in the run's own folder of them."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with run_folder():
        log = keep_log("a runtime", "crashed", "its last words")
    assert log.parent == tmp_path
    assert "its last words" in log.read_text()


def test_no_place_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs them says how to name a folder; what needs none works."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    save_graph(tmp_path / "small.onnx")
    (tmp_path / "small.toml").write_text(CARD)
    deployment = ("deploy", str(tmp_path / "small.toml"), "--to", "null", "--out", str(tmp_path / "out"))
    assert main(deployment) == 2
    assert "TMPDIR" in capsys.readouterr().err
    assert main(["models"]) == 0
    monkeypatch.undo()
    assert_clear(run(*deployment, TMPDIR="/nonexistent"), 0)
