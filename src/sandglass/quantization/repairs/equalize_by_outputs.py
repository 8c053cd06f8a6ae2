"""Equalization by outputs: factors of channels chosen by the error at the network's outputs.

All channels of an activation have one scale, and factors decide how much of its range each channel uses. The ranges of
the channels are a poor guide. Near the outputs of a network some channels are 0 nearly everywhere, with rare high
values that locate a peak; others are small and matter more. Here each channel is rounded within ranges of several
widths. The resulting change of the outputs is estimated to first order: the rounding errors are multiplied by the
gradients of random sums of the outputs, and the products are squared. As the estimate is only of first order, and other
images have other peaks, the factors go half of the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from sandglass.core.parallel import in_threads
from sandglass.graph.gradients import with_gradients
from sandglass.graph.io import load_graph
from sandglass.graph.session import GraphSession
from sandglass.graph.shapes import inferred_shapes
from sandglass.graph.shared_values import carriers
from sandglass.graph.work import layer_work, spread
from sandglass.quantization.channel_links import Link
from sandglass.quantization.channel_ranges import ChannelRange, channel_ranges
from sandglass.quantization.edits import ScaleChannels
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import rounded_range
from sandglass.quantization.repair_state import Network, RangeState, read_ranges
from sandglass.quantization.repairs import NOISE, Comparison, RangeStep
from sandglass.quantization.repairs.equalize import NAME as EQUALIZE

NAME = "equalize by outputs"
SOURCE = "this project; gradients of the outputs as in Nagel et al. (2020), Up or Down? Adaptive Rounding"
BUILDS_ON = (EQUALIZE,)
WIDTHS = 2.0 ** np.arange(-2, 1.5, 0.5)  # widths of a range that are compared, as multiples of the current one
PRESENT = int(np.flatnonzero(WIDTHS == 1)[0])  # index of the current width
SHARE = 0.5  # exponent of the best width in the factors: half of the way, on a logarithmic scale
GAIN = 0.9  # share of the current change of the outputs that new factors have to reach
WORK = 2e12  # multiply-accumulates of all gradients together, at most
FEWEST = 16  # inputs for which gradients are computed, at least
PROBES = 3  # random sums of the outputs for each input
BYTES = 1 << 28  # bytes of the tensors and gradients of one input that are in memory at once, at most: 256 MB
TINY = 1e-30  # least change of the outputs by which others are divided


@dataclass(frozen=True)
class Shares:
    """The factors of a link's channels, (channels,) float32 with 1 as the largest, and the growth of its thresholds."""

    factors: np.ndarray
    wider: float


def choose(
    graph: Path,
    links: Sequence[Link],
    ranges: Mapping[str, TensorRange],
    asymmetric: Mapping[str, bool],
    batches: Batches,
) -> dict[str, Shares]:
    """Shares for the links with which the outputs change less, by the name of the link.

    The file `graph` holds the network with these `ranges`. Links with a Clip keep their factors, and so do links with a
    tensor that has no gradient. For a large network gradients are computed for some of the inputs only; on the others
    no value is clipped that is not clipped already.
    """
    links = [link for link in links if not link.moves_clip and all(ranges[name].threshold > 0 for name in link.tensors)]
    names = [name for link in links for name in link.tensors]
    if not names or not batches:
        return {}
    ends = {name: rounded_range(ranges[name], asymmetric[name]) for name in names}
    probed = spread(range(len(batches)), _inputs_to_probe(graph))
    changed = _changes(graph, names, ends, [batches[i] for i in probed])
    rest = [batches[i] for i in sorted({*range(len(batches))} - {*probed})]
    rest_ranges = channel_ranges(graph, names, rest) if rest else {}
    shares = {}
    for link in links:
        if not all(name in changed for name in link.tensors):
            continue
        # The tensors of a group have the same factors: their changes add up, (channels, widths).
        changes = np.sum([changed[name] for name in link.tensors], axis=0)
        for name in rest_ranges.keys() & link.tensors:
            changes[_clips_more(rest_ranges[name], *ends[name])] = np.inf
        if changes.min(axis=1).sum() < GAIN * changes[:, PRESENT].sum():
            widths = WIDTHS[np.argmin(changes, axis=1)] ** SHARE  # (channels,)
            shares[link.tensor] = Shares((widths / widths.max()).astype(np.float32), float(widths.max()))
    return shares


def widened(
    model: onnx.ModelProto,
    links: Sequence[Link],
    shares: Mapping[str, Shares],
    before: Mapping[str, TensorRange],
    after: Mapping[str, TensorRange],
) -> dict[str, TensorRange]:
    """The ranges after channels are divided: those of `after`, which were measured on the divided network.

    The thresholds of tensors that layers read were chosen `before`; they grow with the widest channel of the shares.
    """
    ranges, stands = dict(before), carriers(model, before)
    for link in (link for link in links if link.tensor in shares):
        layer_inputs = {stands[name] for name in link.tensors}
        for name in (name for name in link.members if name in before):
            ranges[name] = after[name]
            if stands[name] in layer_inputs:
                wider = shares[link.tensor].wider * before[name].threshold
                ranges[name] = replace(after[name], threshold=min(wider, after[name].largest))
    return ranges


def _inputs_to_probe(graph: Path) -> int:
    """The number of inputs for gradients that WORK allows, at least FEWEST.

    A run with gradients costs about as much as three runs of the network.
    """
    macs = sum(macs for macs, _ in layer_work(load_graph(graph)).values())
    return max(FEWEST, int(WORK / (3 * PROBES * max(1, macs))))


