"""Files are whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandglass.core.errors import ArtifactError
from sandglass.core.files import atomic_file, atomic_folder, sha256


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An exception inside the context leaves the old content and no temporary file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_folder_is_refused_unless_forced(tmp_path: Path) -> None:
    """Without force an existing folder stays; with it the new one replaces it whole."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(ArtifactError, match="exists already"), atomic_folder(out):
        pass
    with atomic_folder(out, force=True) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [out]


def test_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    """An exception inside the context leaves neither the folder nor its temporary."""
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_no_visible_folder(tmp_path: Path) -> None:
    """SIGKILL while a folder is being written leaves nothing under its name."""
    code = (
        "import sys, time; from pathlib import Path; from sandglass.core.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as f:\n"
        "    (f / 'half').write_bytes(b'x'); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    """A file where a folder is needed is reported as not writable."""
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"), atomic_folder(tmp_path / "file" / "out"):
        pass


def test_written_file_obeys_the_umask(tmp_path: Path) -> None:
    """Atomic files are readable by whom ordinary files are."""
    (tmp_path / "plain").touch()
    with atomic_file(tmp_path / "atomic") as temporary:
        temporary.touch()
    assert os.stat(tmp_path / "atomic").st_mode == os.stat(tmp_path / "plain").st_mode


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    """The digest is that of the published test vector."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
