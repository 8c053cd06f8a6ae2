"""Two graphs that should compute the same, on random inputs: what is brought up is compared with its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import GraphError, ParityError
from sandglass.graph.io import load_graph
from sandglass.graph.session import GraphSession, ReferenceSession, lacks_kernel
from sandglass.sources.rewrites.float32 import is_float32

TOLERANCE = 1e-4  # of the largest output; folding BatchNorm rounds the weights once
ROUNDINGS, COARSEST = 2, 5e-3
TRIALS = 3
# Least correlation of a float32 network with the file that it was made of: 16-bit floats have 11 or 8 bits of a value;
# integers of 8 bits may differ by more, and below that the network is broken.
LEAST_OF_NARROW, LEAST_OF_QUANTIZED = 0.999, 0.9

Feed = Mapping[str, np.ndarray]
Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def compare(
    before: Path, after: Path, shapes: Mapping[str, tuple[int, ...]], images: int = 1, least: float | None = None
) -> None:
    """Compare two graphs on random inputs; raises ParityError where they differ by too much.

    `after` takes inputs of the `shapes`, and `before` takes `images` of them at once. Too much is a correlation below
    `least`. Without one it is over TOLERANCE of the largest output, and over twice the difference that the original
    shows when only the order of its own arithmetic changes: a few networks round that coarsely, on noise at least.
    """
    random = np.random.default_rng(0)
    feeds = [
        {
            name: (scale * random.standard_normal((images * shape[0], *shape[1:]))).astype(np.float32)
            for name, shape in shapes.items()
        }
        for scale in np.linspace(0.5, 2, TRIALS)
    ]
    pairs = _results(session(before, optimize=least is None), GraphSession(after), feeds, images)
    if least is not None:
        agreement = min(correlation(expected, found) for expected, found in pairs)
        if not agreement >= least:
            raise ParityError(f"{before.name} and its float32 form have a correlation of {agreement:.4f}, expected "
                              f"{least:g}", "report the model")  # fmt: skip
        return
    worst = _largest(pairs)
    if not worst <= TOLERANCE and not worst <= ROUNDINGS * _own_rounding(before, feeds):
        raise ParityError(f"{before.name} changed by {worst:.1e} of its largest value when it was brought up",
                          "report the model")  # fmt: skip


def session(path: Path, optimize: bool = True) -> GraphSession | ReferenceSession:
    """A session over a graph of any element type; raises GraphError for one that is broken."""
    try:
        return GraphSession(path, optimize=optimize)
    except GraphError as error:
        if not lacks_kernel(error) or is_float32(load_graph(path)):
            raise
        return ReferenceSession(path)


def _results(
    first: GraphSession | ReferenceSession, second: GraphSession, feeds: Sequence[Feed], images: int = 1
) -> Pairs:
    """Each output of both graphs on each of the feeds, which the second one gets image by image, float64."""
    pairs = []
    for feed in feeds:
        parts = [second.run(_typed(second, feed, slice(i, None, images))) for i in range(images)]
        for name, expected in first.run(_typed(first, feed, slice(None))).items():
            found = [part[name] for part in parts]
            together = np.concatenate([np.atleast_1d(part) for part in found]) if images > 1 else found[0]
            if together.shape != expected.shape:
                raise ParityError(f"the output {name} has the shape {list(together.shape)}, expected "
                                  f"{list(expected.shape)}", "report the model")  # fmt: skip
            pairs.append((expected.astype(np.float64), together.astype(np.float64)))
    return pairs


def _typed(runner: GraphSession | ReferenceSession, feed: Feed, taken: slice) -> dict[str, np.ndarray]:
    """Some images of a feed in the types that a session reads."""
    return {name: array[taken].astype(runner.input_types.get(name, array.dtype)) for name, array in feed.items()}


def _largest(pairs: Pairs) -> float:
    """The largest relative difference; values that are NaN or infinite in both do not count."""
    worst = [relative_difference(a, b) for a, b in pairs if not np.array_equal(a, b, equal_nan=True)]
    return float(np.max(worst, initial=0.0))  # NaN if one of them is


def _own_rounding(path: Path, feeds: Sequence[Feed]) -> float:
    """Difference of a graph run node by node from the same graph optimized; 0 where its nodes alone do not run."""
    try:
        found = _largest(_results(GraphSession(path), GraphSession(path, optimize=False), feeds))
    except GraphError:
        return 0.0
    return min(found, COARSEST)
