"""Checkpoints: read without running them."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import CheckpointError
from sandglass.sources.checkpoint import match_state, read_checkpoint, rename_keys

torch = pytest.importorskip("torch")


def state() -> dict[str, object]:
    """Tensors of several types, one of them a view that is not contiguous."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "keypoint_head.weight": base.t(),
        "backbone.half": torch.tensor([1.5, -2.25], dtype=torch.float16),
        "backbone.brain": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "backbone.slice": base[1:3, 2:4],
        "backbone.bn.num_batches_tracked": torch.tensor(7),
    }


def content() -> dict[str, object]:
    """What OpenMMLab publishes: the state dict beside metadata with numpy scalars."""
    return {"meta": {"epoch": 3, "score": np.float64(0.7)}, "state_dict": collections.OrderedDict(state())}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_formats_give_the_same_arrays(tmp_path: Path, zipped: bool) -> None:
    """Zip and legacy files give PyTorch's own values, floats as float32, under 1.x names."""
    path = tmp_path / "a.pth"
    torch.save(content(), path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    for key, value in state().items():
        own = read[key.replace("keypoint_head.", "head.")]
        assert own.dtype == (np.int64 if "tracked" in key else np.float32)
        np.testing.assert_array_equal(own, value.to(torch.float64).numpy())


def test_safetensors_are_read(tmp_path: Path) -> None:
    """A .safetensors file is a checkpoint too."""
    from safetensors.numpy import save_file

    save_file({"a": np.array([1.0, 2.0], np.float16)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.safetensors")["a"], np.float32([1, 2]))


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (builtins.eval, r"(builtins|__builtin__)\.eval"),
        (builtins.open, r"(_?io|builtins|__builtin__)\.open"),
    ],
)
def test_hostile_pickle_is_refused_by_name_and_not_run(
    tmp_path: Path, zipped: bool, function: object, name: str
) -> None:
    """A pickle that calls something is refused, naming what it would have called; nothing happens."""
    target = tmp_path / "owned"
    text = {os.system: f"touch {target}", builtins.eval: f"open({str(target)!r}, 'w')"}.get(function, str(target))
    arguments = (text, "w") if function is builtins.open else (text,)
    torch.save({"state_dict": state(), "x": Hostile(function, *arguments)}, tmp_path / "a.pth",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / "a.pth")
    assert not target.exists()


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    """A file cut anywhere is refused as a checkpoint that is not whole."""
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content(), buffer, _use_new_zipfile_serialization=zipped)
        data = buffer.getvalue()
        for end in sorted({0, 1, 10, *range(0, len(data), max(1, len(data) // 40)), len(data) - 1}):
            (tmp_path / "a.pth").write_bytes(data[:end])
            with pytest.raises(CheckpointError, match=r"not a complete checkpoint"):
                read_checkpoint(tmp_path / "a.pth")


def test_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    """A shape that reaches beyond the stored bytes does not read foreign memory."""
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    assert files[pickled].count(b"K\x04\x85") == 1
    files[pickled] = files[pickled].replace(b"K\x04\x85", b"K\x40\x85")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="exceeds its storage"):
        read_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize("data", [b"", b"no checkpoint", pickle.dumps({"a": 1}), pickle.dumps([1, 2])])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """Text, an empty file and other pickles are no checkpoints."""
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path that does not exist is reported."""
    with pytest.raises(CheckpointError, match="cannot read"):
        read_checkpoint(tmp_path / "none.pth")


def test_names_of_older_versions_become_the_newer_ones() -> None:
    """Prefixes of 0.x heads and of data-parallel training are renamed."""
    old = {"module.backbone.a": 0, "keypoint_head.b": 1, "bbox_head.c": 2}
    assert set(rename_keys(old)) == {"backbone.a", "head.b", "det_head.c"}  # type: ignore[arg-type]


def test_all_that_does_not_match_is_listed() -> None:
    """Missing, unexpected and wrongly shaped keys are in one error; a missing counter is fine."""
    found = {"a": np.zeros(3), "stranger": np.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        match_state(found, {"a": (2,), "b": (1,), "bn.num_batches_tracked": ()}, Path("x.pth"))
    assert "1 missing (b)" in caught.value.message
    assert "1 unexpected (stranger)" in caught.value.message
    assert "a [3] instead of [2]" in caught.value.message
