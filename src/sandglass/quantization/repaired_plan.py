"""Repairs before rounding: each can be left out, and all are recorded in the plan.

They know of a target only its Spec: whether activations have a zero point, and how many bits its weights may have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.core.progress import Say
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import clamp_bounds, facts, find_layers, fingerprint
from sandglass.graph.names import Names
from sandglass.graph.shared_values import carriers
from sandglass.quantization import make_plan, network_thresholds
from sandglass.quantization.layer_data import BIAS, COMPENSATE, Material, draw, round_layers
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import Plan, TensorRange
from sandglass.quantization.plan_arrays import Arrays
from sandglass.quantization.qdq import clipped_range, rounded_range
from sandglass.quantization.repairs import (
    center_activations,
    equalize,
    equalize_by_outputs,
    exact_pixels,
    output_thresholds,
    split_channels,
)
from sandglass.quantization.spec import Spec, decide

PIXELS, SPLIT = "exact pixels", "split channels"
EQUALIZE, CLIPS, OUTPUTS = "equalize", "equalize clips", "equalize by outputs"
EVENING = (EQUALIZE, CLIPS, OUTPUTS)
CENTRE, THRESHOLDS = "centre", "output thresholds"
REPAIRS = (PIXELS, SPLIT, *EVENING, CENTRE, THRESHOLDS, COMPENSATE, BIAS)


def choices(graph: Path, spec: Spec, repairs: Sequence[str]) -> list[list[str]]:
    """The repairs without equalization, and with as much of it as changes anything, the surest first."""
    model = load_graph(graph)
    links = _links(model, _integer(model, spec), repairs)
    found = [[name for name in repairs if name not in EVENING]]
    if not all(link.moves_clip for link in links):
        found.append([name for name in repairs if name != CLIPS])
    if any(link.moves_clip for link in links):
        found.append(list(repairs))
    return found


def repaired_plan(
    graph: Path,
    batches: Batches,
    spec: Spec,
    scratch: Path,
    method: str = "mse",
    repairs: Sequence[str] = REPAIRS,
    calibration: dict[str, Any] | None = None,
    say: Say = lambda line: None,
    uneven: Plan | None = None,
) -> tuple[Plan, Material]:
    """A plan for a target with `spec`, and the material to round single layers again.

    Equalization brings channels together as far as `uneven`, a plan made without it, clips them. The equalized graph is
    written into the folder `scratch`. Raises what `make.make_plan` raises.
    """
    model = load_graph(graph)
    layers, mark = find_layers(model), fingerprint(model)
    integer = _integer(model, spec)
    places = center_activations.places(model, integer, spec.pads)
    twice = split_channels.find(model, places.linear) if SPLIT in repairs else ()
    if twice:
        say(f"repair: splitting the channels of {len(twice)} groups of tensors")
        graph = scratch / "split.onnx"
        save_graph(split_channels.split(model, twice), graph)
    if CENTRE not in repairs:
        places = center_activations.Places((), ())
    links = _links(model, integer, repairs)
    ends = _channel_ends(uneven, spec) if uneven else {}
    factors, offsets = _even_out(graph, model, links, places.linear, batches, ends, say)
    exact = exact_pixels.find(model, integer, batches, spec.asymmetric) if PIXELS in repairs else {}
    for name, found in exact.items():
        say(f"repair: {name} is rounded on its own levels")
        factors[name], offsets[name] = found.factors, found.offsets
    evened(model, factors, offsets, integer)
    changed = scratch / "changed.onnx"

    def measured(model: onnx.ModelProto) -> Plan:
        save_graph(model, changed)
        say(f"plan: reading activation ranges from {len(batches)} samples, method {method}")
        plan = make_plan.make_plan(changed, batches, method, calibration)
        plan = replace(plan, graph=mark, layers={n: replace(plan.layers[n], weight=layers[n].weight) for n in layers})
        plan = replace(plan, repairs=tuple(name for name in REPAIRS if name in repairs), split=twice)
        return replace(plan, tensors=plan.tensors | {found.name: found.range for found in exact.values()})

    plan = measured(model)
    drawn = draw(model, changed, plan, spec, batches)
    clamped = () if spec.asymmetric else [name for name in places.clamped if plan.tensors[name].threshold > 0]
    asymmetric = {name: spec.asymmetric or name in clamped for name in plan.tensors}
    if THRESHOLDS in repairs:
        plan = replace(plan, tensors=_output_thresholds(model, changed, plan, drawn, asymmetric, batches, say))
    if OUTPUTS in repairs and links and batches:
        say(f"repair: evening out the channels of {len(links)} groups of tensors by the network's output")
        shares = equalize_by_outputs.choose(changed, links, plan.tensors, asymmetric, batches)
        if shares:
            factors, offsets = equalize_by_outputs.divided(links, shares, factors, offsets)
            model = evened(load_graph(graph), factors, offsets, integer)
            plan = replace(
                plan, tensors=equalize_by_outputs.widened(model, links, shares, plan.tensors, measured(model).tensors)
            )
            drawn = draw(model, changed, plan, spec, batches)
    if clamped:
        say(f"repair: centring {len(clamped)} results of clamps")
        plan, drawn, more = _centred(model, plan, drawn, clamped)
        offsets |= more
    if steps := split_channels.half_steps(model, twice, plan.tensors, spec.asymmetric):
        drawn = drawn.shifted(center_activations.shift(model, steps), steps)
        offsets |= {name: offsets.get(name, np.float32(0)) + values for name, values in steps.items()}
    plan = replace(plan, arrays=Arrays(factors, offsets))
    if COMPENSATE in repairs or BIAS in repairs:
        say(f"repair: rounding the weights of {len(drawn.rows)} layers")
        rounded = round_layers(drawn, plan, {n: plan.layers[n].weight_bits for n in drawn.rows}, repairs)
        plan = replace(plan, arrays=Arrays(factors, offsets, rounded))
    return plan, drawn


def _integer(model: onnx.ModelProto, spec: Spec) -> set[str]:
    """The layers that a target can run in int8."""
    return {name for name, fact in facts(model).items() if spec.runs(fact)}


def _links(model: onnx.ModelProto, integer: set[str], repairs: Sequence[str]) -> list[equalize.Link]:
    """What is equalized: `equalize clips` adds to `equalize`, and is nothing without it."""
    if EQUALIZE not in repairs:
        return []
    found = equalize.gaining(equalize.links(model), model, integer)
    return [link for link in found if CLIPS in repairs or not link.moves_clip]


def _even_out(
    graph: Path,
    model: onnx.ModelProto,
    links: list[equalize.Link],
    linear: Sequence[str],
    batches: Batches,
    ends: Mapping[str, tuple[np.ndarray, np.ndarray]],
    say: Say,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Factors and offsets of channels; the ranges are those of the network in `graph`, which `model` is."""
    tensors = dict.fromkeys([*(tensor for link in links for tensor in link.tensors), *linear])
    found = equalize.channel_ranges(graph, tensors, batches, ends) if tensors and batches else {}
    if not all(np.isfinite([seen.low, seen.high]).all() for seen in found.values()):
        return {}, {}  # whoever reads the ranges names the tensor and the sample
    say(f"repair: evening out the channels of {len(found)} tensors")
    middles = {name: (found[name].low + found[name].high) / 2 for name in linear if name in found}
    peaks = {name: _reach(seen.usual_low, seen.usual_high, name in middles) for name, seen in found.items()}
    factors = equalize.choose_factors(model, links, peaks, found) if found else {}
    shared = {tensor: factors[link.tensor] for link in links if link.tensor in factors for tensor in link.tensors}
    offsets = {name: (values / shared.get(name, 1)).astype(np.float32) for name, values in middles.items()}
    return factors, offsets


