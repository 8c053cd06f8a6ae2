"""Config files are read as data, merge as mmengine merges them, and are refused with file and line for all else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sandglass.core.errors import ConfigError
from sandglass.sources.openmmlab.config import read_config


def write(folder: Path, **files: str) -> Path:
    """Write `NAME.py` files; the path of the last one."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(text)
    return path


def read(folder: Path, **files: str) -> dict[str, Any]:
    """What the last of the files says."""
    return read_config(write(folder, **files))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(256, 192)", (256, 192)),
        ("dict(type='A', size=(1, 2))", {"type": "A", "size": (1, 2)}),
        ("dict(old, size=3)", {"type": "B", "size": 3}),
        ("dict(type='C', **more)", {"type": "C", "x": 1}),
        ("{'a': 1, **more}", {"a": 1, "x": 1}),
        ("old['size']", (4, 5)),
        ("old.size[0] * 2 + 1", 9),
        ("old['size'][::-1]", (5, 4)),
        ("[*numbers, 4]", [1, 2, 3, 4]),
        ("numbers + [9]", [1, 2, 3, 9]),
        ("[0] * 3", [0, 0, 0]),
        ("1 << 30", 1 << 30),
        ("-32. / 255", -32 / 255),
        ("root + 'val.json'", "data/val.json"),
        ("f'{root}val{numbers[0]}.json'", "data/val1.json"),
        ("not True", False),
        ("None", None),
    ],
)
def test_expressions(text: str, value: Any, tmp_path: Path) -> None:
    """Each form that configs use has the value that Python gives it."""
    above = "root = 'data/'\nmore = dict(x=1)\nold = dict(type='B', size=(4, 5))\nnumbers = [1, 2, 3]\n"
    found = read(tmp_path, a=f"'''About it.'''\n{above}it = {text}\n")["it"]
    assert found == value
    assert type(found) is type(value)


def test_bases_merge_key_by_key(tmp_path: Path) -> None:
    """Dicts merge, lists and values are replaced, `_delete_` replaces a dict, and names of bases stay."""
    found = read(
        tmp_path,
        model="model = dict(type='M', backbone=dict(type='R', depth=50, stages=[1, 2]), neck=dict(type='N', out=3))",
        schedule="epochs = 210",
        a="_base_ = ['./model.py', 'schedule.py']\n"
        "model = dict(backbone=dict(depth=18, stages=[4]), neck=dict(_delete_=True, type='O'))",
    )
    assert found == {
        "model": {"type": "M", "backbone": {"type": "R", "depth": 18, "stages": [4]}, "neck": {"type": "O"}},
        "epochs": 210,
    }


def test_bases_of_bases_are_found_beside_each_file(tmp_path: Path) -> None:
    """A base is relative to the file that names it; `_base_` may be one name."""
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", one="x = dict(a=1)", two="_base_ = './one.py'\nx = dict(b=2)")
    assert read(tmp_path, a="_base_ = 'deep/two.py'\nx = dict(c=3)")["x"] == {"a": 1, "b": 2, "c": 3}


def test_references_to_bases(tmp_path: Path) -> None:
    """`_base_.name`, `{{_base_.name}}`, and assignments into what they refer to, which the merged config has."""
    found = read(
        tmp_path,
        base="model_quad = dict(type='PANet', head=dict(type='H'))\ntest = dict(pipeline=None)\nsteps = [1, 2]",
        a="_base_ = ['base.py']\n"
        "model = {{_base_.model_quad}}\n"
        "data = dict(test=[{{ _base_.steps }}, 3])\n"
        "mine = _base_.test\n"
        "mine.pipeline = _base_.steps\n"
        "_base_.model_quad.head = dict(type='I')\n"
        "mine['extra'] = 1\n",
    )
    assert found["model"] == {"type": "PANet", "head": {"type": "I"}}
    assert found["data"] == {"test": [[1, 2], 3]}
    assert found["test"] == found["mine"] == {"pipeline": [1, 2], "extra": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", "an import is refused"),
        ("from os import path", "an import is refused"),
        ("from mmpretrain.models import *", "an import is refused"),
        ("with open('a'):\n    pass", "`with open"),
        ("x = len([1])", "a call of len is refused"),
        ("x = __import__('os').system('true')", "a call of .*system is refused"),
        ("x = dict([(1, 2)])", "list where dict is expected"),
        ("print(1)", "a call of print is refused"),
        ("x = [i for i in (1, 2)]", "a comprehension is refused"),
        ("x = 1 if True else 2", "a condition is refused"),
        ("x = lambda: 1", "a function is refused"),
        ("def f():\n    pass", "a function is refused"),
        ("for i in (1, 2):\n    pass", "a loop is refused"),
        ("x = y", "y is not assigned before"),
        ("x = dict(a=1)['b']", "there is no 'b'"),
        ("x = [1][2]", "there is no 2"),
        ("x = {1, 2}", "a set is refused"),
        ("x = 'a' * 3 + 1", "is no arithmetic on numbers"),
        ("x = '%s' % 1", "is no arithmetic on numbers"),
        ("x = 9 ** 9 ** 9", "is too large"),
        ("x = [0] * 10 ** 9", "is too large"),
        ("x = 1 / 0", "division by zero"),
        ("x = f'{1:>{2}}'", "a format in a string is refused"),
        ("x, y = 1, 2", "an assignment to \\(x, y\\) is refused"),
        ("x = (1,); x[0] = 2", "cannot assign to x\\[0\\]"),
        ("x = ().__class__", "tuple where dict is expected"),
        ("x = 1 +", "this is not Python"),
        ("_base_ = 'mmdet::a.py'", "only .py files beside the config"),
        ("_base_ = 'a.yml'", "only .py files beside the config"),
        ("_base_ = 3", "_base_ is 3"),
    ],
)
def test_anything_else_is_refused_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    """Nothing is run: what is no data is named, with the file and the line."""
    path = write(tmp_path, a=f"first = 1\n{text}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path}:2: ")


