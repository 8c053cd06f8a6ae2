"""How long text detection takes outside the network: scoring a data set, on one core.

    python benchmarks/text_detection.py [--rounds 5]

Scoring: 500 pages with 40 texts each, as many detections near them, and the bootstrap over pages. Drawn by a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from sandglass.metrics import hmean
from sandglass.report.table import markdown

PAGES, TEXTS = 500, 40
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
    truths: list[list[hmean.Truth]] = []
    found = []
    for _ in range(PAGES):
        corners = words(random, TEXTS)
        seen = corners + random.normal(0, 3, (TEXTS, 4, 2))
        truths.append([(points, bool(random.random() < 0.3)) for points in corners.tolist()])
        found.append([{"points": points, "score": float(random.uniform(0.3, 1))} for points in seen.tolist()])
    return lambda: hmean.score(truths, found)


JOBS = {f"score {PAGES} pages of {TEXTS} texts": scoring}


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
    rows = []
    for name, make in JOBS.items():
        seconds = timed(make(), rounds)
        spread = [f"{1000 * value:.1f}" for value in (min(seconds), median(seconds), max(seconds))]
        rows.append(dict(zip(("job", "minimum ms", "median ms", "maximum ms"), (name, *spread), strict=True)))
    print(markdown(rows))


if __name__ == "__main__":
    main()
