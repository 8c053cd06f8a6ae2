"""Thresholds by what the whole network makes of rounding a tensor, where a layer's own output does not tell.

Rare peaks: a few pixels of a few images may be many times as large as all else, what a network makes of a black border,
say. The layer that reads them changes a lot when they are clipped, and the network perhaps not at all, because later
clamps cut off what they lead to.

Flat areas: where an image has no details a channel has one value, and all over the area the same error of rounding. A
dense layer averages over channels, what a depthwise one makes of it goes on through the network. A step that the value
is a multiple of has no such error: of thresholds that are alike in all else one may make a tenth of the noise.

Each tensor is rounded alone, which is right whichever layers end up in int8: a peak that is clipped because an earlier
layer clips it anyway would be missed where that layer is in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import NodeProto, TensorProto, helper

from sandglass.core.parallel import in_threads
from sandglass.graph.index import GraphIndex
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, layer_work, spread
from sandglass.quantization.output_noise import Batches, Outputs, changes, run
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import activation_scale, rounded_range

PEAK = 0.25  # of the largest magnitude; few values of a tensor with rare peaks are above it
RARE = 1e-2
HALVINGS = 5
FINER = 2**0.25  # times: from the best half, quarter or eighth to the best threshold
GAIN = 0.9  # of the change with the threshold that is there: below, another is taken
HOPELESS = 1.4  # times the least change: smaller ranges only clip more
NEARBY = 0.99 ** np.arange(1, 9)  # of a threshold: values of a hundred steps move by one from each to the next
NEARER = (0.005, 0.0025)  # times a threshold, up and down
MOST_INPUTS = 16  # that are run for each threshold
PARTS = ("low", "high", "step")


def rare_peaks(rows: np.ndarray, found: TensorRange) -> bool:
    """Whether hardly any of some values of a tensor come near its largest magnitude."""
    return float((np.abs(rows) > PEAK * found.largest).mean()) < RARE


def choose(
    graph: Path,
    ranges: Mapping[str, TensorRange],
    peaked: Sequence[str],
    flat: Sequence[str],
    stands: Mapping[str, str],
    layers: Iterable[str],
    asymmetric: Mapping[str, bool],
    batches: Batches,
) -> dict[str, TensorRange]:
    """`ranges` with other thresholds where the network's output changes less with them.

    Any are tried for the tensors in `peaked`, then those next to the one that is there for the loud ones in `flat`.
    `layers` are those that read them rounded, or a tensor of the same values, which one of them `stands` for.
    """
    names = list(dict.fromkeys([*peaked, *flat]))
    used = _with_peaks(graph, peaked, batches)
    expected = run(GraphSession(graph), used)
    chosen = dict(ranges)
    with TemporaryDirectory() as folder:
        session = _Session(graph, names, stands, set(layers), Path(folder))
        floating = {key: value for name in names for key, value in session.floating(name, ranges[name]).items()}

        def change(name: str, found: TensorRange) -> float:
            fed = floating | session.rounding(name, found, asymmetric[name])
            return _moved(expected, list(in_threads(lambda batch: session.run({**batch, **fed}), used, "a batch")))

        for name in peaked:
            chosen[name] = _any(ranges[name], partial(change, name))
        for name in _loud({name: change(name, chosen[name]) for name in flat}):
            chosen[name] = _nearby(chosen[name], partial(change, name))
    return chosen


def _any(found: TensorRange, change: Callable[[TensorRange], float]) -> TensorRange:
    """The range of the least change: by halves of the largest magnitude, then step by step below and above."""
    best, least = found, GAIN * change(found)
    for share in range(HALVINGS + 1):
        candidate = replace(found, threshold=found.largest / 2**share)
        changed = change(candidate)
        if changed < least:
            best, least = candidate, changed
        elif changed > HOPELESS * least and candidate.threshold < best.threshold:
            break
    if best is found:
        least /= GAIN
    for step in (1 / FINER, FINER):
        while (candidate := _scaled(best, step)) != best and (changed := change(candidate)) < least:
            best, least = candidate, changed
    return best


def _loud(moved: Mapping[str, float]) -> list[str]:
    """The tensors that make more than an even share of the noise of all, by how far each moves the outputs."""
    powers = {name: distance**2 for name, distance in moved.items()}
    return [name for name, power in powers.items() if power * len(powers) >= sum(powers.values())]


def _nearby(found: TensorRange, change: Callable[[TensorRange], float]) -> TensorRange:
    """The range of the least change among those that are a little smaller, and then next to the best of them."""
    tried = [(change(entry), entry) for entry in (found, *(_scaled(found, factor) for factor in NEARBY))]
    least, best = min(tried, key=itemgetter(0))
    if least >= GAIN * tried[0][0]:
        return found
    for step in NEARER:
        for factor in (1 - step, 1 + step):
            if (changed := change(candidate := _scaled(best, factor))) < least:
                best, least = candidate, changed
                break
    return best


def _scaled(found: TensorRange, factor: float) -> TensorRange:
    """A range with another threshold, which is not above the largest magnitude."""
    return replace(found, threshold=min(factor * found.threshold, found.largest))


def _moved(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Sum over inputs of the distance between the outputs before and after."""
    return float(np.sqrt(changes(expected, found)).sum())