def test_bases_that_do_not_fit(tmp_path: Path) -> None:
    """A missing base, a circle, two bases with one name, and a dict over a number are told."""
    with pytest.raises(ConfigError, match=r"a.py:1: _base_ names nowhere.py, and there is no such file"):
        read(tmp_path, a="_base_ = 'nowhere.py'")
    with pytest.raises(ConfigError, match=r"a.py is a _base_ of itself"):
        read(tmp_path, b="_base_ = 'a.py'", a="_base_ = 'b.py'")
    with pytest.raises(ConfigError, match=r"a.py:1: two of its bases assign x"):
        read(tmp_path, b="x = 1", c="x = 2", a="_base_ = ['b.py', 'c.py']")
    with pytest.raises(ConfigError, match=r"a.py: m.x is a dict, and in its _base_ it is 1"):
        read(tmp_path, b="m = dict(x=1)", a="_base_ = 'b.py'\nm = dict(x=dict(y=2))")


@pytest.mark.parametrize("text", ["x = " + "(" * 5000 + ")" * 5000, "x = " + "-" * 20000 + "1", "x = '\0'"])
def test_hostile_text_is_one_clear_error(text: str, tmp_path: Path) -> None:
    """Text that overflows a parser or is no Python does not crash the reader."""
    with pytest.raises(ConfigError):
        read(tmp_path, a=text)


def test_file_that_is_no_config_is_not_parsed(tmp_path: Path) -> None:
    """A file of many bytes is refused by its size."""
    (tmp_path / "a.py").write_bytes(b"x = 1\n" * 200_000)
    with pytest.raises(ConfigError, match="has 1200000 bytes"):
        read_config(tmp_path / "a.py")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("it: int = 3", 3),
        ("it: int\nit = 4", 4),
        ("it = 1\nit += 2", 3),
        ("it = 8\nit //= 2", 4),
        ("it = [1]\nit += [2]", [1, 2]),
        ("a = [1]\nit = a\na += [2]", [1, 2]),
        ("a = dict(b=1)\na['b'] += 1\nit = a", {"b": 2}),
        ("it = float(1e-3)", 1e-3),
        ("it = int('7') + int(1.9)", 8),
        ("it = tuple([1, 2])", (1, 2)),
        ("it = list((1, 2))", [1, 2]),
        ("it = str(5) + 'x'", "5x"),
        ("_base_ = 'mmpretrain::_base_/default_runtime.py'\nit = 1", 1),
        ("_base_ = ['../../_base_/default_runtime.py', '../schedules/cifar10.py']\nit = 1", 1),
        ("with read_base():\n    from ..._base_.default_runtime import *\nit = 1", 1),
        ("_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmengine::default_runtime.py']\nit = 2", 2),
    ],
)
def test_what_people_write_in_their_own_configs(text: str, value: Any, tmp_path: Path) -> None:
    """Annotations, augmented assignments, conversions, and missing bases that are for training alone."""
    found = read(tmp_path, a=text)["it"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "_base_ = 'mmpretrain::_base_/models/resnet18.py'",
        "_base_ = ['mmdet::_base_/default_runtime.py', 'mmdet::_base_/datasets/coco_detection.py']",
        "with read_base():\n    from mmpretrain.configs._base_.models.resnet18 import *",
    ],
)
def test_a_base_that_is_needed_and_in_another_package_is_named(text: str, tmp_path: Path) -> None:
    """What it assigns is not known."""
    with pytest.raises(ConfigError, match=r"a\.py:[12]: .*(resnet18|coco_detection)"):
        read(tmp_path, a=text)


