"""The starting point of a search: the source for one backend, the calibration inputs, and facts about the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sandglass.artifacts import parity
from sandglass.backends import load_backend
from sandglass.core.errors import InputError
from sandglass.graph.io import load_graph
from sandglass.graph.layers import Facts, facts
from sandglass.graph.work import layer_work
from sandglass.quantization.calibration import Calibration, calibration_looks
from sandglass.quantization.calibration import Look as CalibrationLook
from sandglass.quantization.spec import Spec
from sandglass.sources.source import Source
from sandglass.tasks import Prediction, Task, View, load_task

Arrays = Mapping[str, np.ndarray]  # a network's inputs or outputs by name, batch first


@dataclass(frozen=True)
class Look:
    """One calibration input, (1, 3, H, W) float32 by its name, and the view with which the task decodes its outputs."""

    inputs: Arrays
    view: View


@dataclass(frozen=True)
class SearchInputs:
    """A source for one backend, whose arithmetic is `spec`, with its task.

    Activation ranges are measured on `looks[:range_looks]`; fidelity is checked on all `looks`. `layers` and `macs`
    hold the facts and the multiply-accumulates of each layer. `reference` compares artifacts with the graph. `decodes`
    is false if the task cannot decode the outputs, such as those of a detector with a classifier's card: then there are
    no predictions.
    """

    source: Source
    backend: str
    spec: Spec
    task: Task
    calibration: Calibration
    reference: parity.Reference
    looks: tuple[Look, ...]
    range_looks: int
    layers: Mapping[str, Facts]
    macs: Mapping[str, int]
    decodes: bool = True

    @property
    def batches(self) -> list[Arrays]:
        """The inputs on which activation ranges are measured, by name."""
        return [look.inputs for look in self.looks[: self.range_looks]]

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of the network for one image."""
        return sum(self.macs.values())

    def share(self, integer: Iterable[str]) -> float:
        """Share of the network's multiply-accumulates that belong to the layers in `integer`, 0 to 1."""
        return sum(self.macs.get(name, 0) for name in integer) / max(1, self.total_macs)

    def prediction(self, outputs: Arrays, look: Look) -> Prediction:
        """The task's prediction from the outputs for one look."""
        return self.task.decode(outputs, [look.view], self.source.card)[0]

    def predictions(self, outputs: Sequence[Arrays], looks: Sequence[Look]) -> list[Prediction]:
        """The task's prediction from the outputs for each look; none if the task cannot decode them."""
        if not self.decodes:
            return []
        return [self.prediction(one, look) for one, look in zip(outputs, looks, strict=True)]

    def agreement(self, before: Sequence[Prediction], after: Sequence[Prediction]) -> float:
        """The mean of the task's first measure of fidelity, over predictions for which it is not NaN; or NaN."""
        pairs = zip(before, after, strict=True)
        values = np.array([self.task.agreement(first, second)[self.task.FIDELITY[0]] for first, second in pairs])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def prepare_inputs(source: Source, backend: str, calibration: Calibration) -> SearchInputs:
    """Read the calibration images and the graph.

    Raises InputError for a backend without int8, DatasetError for the calibration set, and GraphError for the graph.
    """
    looks = calibration_looks(source.card, calibration)
    reference = parity.Reference(source, [array for array, _ in looks[0]])
    return search_inputs(source, backend, calibration, looks, reference)


def search_inputs(
    source: Source,
    backend: str,
    calibration: Calibration,
    looks: tuple[Sequence[CalibrationLook], Sequence[CalibrationLook]],
    reference: parity.Reference,
) -> SearchInputs:
    """The inputs from `looks` that are read already (see `calibration_looks`). Raises InputError for no int8."""
    spec = load_backend(backend).SPEC
    if spec is None:
        raise InputError(f"{backend} has no int8 arithmetic", "name another backend")
    for_ranges, others = looks
    name = next(iter(reference.inputs))
    model = load_graph(source.graph)
    return SearchInputs(
        source,
        backend,
        spec.on(source.processor),
        load_task(source.card.task),
        calibration,
        reference,
        tuple(Look({name: array}, view) for array, view in (*for_ranges, *others)),
        len(for_ranges),
        facts(model),
        {layer: macs for layer, (macs, _) in layer_work(model).items()},
    )
