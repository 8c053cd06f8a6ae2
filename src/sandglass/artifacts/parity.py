"""Parity: each artifact is compared with its graph on the same inputs, and is not published if it differs too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sandglass.artifacts.manifest import Check, OutputCheck
from sandglass.backends import Arrays, Backend, BuildNotes
from sandglass.core import host
from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import GraphError, ParityError, SandglassError
from sandglass.core.sizes import Size, extremes
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.graph.output_parts import OutputPart
    from sandglass.graph.session import GraphSession

SAMPLES = 4  # inputs of the comparison
# Largest relative difference of an fp32 artifact. Another order of summation or a Winograd transform changes an output
# by about 1e-4 of its largest value.
FLOAT_TOLERANCE = 2e-3
# Smallest correlation of an output. fp16 rounds every value to 11 bits.
LEAST_CORRELATION = {"fp16": 0.999}
# Smallest correlation of an fp32 artifact of a quantized file: runtimes round its values at different places.
LEAST_OF_QUANTIZED = 0.9
# Smallest signal-to-noise ratio, in dB, of a part of the outputs. An int8 artifact differs by design. But if the noise
# has a fifth of the power of the outputs (a correlation of 0.9), the network is broken and not only quantized.
LEAST_DECIBELS = {"int8": 7.0}
LENIENT = {"int8": -1000.0}  # dB; every artifact passes
NO_POWER = 1e-12  # smallest divisor, for outputs that are all zero


class Reference:
    """The graph's outputs on up to four inputs: calibration samples, or noise from a fixed seed without them.

    If the source has several input shapes, the first input is added again at the most extreme shapes, tiled to their
    size. Raises GraphError for outputs that are NaN or infinite, because nothing can be compared with them.
    """

    def __init__(self, source: Source, samples: Sequence[np.ndarray]) -> None:
        from sandglass.graph.io import load_graph, static_inputs
        from sandglass.graph.output_parts import output_parts
        from sandglass.graph.session import GraphSession

        self.graph, self.inputs = source.graph, static_inputs(load_graph(source.graph))
        self.processor = source.processor
        self.kind = "calibration samples" if samples else "noise"
        self.least = LEAST_CORRELATION | ({"fp32": LEAST_OF_QUANTIZED} if source.quantized else {})
        self.least_decibels = LEAST_DECIBELS
        self.parts = output_parts(load_graph(source.graph))
        # The error of the float build, None if it succeeded, by backend and graph (see `check_float`).
        self.floats: dict[tuple[str, Path], SandglassError | None] = {}
        self.feeds = [self._feed(sample) for sample in samples[:SAMPLES]] or self._noise()
        self.feeds += [self._repeated(size) for size in extremes(source.shapes)]
        self.shaped = bool(source.shapes)
        # Only `self.session` is kept, for further shapes; the other session is released after these runs. Without
        # optimization, integers of a quantized file are summed as the file defines, not as this processor's kernels do.
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
        """The state without the session; another process opens it again when it needs it."""
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    @cached_property
    def session(self) -> GraphSession:
        """A session of the graph with dynamic height and width."""
        return _free(self.graph)

    def lenient(self) -> Reference:
        """A copy that accepts int8 artifacts with any noise: the search measures them by their predictions."""
        other = copy(self)
        other.least_decibels = LENIENT
        return other

    def check(
        self,
        backend: Backend[BuildNotes],
        folder: Path,
        notes: BuildNotes,
        precision: str,
        size: Size | None = None,
    ) -> Check:
        """Run the artifact in `folder` on the same inputs, and compare the outputs (see `compare`).

        Files for the single shape `size` (height, width) get only the first input, tiled to that size. Raises
        ParityError if the outputs differ too much.
        """
        if precision == "int8" and backend.SPEC and not backend.SPEC.exact_on(self.processor).runs_here():
            return Check(f"not compared: the artifact is for {self.processor.name}, which this processor is not")
        feeds, expected = self.feeds, self.expected
        if size is not None and self.shaped:
            feeds, expected = [self._repeated(size)], [self.session.run(self._repeated(size))]
        session = backend.open(folder, notes, host.threads())
        results = [session.run(feed) for feed in feeds]
        if not backend.CAPABILITIES.computes:
            return Check("not compared: this backend computes nothing")
        check = compare(expected, results, precision, self.parts, self.least, self.least_decibels)
        return msgspec.structs.replace(check, inputs=f"{len(feeds)} {self.kind}")

    def _repeated(self, size: Size) -> dict[str, np.ndarray]:
        return {name: _repeated(array, size) for name, array in self.feeds[0].items()}

    @cached_property
    def wide(self) -> frozenset[str]:
        """Names of the tensors whose values on these inputs are too large for float16."""
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
    """A session of a graph whose inputs have a dynamic height and width."""
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.session import GraphSession
    from sandglass.graph.shapes import free_sides

    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "free.onnx"
        free_sides(model := load_graph(graph))
        save_graph(model, path)
        return GraphSession(path)


def _repeated(image: np.ndarray, size: Size) -> np.ndarray:
    """An input (1, 3, h, w), tiled in both directions and cropped to `size` (height, width)."""
    rows, columns = (np.arange(side) % period for side, period in zip(size, image.shape[2:], strict=True))
    return np.ascontiguousarray(image[:, :, rows[:, None], columns])


def compare(
    expected: Sequence[Arrays],
    results: Sequence[Arrays],
    precision: str,
    parts: Sequence[OutputPart],
    correlations: Mapping[str, float] = LEAST_CORRELATION,
    decibels: Mapping[str, float] = LEAST_DECIBELS,
) -> Check:
    """Compare an artifact's outputs, `results`, with the graph's outputs, `expected`, on the same inputs.

    Both have one dictionary of arrays by output name for each input. Each output is compared over all inputs together,
    because it may be almost 0 on a single input (a detector that detects nothing).

    Raises ParityError if an output is NaN or infinite. For a precision in `decibels`, it is also raised if the
    signal-to-noise ratio of one of the `parts` is below the value there; for a precision in `correlations`, if the
    correlation is below the value there; and for other precisions, if the relative difference is over FLOAT_TOLERANCE.
    """
    pairs = [
        tuple(np.concatenate([outputs[name].ravel() for outputs in side]) for side in (expected, results))
        for name in expected[0]
    ]
    # numpy's maximum of values with a NaN is NaN; the result of Python's depends on the position of the NaN.
    difference = float(np.max([relative_difference(reference, actual) for reference, actual in pairs]))
    agreement = float(np.min([correlation(reference, actual) for reference, actual in pairs]))
    checks = {part.name: _check_part(part, expected, results) for part in parts}
    if precision in decibels:
        name = min(checks, key=lambda name: checks[name].snr_db)
        where = f" in {name}, the lowest of {len(checks)} outputs" if len(checks) > 1 else ""
        summary = (
            f"signal-to-noise ratio {checks[name].snr_db:.1f} dB{where} (worst input "
            f"{checks[name].worst_snr_db:.1f} dB), correlation {agreement:.4f}"
        )
        right, limit = checks[name].snr_db >= decibels[precision], f"at least {decibels[precision]:g} dB"
    else:
        summary = f"relative difference to the graph {difference:.1e}, correlation {agreement:.6f}"
        least = correlations.get(precision)
        right = difference <= FLOAT_TOLERANCE if least is None else agreement >= least
        limit = f"difference at most {FLOAT_TOLERANCE:g}" if least is None else f"correlation at least {least:g}"
    if not right or not np.isfinite(difference):
        raise ParityError(
            f"the artifact's outputs are wrong: {summary}; required: {limit}",
            "the artifact was not published; use another backend or precision",
        )
    return Check(summary, relative_difference=difference, correlation=agreement, outputs=checks)


def _check_part(part: OutputPart, expected: Sequence[Arrays], results: Sequence[Arrays]) -> OutputCheck:
    """The comparison of one part of the outputs over all inputs together, and on the worst input."""
    from sandglass.quantization.output_noise import decibels

    pairs = [(part.values(first), part.values(second)) for first, second in zip(expected, results, strict=True)]
    powers = np.array([(before**2).sum() for before, _ in pairs])  # (inputs,)
    changes = np.array([((after - before) ** 2).sum() for before, after in pairs])
    products = sum(float((before * after).sum()) for before, after in pairs)
    scale = np.sqrt(powers.sum() * sum(float((after**2).sum()) for _, after in pairs))
    cosine = products / scale if scale else float(not changes.any())
    used = powers > 0
    worst = float((changes[used] / powers[used]).max(initial=0.0))
    overall = float(changes.sum()) / max(float(powers.sum()), NO_POWER)
    return OutputCheck(decibels(overall), decibels(worst), float(cosine))
