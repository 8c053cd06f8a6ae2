"""Words that readers have to decode stay out of the documents. Each is listed with what to write in its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs",)  # all Markdown and Python in them
FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
INSTEAD = {
    r"told|foretold|foretells?": "the command says, reports or predicts",
    r"anew|afresh": "again",
    r"whoever|who (?:reads|needs|calls|takes|wants)": "the reader, the caller, the layer that reads",
    r"is no (?:faster|slower|better|signature)": "is not faster",
    r"as little as suffices": "the smallest that reaches the share",
    r"mend(?:s|ed|ing)?": "fix or correct",
    r"go(?:es)? on (?:after|where|with)": "is resumable, or continues",
    r"so (?:many|much) (?:pixels|of the)": "the number of",
    r"beside (?:it|the|them)": "next to",
    r"(?:is|are) left unseen": "is ignored",
    r"at hand|hence|thereof|therein|whatsoever": "a plain word",
    r"besides then": "in addition",
    r"does as well": "also works",
    r"look(?:s|ed)? for": "searches for",
    r"brought up to": "converted to",
}
PATTERNS = {words: re.compile(rf"\b(?:{words})", re.IGNORECASE) for words in INSTEAD}
EXAMPLES = {
    "What is no faster than float is told.": 2,
    "mend the card's task": 1,
    "it is worth a part of the mean time besides then, as little as suffices": 2,
    "who reads them takes the mean": 1,
    "goes on after a kill": 1,
}


def pages() -> list[Path]:
    """The files that are read."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [ROOT / name for name in FILES] + sorted(path for path in inside if path.suffix in (".md", ".py"))


def problems(text: str) -> list[str]:
    """What a text should say in other words."""
    return [
        f"{match.group()!r}: write {INSTEAD[words]!r}"
        for words, pattern in PATTERNS.items()
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_is_plain(page: Path) -> None:
    """No listed word, outside of blocks of code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not problems(" ".join(text.split()))


@pytest.mark.parametrize("sentence", EXAMPLES)
def test_list_finds_the_sentences_that_it_was_made_for(sentence: str) -> None:
    """Each sentence has at least this number of listed words."""
    assert len(problems(sentence)) >= EXAMPLES[sentence]
