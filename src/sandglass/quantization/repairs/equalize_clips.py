"""Equalization across Clips: a factor can pass a Clip if the values of the channel stay below its bound.

For a bound c and a factor f <= 1, clip(x / f, 0, c) = clip(x, 0, c f) / f: the channel is clipped at c f and not at c.
Example: a channel has values up to 1 behind a ReLU6. With the factor 0.5 it is clipped at 3. The network changes only
for values above c f, which stays above the largest value of the calibration set by a margin.
"""

from __future__ import annotations

from sandglass.quantization.channel_links import Link
from sandglass.quantization.repair_state import Network, NetworkState
from sandglass.quantization.repairs import UNSEEN, Comparison, NetworkStep
from sandglass.quantization.repairs.equalize import NAME as EQUALIZE
from sandglass.quantization.repairs.equalize import equalized

NAME = "equalize clips"
SOURCE = "Nagel et al. (2019), who replace ReLU6 by ReLU in place of moving its bound"
BUILDS_ON = (EQUALIZE,)


def _limited(network: Network) -> list[Link]:
    return [link for link in network.links if link.moves_clip]


def _equalize_clips(state: NetworkState) -> NetworkState:
    return equalized(state, _limited(state.network))


COMPARISON = Comparison(UNSEEN, lambda network: bool(_limited(network)))
STEPS = (NetworkStep(40, _equalize_clips),)  # after `equalize`, whose groups of tensors are different ones
