"""A Chinese page follows its English page: the same commands, options, measured rows and outline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHINESE = ROOT / "docs/zh"
PAGES = {ROOT / "README.zh.md": ROOT / "README.md"} | {
    path: ROOT / "docs" / path.relative_to(CHINESE) for path in sorted(CHINESE.rglob("*.md"))
}
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"`(--[\w-]+)")
HEADING = re.compile(r"^#+(?= )", re.MULTILINE)
ROW = re.compile(r"^\|", re.MULTILINE)
MEASURED = re.compile(r"^\| hourglass-.*$", re.MULTILINE)
FOLLOWED = re.compile(r"^> .*`[0-9a-f]{7,40}`", re.MULTILINE)

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_code_is_that_of_the_english_page(page: Path) -> None:
    """Blocks of code are equal, in order, with their English comments."""
    assert BLOCK.findall(text(page)) == BLOCK.findall(text(PAGES[page]))


def test_outline_and_options_are_those_of_the_english_page(page: Path) -> None:
    """A section, a row of a table or an option that only one of them has is missing in the other."""
    chinese, english = (BLOCK.sub("", text(path)) for path in (page, PAGES[page]))
    assert HEADING.findall(chinese) == HEADING.findall(english)
    assert len(ROW.findall(chinese)) == len(ROW.findall(english))
    assert set(OPTION.findall(chinese)) == set(OPTION.findall(english))


def test_measured_rows_are_those_of_the_english_page(page: Path) -> None:
    """Numbers of the demo are copied, and not typed."""
    assert MEASURED.findall(text(page)) == MEASURED.findall(text(PAGES[page]))


def test_page_names_the_commit_that_it_follows(page: Path) -> None:
    """The note at the top says which version of the English page was translated."""
    assert FOLLOWED.search(text(page).split("\n## ")[0])


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
