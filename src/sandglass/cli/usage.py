"""Usage errors in one line with a fix: what the parser refused, and what it expected."""

from __future__ import annotations

from cyclopts import (
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
)


def explain(error: CycloptsError) -> tuple[str, str]:
    """The message of a usage error, and what to do about it."""
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword}: may be given once", "run the command for each value"
    if isinstance(error, UnknownCommandError) and error.app is not None and error.unused_tokens:
        known = ", ".join(name for name in error.app if not name.startswith("-"))
        return f"unknown command {error.unused_tokens[0]!r}", f"known: {known}"
    return _message(error), f"see `{' '.join(('sandglass', *(error.command_chain or ())))} --help`"


def _message(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        typed = error.keyword or error.argument.tokens
        return f"{error.keyword or error.argument.name} {'needs a value' if typed else 'is missing'}"
    text = " ".join(str(error).split()).removesuffix(".")
    return text[:1].lower() + text[1:]
