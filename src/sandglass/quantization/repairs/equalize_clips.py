"""Equalization across Clips: a Clip at a constant lets a factor through where the constant is never reached.

The Clip then moves with the channel, which changes the network only for values that are larger than all that the
calibration set has by more than a margin.
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
STEPS = (NetworkStep(40, _equalize_clips),)  # next to `equalize`, of other groups of tensors
