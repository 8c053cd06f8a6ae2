"""What a search starts from: the source for one backend, the inputs that it is tried on, and facts about its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sandglass.artifacts import parity
from sandglass.backends import load_backend
from sandglass.core.errors import InputError
from sandglass.core.sizes import Size
from sandglass.graph.io import load_graph
from sandglass.graph.layers import Facts, facts
from sandglass.graph.work import layer_work
from sandglass.quantization.calibration import Calibration, calibration_looks
from sandglass.quantization.spec import Spec
from sandglass.sources.source import Source
from sandglass.tasks import Prediction, Task, View, load_task

Arrays = Mapping[str, np.ndarray]  # a network's inputs or outputs by name, batch first


@dataclass(frozen=True)
class Look:
    """One input, (1, 3, H, W) float32 by its name, and what the task needs to decode the outputs for it."""

    inputs: Arrays
    view: View


@dataclass(frozen=True)
class SearchInputs:
    """A source for one backend, whose arithmetic is `spec`, with its task.

    Activation ranges are read on `looks[:range_looks]`; fidelity has to be kept on all of them. `layers` and `macs`
    hold facts and multiply-accumulates by layer. `reference` compares float artifacts with the graph. `decodes` is
    false if the task cannot decode the outputs, as with a detector that has a classifier's card: no predictions then.
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
        """The inputs that activation ranges are read on."""
        return [look.inputs for look in self.looks[: self.range_looks]]

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of the network for one image."""
        return sum(self.macs.values())

    def share(self, integer: Iterable[str]) -> float:
        """Share of the network's multiply-accumulates that the layers in `integer` have, 0 to 1."""
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
        """The task's first measure of fidelity: the mean over the predictions where it is not NaN; NaN without any."""
        pairs = zip(before, after, strict=True)
        values = np.array([self.task.agreement(first, second)[self.task.FIDELITY[0]] for first, second in pairs])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def prepare_inputs(source: Source, backend: str, calibration: Calibration, shape: Size | None = None) -> SearchInputs:
    """Read the calibration images and the graph.

    Inputs have the card's size, or `shape` (height, width) where the task's inputs may have another. Raises
    DatasetError, GraphError and InputError.
    """
    spec = load_backend(backend).SPEC
    if spec is None:
        raise InputError(f"{backend} has no int8 arithmetic", "name another backend")
    for_ranges, others = calibration_looks(source.card, calibration, shape)
    reference = parity.Reference(source, [array for array, _ in for_ranges])
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
