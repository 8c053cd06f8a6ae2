"""python -m tests.fuzz: read changed files with every reader until there were enough; see docs/security.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from .mutation import mutated
from .readers import Reader, readers
from .runner import Result, attempt, fuzz, key

STEP = 2000  # inputs of a reader with a share of 1 before the next reader has its turn
SHOWN = 10  # failures of a reader that are printed at a time


def main() -> int:
    """Run the fuzzer; 1 where there was a failure."""
    options = _parser().parse_args()
    with TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch)
        (folder / "seeds").mkdir()
        found = readers(folder / "seeds")
        chosen = [reader for reader in found if not options.reader or reader.name in options.reader]
        if options.only is not None:
            return _replay(chosen, options.seed, options.only, folder)
        results = _run(chosen, options, folder)
    if options.json:
        options.json.write_text(json.dumps([vars(result) for result in results], indent=1))
    return int(any(result.failures for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=4000, metavar="N", help="in all (default 4000)")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="stop after M minutes")
    parser.add_argument("--reader", action="append", default=[], metavar="NAME", help="of this reader; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other seeds give other inputs (default 0)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="read this input again, with its trace")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep inputs that fail there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return parser


def _run(chosen: list[Reader], options: argparse.Namespace, folder: Path) -> list[Result]:
    """All readers by turns, so that a run that is stopped has been everywhere."""
    shares = sum(reader.share for reader in chosen)
    wanted = {reader.name: round(options.inputs * reader.share / shares) for reader in chosen}
    total = {reader.name: Result(reader.name) for reader in chosen}
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end and any(total[name].inputs < count for name, count in wanted.items()):
        for reader in chosen:
            result = total[reader.name]
            count = min(round(STEP * reader.share), wanted[reader.name] - result.inputs)
            if count > 0 and time.monotonic() < end:
                found = fuzz(reader, count, options.seed, folder, first=result.inputs)
                _add(result, found)
                _tell(result, found, reader, options)
    return list(total.values())


def _add(result: Result, found: Result) -> None:
    result.inputs += found.inputs
    result.outcomes += found.outcomes
    result.failures |= found.failures
    result.slowest, result.largest = max(result.slowest, found.slowest), max(result.largest, found.largest)


def _tell(result: Result, found: Result, reader: Reader, options: argparse.Namespace) -> None:
    print(
        f"{result.reader:12s} {result.inputs:8d} inputs, {result.outcomes['read']:8d} read, "
        f"{result.outcomes['refused']:8d} refused, {len(result.failures):4d} failed, "
        f"slowest {result.slowest:5.2f} s, largest {result.largest >> 20:5d} MiB",
        flush=True,
    )
    for place, (number, failure) in enumerate(found.failures.items()):
        if place < SHOWN:
            print(f"  input {number} of seed {options.seed}: {failure}", flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            data = mutated(reader.kind, reader.seeds, key(reader, options.seed, number))
            (options.keep / f"{reader.name}-{options.seed}-{number}").write_bytes(data)


def _replay(chosen: list[Reader], seed: int, number: int, folder: Path) -> int:
    """Read one input in this process."""
    for reader in chosen:
        path = folder / reader.name / reader.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(reader.kind, reader.seeds, key(reader, seed, number)))
        outcome, failure, seconds = attempt(reader, path)
        print(f"{reader.name}: {outcome} in {seconds:.2f} s {failure}")
        if failure:
            reader.read(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
