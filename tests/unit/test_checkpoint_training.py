"""Checkpoints of one's own training: the weights are taken, the rest is left unseen; averaged weights on request."""

from __future__ import annotations

import collections
import os
import pathlib
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fuzz import seeds
from sandglass.cli.main import main
from sandglass.core.errors import CheckpointError
from sandglass.sources.card import ZOO
from sandglass.sources.checkpoint import read_checkpoint
from sandglass.sources.export import read_weights
from sandglass.sources.load_card import load_card
from sandglass.table.file import read_table

torch = pytest.importorskip("torch")


class HistoryBuffer:
    """Stands for mmengine's, under its name."""

    __module__, __qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"

    def __init__(self) -> None:
        self.log, self.counts, self.statistics = np.arange(5.0), np.ones(5), {"mean": HistoryBuffer.mean}

    @staticmethod
    def mean() -> None:
        """Pickled by its name in the class."""


@pytest.fixture(autouse=True)
def mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling looks a class up where it says that it is; reading does not."""
    parts = ["mmengine", "logging", "history_buffer"]
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(".".join(parts[:count])))
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]


def weights(value: float = 1.0) -> dict[str, Any]:
    """A small state dict."""
    return collections.OrderedDict({"backbone.conv.weight": torch.full((2, 3), value), "head.bias": torch.ones(4)})


REST = {
    "message_hub": lambda: {"log_scalars": {"loss": HistoryBuffer()}, "best": np.float64(0.7), "n": np.int64(3)},
    "numpy": lambda: {"palette": np.zeros((2, 3)), "names": np.array(["a", "b"]), "objects": np.array([{}, None])},
    "defaultdict": lambda: collections.defaultdict(dict, {"a": {"b": 1}}),
    "device": lambda: [torch.device("cpu"), torch.float32, torch.Size([1, 2]), torch.Generator().get_state()],
    "path": lambda: [pathlib.PurePosixPath("x"), pathlib.PurePosixPath],
    "numbers": lambda: [1 + 2j, {1, 2}, frozenset([3]), slice(1, 2), b"raw", bytearray(b"raw"), range(3)],
    "optimizer": lambda: {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "tuple keys": lambda: {("a", 1): 2, (0,): 3},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", REST)
def test_what_a_training_saves_besides_is_left_unseen(name: str, zipped: bool, tmp_path: Path) -> None:
    """The weights come out, whatever lies next to them."""
    content = {"meta": {"rest": REST[name]()}, "state_dict": weights(), name: REST[name]()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "a.pth")
    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in weights().items()
    }


def test_storages_of_the_rest_are_not_read(tmp_path: Path) -> None:
    """An optimizer's bytes may be missing altogether."""
    torch.save({"state_dict": weights(), "optimizer": {"state": torch.zeros(1000)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "b.pth", "w") as copy:
        for entry in archive.infolist():
            if entry.file_size != 4000:
                copy.writestr(entry, archive.read(entry))
    assert set(read_checkpoint(tmp_path / "b.pth")) == set(weights())


class Evil:
    """Would create a file when unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_that_needs_an_unknown_name_is_refused_by_it(zipped: bool, tmp_path: Path) -> None:
    """Among the weights nothing unknown is skipped; outside of them it is, and never run."""
    touch = Evil(Path.touch, tmp_path / "owned")
    for content in ({"state_dict": {**weights(), "x": touch}}, {**weights(), "x": touch}):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"names .*, which tensors do not need"):
            read_checkpoint(tmp_path / "a.pth")
    torch.save({"state_dict": weights(), "x": touch}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert set(read_checkpoint(tmp_path / "a.pth")) == set(weights())
    assert not (tmp_path / "owned").exists()


def test_a_file_that_was_made_to_run_commands_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Nothing would run, but a user should know of such a file."""
    torch.save({"state_dict": weights(), "x": Evil(os.system, "true")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        read_checkpoint(tmp_path / "a.pth")


def averaged(kind: str) -> dict[str, Any]:
    """The conventions in use; the averaged weights are 2."""
    plain, average = weights(1.0), weights(2.0)
    wrapped = {f"module.{key}": value for key, value in average.items()}
    return {
        "mmcv": {"state_dict": {**plain, **{f"ema_{k.replace('.', '_')}": v for k, v in average.items()}}},
        "data parallel": {
            "state_dict": {
                f"module.{k}": v
                for k, v in {**plain, **{f"ema_{k.replace('.', '_')}": v for k, v in average.items()}}.items()
            }
        },
        "timm": {"state_dict": plain, "state_dict_ema": average},
        "model": {"model": plain, "model_ema": average},
        "swa": {"state_dict": plain, "ema": {"n_averaged": torch.tensor(5), **wrapped}},
        "top": {**plain, **{f"ema.{k}": v for k, v in average.items()}},
    }[kind]


@pytest.mark.parametrize("kind", ["mmcv", "data parallel", "timm", "model", "swa", "top"])
def test_averaged_weights_on_request(kind: str, tmp_path: Path) -> None:
    """Without the option the trained weights and no others, with it the averaged ones under the same names."""
    torch.save(averaged(kind), tmp_path / "a.pth")
    for ema, value in ((False, 1.0), (True, 2.0)):
        found = read_checkpoint(tmp_path / "a.pth", ema)
        assert set(found) == set(weights())
        assert (found["backbone.conv.weight"] == value).all()


def test_mmengine_saves_the_averaged_weights_as_the_state(tmp_path: Path) -> None:
    """Its `ema_state_dict` has those of the last step and a count of steps: the state dict is right in both cases."""
    last = {f"module.{key}": value for key, value in weights(1.0).items()}
    content = {"state_dict": weights(2.0), "ema_state_dict": {"steps": torch.tensor(9), **last}}
    torch.save(content, tmp_path / "a.pth")
    for ema in (False, True):
        assert (read_checkpoint(tmp_path / "a.pth", ema)["backbone.conv.weight"] == 2).all()


def test_a_file_without_averaged_weights_says_so(tmp_path: Path) -> None:
    """Also a .safetensors file."""
    from safetensors.numpy import save_file

    torch.save({"state_dict": weights()}, tmp_path / "a.pth")
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(CheckpointError, match="has no averaged"):
            read_checkpoint(tmp_path / name, ema=True)


def written(path: Path, content: bytes, **options: Any) -> Path:
    """A zip checkpoint with the given pickle."""
    path.write_bytes(seeds.torch_zip(seeds.pickled(content), **options))
    return path


T, S = seeds.tensor, seeds.storage
NUMBERS = np.arange(100, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    "tensor",
    [
        T(seeds.group(seeds.name("torch", "FloatStorage"), T(S(count=100), 99, (100,), (0,))), 0, (100,), (1,)),
        T(T(S(count=100)), 0, (4,), (1,)),
        T(S(count=100), 0, (101,), (0,)),
        T(S(count=100), 0, (2,), (100,)),
        T(S(count=100), 99, (2,), (1,)),
        T(S(count=100), 0, (2**31 - 1, 2**31 - 1), (1, 1)),
        T(S(count=100), -1, (1,), (1,)),
        T(S(count=100), 3, (4,), (-1,)),
        T(S(count=100), 0, (1,) * 40, (1,) * 40),
        T(S(count=100), 0, (2, 2), (1,)),
        T(S(count=2**31 - 1), 0, (4,), (1,)),
        T(S(count=-4), 0, (4,), (1,)),
        T(seeds.text("abcd"), 0, (4,), (1,)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tensor: bytes, tmp_path: Path) -> None:
    """A tensor as another's storage, a stride of 0, sizes over 64 bits, negative offsets: no foreign memory is read."""
    path = written(tmp_path / "a.pth", seeds.dictionary(w=tensor), storages={"0": NUMBERS})
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        read_checkpoint(path)


def test_numbers_of_any_size_are_computed_with(tmp_path: Path) -> None:
    """An offset, a side or a stride beyond 64 bits does not wrap around."""
    big = b"\x8a\x0a" + struct.pack("<Q", 0) + b"\x01\x00"  # 2 ** 64
    good = T(S(count=100), 0, (4,), (1,))
    for position in (seeds.number(0), seeds.number(4), seeds.number(1)):
        path = written(tmp_path / "a.pth", seeds.dictionary(w=good.replace(position, big)), storages={"0": NUMBERS})
        with pytest.raises(CheckpointError, match="not a complete checkpoint"):
            read_checkpoint(path)


def test_a_small_file_does_not_become_large(tmp_path: Path) -> None:
    """Zeros that are packed well, and thousands of tensors over one storage."""
    zeros = {"0": bytes(64 << 20)}
    vast = seeds.dictionary(w=T(S(count=16 << 20), 0, (16 << 20,), (1,)))
    path = written(tmp_path / "a.pth", vast, storages=zeros, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="more than 8 times the size"):
        read_checkpoint(path)
    many = seeds.dictionary(**{f"k{i}": T(S(count=1 << 20), 0, (1 << 20,), (1,)) for i in range(100)})
    with pytest.raises(CheckpointError, match="more than 8 times the size"):
        read_checkpoint(written(tmp_path / "b.pth", many, storages={"0": bytes(4 << 20)}))


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    """Older and newer names of one tensor in one file: which of them is meant is not known."""
    torch.save({"keypoint_head.w": torch.ones(1), "head.w": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"two tensors of the checkpoint get the name head\.w"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression: int, tmp_path: Path) -> None:
    """Their memory is not bounded by the file's."""
    path = written(tmp_path / "a.pth", seeds.dictionary(w=T(S())), compression=compression)
    with pytest.raises(CheckpointError, match="unsupported compression"):
        read_checkpoint(path)


def test_numbers_of_another_order_are_refused(tmp_path: Path) -> None:
    """PyTorch notes the order of bytes in the archive."""
    torch.save({"state_dict": weights()}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "b.pth", "w") as copy:
        for entry in archive.infolist():
            copy.writestr(entry, b"big" if entry.filename.endswith("byteorder") else archive.read(entry))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoint(tmp_path / "b.pth")


MODEL = "hourglass-tiny-synthetic"


def trained(**more: Any) -> dict[str, Any]:
    """A checkpoint of the embedded model, with averaged weights that are twice the others."""
    plain = {key: torch.from_numpy(value) for key, value in load_file(ZOO / f"{MODEL}.safetensors").items()}
    average = {f"ema_{key.replace('.', '_')}": 2 * value for key, value in plain.items() if value.is_floating_point()}
    return {"state_dict": {**plain, **average}, **more}


def test_the_option_reaches_the_weights(tmp_path: Path) -> None:
    """Averaged weights take the place of the others under the architecture's names; counters stay."""
    torch.save(trained(), tmp_path / "a.pth")
    card = load_card(MODEL)
    plain = read_weights(card, tmp_path / "a.pth", tmp_path / "plain.safetensors")
    average = read_weights(card, tmp_path / "a.pth", tmp_path / "average.safetensors", ema=True)
    assert set(plain) == set(average)
    for key, value in plain.items():
        np.testing.assert_array_equal(average[key], 2 * value if value.dtype == np.float32 else value)


@pytest.mark.parametrize("command", ["deploy", "quantize", "sensitivity"])
def test_every_command_that_takes_a_checkpoint_takes_averaged_weights(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without them is refused by name where the option is given."""
    torch.save({"state_dict": weights()}, tmp_path / "a.pth")
    data = ["--calibration-dataset", "synthetic-people", "--calibration-size", "2"]
    search = ["--out", tmp_path / "out", "--evaluation-dataset", "synthetic-people", "--limit", "2"]
    more = {"deploy": ["--out", tmp_path / "out"], "quantize": search, "sensitivity": []}[command]
    options = ["--checkpoint", tmp_path / "a.pth", "--ema", "--to", "onnxruntime:int8", *data, *more]
    assert main([command, MODEL, *map(str, options)]) == 2
    assert "a.pth has no averaged (EMA) weights" in capsys.readouterr().err


def test_a_table_takes_averaged_weights(tmp_path: Path) -> None:
    """By a field of its row."""
    row = f'[[row]]\nmodel = "{MODEL}"\nema = true\n[row.data]\ndataset = "synthetic-people"\n'
    (tmp_path / "t.toml").write_text(f'backends = ["onnxruntime"]\n{row}')
    assert read_table(tmp_path / "t.toml").rows[0].ema
