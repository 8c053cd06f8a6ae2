"""Channels' shares of a tensor's range by what the network's outputs make of rounding each.

All channels of an activation have one scale, and factors decide how much of its range each one gets. Ranges alone tell
little of what is best: where a network ends some channels are nearly all 0 with rare high values that decide where a
peak is, others are small and matter more. Here each channel is rounded, within ranges of several widths, and the
change is followed to the outputs to first order: the square of its product with gradients of random sums of the
outputs. It is followed no further, and other images have other peaks, so that factors go half of the way.
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
WIDTHS = 2.0 ** np.arange(-2, 1.5, 0.5)  # times a channel's range
PRESENT = int(np.flatnonzero(WIDTHS == 1)[0])
SHARE = 0.5  # of the way to the width of the least change
GAIN = 0.9  # of the change with ranges as they are: below, a link's are changed
WORK, FEWEST = 2e12, 16  # multiply-accumulates that gradients may take in all, and inputs that they are taken for
PROBES = 3  # random sums of the outputs, for each input
BYTES = 1 << 28  # of tensors and gradients that are held at once, for one input
TINY = 1e-30


@dataclass(frozen=True)
class Shares:
    """How the channels of a link are divided, (channels,) with 1 as the largest, and how much wider its ranges are."""

    factors: np.ndarray
    wider: float


def choose(
    graph: Path,
    links: Sequence[Link],
    ranges: Mapping[str, TensorRange],
    asymmetric: Mapping[str, bool],
    batches: Batches,
) -> dict[str, Shares]:
    """New shares by the name of a link, for those that gain by it; `graph` holds the network that has the `ranges`.

    Links whose Clips would have to move are left as they are, and those of which a tensor has no gradient. Of inputs
    that no gradients are taken for, where a network is large, no value is clipped that is not clipped already.
    """
    links = [link for link in links if not link.moves_clip and all(ranges[name].threshold > 0 for name in link.tensors)]
    names = [name for link in links for name in link.tensors]
    if not names or not batches:
        return {}
    ends = {name: rounded_range(ranges[name], asymmetric[name]) for name in names}
    probed = spread(range(len(batches)), _inputs_to_probe(graph))
    changed = _changes(graph, names, ends, [batches[i] for i in probed])
    rest = [batches[i] for i in sorted({*range(len(batches))} - {*probed})]
    seen = channel_ranges(graph, names, rest) if rest else {}
    found = {}
    for link in links:
        if not all(name in changed for name in link.tensors):
            continue
        together = np.sum([changed[name] for name in link.tensors], axis=0)
        for name in seen.keys() & link.tensors:
            together[_clipped(seen[name], *ends[name])] = np.inf
        if together.min(axis=1).sum() < GAIN * together[:, PRESENT].sum():
            widths = WIDTHS[np.argmin(together, axis=1)] ** SHARE
            found[link.tensor] = Shares((widths / widths.max()).astype(np.float32), float(widths.max()))
    return found


def widened(
    model: onnx.ModelProto,
    links: Sequence[Link],
    shares: Mapping[str, Shares],
    before: Mapping[str, TensorRange],
    after: Mapping[str, TensorRange],
) -> dict[str, TensorRange]:
    """Ranges after channels were divided: those of `after`, which are read from the divided network.

    Thresholds of tensors that layers read were chosen `before`, and are wider by the factor of the shares.
    """
    ranges, stands = dict(before), carriers(model, before)
    for link in (link for link in links if link.tensor in shares):
        read = {stands[name] for name in link.tensors}
        for name in (name for name in link.members if name in before):
            ranges[name] = seen = after[name]
            if stands[name] in read:
                wider = shares[link.tensor].wider * before[name].threshold
                ranges[name] = replace(seen, threshold=min(wider, seen.largest))
    return ranges


def _inputs_to_probe(graph: Path) -> int:
    """As many as WORK allows, but no fewer than FEWEST: gradients cost about twice what the network does."""
    macs = sum(macs for macs, _ in layer_work(load_graph(graph)).values())
    return max(FEWEST, int(WORK / (3 * PROBES * max(1, macs))))


def _clipped(seen: ChannelRange, low: float, high: float) -> np.ndarray:
    """The widths at which a channel that has been seen loses more than at present, (channels, widths)."""
    ends = np.minimum(WIDTHS, 1)
    return np.asarray(
        (np.minimum(seen.high, high)[:, None] > high * ends) | (np.maximum(seen.low, low)[:, None] < low * ends)
    )


def _changes(
    graph: Path,
    names: Sequence[str],
    ends: Mapping[str, tuple[float, float]],
    batches: Batches,
) -> dict[str, np.ndarray]:
    """For each tensor with a gradient, the share of each channel at each width in the change of all as they are.

    (channels, widths), the sum over batches: each counts alike.
    """
    model = load_graph(graph)
    shapes = inferred_shapes(model)
    outputs = {value.name: shapes[value.name] for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    known = with_gradients(model, names)
    gradients, weights = known.gradients, known.weights
    if not gradients:
        return {}
    del model, known  # each session has a copy of its own
    sessions = [(part, _session(graph, part, inputs)) for part in _parts(list(gradients), shapes)]

    def one(numbered: tuple[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        seed, batch = numbered
        random = np.random.default_rng(seed)
        feeds = [
            {**batch, **{weights[name]: random.standard_normal(shape, np.float32) for name, shape in outputs.items()}}
            for _ in range(PROBES)
        ]
        found: dict[str, np.ndarray] = {}
        for part, session in sessions:
            seen = [{**feed, **session.run(feed)} for feed in feeds]
            for name in part:
                slopes = np.stack([values[gradients[name]] for values in seen])
                found[name] = _powers(seen[0][name], slopes, *ends[name])
        present = sum(powers[:, PRESENT].sum() for powers in found.values())
        return {name: powers / max(present, TINY) for name, powers in found.items()}

    every = list(in_threads(one, enumerate(batches), "the gradients of a batch"))
    return {name: np.sum([found[name] for found in every], axis=0) for name in gradients}


def _parts(names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """The names in order, in lists whose tensors and their gradients take BYTES, or of one that takes more."""
    parts: list[list[str]] = []
    room = 0.0
    for name in names:
        size = 4.0 * (1 + PROBES) * np.prod(shapes[name])
        if not parts or size > room:
            parts.append([])
            room = BYTES
        parts[-1].append(name)
        room -= size
    return parts


def _session(graph: Path, names: Sequence[str], inputs: set[str]) -> GraphSession:
    """The network with the gradients of `names`, and what of them is computed; each of many is run by one thread."""
    known = with_gradients(load_graph(graph), names)
    outputs = [*(name for name in names if name not in inputs), *known.gradients.values()]
    return GraphSession(known.model, outputs, threads=1)


def _powers(value: np.ndarray, slopes: np.ndarray, low: float, high: float) -> np.ndarray:
    """What rounding each channel of a tensor (1, channels, ...) changes at the outputs, (channels, widths) float64.

    `slopes` are gradients of it, (probes, 1, channels, ...), and `low` and `high` the ends of its range. Errors of
    rounding are independent of each other, so that their powers add up; what is clipped is clipped next to it as well.
    """
    seen = value.reshape(value.shape[1], -1)
    steep = slopes.reshape(len(slopes), *seen.shape)
    square = np.einsum("kcp,kcp->cp", steep, steep) / len(steep)
    powers = []
    for width in WIDTHS:
        step = np.float32(width * (high - low) / 255)
        inside = np.clip(seen, np.float32(width * low), np.float32(width * high))
        rounding = np.rint(inside / step) * step - inside
        clipping = np.einsum("kcp,cp->kc", steep, inside - seen)
        powers.append(np.einsum("cp,cp,cp->c", square, rounding, rounding) + (clipping**2).mean(axis=0))
    return np.stack(powers, axis=1).astype(np.float64)


def _equalize_by_outputs(state: RangeState) -> RangeState:
    """The state after channels are divided by their shares, with the ranges and rows of the divided network."""
    links = state.network.links
    if not links or not state.batches:
        return state
    state.say(f"repair: evening out the channels of {len(links)} groups of tensors by the network's output")
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
STEPS = (RangeStep(70, _equalize_by_outputs),)  # after thresholds, which say how wide ranges are
