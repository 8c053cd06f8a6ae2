"""The picture of the architecture in the documents is the one of the present source."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_picture_shows_the_present_imports() -> None:
    """Run `python tools/draw_architecture.py` if this fails."""
    generated = runpy.run_path(str(ROOT / "tools/draw_architecture.py"))["picture"]()
    assert (ROOT / "docs/architecture.svg").read_text(encoding="utf-8") == generated
