"""The example of a package that adds a backend: the tutorial prints its files, and it passes the conformance tests.

The package is installed as a user would do it, without a network, into a folder on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, blocks, run_block

EXAMPLE = ROOT / "examples/sandglass-opencv"
PAGE = "docs/tutorials/adding-a-backend.md"
FILE_BLOCK = re.compile(r"<!-- file: ([\w.-]+) -->\n```\w+\n(.*?)```", re.DOTALL)


def lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize("name", ["pyproject.toml", "sandglass_opencv.py"])
def test_tutorial_prints_the_files(name: str) -> None:
    """The blocks of a file are the file, in its order, without empty lines."""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    printed = "".join(code for file, code in FILE_BLOCK.findall(page) if file == name)
    assert lines(printed) == lines((EXAMPLE / name).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_package_passes_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed next to Sandglass it passes the conformance tests, and the tutorial's commands run."""
    shutil.copytree(EXAMPLE, tmp_path / "sandglass-opencv")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", "site"]
    install = [sys.executable, "-m", "pip", "install", *options, "./sandglass-opencv"]
    subprocess.run(install, cwd=tmp_path, check=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    commands = blocks(PAGE)
    assert "7 passed" in run_block(*commands["conformance"], tmp_path)
    printed = run_block(*commands["use"], tmp_path)
    assert "opencv" in printed
    assert "Conv" in printed
