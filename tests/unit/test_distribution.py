"""The distribution's own name, and that nobody is sent to another project's package of the name `sandglass`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandglass.core import discover, distribution, host
from sandglass.table.rows import doctor_row

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "pyproject.toml", ".ci/run")
FOLDERS = ("src", "docs", "benchmarks", "tools", "examples")
COMMAND = re.compile(r"pip3? install\b.*")
OWN_NAME = re.compile(r"(?<![\w./-])sandglass(-vision)?(?![\w./-])", re.IGNORECASE)
EXTRA_OF_A_NAME = re.compile(r"(?<![\w./-])sandglass(-vision)?\[(torch|openvino|ncnn|tvm|all|dev)")


def texts() -> list[Path]:
    """Every file of the project that a user or a developer reads."""
    found = [ROOT / name for name in TEXTS if (ROOT / name).is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".toml", ".sh")]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "pip install sandglass",
        "pip install 'sandglass[all]'",
        "`pip install -U sandglass-vision`",
        "pip install Sandglass",
    ],
)
def test_commands_for_a_strangers_package_are_recognised(line: str) -> None:
    """The search below finds what it is for."""
    assert names_a_distribution(line)


@pytest.mark.parametrize(
    "line", ["pip install -e '.[all]'", "pip install dist/sandglass_vision-0.1.0-py3-none-any.whl"]
)
def test_commands_for_a_folder_or_a_file_are_not(line: str) -> None:
    """A folder or a file is what a user has."""
    assert not names_a_distribution(line)


def names_a_distribution(line: str) -> bool:
    """Whether a line tells a reader to install this distribution, or its namesake, by name."""
    return bool(EXTRA_OF_A_NAME.search(line) or any(OWN_NAME.search(command) for command in COMMAND.findall(line)))


def test_no_text_sends_to_a_package_index_for_sandglass() -> None:
    """Every `pip install` names the checkout, a file or another package."""
    project = 'all = ["sandglass-vision[torch,openvino,ncnn]"]'  # the extra of the extras
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts()
        for line in path.read_text(encoding="utf-8").splitlines()
        if names_a_distribution(line) and line != project
    ]
    assert len(texts()) > 100
    assert wrong == []


def test_doctor_shows_commands_for_the_checkout_or_other_packages() -> None:
    """Each backend says how to get it; none by the name of this distribution."""
    for row in host.backends():
        shown = doctor_row({**row, "usable": False})["install"]
        assert shown
        assert not names_a_distribution(shown), shown


def test_commands_in_a_checkout_name_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the checkout's folder it is `.`, elsewhere its path; both work as they are."""
    monkeypatch.chdir(ROOT)
    assert distribution.install_command("torch") == "pip install -e '.[torch]'"
    monkeypatch.chdir(tmp_path)
    command = distribution.install_command("torch")
    assert command.replace("'", "") == f"pip install -e {ROOT}[torch]"


def test_commands_of_an_installed_wheel_name_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a checkout the packages of the extra are named, with the versions that the distribution declares."""
    declared = ["numpy>=1.26", "ncnn>=1.0.20250503; extra == 'ncnn'", 'pnnx>=20250503; extra == "ncnn"',
                "torch>=2.4; extra == 'torch'"]  # fmt: skip
    monkeypatch.setattr(distribution, "CHECKOUT", tmp_path)
    monkeypatch.setattr("importlib.metadata.requires", lambda name: declared)
    assert distribution.install_command("ncnn") == "pip install 'ncnn>=1.0.20250503' 'pnnx>=20250503'"


def test_every_extra_that_a_command_names_exists() -> None:
    """What a backend names is an extra of pyproject.toml."""
    extras = distribution_extras()
    named = [
        extra
        for name in discover.names("backends")
        for extra in re.findall(r"\[(\w+)\]", discover.load("backends", name).INSTALL)
    ]
    assert named
    assert set(named) <= extras


def distribution_extras() -> set[str]:
    """Extras of the project's file."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == distribution.NAME
    assert project["scripts"] == {"sandglass": "sandglass.cli.main:main"}
    return set(project["optional-dependencies"])
