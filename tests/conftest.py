"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("sandglass.cli.conformance")  # its tests show what they compare

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images, annotations, models and reference outputs.

    Found by SANDGLASS_TEST_DATA, by default `../shared` beside the checkout. Where it is absent the test is skipped,
    or fails when SANDGLASS_REQUIRE_DATA is set.
    """
    folder = Path(os.environ.get("SANDGLASS_TEST_DATA", ROOT.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "fixtures").is_dir():
        message = f"no real data at {folder}: set SANDGLASS_TEST_DATA to a folder that holds data/ and fixtures/"
        if os.environ.get("SANDGLASS_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this process alone, so that tests neither read the user's nor wait for each other's."""
    before = os.environ.get("SANDGLASS_CACHE")
    os.environ["SANDGLASS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SANDGLASS_CACHE"]
    else:
        os.environ["SANDGLASS_CACHE"] = before
