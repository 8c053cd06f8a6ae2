"""The journal: nothing that was damaged is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.core.errors import BusyError, InputError
from sandglass.core.resume import Journal, cache_folder

VALUES = {0: {"x": [1.5, None]}, 1: {"x": "é"}, 2: [3, -0.1]}
DAMAGE = {
    "half": b'0a0a0a0a [0, {"x"',
    "no number": b"xx}\n",
    "no checksum": b'[3, {"x": 1}]\n',
    "short list": b"[0]\n",
    "nul bytes": b"\0" * 64 + b"\n",
    "not text": b"\xff\xfe\n",
    "empty line": b"\n",
}


def written(folder: Path) -> Path:
    """A journal with three lines that a run left behind."""
    with Journal({"a": 1}, folder) as journal:
        for index, value in VALUES.items():
            journal.append({index: value})
    return journal.path


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("place", [0, 1, 3])
def test_damaged_line_is_dropped(tmp_path: Path, damage: str, place: int) -> None:
    """The others are kept, wherever it stands, and what is appended afterwards is read back."""
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:place], DAMAGE[damage], *lines[place:]]))
    with Journal({"a": 1}, tmp_path) as journal:
        lost = {place} if damage == "half" and place < 3 else set()
        assert journal.done == {index: value for index, value in VALUES.items() if index not in lost}
        journal.append({7: "new"})
    assert Journal({"a": 1}, tmp_path).done == journal.done
    assert len(path.read_bytes().splitlines()) == len(journal.done)


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    """A line whose content changed is dropped, also where it is JSON all the same."""
    path = written(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = Journal({"a": 1}, tmp_path).done
        assert len(found) in (1, 2)
        assert all(VALUES[index] == value for index, value in found.items())


def test_second_run_is_refused(tmp_path: Path) -> None:
    """One run at a time; the next one gets what the first one finished."""
    with Journal({"a": 1}, tmp_path) as first:
        with pytest.raises(BusyError, match="process"), Journal({"a": 1}, tmp_path):
            pass
        with Journal({"a": 2}, tmp_path):
            first.append({0: 1})
    with Journal({"a": 1}, tmp_path) as second:
        assert second.done == {0: 1}
        second.close()
    assert list(tmp_path.iterdir()) == []


def test_no_home_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be found for the cache, the error says how to name one."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SANDGLASS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError) as caught:
        cache_folder()
    assert "SANDGLASS_CACHE" in caught.value.fix
