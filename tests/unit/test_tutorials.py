"""The code of the tutorials runs as it is printed, block after block."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import blocks, run_block, write_photo

from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable

pytestmark = pytest.mark.slow
PAGES = {
    "checkpoint-to-phone": (["ncnn", "pytorch"], ["deploy", "evaluate", "load", "predict"]),
    "why-is-int8-worse": (["pytorch"], ["float", "calibration", "edit", "redeploy"]),
    "which-runtime": (["openvino", "ncnn", "pytorch"], ["doctor", "deploy", "benchmark", "evaluate", "tune"]),
}


@pytest.mark.parametrize("page", PAGES)
def test_tutorial(page: str, tmp_path: Path) -> None:
    """Every marked block, in order, in one folder."""
    backends, names = PAGES[page]
    for backend in backends:
        try:
            discover.load("backends", backend).available()
        except BackendUnavailable as error:
            pytest.skip(str(error))
    marked = blocks(f"docs/tutorials/{page}.md")
    assert list(marked) == names
    write_photo(tmp_path / "photo.jpg", (480, 640))
    for language, code in marked.values():
        run_block(language, code, tmp_path)
