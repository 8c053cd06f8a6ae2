"""Words and patterns that readers have to decode stay out of documents and source; each has a replacement here."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "sandglass"
FOLDERS = ("docs",)  # all Markdown and Python in them
FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
# Folders of the package whose docstrings, comments and texts are checked; "." is the files at its top.
SOURCES = (".", "artifacts", "backends", "cli", "core", "formats", "kit", "sources", "table")
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
# Only in the source. A docstring, a comment or a text is matched as a whole, so `^` is its start.
IN_SOURCE = {
    r"^(?:what|where|which|how|who|those|that|as)\b(?!.*\?)": "a noun or a verb at the start",
    r"(?<!there )\bis no (?!longer|more)": "is not a",
    r"\bno whole\b(?! number)|\b(?:is|proves it|bring .* back) whole\b": "complete",
    r"\bwhere (?:there|none|nothing|nobody|neither|it is not|it has none)\b": "if there is",
    r"(?:, |; |^)else (?!if)": "otherwise",
    r"\bbesides?\b": "next to, or in addition",
    r"\bgo(?:es)? on\b|\bwent on\b": "continue",
    r"\bbroken? off\b": "interrupted",
    r"\bhands? on\b": "pass on",
    r"\btakes? along\b|\btaken along\b": "contain",
    r"\bbears? (?:the|its|a) name\b|\bwho bears?\b": "have the name",
    r"\blies?\b|\blying\b": "is",
    r"\balike\b": "equal or similar",
    r"\bnothing but\b": "only",
    r"\basked for\b": "requested",
    r"\bis said\b|\bsays? (?:so|otherwise)\b|\botherwise than\b": "what is written, and where",
    r"\bknows? (?:no|nothing|none)\b": "does not support",
    r"\bas far as\b|\bas good as none\b|\bafter so long\b|\beach with each\b": "a plain phrase",
    r"\bjson-able\b": "as JSON data",
    r"\b(?:images|bytes|runs|times|lines) a (?:second|sample|hundred)\b": "per second",
    r"\bof the fewest\b": "with the fewest",
    r"\btaken? back to float\b": "converted to float",
    r"\bnever comes\b|\bcomes? up like\b": "a plain verb",
    r"\bmade of (?:now|then)\b|\bby then\b": "a plain phrase",
    r"\bone (?:another|by one and)\b": "each other",
}
PATTERNS = {words: re.compile(rf"\b(?:{words})", re.IGNORECASE) for words in INSTEAD}
SOURCE_PATTERNS = {words: re.compile(words, re.IGNORECASE | re.DOTALL) for words in IN_SOURCE}
EXAMPLES = {
    "What is no faster than float is told.": 2,
    "mend the card's task": 1,
    "it is worth a part of the mean time besides then, as little as suffices": 2,
    "who reads them takes the mean": 1,
    "goes on after a kill": 1,
}


SOURCE_EXAMPLES = (
    "What stops one cell stops no other.",
    "It is no signature.",
    "The version; None where there is none.",
    "A folder of its own beside the graph",
    "A killed run goes on with it.",
    "options that were not asked for",
)


def pages() -> list[Path]:
    """The documents."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [ROOT / name for name in FILES] + sorted(path for path in inside if path.suffix in (".md", ".py"))


def modules() -> list[Path]:
    """The modules of the package that are checked."""
    inside = (PACKAGE.glob("*.py") if folder == "." else (PACKAGE / folder).rglob("*.py") for folder in SOURCES)
    return sorted(path for paths in inside for path in paths)


def problems(text: str, patterns: Mapping[str, re.Pattern[str]], instead: Mapping[str, str]) -> list[str]:
    """The matches of all patterns in a text, each with its replacement."""
    return [
        f"{match.group()!r} in {text[:80]!r}: write {instead[words]!r}"
        for words, pattern in patterns.items()
        for match in pattern.finditer(text)
    ]


def plain(text: str) -> str:
    """A text on one line, without code in backticks."""
    return " ".join(re.sub(r"```.*?```|`[^`]*`", "`code`", text, flags=re.DOTALL).split())


def source_texts(code: str) -> Iterator[str]:
    """The docstrings, comments and texts of several words in Python code."""
    tree = ast.parse(code)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value if node.value.count(" ") > 1 else ""
    yield from comments(code)


def comments(code: str) -> Iterator[str]:
    """The comments in Python code; comments on consecutive lines of their own are one text."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT]
    lines = {token.start[0]: token.string for token in tokens if token.line.strip().startswith("#")}
    yield from (token.string.lstrip("# ") for token in tokens if token.start[0] not in lines)
    for _, group in groupby(enumerate(lines), key=lambda item: item[1] - item[0]):
        yield " ".join(lines[number].lstrip("# ") for _, number in group)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_is_plain(page: Path) -> None:
    """No listed word, outside of blocks of code."""
    assert not problems(plain(page.read_text(encoding="utf-8")), PATTERNS, INSTEAD)


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(PACKAGE)))
def test_source_is_plain(module: Path) -> None:
    """No listed word or pattern in a docstring, a comment or a text."""
    texts = [plain(text) for text in source_texts(module.read_text(encoding="utf-8"))]
    found = [problem for text in texts for problem in problems(text, PATTERNS, INSTEAD)]
    found += [problem for text in texts for problem in problems(text, SOURCE_PATTERNS, IN_SOURCE)]
    assert not found


@pytest.mark.parametrize("sentence", EXAMPLES)
def test_list_finds_the_sentences_that_it_was_made_for(sentence: str) -> None:
    """Each sentence has at least this number of listed words."""
    assert len(problems(sentence, PATTERNS, INSTEAD)) >= EXAMPLES[sentence]


@pytest.mark.parametrize("sentence", SOURCE_EXAMPLES)
def test_source_patterns_find_their_examples(sentence: str) -> None:
    """Each sentence matches a pattern for the source."""
    assert problems(sentence, SOURCE_PATTERNS, IN_SOURCE)
