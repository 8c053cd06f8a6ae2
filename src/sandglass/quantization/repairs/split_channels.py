"""Narrow tensors written twice, half a step apart: the mean of both has a bit more than each of them.

A tensor of few channels between wide layers, like MobileNetV2's linear bottlenecks, costs little time. Its rounding
costs accuracy: all that the network knows at that place goes through it, no clamp follows, and sums carry its noise on.
Here each channel stands in it twice. The second copy is half a step off, by the biases of the layers that make it, so
that both lie differently between integers; a layer that reads the tensor has half of its weights for each copy. The
float network stays the same, and in integers the tensor has one bit more, and so have the weights that read it.
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
NARROW = 16  # channels, the most: twice as many are two vectors of 16, for which layers take hardly longer


def narrow_tensors(model: onnx.ModelProto, linear: Sequence[str]) -> tuple[str, ...]:
    """Names of the groups of tensors to split; `linear` are the tensors that can have an offset for each channel.

    Only dense convolutions and sums make and read the tensors of such a group.
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
    """Offsets that put the second copy of each channel half a step from the first; `model` is split already.

    A quarter of a step up and down, so that the mean of both copies stays. (2 x channels,) float32 by tensor, for all
    split tensors that layers read and that are not always 0.
    """
    known, offsets = facts(model), {}
    for link in named_links(model, tensors):
        channels = known[link.producers[0]].channels // 2
        for name in (name for name in link.tensors if ranges[name].threshold > 0):
            step, _ = activation_scale(ranges[name], asymmetric)
            offsets[name] = np.repeat(step * np.array([-0.25, 0.25], np.float32), channels)
    return offsets


def _dense(fact: Facts | None) -> bool:
    """Whether a node is a convolution of all channels with all."""
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
    NetworkStep(10, _split),  # first: all others have an array entry for each channel
    RangeStep(90, _move_apart),  # last: half a step follows from the final ranges
)
