"""Narrow tensors with two copies of each channel, half a step apart: the mean of both copies has one more bit.

A tensor with few channels between wide layers, such as a linear bottleneck of MobileNetV2, costs little time. But its
rounding costs accuracy: all information passes through it, no clamp follows it, and sums pass its noise on. Here each
channel has two copies. The second copy is shifted by half a step, through the biases of the layers that compute it. A
layer that reads the tensor has half of each weight for each copy. The float network computes the same. In integers the
tensor has one more bit, and so have the weights that read it.

Example with the step 1: 0.3 is rounded to 0, an error of 0.3. The copies are 0.3 - 0.25 = 0.05 and 0.3 + 0.25 = 0.55;
they become 0 and 1, and their mean is 0.5, an error of 0.2. The largest error is 0.25 where it was 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import Facts, facts
from sandglass.quantization.channel_links import Link, links, named_links
from sandglass.quantization.edits import SplitChannels
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import activation_scale
from sandglass.quantization.repair_state import NetworkState, RangeState
from sandglass.quantization.repairs import NetworkStep, RangeStep

NAME = "split channels"
SOURCE = "Zhao et al. (2019), Improving Neural Network Quantization without Retraining using Outlier Channel Splitting"
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None
NARROW = 16  # channels of a group, at most: 32 are two vectors of 16, for which layers take hardly longer


def narrow_tensors(model: onnx.ModelProto, linear: Sequence[str]) -> tuple[str, ...]:
    """Names of the groups of tensors to split; `linear` holds the tensors that can have one offset for each channel.

    Only dense convolutions and sums compute and read the tensors of such a group.
    """
    known = facts(model)

    def splits(link: Link) -> bool:
        if known[link.producers[0]].channels > NARROW or not {*link.tensors} <= {*linear}:
            return False
        members = set(link.members)
        nodes = [node for node in model.graph.node if members & {*node.input, *node.output}]
        return all(node.op_type == "Add" or _dense(known.get(node.name)) for node in nodes)

    return tuple(link.tensor for link in links(model) if splits(link))


def half_steps(
    model: onnx.ModelProto, tensors: Sequence[str], ranges: Mapping[str, TensorRange], asymmetric: bool
) -> dict[str, np.ndarray]:
    """Offsets that put the two copies of each channel half a step apart; `model` is split already.

    One copy gets a quarter of a step more and the other a quarter less, so that their mean does not change. The offsets
    are (2 x channels,) float32 by tensor, for the split tensors that layers read and that are not always 0.
    """
    known, offsets = facts(model), {}
    for link in named_links(model, tensors):
        channels = known[link.producers[0]].channels // 2
        for name in (name for name in link.tensors if ranges[name].threshold > 0):
            step, _ = activation_scale(ranges[name], asymmetric)
            # x - step / 4 and x + step / 4 are rounded to the same integer or to neighbours: the error of their mean
            # is at most a quarter of a step, where the error of x alone is at most half a step.
            offsets[name] = np.repeat(step * np.array([-0.25, 0.25], np.float32), channels)
    return offsets


def _dense(fact: Facts | None) -> bool:
    """Whether a node is a convolution without groups."""
    return fact is not None and fact.layer.operator == "Conv" and fact.group == 1


def _split(state: NetworkState) -> NetworkState:
    network = state.network
    model, graph = load_graph(network.graph), state.scratch / "split.onnx"
    tensors = narrow_tensors(model, network.offsets.linear)
    if not tensors:
        return state
    state.say(f"repair: splitting the channels of {len(tensors)} groups of tensors")
    edit = SplitChannels(tensors)
    save_graph(edit.apply(model, network.integer), graph)
    return replace(state.with_edit(edit), network=replace(network, graph=graph))


def _move_apart(state: RangeState) -> RangeState:
    tensors = [name for edit in state.edits if isinstance(edit, SplitChannels) for name in edit.tensors]
    offsets = half_steps(state.model, tensors, state.ranges, state.spec.asymmetric)
    return state.shifted(offsets) if offsets else state


STEPS = (
    NetworkStep(10, _split),  # first: the arrays of all other edits have one entry for each copy
    RangeStep(90, _move_apart),  # last: the steps depend on the final ranges
)
