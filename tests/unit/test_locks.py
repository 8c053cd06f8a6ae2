"""Locks, and what killed runs leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandglass.core.errors import ArtifactError, BusyError
from sandglass.core.files import OLD, PART, RUN, atomic_file, atomic_folder, run_folder, sweep
from sandglass.core.locks import LOCK, locked_file, locked_folder

HOLD = """
import sys, time
from pathlib import Path
from sandglass.core.files import atomic_file, atomic_folder, run_folder
from sandglass.core.locks import locked_folder
with locked_folder(Path(sys.argv[1])), run_folder(), atomic_folder(Path(sys.argv[1]) / "artifact") as part:
    (part / "half").touch()
    with atomic_file(Path(sys.argv[1]) / "table.md"):
        print("holds", flush=True)
        time.sleep(60)
"""


@contextmanager
def other_run(out: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that works in `out` and has temporary files in `scratch`."""
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, env=environment,
                          text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "scratch"


def test_second_run_is_refused_by_the_name_of_the_first(tmp_path: Path, scratch: Path) -> None:
    """The message has the folder, the process and the host; after a kill the lock is known to be stale."""
    out = tmp_path / "out"
    with other_run(out, scratch) as process:
        with pytest.raises(BusyError) as caught, locked_folder(out):
            pass
        assert f"{out} is in use" in caught.value.message
        assert f"process {process.pid} on {socket.gethostname()}" in caught.value.message
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (out / LOCK).exists()
    with locked_folder(out):
        assert json.loads((out / LOCK).read_text())["pid"] == os.getpid()
    assert not (out / LOCK).exists()


def test_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    """An exception releases it, and a folder that was made for it alone is gone."""
    for _ in range(2):
        with pytest.raises(RuntimeError), locked_folder(tmp_path / "a/out"):
            raise RuntimeError
    assert not (tmp_path / "a/out").exists()
    with locked_file(tmp_path / "journal"), pytest.raises(BusyError), locked_file(tmp_path / "journal"):
        pass
    assert list((tmp_path).iterdir()) == [tmp_path / "a"]


def test_lock_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """One clear error; a link in the lock's place is not followed."""
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"), locked_folder(tmp_path / "file"):
        pass
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(ArtifactError, match="cannot write"), locked_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "file").read_bytes() == b""


def test_leftovers_of_a_kill_are_swept_and_those_of_the_living_stay(tmp_path: Path, scratch: Path) -> None:
    """What a run holds that is alive stays; after its kill it goes, and nothing else does."""
    out = tmp_path / "out"
    with other_run(out, scratch) as process:
        foreign = [out / ".movie.mkv.part", out / "notes-sandglass.part", scratch / "sandglass-other"]
        for path in foreign:
            path.touch()
        before = sorted(out.iterdir())
        sweep(out)
        with run_folder():
            assert len(list(scratch.glob(f"{RUN}*"))) == 2
        assert sorted(out.iterdir()) == before
        assert len(list(scratch.glob(f"{RUN}*"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(list(out.glob(f".*{PART}"))) == 2
    sweep(out)
    with run_folder():
        assert len(list(scratch.glob(f"{RUN}*"))) == 1
    assert sorted(out.iterdir()) == sorted([out / LOCK, *foreign[:2]])
    assert list(scratch.iterdir()) == foreign[2:]


def test_next_write_sweeps_what_was_to_become_the_same(tmp_path: Path) -> None:
    """A file or folder is written again after a kill: the leftover of that name goes, that of another one stays."""
    for name in ("a", "b"):
        (tmp_path / f".{name}.12345678{PART}").mkdir()
        (tmp_path / f".{name}.12345678{PART}" / "half").touch()
    with atomic_file(tmp_path / "a") as temporary:
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".b.12345678{PART}", "a"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_folder_that_was_being_replaced(tmp_path: Path, moment: str) -> None:
    """Killed between the two renames the old folder comes back; killed after them it goes."""
    old = tmp_path / f".out.12345678{OLD}"
    old.mkdir()
    (old / "which").write_text("old")
    if moment == "after":
        (tmp_path / "out").mkdir()
        (tmp_path / "out/which").write_text("new")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/which").read_text() == ("old" if moment == "before" else "new")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "which").write_text("newest")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_link_in_place_of_a_leftover_is_not_followed(tmp_path: Path) -> None:
    """A planted link does not empty a foreign folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    (tmp_path / f".a.12345678{PART}").symlink_to(tmp_path / "mine")
    sweep(tmp_path)
    assert (tmp_path / "mine/file").exists()


def test_run_has_its_temporary_files_in_one_folder(scratch: Path) -> None:
    """Those of processes that it starts are there too, and the settings are as before afterwards."""
    with run_folder():
        (folder,) = scratch.iterdir()
        assert Path(tempfile.mkdtemp()).parent == folder
        print_it = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        assert subprocess.check_output(print_it, text=True).strip() == str(folder)
    assert list(scratch.iterdir()) == []
    assert os.environ["TMPDIR"] == str(scratch)
    assert tempfile.gettempdir() == str(scratch)


def test_run_without_a_place_for_temporary_files(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs none works, what needs one says so."""
    shutil.rmtree(scratch)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(scratch)])
    with run_folder(), pytest.raises(FileNotFoundError, match="temporary directory"):
        tempfile.mkdtemp()


def test_filesystem_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There files are whole by their renames, and nothing is swept, since nobody knows whose it is."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / f".a.12345678{PART}").touch()
    with locked_folder(tmp_path), atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".a.12345678{PART}", "a"]
    with run_folder():
        tempfile.mkdtemp()
