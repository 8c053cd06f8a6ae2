"""python -m tests.fuzz.guided READER: guided by coverage, with atheris (pip install atheris; not a dependency)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["sandglass"]):
    from .mutation import mutated
    from .readers import Reader, readers
    from .runner import MOST_BYTES, MOST_SECONDS, attempt

STARTS = 200  # changed seeds to begin with


def main() -> None:
    """Fuzz one reader in this process, which ends with the first failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N")
    parser.add_argument("--keep", type=Path, default=Path("."), metavar="DIR", help="keep an input that fails there")
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="fuzz-"))
    (folder / "seeds").mkdir()
    (reader,) = (reader for reader in readers(folder / "seeds") if reader.name == options.reader)
    options.keep.mkdir(parents=True, exist_ok=True)
    _guide(reader, options.inputs, folder, options.keep)


def _guide(reader: Reader, inputs: int, folder: Path, keep: Path) -> None:
    path, corpus = folder / reader.name / reader.file, folder / "corpus"
    path.parent.mkdir(parents=True)
    corpus.mkdir()
    starts = [*reader.seeds, *(mutated(reader.kind, reader.seeds, f"guided {i}") for i in range(STARTS))]
    for number, data in enumerate(starts):
        (corpus / str(number)).write_bytes(data)

    def once(data: bytes) -> None:
        path.write_bytes(data)
        _, failure, _ = attempt(reader, path)
        if failure:
            raise AssertionError(failure)

    limits = [f"-runs={inputs}", f"-timeout={MOST_SECONDS * 4:g}", f"-rss_limit_mb={MOST_BYTES >> 20}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, "-max_len=65536", f"-artifact_prefix={keep}/"], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
