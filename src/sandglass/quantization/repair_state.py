"""The state that repairs plan on: frozen data, of which each step of a repair returns a changed copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from sandglass.core.progress import Say
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import Facts, facts, find_layers
from sandglass.quantization import make_plan
from sandglass.quantization.channel_links import Link, gaining, links
from sandglass.quantization.channel_offsets import OffsetTensors
from sandglass.quantization.channel_ranges import ChannelRange, Ends, channel_ranges
from sandglass.quantization.edits import Edit, ShiftChannels, add_edit, apply_edits
from sandglass.quantization.layer_data import LayerData, RoundWeights, draw
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import PlannedLayer, TensorRange
from sandglass.quantization.spec import Spec


@dataclass(frozen=True)
class Network:
    """The float network before channels are scaled or shifted, in the file `graph`.

    `integer` are the layers that the target can run in int8. `offsets` are the tensors that can have offsets. `ends`
    are where a plan without equalization clips tensors.
    """

    graph: Path
    integer: frozenset[str]
    offsets: OffsetTensors
    batches: Batches
    ends: Ends

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """Facts of every layer, by name."""
        return facts(load_graph(self.graph))

    @cached_property
    def links(self) -> list[Link]:
        """The groups of tensors that rounding gains by when their channels are scaled, in the graph's order."""
        model = load_graph(self.graph)
        return gaining(links(model), model, self.integer)

    @cached_property
    def channel_ranges(self) -> dict[str, ChannelRange]:
        """Ranges of the tensors that can be scaled or shifted; none where one of them is not finite.

        In that case reading the ranges of all tensors raises an error that names the tensor and the sample.
        """
        tensors = dict.fromkeys([*(tensor for link in self.links for tensor in link.tensors), *self.offsets.linear])
        if not tensors or not self.batches:
            return {}
        ranges = channel_ranges(self.graph, tensors, self.batches, self.ends)
        return ranges if all(entry.finite for entry in ranges.values()) else {}


@dataclass(frozen=True, kw_only=True)
class NetworkState:
    """What is known before ranges are read.

    `source` is the graph that the plan is for, `scratch` a folder for graphs. `repairs` names the chosen repairs,
    `rounding` holds the ones that choose integers. `edits` are those so far, in normal form. `known_ranges` are ranges
    that follow from an edit, whatever calibration shows. `centered` are tensors whose range a later step centres, so
    that until then they are treated as if they had a zero point.
    """

    source: Path
    scratch: Path
    network: Network
    spec: Spec
    batches: Batches
    method: str
    repairs: tuple[str, ...]
    rounding: Mapping[str, RoundWeights]
    say: Say
    edits: tuple[Edit, ...] = ()
    known_ranges: Mapping[str, TensorRange] = field(default_factory=dict)
    centered: tuple[str, ...] = ()

    @property
    def offsets(self) -> Mapping[str, np.ndarray]:
        """Offsets that the edits so far take off, by tensor."""
        return next((edit.offsets for edit in self.edits if isinstance(edit, ShiftChannels)), {})

    def with_edit(self, edit: Edit) -> NetworkState:
        """The state with one more edit."""
        return replace(self, edits=add_edit(self.edits, edit))


@dataclass(frozen=True, kw_only=True)
class RangeState(NetworkState):
    """What is known once ranges are read: also the edited network, its ranges and layers, and data of its layers.

    The file `graph` holds the edited network as it was when its ranges were read; `model` is that network after all
    `edits` so far.
    """

    graph: Path
    model: onnx.ModelProto
    ranges: dict[str, TensorRange]
    layers: dict[str, PlannedLayer]
    data: LayerData

    @property
    def asymmetric(self) -> dict[str, bool]:
        """For each tensor whether its range need not lie around 0."""
        return {name: self.spec.asymmetric or name in self.centered for name in self.ranges}

    def with_ranges(self, ranges: Mapping[str, TensorRange]) -> RangeState:
        """The state with other ranges for the tensors in `ranges`."""
        return replace(self, ranges={**self.ranges, **ranges})

    def shifted(self, offsets: Mapping[str, np.ndarray]) -> RangeState:
        """The state after `offsets`, (channels,) or (1,) by tensor, are taken off; its ranges are as before.

        Rows of layers' inputs follow by arithmetic: no image is run again.
        """
        edit, model = ShiftChannels(offsets), onnx.ModelProto()
        model.CopyFrom(self.model)
        model = edit.apply(model, self.network.integer)
        return replace(self, edits=add_edit(self.edits, edit), model=model, data=self.data.shifted(model, offsets))


def read_ranges(state: NetworkState) -> RangeState:
    """The state with the ranges of the network after its edits, read from the calibration set.

    Raises DatasetError without batches, PlanError for activations that are not finite.
    """
    model, graph = load_graph(state.source), state.scratch / "edited.onnx"
    weights = {name: layer.weight for name, layer in find_layers(model).items()}
    model = apply_edits(model, state.edits, state.network.integer)
    save_graph(model, graph)
    state.say(f"plan: reading activation ranges from {len(state.batches)} samples, method {state.method}")
    plan = make_plan.make_plan(graph, state.batches, state.method)
    layers = {name: replace(plan.layers[name], weight=weight) for name, weight in weights.items()}
    data = draw(model, graph, layers, state.spec, state.batches, state.rounding)
    before = {entry.name: getattr(state, entry.name) for entry in fields(NetworkState)}
    ranges = {**plan.tensors, **state.known_ranges}
    return RangeState(**before, graph=graph, model=model, ranges=ranges, layers=layers, data=data)
