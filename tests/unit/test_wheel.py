"""The sdist and the wheel: what `python -m build` makes of a copy of the project, and whether that works alone.

The wheel is installed without its dependencies into a new environment, and the packages that it depends on are taken
from the environment of the tests. So the tests show that the files of the wheel suffice; that its metadata name the
dependencies is compared with pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sandglass.core import distribution

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("src", "docs", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "Makefile",
           "constraints.txt")  # fmt: skip
DATA = ("*.toml", "*.safetensors", "*.txt", "*.json", "py.typed")
MODEL = "hourglass-tiny-synthetic"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="the package `build` is not installed"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of a copy of the project, and the wheel that is built from it, by suffix."""
    copy, dist = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("dist")
    for name in PROJECT:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, copy], dist,
        os.environ.get("PYTHONPATH", ""))  # fmt: skip
    return {path.suffix: path for path in dist.iterdir()}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `sandglass` command of a new environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin/python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[".whl"]], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel's own folder
    return folder / "bin/sandglass"


def run(command: list[object], folder: Path, path: str = "") -> str:
    """The output of a command that runs in `folder`. Without `path`, its PYTHONPATH, it does not see the checkout."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_data() -> set[str]:
    """Files of the package that are not Python, relative to src/."""
    return {
        path.relative_to(ROOT / "src").as_posix()
        for pattern in DATA
        for path in (ROOT / "src/sandglass").rglob(pattern)
    }


def test_files_of_the_package_are_in_both(built: dict[str, Path]) -> None:
    """Cards, weights, tables and the marker of types are in both; nothing but the package is in the wheel."""
    wheel = set(zipfile.ZipFile(built[".whl"]).namelist())
    with tarfile.open(built[".gz"]) as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/sandglass").rglob("*.py")}
    assert {Path(name).suffix for name in package_data()} == {".toml", ".safetensors", ".txt", ".json", ".typed"}
    assert {name for name in wheel if ".dist-info/" not in name} == package_data() | modules
    assert {f"src/{name}" for name in package_data() | modules} <= sdist
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= sdist


def test_metadata_are_those_of_the_project(built: dict[str, Path]) -> None:
    """Name, version, command, dependencies and extras; no dependency has the name of another project's package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert built[".whl"].name.startswith(f"sandglass_vision-{project['version']}-py3-none-any")
    with zipfile.ZipFile(built[".whl"]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == distribution.NAME
    assert metadata["Version"] == project["version"]
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    needed = {str(Requirement(entry.partition(";")[0])) for entry in metadata.get_all("Requires-Dist")}
    assert {str(Requirement(entry.partition(";")[0])) for entry in project["dependencies"]} <= needed
    assert not {entry for entry in needed if entry.startswith("sandglass") and not entry.startswith(distribution.NAME)}


def test_installed_wheel_works_on_the_embedded_model(installed: Path, tmp_path: Path) -> None:
    """Outside the checkout the command deploys the embedded model and evaluates it on the embedded data."""
    python = installed.with_name("python")
    where = run([python, "-c", "import sandglass; print(sandglass.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(installed.parents[1])
    run([installed, "deploy", MODEL, "--to", "onnxruntime:fp32", "--out", "out"], tmp_path)
    run([installed, "evaluate", "out/onnxruntime-fp32", "--dataset", "synthetic-people", "--limit", 8,
         "--json", "found.json"], tmp_path)  # fmt: skip
    version = run([python, "-c", "from sandglass.core import host; print(host.own_version())"], tmp_path).strip()
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (tmp_path / "found.json").is_file()


def test_commands_of_the_wheel_name_packages(installed: Path, tmp_path: Path) -> None:
    """The installed wheel tells how to get a runtime without a checkout: by the runtime's own package."""
    code = "from sandglass.core.distribution import install_command; print(install_command('openvino'))"
    assert run([installed.with_name("python"), "-c", code], tmp_path).strip() == "pip install 'openvino>=2024.4'"