def _channel_ends(plan: Plan, spec: Spec) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Where a plan without equalization clips a tensor's channels, in the float network's own values."""
    found = {}
    for name, seen in plan.tensors.items():
        if seen.threshold > 0:
            low, high = rounded_range(seen, spec.asymmetric)
            offset = plan.arrays.offsets.get(name, np.zeros(1, np.float32))
            found[name] = low + offset, high + offset
    return found


def _reach(low: np.ndarray, high: np.ndarray, centred: bool) -> np.ndarray:
    """The largest magnitude within a range, or within one of that width around 0."""
    return (high - low) / 2 if centred else np.maximum(-low, high)


def _output_thresholds(
    model: onnx.ModelProto,
    graph: Path,
    plan: Plan,
    drawn: Material,
    asymmetric: Mapping[str, bool],
    batches: Batches,
    say: Say,
) -> dict[str, TensorRange]:
    """Thresholds by the layers' outputs, some by the network's; what will be centred is as if it had a zero point.

    The file `graph` holds `model`. Tensors of the same values have one, by all layers that read any of them.
    """
    stands = carriers(model, plan.tensors)
    readers, bounds = defaultdict(list), clamp_bounds(model)
    for name, fact in drawn.facts.items():
        seen = drawn.weights[name], drawn.biases[name], drawn.rows[name], bounds[name]
        readers[stands[fact.layer.input]].append(output_thresholds.Reader(fact, *seen))
    say("repair: choosing thresholds by the layers' outputs")
    chosen = output_thresholds.output_thresholds(plan.tensors, readers, asymmetric)
    live = {name: reading for name, reading in readers.items() if chosen[name].threshold > 0}
    peaked = [n for n, reading in live.items() if network_thresholds.rare_peaks(reading[0].rows, chosen[n])]
    flat = [n for n, reading in live.items() if any(r.fact.depthwise and drawn.spec.runs(r.fact) for r in reading)]
    if peaked or flat:
        say(f"repair: choosing thresholds of {len({*peaked, *flat})} tensors by the network's output")
        chosen = network_thresholds.choose(graph, chosen, peaked, flat, stands, drawn.facts, asymmetric, batches)
    return {name: chosen[stands[name]] for name in chosen}


def _centred(
    model: onnx.ModelProto, plan: Plan, drawn: Material, clamped: Sequence[str]
) -> tuple[Plan, Material, dict[str, np.ndarray]]:
    """Plan, material and offsets after the middle of their range is taken off each of `clamped`, in `model` too."""
    ends = {name: clipped_range(plan.tensors[name]) for name in clamped}
    middles = {name: (low + high) / 2 for name, (low, high) in ends.items()}
    offsets = {name: np.array([middle], np.float32) for name, middle in middles.items()}
    material = drawn.shifted(center_activations.shift(model, offsets), offsets)
    tensors = dict(plan.tensors)
    for name, (low, high) in ends.items():
        found, middle = tensors[name], middles[name]
        tensors[name] = TensorRange(found.minimum - middle, found.maximum - middle, (high - low) / 2)
    return replace(plan, tensors=tensors), material, offsets


def repaired(graph: Path, plan: Plan, spec: Spec) -> tuple[onnx.ModelProto, Plan]:
    """A graph with the plan's repairs in it, for the layers that a target with `spec` runs in int8, and their plan."""
    model = load_graph(graph)
    integer = [name for name, reason in decide(plan, spec, model).items() if not reason]
    used = split_channels.needed(plan, model, integer)
    return apply_repairs(model, used, integer), used