def _with_peaks(graph: Path, names: Sequence[str], batches: Batches) -> Batches:
    """The batches to try thresholds on: for each tensor the one with its highest peak, and others spread over all."""
    count = inputs_to_try(sum(macs for macs, _ in layer_work(load_graph(graph)).values()), MOST_INPUTS)
    if not names:
        return spread(batches, count)
    session = GraphSession(graph, outputs=[name for name in names if name not in batches[0]] or None)
    seen = ({**session.run(batch), **batch} for batch in batches)
    highest = [[float(np.abs(values[name]).max()) for name in names] for values in seen]
    peaked = dict.fromkeys(np.argmax(highest, axis=0).tolist())
    return [batches[i] for i in dict.fromkeys([*peaked, *spread(range(len(batches)), count)])][:count]


class _Session:
    """The network with `names` and what they stand for rounded for `layers`, by bounds and steps that are inputs."""

    def __init__(
        self, graph: Path, names: Sequence[str], stands: Mapping[str, str], layers: set[str], folder: Path
    ) -> None:
        model = load_graph(graph)
        with GraphIndex(model) as index:
            self.inputs = {name: [index.fresh(f"{name}.{part}") for part in PARTS] for name in names}
            for part in (part for parts in self.inputs.values() for part in parts):
                model.graph.input.append(helper.make_tensor_value_info(part, TensorProto.FLOAT, []))
            for name, standing in stands.items():
                if standing in names:
                    readers = [node for node in index.consumers(name) if node.name in layers and node.input[0] == name]
                    rounding = _rounding(index, name, *self.inputs[standing])
                    index.insert_after(index.producer(name), rounding)
                    for node in readers:
                        index.set_input(node, 0, rounding[-1].output[0])
        save_graph(model, folder / "rounded.onnx")
        # Each of many inputs is run by a thread of its own.
        self.session = GraphSession(folder / "rounded.onnx", threads=1)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return self.session.run(inputs)

    def rounding(self, name: str, found: TensorRange, asymmetric: bool) -> dict[str, np.ndarray]:
        """Inputs that round a tensor within a range."""
        return self._fed(name, *rounded_range(found, asymmetric), float(activation_scale(found, asymmetric)[0]))

    def floating(self, name: str, found: TensorRange) -> dict[str, np.ndarray]:
        """Inputs that leave a tensor in float: no end, and steps that a float of that size hardly sees."""
        return self._fed(name, -np.inf, np.inf, found.largest * 2.0**-23)

    def _fed(self, name: str, *values: float) -> dict[str, np.ndarray]:
        return {part: np.array(value, np.float32) for part, value in zip(self.inputs[name], values, strict=True)}


def _rounding(graph: GraphIndex, name: str, low: str, high: str, step: str) -> list[NodeProto]:
    """Nodes that put a tensor within bounds and in steps; the last one makes the result."""
    made = graph.fresh(f"{name}.rounded")
    clipped, steps, whole = (graph.fresh(f"{made}.{part}") for part in ("clipped", "steps", "whole"))
    return [
        helper.make_node("Clip", [name, low, high], [clipped]),
        helper.make_node("Div", [clipped, step], [steps]),
        helper.make_node("Round", [steps], [whole]),
        helper.make_node("Mul", [whole, step], [made]),
    ]
