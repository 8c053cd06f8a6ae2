"""Pages that list members of the package list all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sandglass.quantization.repairs import load_repairs

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_repair_is_described() -> None:
    """docs/repairs.md has a heading for each file, by the name that --without takes, and no other."""
    names = {repair.NAME.replace(" ", "-") for repair in load_repairs()}
    headings = re.findall(r"^## ([a-z-]+)$", page("repairs.md"), re.M)
    assert set(headings) == names


def test_every_command_is_described() -> None:
    """docs/commands.md has a row for each command of `sandglass --help`."""
    command = [sys.executable, "-m", "sandglass", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    commands = set(re.findall(r"^  ([a-z]\w+): ", text, re.M))
    assert commands
    assert commands <= set(re.findall(r"^\| `(\w+)`", page("commands.md"), re.M))
