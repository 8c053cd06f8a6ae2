"""Thresholds by what rounding does to a layer's output, not to its input.

A clamp behind the layer is part of it: what it cuts off may change as it likes.
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
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None
CANDIDATES = np.geomspace(1, 0.05, 20)  # of the largest magnitude
ROWS = 1024  # of a layer's input that an error is the mean of, about
HOPELESS = 4.0  # times the least error: smaller ranges only clip more


@dataclass(frozen=True)
class Reader:
    """A layer that reads a tensor: its weight, its bias (channels,) if any, and rows of its input.

    `rows` are (rows, groups, columns). `bounds` are those of the clamp that alone follows it, infinite without one.
    """

    fact: Facts
    weight: np.ndarray
    bias: np.ndarray | None
    rows: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)


class _Output:
    """A reader's output for some of its rows, and how far it changes when they are rounded."""

    def __init__(self, reader: Reader) -> None:
        self.rows = reader.rows[:: max(1, len(reader.rows) // ROWS)]
        self.matrix = weight_matrix(reader.weight, reader.fact).astype(np.float32).transpose(0, 2, 1)
        self.bounds = reader.bounds
        if reader.fact.layer.operator == "ConvTranspose":
            self.bounds = (-np.inf, np.inf)  # a row makes one tap of an output, which is clamped as a sum of them
        self.before = self._output(self.rows)
        if reader.bias is not None and np.isfinite(self.bounds).any():
            self.before += reader.bias.astype(np.float32).reshape(len(self.before), 1, -1)
        self.after = np.clip(self.before, *self.bounds)

    def error(self, candidate: TensorRange, asymmetric: bool) -> float:
        """Mean square of the change when the input is rounded within a range.

        The mean change of values inside does not count, because the bias takes it up. That of clipped ones does.
        """
        rounded = round_input(self.rows, candidate, asymmetric)
        change = rounded - self.rows - (rounded - np.clip(self.rows, *clipped_range(candidate))).mean(0)
        after = np.clip(self.before + self._output(change), *self.bounds)
        return float(((after - self.after) ** 2).mean())

    def _output(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows.transpose(1, 0, 2) @ self.matrix)  # (groups, rows, outputs)


def output_threshold(seen: TensorRange, readers: Sequence[Reader], asymmetric: bool) -> TensorRange:
    """The range whose rounding changes the outputs of `readers`, which read the tensor, least, in mean square."""
    outputs = [_Output(reader) for reader in readers]
    best, least = seen, float("inf")
    for share in CANDIDATES:
        candidate = replace(seen, threshold=float(share * seen.largest))
        error = sum(output.error(candidate, asymmetric) for output in outputs)
        if error < least:
            best, least = candidate, error
        elif error > HOPELESS * least:
            break
    return best


def output_thresholds(
    ranges: Mapping[str, TensorRange], readers: Mapping[str, Sequence[Reader]], asymmetric: Mapping[str, bool]
) -> dict[str, TensorRange]:
    """`ranges` with new thresholds for the tensors that have `readers`, on all cores."""

    def chosen(name: str) -> TensorRange:
        seen = ranges[name]
        if not readers.get(name) or seen.threshold == 0:
            return seen
        return output_threshold(seen, readers[name], asymmetric[name])

    return dict(zip(ranges, in_threads(chosen, ranges, "choosing a threshold"), strict=True))


def _readers(state: RangeState, stands: Mapping[str, str]) -> dict[str, list[Reader]]:
    """The layers that read each tensor, or another one of the same values, which it `stands` for."""
    readers, bounds, data = defaultdict(list), clamp_bounds(state.model), state.data
    for name, fact in data.facts.items():
        reader = Reader(fact, data.weights[name], data.biases[name], data.rows[name], bounds[name])
        readers[stands[fact.layer.input]].append(reader)
    return dict(readers)


def _output_thresholds(state: RangeState) -> RangeState:
    """Thresholds by the layers' outputs, and by the network's for tensors with rare peaks or flat areas."""
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


STEPS = (RangeStep(60, _output_thresholds),)  # first of those that know ranges
