"""Fuzzing guided by coverage, with atheris, which is not a dependency: `pip install atheris`."""

from __future__ import annotations

import sys
from pathlib import Path

from .mutation import mutated
from .readers import Reader
from .runner import MOST_BYTES, MOST_SECONDS, attempt

STARTS = 200  # changed seeds to begin with


def guide(reader: Reader, inputs: int, folder: Path, keep: Path | None) -> int:
    """Fuzz one reader for `inputs` inputs in this process, which ends with the first failure."""
    import atheris

    path = folder / reader.name / reader.file
    corpus = folder / "corpus"
    for place in (path.parent, corpus, keep or corpus):
        place.mkdir(parents=True, exist_ok=True)
    starts = [*reader.seeds, *(mutated(reader.kind, reader.seeds, f"guided {i}") for i in range(STARTS))]
    for number, data in enumerate(starts):
        (corpus / str(number)).write_bytes(data)

    def once(data: bytes) -> None:
        path.write_bytes(data)
        _, failure, _ = attempt(reader, path)
        if failure:
            raise AssertionError(failure)

    atheris.instrument_all()
    limits = [
        f"-runs={inputs}",
        f"-timeout={MOST_SECONDS * 4:g}",
        f"-rss_limit_mb={MOST_BYTES >> 20}",
        "-max_len=65536",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *limits, f"-artifact_prefix={keep or corpus}/"], once)
    atheris.Fuzz()
    return 0
