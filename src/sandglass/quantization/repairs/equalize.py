"""Cross-layer equalization: channels get similar ranges, while the network computes exactly the same.

An activation has one scale for all channels, so that a channel with a small range uses few integers. Dividing each
channel by a factor makes their ranges more similar. The layer that computes the activation has one scale for each
output channel of its weights: factors do not matter to it. Nor do they matter to a depthwise layer that reads the
activation. A dense layer that reads it has one scale for all input channels: activations with equal ranges give it
weights with unequal ones. Here the factors go half of the way. (SmoothQuant, Xiao et al., 2022, uses the range of the
weights for the other half, which makes activations more unequal and was worse.)

Example: two channels reach 1 and 4, and the weights of a dense layer that reads them reach 1 for both. Divided by the
factors, which are 1 at most, the channels reach 2 and 4, and the weights reach 0.5 and 1: each side has a ratio of 2
where one had 4. For a depthwise layer both channels reach 4.

    >>> peaks = np.array([1.0, 4.0])
    >>> even_factors(peaks, share=0.5), even_factors(peaks, share=1.0)
    (array([0.5, 1. ]), array([0.25, 1.  ]))
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
SHARE = 0.5  # exponent of the factors for a dense reader: half of the way to equal ranges, on a logarithmic scale
MARGIN = 0.5  # share of a channel's range by which the bound of a Clip stays above the largest value
SMALLEST = 1e-3  # least factor: a channel that is nearly 0 stays small
CLOSE = 1e-6  # least magnitude of a channel from which its factor is computed


def equalized(state: NetworkState, groups: Sequence[Link]) -> NetworkState:
    """The state with an edit that gives the channels of the tensors in `groups` similar ranges."""
    ranges = state.network.channel_ranges
    if not groups or not ranges:
        return state
    state.say(f"repair: equalizing the channels of {len(groups)} groups of tensors by their ranges")
    factors = choose_factors(groups, state.network.facts, ranges, state.offsets)
    return state.with_edit(ScaleChannels(factors)) if factors else state


def choose_factors(
    groups: Sequence[Link],
    known: Mapping[str, Facts],
    ranges: Mapping[str, ChannelRange],
    centered: Container[str] = (),
) -> dict[str, np.ndarray]:
    """The factors by which channels are divided, (channels,) float32 by tensor, for groups with a factor below 1.

    `known` holds the facts of the layers around; `centered` names the tensors whose ranges are centered around 0.
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
    """The factors of a group, (channels,) float32, 1 at most."""
    peaks = np.max([_peaks(ranges[tensor], tensor in centered) for tensor in link.tensors], axis=0)  # (channels,)
    share = 1.0 if all(known[name].channelwise for name in link.consumers) else SHARE
    factors = even_factors(np.maximum(peaks.astype(np.float64), CLOSE), share)
    if link.moves_clip:
        # The channel is clipped at limit * factor, which must not be below high + MARGIN (high - low).
        bounds = [(1 + MARGIN) * entry.high - MARGIN * entry.low for entry in (ranges[name] for name in link.tensors)]
        factors = np.minimum(np.maximum(factors, np.max(bounds, axis=0) / link.limit), 1.0)
    return np.asarray(factors.astype(np.float32))


def even_factors(peaks: np.ndarray, share: float) -> np.ndarray:
    """Factors that bring channels with these `peaks`, (channels,), closer to the largest: with the `share` 1 to it."""
    return np.asarray(np.maximum((peaks / peaks.max()) ** share, SMALLEST))


def _peaks(channel_range: ChannelRange, centered: bool) -> np.ndarray:
    """The largest usual magnitude of each channel, (channels,); for a `centered` tensor half the width of its range."""
    low, high = channel_range.usual_low, channel_range.usual_high
    return (high - low) / 2 if centered else np.maximum(-low, high)


def _unlimited(network: Network) -> list[Link]:
    return [link for link in network.links if not link.moves_clip]


def _equalize(state: NetworkState) -> NetworkState:
    return equalized(state, _unlimited(state.network))


COMPARISON = Comparison(NOISE, lambda network: bool(_unlimited(network)))
STEPS = (NetworkStep(30, _equalize),)  # after centering: the peak of a centered channel is half the width of its range