def evened(
    model: onnx.ModelProto, factors: Mapping[str, np.ndarray], offsets: Mapping[str, np.ndarray], layers: set[str]
) -> onnx.ModelProto:
    """The same float network with its channels scaled and centred, and bytes for those of `layers` that read pixels.

    The model is changed.
    """
    equalize.scale_channels(model, factors)
    center_activations.shift(model, offsets)
    return exact_pixels.put(model, factors, offsets, layers)


def apply_repairs(model: onnx.ModelProto, plan: Plan, integer: Iterable[str]) -> onnx.ModelProto:
    """The float network whose rounding gives the plan's integers: channels scaled, and for the layers in `integer`
    weights that lie on their grid, and their biases. The model is changed.
    """
    integer = set(integer)
    split_channels.split(model, plan.split)
    evened(model, plan.arrays.factors, plan.arrays.offsets, integer)
    constants = {entry.name: entry for entry in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    known, names = facts(model), Names(model)
    for name in integer:
        if (rounded := plan.arrays.rounded.get(name)) is None:
            continue
        node, shape = nodes[name], [1] * rounded.integers.ndim
        shape[known[name].axis] = -1
        weight = constants[node.input[1]]
        values = rounded.integers.astype(np.float32) * rounded.scales.reshape(shape)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        if len(node.input) > 2 and node.input[2]:
            bias = constants[node.input[2]]
            bias.CopyFrom(numpy_helper.from_array(rounded.bias, bias.name))
        elif node.op_type != "MatMul":
            del node.input[2:]
            node.input.append(names.fresh(f"{name}.correction"))
            model.graph.initializer.append(numpy_helper.from_array(rounded.bias, node.input[2]))
    return model
