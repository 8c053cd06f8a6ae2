"""The recipes of README.md run as they are printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import blocks, run_block, write_classifier, write_openmmlab, write_people

RECIPES = blocks("README.md")


def test_there_are_three_recipes() -> None:
    """A block that loses its mark is not run silently."""
    assert set(RECIPES) == {"openmmlab", "onnx", "table"}


@pytest.mark.slow
def test_openmmlab_checkpoint(tmp_path: Path) -> None:
    """From a config and a checkpoint to int8, with accuracy, speed and a picture."""
    pytest.importorskip("torch")
    write_openmmlab(tmp_path)
    write_people(tmp_path)
    printed = run_block(*RECIPES["openmmlab"], tmp_path)
    assert "AP" in printed
    assert "median ms" in printed
    assert (tmp_path / "photo.png").is_file()


@pytest.mark.slow
def test_onnx_file_and_table(tmp_path: Path) -> None:
    """From an ONNX file to int8; the table goes on with the card of that recipe."""
    write_classifier(tmp_path)
    assert "int8" in run_block(*RECIPES["onnx"], tmp_path)
    assert (tmp_path / "photo.png").is_file()
    run_block(*RECIPES["table"], tmp_path)
    assert "my-model" in (tmp_path / "table/table.md").read_text(encoding="utf-8")
