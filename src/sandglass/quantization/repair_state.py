"""The state on which repairs work: frozen data, of which each step of a repair returns a changed copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from sandglass.core.progress import Say
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import find_layers
from sandglass.quantization import make_plan
from sandglass.quantization.channel_offsets import OffsetTensors
from sandglass.quantization.channel_ranges import ChannelRange, channel_ranges
from sandglass.quantization.edits import Edit, ShiftChannels, add_edit, apply_edits
from sandglass.quantization.layer_data import LayerData, RoundWeights, draw
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import PlannedLayer, TensorRange
from sandglass.quantization.spec import Spec


@dataclass(frozen=True)
class Network:
    """The float network before its channels are shifted, in the file `graph`.

    `integer` holds the layers that the target can run in int8, and `offsets` the tensors that can have offsets.
    """

    graph: Path
    integer: frozenset[str]
    offsets: OffsetTensors
    batches: Batches

    @cached_property
    def channel_ranges(self) -> dict[str, ChannelRange]:
        """The ranges of the tensors that can have an offset for each channel; empty if one of them is not finite.

        In that case `read_ranges` raises an error later, which names the tensor and the sample.
        """
        if not self.offsets.linear or not self.batches:
            return {}
        ranges = channel_ranges(self.graph, self.offsets.linear, self.batches)
        return ranges if all(entry.finite for entry in ranges.values()) else {}


@dataclass(frozen=True, kw_only=True)
class NetworkState:
    """The state before ranges are measured.

    source        the file of the graph that the plan is for
    scratch       a folder for edited graphs
    method        the method that chooses thresholds
    repairs       the names of the chosen repairs
    rounding      the repairs that choose integers, by name
    edits         the edits so far, in normal form
    known_ranges  ranges that follow from an edit and replace the measured ones, by tensor
    centered      tensors whose range a later step centers around 0; until then they count as having a zero point
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
        """The offsets that the edits so far subtract, (channels,) or (1,) float32 by tensor."""
        return next((edit.offsets for edit in self.edits if isinstance(edit, ShiftChannels)), {})

    def with_edit(self, edit: Edit) -> NetworkState:
        """The state with one more edit."""
        return replace(self, edits=add_edit(self.edits, edit))


@dataclass(frozen=True, kw_only=True)
class RangeState(NetworkState):
    """The state after ranges are measured: it adds the edited network, its ranges, and its layers with their data.

    The file `graph` holds the edited network on which the ranges were measured; `model` is that network after all
    `edits` so far.
    """

    graph: Path
    model: onnx.ModelProto
    ranges: dict[str, TensorRange]
    layers: dict[str, PlannedLayer]
    data: LayerData

    @property
    def asymmetric(self) -> dict[str, bool]:
        """For each tensor whether it has a zero point, so that its range need not be symmetric around 0."""
        return {name: self.spec.asymmetric or name in self.centered for name in self.ranges}

    def with_ranges(self, ranges: Mapping[str, TensorRange]) -> RangeState:
        """The state with new ranges for the tensors in `ranges`."""
        return replace(self, ranges={**self.ranges, **ranges})

    def shifted(self, offsets: Mapping[str, np.ndarray]) -> RangeState:
        """The state after `offsets`, (channels,) or (1,) by tensor, are subtracted; its ranges do not change.

        The rows of layers' inputs are shifted by arithmetic, without running the network again.
        """
        edit, model = ShiftChannels(offsets), onnx.ModelProto()
        model.CopyFrom(self.model)
        model = edit.apply(model, self.network.integer)
        return replace(self, edits=add_edit(self.edits, edit), model=model, data=self.data.shifted(model, offsets))


def read_ranges(state: NetworkState) -> RangeState:
    """The state with the ranges of the edited network, measured on the calibration set.

    Raises DatasetError without batches and PlanError for activations that are not finite.
    """
    model, graph = load_graph(state.source), state.scratch / "edited.onnx"
    weights = {name: layer.weight for name, layer in find_layers(model).items()}
    model = apply_edits(model, state.edits, state.network.integer)
    save_graph(model, graph)
    state.say(f"plan: measuring activation ranges on {len(state.batches)} samples, method {state.method}")
    plan = make_plan.make_plan(graph, state.batches, state.method)
    # An edit gives each layer that shares a weight a separate copy; the plan has the names of the original graph.
    layers = {name: replace(plan.layers[name], weight=weight) for name, weight in weights.items()}
    data = draw(model, graph, layers, state.spec, state.batches, state.rounding)
    before = {entry.name: getattr(state, entry.name) for entry in fields(NetworkState)}
    ranges = {**plan.tensors, **state.known_ranges}
    return RangeState(**before, graph=graph, model=model, ranges=ranges, layers=layers, data=data)