def test_configs_of_the_newer_style(tmp_path: Path) -> None:
    """Imported classes are their names, imported files give their names, and methods change what came from there."""
    (tmp_path / "base" / "models").mkdir(parents=True)
    write(
        tmp_path / "base" / "models",
        net="from mmpretrain.models import ResNet\nimport torch.nn as nn\n_private = 1\n"
        "model = dict(type=ResNet, depth=50, act=nn.GELU, sizes=[1, 2], neck=dict(type='N', out=3))",
    )
    write(tmp_path / "base", schedule="epochs = 3")
    found = read(
        tmp_path,
        a="from mmengine.config import read_base\nfrom mmdet.models import FPN\n"
        "with read_base():\n    from .base.models.net import *\n    from .base.schedule import epochs as length\n"
        "    from mmengine.configs.default_runtime import *\n"
        "model.update(dict(depth=18), neck2=dict(type=FPN))\n"
        "model.merge(dict(neck=dict(out=4)))\n"
        "model['sizes'] += [3]\n",
    )
    assert found == {
        "model": {
            "type": "ResNet",
            "depth": 18,
            "act": "GELU",
            "sizes": [1, 2, 3],
            "neck": {"type": "N", "out": 4},
            "neck2": {"type": "mmdet.FPN"},
        },
        "length": 3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from mmengine.config import read_base\nread_base()", "a call of read_base is refused"),
        ("from mmpretrain.models import ResNet\nx = ResNet(depth=18)", "a call of ResNet is refused"),
        ("from torch import nn\nx = nn.Linear(3, 4)", "a call of nn.Linear is refused"),
        ("from torch import nn\nnn.init(1)", "a call of nn.init is refused"),
        ("x = []\nx.append(1)", "a call of x.append is refused"),
        ("x = 3\nx.update(a=1)", "x is not a dict"),
        ("with read_base():\n    import os", "only `from .file import"),
        ("with read_base():\n    x = 1", "only `from .file import"),
        ("with read_base():\n    from .nowhere import *", "cannot read config .*nowhere.py"),
        ("with read_base():\n    from .a import *", "is a _base_ of itself"),
        ("x = float('a')", "could not convert"),
        ("x = int(1e999)", "cannot convert float infinity"),
        ("x = float(1, 2)", "a call of float is refused"),
        ("x = tuple(5)", "int where list or tuple is expected"),
    ],
)
def test_newer_configs_run_nothing_either(text: str, message: str, tmp_path: Path) -> None:
    """An imported name is a name; calling it is refused."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, a=text)


GROWTH = {
    "a chain of powers": "x = ((((10 ** 64) ** 64) ** 64) ** 64) ** 64",
    "squares": "x = 10 ** 18\n" + "x = x * x\n" * 40,
    "shifts": "x = 1\n" + "x = x << 64\n" * 5000,
    "a long number": f"x = {'9' * 4000}",
    "a text that doubles": "x = 'a' * 100000\n" + "x = x + x\n" * 25,
    "a list that doubles": "x = [0] * 100000\n" + "x = x + x\n" * 25,
    "a list that is spread": "x = [0] * 100000\n" + "x = [*x, *x, *x]\n" * 12,
    "a text of texts": "x = 'a' * 100000\n" + "x = f'{x}{x}{x}'\n" * 14,
    "many lists": "".join(f"x{i} = [0] * 100000\n" for i in range(5000)),
    "many texts": "".join(f"x{i} = 'a' * 100000\n" for i in range(5000)),
    "copies": "x = [0] * 100000\n" + "".join(f"x{i} = x[:]\n" for i in range(5000)),
    "a list that is added to": "x = [0] * 60000\n" + "x += x\n" * 20,
    "lists of a list": "x = [0] * 100000\ny = [x] * 100000",
    "dicts of a dict": "x = dict(a=1)\n" + "x = dict(a=x, b=x, c=x)\n" * 40,
    "a circle": "x = dict(a=1)\nx['x'] = x",
    "a message": "x = [[[0] * 100000] * 100000] * 100000\n_base_ = x",
}


@pytest.mark.parametrize("name", GROWTH)
def test_growth_is_limited(name: str, tmp_path: Path) -> None:
    """A few bytes do not become billions of values, in memory or in a message."""
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, a=GROWTH[name])
    assert time.process_time() - start < 5
    assert len(caught.value.message) < 1000


def test_bases_do_not_fan_out(tmp_path: Path) -> None:
    """Two bases of two bases of two bases, and a chain of hundreds."""
    write(tmp_path, f0="")
    for i in range(1, 40):
        write(tmp_path, **{f"f{i}": f"_base_ = ['f{i - 1}.py', 'f{i - 1}.py']"})
    write(tmp_path, c0="a = 1")
    for i in range(1, 300):
        write(tmp_path, **{f"c{i}": f"_base_ = 'c{i - 1}.py'"})
    for name in ("f39", "c299"):
        with pytest.raises(ConfigError, match="too many _base_ files"):
            read_config(tmp_path / f"{name}.py")


def test_merging_circles_ends(tmp_path: Path) -> None:
    """A dict that holds itself, over another one."""
    loop = "a = dict(x=1)\na['a'] = a\n"
    with pytest.raises(ConfigError, match="nested more than 50 levels"):
        read(tmp_path, b=loop, a=f"_base_ = 'b.py'\n{loop}")
