"""The seam of tasks: one file is what inputs and outputs of a network mean. A task never imports a backend.

Each file is a `TaskModule`. Its samples, what it keeps of them for decoding, and its predictions have types of its own,
which mypy checks within the file (tests/unit/test_seams.py asks for that). `load_task` returns it as a `Task`, which
forgets these types: who runs a task knows of them only what every task has, and gives back to it what came from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypedDict, TypeVar, cast

import numpy as np

from sandglass import datasets
from sandglass.core import discover
from sandglass.core.errors import DatasetError
from sandglass.core.image_ids import Id
from sandglass.core.sizes import Size
from sandglass.datasets import Conditions, Dataset
from sandglass.metrics import Change, Metric
from sandglass.sources.card import Card
from sandglass.vision.affine import Box
from sandglass.vision.coco_format import CocoResult

Outputs = Mapping[str, np.ndarray]  # of a graph by name, batch first
Extent = tuple[float, float]  # height and width of an image or a box, in pixels
DecodeField = type | tuple[object, ...]  # a field of `[decode]`: its type, or its values with the default first


class Sample(Protocol):
    """What a network looks at once: an image, or the region `box` of it (x, y, width, height in pixels)."""

    @property
    def index(self) -> int:
        """Its place in the list of samples."""
        ...

    @property
    def image_id(self) -> Id: ...

    @property
    def box(self) -> Box | None: ...


class View(TypedDict):
    """What `decode` needs to know of a sample; tasks add fields."""

    image_id: Id


class Prediction(TypedDict):
    """What was predicted for a sample, JSON-able; tasks add fields."""

    image_id: Id


DatasetT = TypeVar("DatasetT", bound=Dataset)
SampleT = TypeVar("SampleT", bound=Sample)
ViewT = TypeVar("ViewT", bound=View)
PredictionT = TypeVar("PredictionT", bound=Prediction)


@dataclass(frozen=True)
class Variants(Generic[SampleT]):
    """Other looks at the same sample, for tasks whose samples are parts of images.

    `wider(sample)` has more around it, which may reach beyond the image: repairs see each sample both ways.
    `smaller(image, sample)` is the same in an image of fewer pixels, and that image: fidelity is to be kept there too.
    """

    wider: Callable[[SampleT], SampleT]
    smaller: Callable[[np.ndarray, SampleT], tuple[np.ndarray, SampleT]]


@dataclass(frozen=True)
class Shapes(Generic[SampleT, ViewT]):
    """Input shapes that follow the size of the image.

    The sides of such inputs are multiples of `multiple`. `needed(extent, card)` is the smallest input for an image, or
    the `box` of a sample, of the height and width `extent`. `prepare(image, sample, card, shape)` is the task's
    `prepare` for an input of that shape: one larger than needed changes only what is around the image.
    """

    multiple: int
    needed: Callable[[Extent, Card], Size]
    prepare: Callable[[np.ndarray, SampleT, Card, Size], tuple[np.ndarray, ViewT]]


class TaskModule(Protocol[DatasetT, SampleT, ViewT, PredictionT]):
    """What a file in this folder defines."""

    @property
    def METRICS(self) -> tuple[str, ...]:
        """Names of its metrics, the one that decides first."""
        ...

    @property
    def READS(self) -> type[DatasetT]:
        """The kind of datasets that it reads samples and truths from."""
        ...

    @property
    def DATASET(self) -> str:
        """Name of a dataset of its kind that needs no files."""
        ...

    @property
    def DECODE(self) -> Mapping[str, DecodeField]:
        """The fields of a card's `[decode]` by name; every field has a default.

        `flip_test` says whether evaluations average with the mirrored image where nothing else is asked for.
        """
        ...

    @property
    def PROTOCOL(self) -> Conditions:
        """What a result says of its conditions in place of what the dataset says."""
        ...

    @property
    def FIDELITY(self) -> tuple[str, ...]:
        """Names of the measures of agreement, the one that decides first: 1 for equal predictions."""
        ...

    @property
    def LEAST_FIDELITY(self) -> float:
        """What a search for int8 layers keeps of the first of them, where nothing else is asked for."""
        ...

    @property
    def VARIANTS(self) -> Variants[SampleT] | None:
        """Other looks at a sample; None where samples are whole images."""
        ...

    @property
    def SHAPES(self) -> Shapes[SampleT, ViewT] | None:
        """How inputs follow the size of the image; None where they have one size."""
        ...

    @property
    def COCO_RESULTS(self) -> Callable[[Sequence[PredictionT]], list[CocoResult]] | None:
        """Predictions in COCO's result format; None where that format has nothing for them."""
        ...

    def samples(self, dataset: DatasetT) -> list[SampleT]:
        """The samples in a stable order; those of an image are neighbours."""
        ...

    def samples_in_image(self, image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[SampleT]:
        """The samples of one image (H, W, 3) uint8 with the id 0: one for each box, without boxes the whole image.

        Boxes are x, y, width, height in pixels. Raises InputError for a box outside the image.
        """
        ...

    def prepare(self, image: np.ndarray, sample: SampleT, card: Card) -> tuple[np.ndarray, ViewT]:
        """The network's input (3, H, W) float32, and what `decode` needs to know of the sample."""
        ...

    def decode(self, outputs: Outputs, views: Sequence[ViewT], card: Card) -> list[PredictionT]:
        """A prediction for each of `views`, the same whatever else is in the batch.

        Raises GraphError for outputs that are not of this task.
        """
        ...

    def encode(self, predictions: Sequence[PredictionT], views: Sequence[ViewT], card: Card) -> dict[str, np.ndarray]:
        """The inverse of `decode`, as near as the outputs' resolution allows: what a perfect network would give."""
        ...

    def truths(self, dataset: DatasetT) -> list[PredictionT]:
        """The annotations in the form of predictions, one for each sample, for datasets without detections."""
        ...

    def flip_inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs (N, 3, H, W), followed by the mirrored ones: (2N, 3, H, W)."""
        ...

    def merge_flipped(self, outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
        """Outputs of a batch and its mirror images (2N, ...), back to one for each image (N, ...)."""
        ...

    def score(self, predictions: Sequence[PredictionT], dataset: DatasetT, seed: int = 0) -> dict[str, Metric]:
        """Each of METRICS; predictions are one for each sample, in their order."""
        ...

    def paired(
        self, before: Sequence[PredictionT], after: Sequence[PredictionT], dataset: DatasetT, seed: int = 0
    ) -> dict[str, Change]:
        """The change of each of METRICS from one set of predictions to another on the same images."""
        ...

    def agreement(self, before: PredictionT, after: PredictionT) -> dict[str, float]:
        """Each of FIDELITY for two predictions of the same sample, without truths; NaN where it has no meaning."""
        ...

    def draw(self, image: np.ndarray, predictions: Sequence[PredictionT]) -> np.ndarray:
        """A copy of an image (H, W, 3) uint8 RGB with the predictions in it."""
        ...


CONTRACT = TaskModule  # a plugin is compared with it
Task = TaskModule[Dataset, Sample, View, Prediction]


def load_task(name: str) -> Task:
    """The task `name`. Raises InputError that lists the known ones."""
    return cast(Task, discover.load("tasks", name))


def check_dataset(task: Task, dataset: Dataset) -> None:
    """Raise DatasetError for a dataset of another kind than the task reads."""
    if not isinstance(dataset, task.READS):
        raise _another_kind(task, dataset.name, type(dataset))


def check_dataset_name(task: Task, name: str) -> None:
    """Raise DatasetError for the name of a dataset of another kind than the task reads; nothing is loaded."""
    kind = datasets.load_dataset_module(name).KIND
    if kind is not task.READS:
        raise _another_kind(task, name, kind)


def _another_kind(task: Task, name: str, kind: type[Dataset]) -> DatasetError:
    return DatasetError(
        f"the dataset {name} holds {kind.HOLDS}, and the model's task reads {task.READS.HOLDS}",
        f"use one of {', '.join(datasets.of_kind(task.READS))}",
    )
