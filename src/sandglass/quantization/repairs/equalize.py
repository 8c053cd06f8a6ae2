"""Cross-layer equalization: channels of unlike range are brought together where the network stays exactly the same.

Weights have a scale for each output channel, so that factors do not matter to the layer that makes a tensor; an
activation has one scale for all channels and gains. They do not matter to a depthwise layer that reads it either. For a
dense one even activations mean uneven weights, and the factor goes half of the way (in SmoothQuant, Xiao et al., 2022,
the other half is that of the weights' own range, which makes activations uneven and was worse).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np

from sandglass.graph.layers import Facts
from sandglass.quantization.channel_links import Link
from sandglass.quantization.channel_ranges import ChannelRange
from sandglass.quantization.edits import ScaleChannels
from sandglass.quantization.repair_state import Network, NetworkState
from sandglass.quantization.repairs import NOISE, Comparison, NetworkStep

NAME = "equalize"
SOURCE = "Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction"
BUILDS_ON: tuple[str, ...] = ()
SHARE = 0.5  # of the way to channels of one range, for a dense consumer
MARGIN = 0.5  # of a channel's span: a Clip stays that far above the largest value seen
SMALLEST = 1e-3  # factor, as a part of the largest: a channel that is nearly dead stays so
CLOSE = 1e-6  # magnitude of a channel, the least that factors are computed from


def equalized(state: NetworkState, groups: Sequence[Link]) -> NetworkState:
    """The state after the channels of the tensors in `groups` are brought together, as far as they gain by it."""
    ranges = state.network.channel_ranges
    if not groups or not ranges:
        return state
    state.say(f"repair: evening out the channels of {len(groups)} groups of tensors")
    factors = choose_factors(groups, state.network.facts, ranges, state.offsets)
    return state.with_edit(ScaleChannels(factors)) if factors else state


def choose_factors(
    groups: Sequence[Link],
    known: Mapping[str, Facts],
    ranges: Mapping[str, ChannelRange],
    centered: Container[str] = (),
) -> dict[str, np.ndarray]:
    """What each channel of a tensor is divided by, (channels,) float32 by tensor, for the groups that gain by it.

    `known` are the facts of the layers around; `centered` names the tensors whose ranges lie around 0 later.
    """
    factors: dict[str, np.ndarray] = {}
    for link in groups:
        values = _factors(link, known, ranges, centered)
        if values.min() < 1:
            factors |= dict.fromkeys(link.tensors, values)
    return factors


def _factors(
    link: Link, known: Mapping[str, Facts], ranges: Mapping[str, ChannelRange], centered: Container[str]
) -> np.ndarray:
    """The factors of a group, (channels,), 1 at most."""
    reaches = [_reach(ranges[tensor], tensor in centered) for tensor in link.tensors]
    peak = np.maximum(np.max(reaches, axis=0).astype(np.float64), CLOSE)  # (channels,)
    share = 1.0 if all(known[name].channelwise for name in link.consumers) else SHARE
    factors = np.maximum((peak / peak.max()) ** share, SMALLEST)
    if link.moves_clip:
        # A Clip moves with its channel: to limit / factor, which must stay above high + MARGIN (high - low).
        bounds = [(1 + MARGIN) * entry.high - MARGIN * entry.low for entry in (ranges[name] for name in link.tensors)]
        factors = np.minimum(np.maximum(factors, np.max(bounds, axis=0) / link.limit), 1.0)
    return np.asarray(factors.astype(np.float32))


def _reach(seen: ChannelRange, centered: bool) -> np.ndarray:
    """The largest usual magnitude of each channel, (channels,), in its range or in one of that width around 0."""
    low, high = seen.usual_low, seen.usual_high
    return (high - low) / 2 if centered else np.maximum(-low, high)


def _unlimited(network: Network) -> list[Link]:
    return [link for link in network.links if not link.moves_clip]


def _equalize(state: NetworkState) -> NetworkState:
    return equalized(state, _unlimited(state.network))


COMPARISON = Comparison(NOISE, lambda network: bool(_unlimited(network)))
STEPS = (NetworkStep(30, _equalize),)  # after centring: a centred channel reaches half as far as its range is wide
