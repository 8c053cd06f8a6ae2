"""How long text detection takes outside the network: scoring a data set, and decoding a page, on one core.

    python benchmarks/text_detection.py [--rounds 5]

Scoring: 500 pages with 40 texts each, as many detections near them, and the bootstrap over pages. Decoding: the maps
that a network gives for a page of 736x1280 with 30 words, with noise. All is drawn by a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import cv2
import numpy as np

from sandglass.metrics import hmean
from sandglass.table.markdown import markdown
from sandglass.tasks.text_detection import DECODERS
from sandglass.vision.polygon import AnnotatedText, DetectedText

PAGES, TEXTS = 500, 40
WORDS = 30
SIZE = (736, 1280)


def words(random: np.random.Generator, count: int) -> np.ndarray:
    """Corners (count, 4, 2) of slightly turned words in the cells of a grid, so that they do not touch."""
    columns = 5
    cell = np.array([SIZE[1] / columns, SIZE[0] / -(-count // columns)])
    places = (np.stack(np.divmod(np.arange(count), columns)[::-1], 1) + 0.5) * cell
    half = random.uniform(0.3, 0.45, (count, 1)) * np.minimum(cell, (240, 50))
    corners = half[:, None] * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    angles = random.normal(0, 0.05, count)
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], 1).reshape(-1, 2, 2)
    return corners @ turns + places[:, None]


def scoring() -> Callable[[], object]:
    """Scores a data set."""
    random = np.random.default_rng(0)
    truths: list[list[AnnotatedText]] = []
    found: list[list[DetectedText]] = []
    for _ in range(PAGES):
        corners = words(random, TEXTS)
        seen = corners + random.normal(0, 3, (TEXTS, 4, 2))
        truths.append([(points, bool(random.random() < 0.3)) for points in corners.tolist()])
        found.append([{"points": points, "score": float(random.uniform(0.3, 1))} for points in seen.tolist()])
    return lambda: hmean.score(truths, found)


def decoding(name: str, reduced: int) -> Callable[[], object]:
    """Decodes the maps of a page, a `reduced`th of its size."""
    random, decoder = np.random.default_rng(0), DECODERS[name]()
    size = SIZE[0] // reduced, SIZE[1] // reduced
    texts = [(corners, 0.95) for corners in words(random, WORDS) / reduced]
    maps = decoder.encode(texts, size)
    maps += random.normal(0, 0.05, maps.shape).astype(np.float32)
    found = decoder.decode(maps, (reduced, reduced), SIZE)
    assert len(found) == WORDS
    return lambda: decoder.decode(maps, (reduced, reduced), SIZE)


JOBS = {f"score {PAGES} pages of {TEXTS} texts": scoring} | {
    f"decode {name}": partial(decoding, name, reduced)
    for name, reduced in (("dbnet", 1), ("panet", 4), ("textsnake", 1))
}


def timed(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each run, after one that does not count."""
    run()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    rows = []
    for name, make in JOBS.items():
        seconds = timed(make(), rounds)
        spread = [f"{1000 * value:.1f}" for value in (min(seconds), median(seconds), max(seconds))]
        rows.append(dict(zip(("job", "minimum ms", "median ms", "maximum ms"), (name, *spread), strict=True)))
    print(markdown(rows))


if __name__ == "__main__":
    main()