def _clips_more(channel_range: ChannelRange, low: float, high: float) -> np.ndarray:
    """Whether a channel with this range is clipped more at each width than at present, (channels, widths) bool."""
    ends = np.minimum(WIDTHS, 1)
    above = np.minimum(channel_range.high, high)[:, None] > high * ends  # (channels, widths)
    below = np.maximum(channel_range.low, low)[:, None] < low * ends
    return np.asarray(above | below)


def _changes(
    graph: Path,
    names: Sequence[str],
    ends: Mapping[str, tuple[float, float]],
    batches: Batches,
) -> dict[str, np.ndarray]:
    """The change of the outputs by rounding each channel at each width, (channels, widths), by tensor with a gradient.

    For each batch the changes are divided by the change that all channels together make at present, so that all batches
    have the same weight; the result is the sum over batches.
    """
    model = load_graph(graph)
    shapes = inferred_shapes(model)
    outputs = {value.name: shapes[value.name] for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    known = with_gradients(model, names)
    gradients, weights = known.gradients, known.weights
    if not gradients:
        return {}
    del model, known  # frees their memory: each session has a copy
    sessions = [(part, _session(graph, part, inputs)) for part in _parts(list(gradients), shapes)]

    def changes_of_batch(numbered: tuple[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        seed, batch = numbered
        random = np.random.default_rng(seed)
        feeds = [
            {**batch, **{weights[name]: random.standard_normal(shape, np.float32) for name, shape in outputs.items()}}
            for _ in range(PROBES)
        ]
        changes: dict[str, np.ndarray] = {}
        for part, session in sessions:
            tensors = [{**feed, **session.run(feed)} for feed in feeds]
            for name in part:
                slopes = np.stack([values[gradients[name]] for values in tensors])  # (probes, 1, channels, ...)
                changes[name] = _powers(tensors[0][name], slopes, *ends[name])
        present = sum(powers[:, PRESENT].sum() for powers in changes.values())
        return {name: powers / max(present, TINY) for name, powers in changes.items()}

    by_batch = list(in_threads(changes_of_batch, enumerate(batches), "the gradients of a batch"))
    return {name: np.sum([changes[name] for changes in by_batch], axis=0) for name in gradients}


def _parts(names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """The names in order, in parts whose tensors and gradients take at most BYTES; a larger tensor is a part alone."""
    parts: list[list[str]] = []
    free_bytes = 0.0
    for name in names:
        size = 4.0 * (1 + PROBES) * np.prod(shapes[name])  # bytes in float32
        if not parts or size > free_bytes:
            parts.append([])
            free_bytes = BYTES
        parts[-1].append(name)
        free_bytes -= size
    return parts


def _session(graph: Path, names: Sequence[str], inputs: set[str]) -> GraphSession:
    """A session that returns the tensors in `names` and their gradients; one thread, as many batches run at once."""
    known = with_gradients(load_graph(graph), names)
    outputs = [*(name for name in names if name not in inputs), *known.gradients.values()]
    return GraphSession(known.model, outputs, threads=1)


def _powers(value: np.ndarray, slopes: np.ndarray, low: float, high: float) -> np.ndarray:
    """The power of the change of the outputs by rounding each channel of a tensor, (channels, widths) float64.

    `value` is (1, channels, ...), `slopes` are gradients for it, (probes, 1, channels, ...), and `low` and `high` are
    the ends of its range. Rounding errors of different positions are independent, so that their powers add up. Clipping
    errors of neighbouring positions are not: there the changes add up.
    """
    values = value.reshape(value.shape[1], -1)  # (channels, positions)
    gradients = slopes.reshape(len(slopes), *values.shape)  # (probes, channels, positions)
    # A random sum of the outputs changes by g e for an error e of a value, to first order, where g is its gradient. The
    # mean of (g e)^2 over random sums is the power of the change of all outputs.
    square = np.einsum("kcp,kcp->cp", gradients, gradients) / len(gradients)  # (channels, positions)
    powers = []
    for width in WIDTHS:
        step = np.float32(width * (high - low) / 255)
        inside = np.clip(values, np.float32(width * low), np.float32(width * high))
        rounding = np.rint(inside / step) * step - inside  # (channels, positions)
        # Clipping moves all values of a peak the same way: changes are summed over positions, then squared.
        clipping = np.einsum("kcp,cp->kc", gradients, inside - values)  # (probes, channels)
        powers.append(np.einsum("cp,cp,cp->c", square, rounding, rounding) + (clipping**2).mean(axis=0))
    return np.stack(powers, axis=1).astype(np.float64)


def _equalize_by_outputs(state: RangeState) -> RangeState:
    """The state after channels are divided by their factors, with the ranges and rows of the divided network."""
    links = state.network.links
    if not links or not state.batches:
        return state
    state.say(f"repair: equalizing the channels of {len(links)} groups of tensors by the network's output")
    shares = choose(state.graph, links, state.ranges, state.asymmetric, state.batches)
    if not shares:
        return state
    divided = {link.tensor: link.tensors for link in links if link.tensor in shares}
    factors = {name: shares[link].factors for link, tensors in divided.items() for name in tensors}
    after = read_ranges(state.with_edit(ScaleChannels(factors)))
    return replace(after, ranges=widened(after.model, links, shares, state.ranges, after.ranges))


def _gains(network: Network) -> bool:
    return any(not link.moves_clip for link in network.links)


COMPARISON = Comparison(NOISE, _gains)
STEPS = (RangeStep(70, _equalize_by_outputs),)  # after thresholds, which are the ends of the ranges
