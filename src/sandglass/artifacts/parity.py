"""Every artifact is compared with its graph on the same inputs. One that disagrees is not published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sandglass.artifacts.manifest import Check
from sandglass.backends import Backend, BuildNotes
from sandglass.core import host
from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import GraphError, ParityError, SandglassError
from sandglass.core.sizes import Size, extremes
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.graph.session import GraphSession

SAMPLES = 4
# fp32: other orders of summation and Winograd transforms move a result by some 1e-4 of its largest value.
# int8 is meant to differ; below this correlation the network is broken, not merely quantized.
FLOAT_TOLERANCE = 2e-3
# fp16 rounds every value to 11 bits.
LEAST_CORRELATION = {"fp16": 0.999, "int8": 0.9}


class Reference:
    """The graph's outputs on up to four inputs: calibration samples, or seeded noise where there are none.

    Where the source has shapes, the first input is added, repeated to the size of the most extreme ones. Raises
    GraphError for outputs that are NaN or infinite: nothing could be compared with them.
    """

    def __init__(self, source: Source, samples: Sequence[np.ndarray]) -> None:
        from sandglass.graph.io import load_graph, static_inputs
        from sandglass.graph.session import GraphSession

        self.graph, self.inputs = source.graph, static_inputs(load_graph(source.graph))
        self.processor = source.processor
        self.kind = "calibration samples" if samples else "noise"
        # What is quantized in the file runtimes round at other places: its fp32 artifacts differ as int8 ones do.
        self.least = LEAST_CORRELATION | ({"fp32": LEAST_CORRELATION["int8"]} if source.quantized else {})
        self.floats: dict[tuple[str, Path], SandglassError | None] = {}  # by runtime and graph (see `check_float`)
        self.feeds = [self._feed(sample) for sample in samples[:SAMPLES]] or self._noise()
        self.feeds += [self._repeated(size) for size in extremes(source.shapes)]
        self.shaped = bool(source.shapes)
        # A session that is not needed again does not stay in memory.
        # Integers of a quantized file are added up as it says, not as kernels of this processor do.
        session = self.session if self.shaped else GraphSession(source.graph, optimize=not source.quantized)
        self.expected = [session.run(feed) for feed in self.feeds]
        for number, outputs in enumerate(self.expected):
            if not all(map(_finite, outputs.values())):
                tensor = _first_not_finite(source.graph, self.feeds[number])
                raise GraphError(
                    f"the tensor {tensor} is NaN or infinite on {self.kind}, input {number}",
                    "check the weights and the input",
                )

    def __getstate__(self) -> dict[str, object]:
        """All but the session, which another process opens again if it needs it."""
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    @cached_property
    def session(self) -> GraphSession:
        """The graph with its sides left open."""
        return _free(self.graph)

    def lenient(self) -> Reference:
        """The same for what a search measures by its predictions: int8 may correlate as little as it does."""
        other = copy(self)
        other.least = {**self.least, "int8": -1.0}
        return other

    def check(
        self,
        backend: Backend[BuildNotes],
        folder: Path,
        notes: BuildNotes,
        precision: str,
        size: Size | None = None,
    ) -> Check:
        """Run the artifact in `folder` on the same inputs; raises ParityError when it disagrees (see `compare`).

        An artifact that has only the shape `size` gets the first input, repeated to that size.
        """
        if precision == "int8" and backend.SPEC and not backend.SPEC.exact_on(self.processor).runs_here():
            return Check(f"not compared: made for {self.processor.name}, unlike this processor")
        feeds, expected = self.feeds, self.expected
        if size is not None and self.shaped:
            feeds, expected = [self._repeated(size)], [self.session.run(self._repeated(size))]
        session = backend.open(folder, notes, host.threads())
        results = [session.run(feed) for feed in feeds]
        if not backend.CAPABILITIES.computes:
            return Check("not compared: this backend computes nothing")
        check = compare(expected, results, precision, self.least)
        return msgspec.structs.replace(check, inputs=f"{len(feeds)} {self.kind}")

    def _repeated(self, size: Size) -> dict[str, np.ndarray]:
        return {name: _repeated(array, size) for name, array in self.feeds[0].items()}

    @cached_property
    def wide(self) -> frozenset[str]:
        """Tensors of the graph that half precision cannot hold on these inputs."""
        from sandglass.lowering.half_precision import wide_tensors

        own = [feed for feed in self.feeds if all(feed[name].shape == shape for name, shape in self.inputs.items())]
        return frozenset(wide_tensors(self.graph, own))

    def _feed(self, sample: np.ndarray) -> dict[str, np.ndarray]:
        return {next(iter(self.inputs)): sample}

    def _noise(self) -> list[dict[str, np.ndarray]]:
        generator = np.random.default_rng(0)
        return [
            {name: generator.standard_normal(shape).astype(np.float32) for name, shape in self.inputs.items()}
            for _ in range(SAMPLES)
        ]


def _finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; integers never are."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _first_not_finite(graph: Path, feed: Mapping[str, np.ndarray]) -> str:
    """The first tensor, in the graph's order, that is NaN or infinite on an input on which an output is."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.session import GraphSession

    names = [name for node in load_graph(graph).graph.node for name in node.output if name]
    values = {**feed, **GraphSession(graph, outputs=names).run(feed)}
    return next(name for name in (*feed, *names) if not _finite(values[name]))


def _free(graph: Path) -> GraphSession:
    """A session over a graph with its sides left open."""
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.session import GraphSession
    from sandglass.graph.shapes import free_sides

    with TemporaryDirectory(prefix="sandglass-") as folder:
        free = Path(folder) / "free.onnx"
        free_sides(model := load_graph(graph))
        save_graph(model, free)
        return GraphSession(free)


def _repeated(image: np.ndarray, size: Size) -> np.ndarray:
    """An input (1, 3, h, w), repeated in both directions up to `size`."""
    rows, columns = (np.arange(side) % have for side, have in zip(size, image.shape[2:], strict=True))
    return np.ascontiguousarray(image[:, :, rows[:, None], columns])


def compare(
    expected: Sequence[Mapping[str, np.ndarray]],
    results: Sequence[Mapping[str, np.ndarray]],
    precision: str,
    correlations: Mapping[str, float] = LEAST_CORRELATION,
) -> Check:
    """How an artifact's outputs differ from the graph's on the same inputs; raises ParityError where that is too much.

    An output is compared over all inputs at once: one of them may be nearly 0, as a detector's output is where it
    detects nothing.
    """
    pairs = [
        tuple(np.concatenate([outputs[name].ravel() for outputs in side]) for side in (expected, results))
        for name in expected[0]
    ]
    # numpy's maximum of NaN is NaN; Python's depends on where the NaN stands.
    difference = float(np.max([relative_difference(reference, actual) for reference, actual in pairs]))
    agreement = float(np.min([correlation(reference, actual) for reference, actual in pairs]))
    summary = f"differs from the graph by {difference:.1e} of its largest value, correlation {agreement:.6f}"
    least = correlations.get(precision)
    wrong = difference > FLOAT_TOLERANCE if least is None else agreement < least
    if wrong or not np.isfinite(difference):
        limit = f"{FLOAT_TOLERANCE:g}" if least is None else f"correlation {least:g}"
        raise ParityError(f"the artifact {summary}; allowed is {limit}", "it was not published")
    return Check(summary, relative_difference=difference, correlation=agreement)
