"""Output thresholds: the threshold of a tensor chosen by the error at the output of the layers that read it.

A clamp after a layer belongs to the layer: errors in values that the clamp cuts off do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sandglass.core.parallel import in_threads
from sandglass.graph.layers import Facts, clamp_bounds
from sandglass.graph.shared_values import carriers
from sandglass.quantization import network_thresholds
from sandglass.quantization.input_rows import weight_matrix
from sandglass.quantization.layer_rounding import round_input
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import clipped_range
from sandglass.quantization.repair_state import RangeState
from sandglass.quantization.repairs import RangeStep

NAME = "output thresholds"
SOURCE = "this project; Wu et al. (2020), EasyQuant, choose scales by a layer's output as well"
CANDIDATES = np.geomspace(1, 0.05, 20)  # thresholds that are compared, as shares of the largest magnitude
ROWS = 1024  # rows of a layer's input over which an error is averaged, about
HOPELESS = 4.0  # ratio to the least error at which the comparison stops: smaller thresholds only clip more


@dataclass(frozen=True)
class Reader:
    """A layer that reads a tensor: its weight, its bias (channels,) if it has one, and rows of its input.

    `rows` are (rows, groups, columns). `bounds` are those of the clamp after it, or infinite if there is none or if the
    layer has other readers too.
    """

    fact: Facts
    weight: np.ndarray
    bias: np.ndarray | None
    rows: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)


class _Output:
    """The output of a reader for some of its rows, and its error when the rows are rounded."""

    def __init__(self, reader: Reader) -> None:
        self.rows = reader.rows[:: max(1, len(reader.rows) // ROWS)]
        # (groups, columns, outputs)
        self.matrix = weight_matrix(reader.weight, reader.fact).astype(np.float32).transpose(0, 2, 1)
        self.bounds = reader.bounds
        if reader.fact.layer.operator == "ConvTranspose":
            self.bounds = (-np.inf, np.inf)  # a row computes one tap of an output, but the sum of the taps is clamped
        self.before = self._output(self.rows)
        if reader.bias is not None and np.isfinite(self.bounds).any():
            self.before += reader.bias.astype(np.float32).reshape(len(self.before), 1, -1)
        self.after = np.clip(self.before, *self.bounds)

    def error(self, candidate: TensorRange, asymmetric: bool) -> float:
        """The mean squared error of the output when the input is rounded within a range.

        The mean error of values inside the range does not count, because bias correction removes it. The mean error of
        clipped values counts.
        """
        # change = rounding error minus its mean within the range, (rows, groups, columns)
        rounded = round_input(self.rows, candidate, asymmetric)
        change = rounded - self.rows - (rounded - np.clip(self.rows, *clipped_range(candidate))).mean(0)
        after = np.clip(self.before + self._output(change), *self.bounds)
        return float(((after - self.after) ** 2).mean())

    def _output(self, rows: np.ndarray) -> np.ndarray:
        # (groups, rows, columns) @ (groups, columns, outputs) = (groups, rows, outputs)
        return np.asarray(rows.transpose(1, 0, 2) @ self.matrix)


def output_threshold(tensor_range: TensorRange, readers: Sequence[Reader], asymmetric: bool) -> TensorRange:
    """The range with the threshold for which the mean squared errors of the outputs of `readers` have the least sum."""
    outputs = [_Output(reader) for reader in readers]
    best, least = tensor_range, float("inf")
    for share in CANDIDATES:
        candidate = replace(tensor_range, threshold=float(share * tensor_range.largest))
        error = sum(output.error(candidate, asymmetric) for output in outputs)
        if error < least:
            best, least = candidate, error
        elif error > HOPELESS * least:
            break
    return best


def output_thresholds(
    ranges: Mapping[str, TensorRange], readers: Mapping[str, Sequence[Reader]], asymmetric: Mapping[str, bool]
) -> dict[str, TensorRange]:
    """`ranges` with new thresholds for the tensors that have `readers`; uses all cores."""

    def choose(name: str) -> TensorRange:
        if not readers.get(name) or ranges[name].threshold == 0:
            return ranges[name]
        return output_threshold(ranges[name], readers[name], asymmetric[name])

    return dict(zip(ranges, in_threads(choose, ranges, "choosing a threshold"), strict=True))


def _readers(state: RangeState, stands: Mapping[str, str]) -> dict[str, list[Reader]]:
    """The layers that read each tensor, or another tensor of its group of equal values (see `carriers`)."""
    readers, bounds, data = defaultdict(list), clamp_bounds(state.model), state.data
    for name, fact in data.facts.items():
        reader = Reader(fact, data.weights[name], data.biases[name], data.rows[name], bounds[name])
        readers[stands[fact.layer.input]].append(reader)
    return dict(readers)


def _output_thresholds(state: RangeState) -> RangeState:
    """The state with thresholds chosen by the layers' outputs.

    For tensors with rare peaks, and for those that a depthwise layer reads, the network's outputs decide.
    """
    stands = carriers(state.model, state.ranges)
    readers = _readers(state, stands)
    state.say("repair: choosing thresholds by the layers' outputs")
    chosen = output_thresholds(state.ranges, readers, state.asymmetric)
    live = {name: entries for name, entries in readers.items() if chosen[name].threshold > 0}
    peaked = [name for name in live if network_thresholds.rare_peaks(live[name][0].rows, chosen[name])]
    flat = [name for name in live if any(entry.fact.depthwise and state.spec.runs(entry.fact) for entry in live[name])]
    if peaked or flat:
        state.say(f"repair: choosing thresholds of {len({*peaked, *flat})} tensors by the network's output")
        chosen = network_thresholds.choose(
            state.graph, chosen, peaked, flat, stands, state.data.facts, state.asymmetric, state.batches
        )
    return state.with_ranges({name: chosen[stands[name]] for name in chosen})


STEPS = (RangeStep(60, _output_thresholds),)  # first, because the other range steps use its thresholds
