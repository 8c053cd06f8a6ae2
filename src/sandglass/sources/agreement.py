"""Compare two graphs on random inputs: the graph that Sandglass works on must compute the same as its source file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import GraphError, ParityError
from sandglass.graph.io import load_graph
from sandglass.graph.session import GraphSession, ReferenceSession, lacks_kernel
from sandglass.sources.rewrites.float32 import is_float32

TOLERANCE = 1e-4  # relative difference; folding BatchNorm rounds the weights once
# For a source that itself rounds coarsely: this multiple of its own rounding, which counts up to COARSEST.
ROUNDINGS, COARSEST = 2, 5e-3
TRIALS = 3  # random inputs
# Smallest correlation of a float32 network with its source file. 16-bit floats keep 11 or 8 bits of a value. 8-bit
# integers may differ by more; below this value the network is broken.
LEAST_OF_NARROW, LEAST_OF_QUANTIZED = 0.999, 0.9

Feed = Mapping[str, np.ndarray]
Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def compare(
    before: Path, after: Path, shapes: Mapping[str, tuple[int, ...]], images: int = 1, least: float | None = None
) -> None:
    """Compare two graphs on random inputs. Raises ParityError if they differ too much.

    `shapes` are the inputs of `after` by name; `before` takes a batch of `images` of them. With `least`, the smallest
    allowed correlation, the graphs differ too much if an output correlates less. Without it, they differ too much if
    the relative difference is over TOLERANCE and over ROUNDINGS times the difference between `before` and itself with
    another order of arithmetic. The latter is for the few networks that round coarsely on noise.
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
        agreement = min(correlation(expected, actual) for expected, actual in pairs)
        if not agreement >= least:
            raise ParityError(f"{before.name} and its float32 form have a correlation of {agreement:.4f}, expected at "
                              f"least {least:g}", "report the model")  # fmt: skip
        return
    worst = _largest(pairs)
    if not worst <= TOLERANCE and not worst <= ROUNDINGS * _own_rounding(before, feeds):
        raise ParityError(f"{before.name} changed by a relative difference of {worst:.1e} in its conversion",
                          "report the model")  # fmt: skip


def session(path: Path, optimize: bool = True) -> GraphSession | ReferenceSession:
    """A session of a graph of any element type. Raises GraphError for a damaged graph."""
    try:
        return GraphSession(path, optimize=optimize)
    except GraphError as error:
        if not lacks_kernel(error) or is_float32(load_graph(path)):
            raise
        return ReferenceSession(path)


def _results(
    first: GraphSession | ReferenceSession, second: GraphSession, feeds: Sequence[Feed], images: int = 1
) -> Pairs:
    """Pairs of each output of both graphs for each feed, float64. The second graph gets a feed image by image."""
    pairs = []
    for feed in feeds:
        parts = [second.run(_typed(second, feed, slice(i, None, images))) for i in range(images)]
        for name, expected in first.run(_typed(first, feed, slice(None))).items():
            outputs = [part[name] for part in parts]
            actual = np.concatenate([np.atleast_1d(output) for output in outputs]) if images > 1 else outputs[0]
            if actual.shape != expected.shape:
                raise ParityError(f"the output {name} has the shape {list(actual.shape)}, expected "
                                  f"{list(expected.shape)}", "report the model")  # fmt: skip
            pairs.append((expected.astype(np.float64), actual.astype(np.float64)))
    return pairs


def _typed(runner: GraphSession | ReferenceSession, feed: Feed, rows: slice) -> dict[str, np.ndarray]:
    """Some images of a feed in the element types of a session's inputs."""
    return {name: array[rows].astype(runner.input_types.get(name, array.dtype)) for name, array in feed.items()}


def _largest(pairs: Pairs) -> float:
    """The largest relative difference. Outputs that are equal count as 0, even with NaN or infinite values."""
    worst = [relative_difference(a, b) for a, b in pairs if not np.array_equal(a, b, equal_nan=True)]
    return float(np.max(worst, initial=0.0))  # NaN if one of them is


def _own_rounding(path: Path, feeds: Sequence[Feed]) -> float:
    """The relative difference between a graph with and without optimization; 0 if it does not run without."""
    try:
        rounding = _largest(_results(GraphSession(path), GraphSession(path, optimize=False), feeds))
    except GraphError:
        return 0.0
    return min(rounding, COARSEST)
