"""Thresholds chosen by the output of the whole network, for tensors whose next layer is a bad guide.

Rare peaks: a few pixels of a few images may be many times as large as all other values, for example those that a
network computes at a black border. If they are clipped, the output of the next layer changes a lot, but the output of
the network may not change at all, because later clamps cut off the effect.

Flat areas: where an image has no details, a channel has one value, and every pixel there has the same rounding error.
A dense layer averages such errors over its input channels; a depthwise layer does not, and they reach the output. If
the value is a multiple of the step, the error is 0. So two thresholds that differ by 1 % can differ by a factor of ten
in noise.

Each tensor is rounded while all others stay in float. The choice is then valid for any set of layers in int8: if an
earlier layer were rounded too and clipped a peak, the peak would be missed, and that layer may end up in float.
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
from sandglass.quantization.output_noise import Batches, Outputs, run
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import activation_scale, rounded_range

PEAK = 0.25  # share of the largest magnitude above which a value is a peak
RARE = 1e-2  # share of values above PEAK below which peaks are rare
HALVINGS = 5  # halvings of the largest magnitude that are tried: down to 1/32
FINER = 2**0.25  # ratio of neighbouring thresholds in the search around the best power of two
GAIN = 0.9  # share of the current change of the output that a new threshold has to reach
HOPELESS = 1.4  # ratio to the least change at which the halvings stop: smaller ranges only clip more
NEARBY = 0.99 ** np.arange(1, 9)  # factors of a threshold: from one to the next a value of 100 steps moves by one step
NEARER = (0.005, 0.0025)  # relative changes of a threshold, up and down, around the best of NEARBY
MOST_INPUTS = 16  # inputs that are run for each threshold, at most
PARTS = ("low", "high", "step")  # the parameters of a rounding, each an input of the network


def rare_peaks(rows: np.ndarray, current: TensorRange) -> bool:
    """Whether fewer than RARE of the values `rows` of a tensor are above PEAK of its largest magnitude."""
    return float((np.abs(rows) > PEAK * current.largest).mean()) < RARE


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
    """`ranges` with new thresholds for the tensors with which the output of the network then changes less.

    For tensors in `peaked` all thresholds down to 1/32 of the largest magnitude are candidates. For the tensors in
    `flat` with more than an average share of the noise the candidates are close to the current threshold. `layers` are
    those that read rounded values; `stands` gives for each tensor the one that stands for its group of equal values.
    """
    names = list(dict.fromkeys([*peaked, *flat]))
    tested = _with_peaks(graph, peaked, batches)
    expected = run(GraphSession(graph), tested)
    chosen = dict(ranges)
    with TemporaryDirectory() as folder:
        session = _Session(graph, names, stands, set(layers), Path(folder))
        floating = {key: value for name in names for key, value in session.floating(name, ranges[name]).items()}

        def change(name: str, current: TensorRange) -> float:
            # All other tensors get the bounds and steps that leave them in float.
            parameters = floating | session.rounding(name, current, asymmetric[name])
            outputs = in_threads(lambda batch: session.run({**batch, **parameters}), tested, "a batch")
            return _distance(expected, list(outputs))

        for name in peaked:
            chosen[name] = _best_of_all(ranges[name], partial(change, name))
        for name in _loud({name: change(name, chosen[name]) for name in flat}):
            chosen[name] = _best_nearby(chosen[name], partial(change, name))
    return chosen


def _best_of_all(current: TensorRange, change: Callable[[TensorRange], float]) -> TensorRange:
    """The range with the least change: the best power of two, then finer steps below and above it."""
    # The change as a function of the threshold has one valley: the best power of two is on one of its slopes, and
    # steps of FINER lead from there to the bottom.
    best, least = current, GAIN * change(current)
    for share in range(HALVINGS + 1):
        candidate = replace(current, threshold=current.largest / 2**share)
        changed = change(candidate)
        if changed < least:
            best, least = candidate, changed
        elif changed > HOPELESS * least and candidate.threshold < best.threshold:
            break
    if best is current:
        least /= GAIN
    for step in (1 / FINER, FINER):
        while (candidate := _scaled(best, step)) != best and (changed := change(candidate)) < least:
            best, least = candidate, changed
    return best


def _loud(distances: Mapping[str, float]) -> list[str]:
    """The tensors whose noise is the average or more, from the distance by which each moves the outputs."""
    powers = {name: distance**2 for name, distance in distances.items()}
    return [name for name, power in powers.items() if power * len(powers) >= sum(powers.values())]


def _best_nearby(current: TensorRange, change: Callable[[TensorRange], float]) -> TensorRange:
    """The range with the least change among slightly smaller ones, and then among the neighbours of the best."""
    trials = [(change(entry), entry) for entry in (current, *(_scaled(current, factor) for factor in NEARBY))]
    least, best = min(trials, key=itemgetter(0))
    if least >= GAIN * trials[0][0]:
        return current
    for step in NEARER:
        for factor in (1 - step, 1 + step):
            if (changed := change(candidate := _scaled(best, factor))) < least:
                best, least = candidate, changed
                break
    return best


def _scaled(current: TensorRange, factor: float) -> TensorRange:
    """A range with its threshold times `factor`, but no larger than the largest magnitude."""
    return replace(current, threshold=min(factor * current.threshold, current.largest))


def _distance(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """Sum over inputs of the Euclidean distance between the outputs of two runs."""
    # Distances and not their squares: a sum of squares would be decided by the few inputs with the largest changes.
    powers = [
        sum(float(((first[name] - second[name]) ** 2).sum()) for name in first)
        for first, second in zip(expected, actual, strict=True)
    ]
    return float(np.sqrt(powers).sum())


def _with_peaks(graph: Path, names: Sequence[str], batches: Batches) -> Batches:
    """The batches for testing thresholds: for each tensor the one with its highest peak, and others spread evenly."""
    count = inputs_to_try(sum(macs for macs, _ in layer_work(load_graph(graph)).values()), MOST_INPUTS)
    if not names:
        return spread(batches, count)
    session = GraphSession(graph, outputs=[name for name in names if name not in batches[0]] or None)
    tensors = ({**session.run(batch), **batch} for batch in batches)
    highest = [[float(np.abs(values[name]).max()) for name in names] for values in tensors]  # (batches, names)
    peaked = dict.fromkeys(np.argmax(highest, axis=0).tolist())
    return [batches[i] for i in dict.fromkeys([*peaked, *spread(range(len(batches)), count)])][:count]


class _Session:
    """The network with rounding in front of `layers`, for the tensors in `names` and those that they stand for.

    The bounds and the step of each rounding are inputs of the network, so that one session serves all thresholds.
    """

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

    def rounding(self, name: str, current: TensorRange, asymmetric: bool) -> dict[str, np.ndarray]:
        """Inputs that round a tensor within a range."""
        step = float(activation_scale(current, asymmetric)[0])
        return self._parameters(name, *rounded_range(current, asymmetric), step)

    def floating(self, name: str, current: TensorRange) -> dict[str, np.ndarray]:
        """Inputs that leave a tensor in float: no bounds, and steps of the last bit of its largest value."""
        return self._parameters(name, -np.inf, np.inf, current.largest * 2.0**-23)

    def _parameters(self, name: str, *values: float) -> dict[str, np.ndarray]:
        return {part: np.array(value, np.float32) for part, value in zip(self.inputs[name], values, strict=True)}


def _rounding(graph: GraphIndex, name: str, low: str, high: str, step: str) -> list[NodeProto]:
    """Nodes that compute round(clip(x, low, high) / step) * step for a tensor; the last one writes the result."""
    rounded = graph.fresh(f"{name}.rounded")
    clipped, steps, whole = (graph.fresh(f"{rounded}.{part}") for part in ("clipped", "steps", "whole"))
    return [
        helper.make_node("Clip", [name, low, high], [clipped]),
        helper.make_node("Div", [clipped, step], [steps]),
        helper.make_node("Round", [steps], [whole]),
        helper.make_node("Mul", [whole, step], [rounded]),
    ]
