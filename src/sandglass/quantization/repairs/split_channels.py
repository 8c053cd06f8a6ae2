"""Narrow tensors written twice, half a step apart: their mean has a bit more than each of them.

A tensor of few channels between wide layers, as MobileNetV2's linear bottlenecks are, costs next to nothing beside
these. Its rounding costs accuracy: all that the network knows at that place goes through it, nothing clamps it, and
sums carry it on. Here each channel stands in it twice. The second ones are half a step off, by the biases of the layers
that make them, so that both lie differently between integers; layers that read the tensor have half of their weights
for each. In float nothing changes, and in integers the tensor has one bit more, and so have the weights that read it.
Zhao et al. (2019) split outlying channels of weights like this, aware of how halves are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layers import Facts, facts, own_constants
from sandglass.quantization.plan import Plan, TensorRange
from sandglass.quantization.plan_arrays import Arrays, Rounded
from sandglass.quantization.qdq import activation_scale
from sandglass.quantization.repairs.equalize import Link, links

NARROW = 16  # channels, the most: twice as many are two vectors of 16, for which layers take hardly longer


def find(model: onnx.ModelProto, linear: Sequence[str]) -> tuple[str, ...]:
    """Tensors to split, each the first one of a `Link` that layers read; those that can have offsets are `linear`.

    Dense convolutions make and read a link's tensors, and sums, nothing else.
    """
    known = facts(model)

    def splits(link: Link) -> bool:
        if known[link.producers[0]].channels > NARROW or not {*link.tensors} <= {*linear}:
            return False
        members = set(link.members)
        nodes = [node for node in model.graph.node if members & {*node.input, *node.output}]
        return all(node.op_type == "Add" or _dense(known.get(node.name)) for node in nodes)

    return tuple(link.tensor for link in links(model) if splits(link))


def links_of(model: onnx.ModelProto, tensors: Sequence[str]) -> list[Link]:
    """The links that `tensors` stand for."""
    return [link for link in links(model) if link.tensor in tensors] if tensors else []


def split(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The same network with the channels of `tensors`, and of what sums tie to them, twice; the model is changed."""
    chosen = links_of(model, tensors)
    if not chosen:
        return model
    own_constants(model)
    layers, constants = facts(model), {entry.name: entry for entry in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    def change(name: str, value: np.ndarray) -> None:
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    for link in chosen:
        for name in link.producers:
            for constant in (entry for entry in nodes[name].input[1:] if entry):
                value = numpy_helper.to_array(constants[constant])
                change(constant, np.concatenate([value, value]))
        for name in link.consumers:
            weight = numpy_helper.to_array(constants[layers[name].layer.weight])
            change(layers[name].layer.weight, np.concatenate([weight, weight], axis=1) / np.float32(2))
    del model.graph.value_info[:]  # shapes of before
    return model


def half_steps(
    model: onnx.ModelProto, tensors: Sequence[str], ranges: Mapping[str, TensorRange], asymmetric: bool
) -> dict[str, np.ndarray]:
    """Offsets that lay the second half of each channel half a step from the first; `model` is split already.

    By tensor (channels,) float32, for all that layers read of what was split and is not always 0.
    """
    known, found = facts(model), {}
    for link in links_of(model, tensors):
        half = known[link.producers[0]].channels // 2
        for name in (name for name in link.tensors if ranges[name].threshold > 0):
            step, _ = activation_scale(ranges[name], asymmetric)
            found[name] = np.repeat(step * np.array([-0.25, 0.25], np.float32), half)
    return found


def needed(plan: Plan, model: onnx.ModelProto, integer: Sequence[str]) -> Plan:
    """The plan without splits that none of `integer`, the layers in int8, reads: channels are there once again.

    `model` is the graph that the plan is for.
    """
    gone = [link for link in links_of(model, plan.split) if not {*link.consumers} & {*integer}]
    if not gone:
        return plan
    tensors = {name for link in gone for name in link.members}
    makers = {name for link in gone for name in link.producers}
    readers = {name for link in gone for name in link.consumers}
    arrays = plan.arrays
    return replace(
        plan,
        split=tuple(name for name in plan.split if name not in tensors),
        arrays=Arrays(
            {name: _first(value) if name in tensors else value for name, value in arrays.factors.items()},
            {name: _first(value) if name in tensors else value for name, value in arrays.offsets.items()},
            {
                name: Rounded(*map(_first, (entry.integers, entry.scales, entry.bias))) if name in makers else entry
                for name, entry in arrays.rounded.items()
                if name not in readers
            },
        ),
    )


def _dense(fact: Facts | None) -> bool:
    """Whether a node is a convolution of all channels with all."""
    return fact is not None and fact.layer.operator == "Conv" and fact.group == 1


def _first(values: np.ndarray) -> np.ndarray:
    return values[: len(values) // 2]
