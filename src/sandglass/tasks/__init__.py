"""The seam of tasks: each file defines the meaning of a network's inputs and outputs. A task never imports a backend.

Each file is a `TaskModule`. Its samples, views and predictions have types of its own, which mypy checks within the file
(tests/unit/test_seams.py requires that). `load_task` returns the file as a `Task`, in which these types are general: a
caller uses only the fields that all tasks have, and passes samples, views and predictions back to the same task.
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
DecodeField = type | tuple[object, ...]  # a field of `[decode]`: its type, or its allowed values, the default first


class Sample(Protocol):
    """The part of the data for one run of a network: an image, or its region `box` (x, y, width, height in pixels)."""

    @property
    def index(self) -> int:
        """The position in the list of samples."""
        ...

    @property
    def image_id(self) -> Id: ...

    @property
    def box(self) -> Box | None: ...


class View(TypedDict):
    """The facts about a sample that `decode` needs; tasks add fields."""

    image_id: Id


class Prediction(TypedDict):
    """The prediction for a sample, as JSON data; tasks add fields."""

    image_id: Id


DatasetT = TypeVar("DatasetT", bound=Dataset)
SampleT = TypeVar("SampleT", bound=Sample)
ViewT = TypeVar("ViewT", bound=View)
PredictionT = TypeVar("PredictionT", bound=Prediction)


@dataclass(frozen=True)
class Variants(Generic[SampleT]):
    """Variants of a sample, for tasks whose samples are parts of images.

    `wider(sample)` has a larger box, which may extend beyond the image: repairs use each sample with both boxes.
    `smaller(image, sample)` returns a smaller image and the sample in it: fidelity is checked on it too.
    """

    wider: Callable[[SampleT], SampleT]
    smaller: Callable[[np.ndarray, SampleT], tuple[np.ndarray, SampleT]]


@dataclass(frozen=True)
class Shapes(Generic[SampleT, ViewT]):
    """Input shapes that depend on the size of the image.

    The sides of such inputs are multiples of `multiple`. `needed(extent, card)` is the smallest input shape for an
    image, or the `box` of a sample, with the height and width `extent`. `prepare(image, sample, card, shape)` is the
    `prepare` of the task for an input of that shape: a larger shape only adds to the border around the image.
    """

    multiple: int
    needed: Callable[[Extent, Card], Size]
    prepare: Callable[[np.ndarray, SampleT, Card, Size], tuple[np.ndarray, ViewT]]


class TaskModule(Protocol[DatasetT, SampleT, ViewT, PredictionT]):
    """The protocol of a file in this folder. N is the number of inputs in a batch."""

    @property
    def METRICS(self) -> tuple[str, ...]:
        """Names of the metrics; the first one decides."""
        ...

    @property
    def READS(self) -> type[DatasetT]:
        """The kind of datasets from which the task reads samples and labels."""
        ...

    @property
    def DATASET(self) -> str:
        """The name of a dataset of this kind that needs no files."""
        ...

    @property
    def DECODE(self) -> Mapping[str, DecodeField]:
        """The fields of a card's `[decode]` by name; each field has a default.

        The field `flip_test` says whether evaluations use the flip test by default.
        """
        ...

    @property
    def PROTOCOL(self) -> Conditions:
        """The conditions of a result that replace those of the dataset."""
        ...

    @property
    def FIDELITY(self) -> tuple[str, ...]:
        """Names of the measures of agreement; the first one decides, and it is 1 for equal predictions."""
        ...

    @property
    def LEAST_FIDELITY(self) -> float:
        """The default of the minimum fidelity in a search, for the first measure."""
        ...

    @property
    def VARIANTS(self) -> Variants[SampleT] | None:
        """Variants of a sample; None if samples are whole images."""
        ...

    @property
    def SHAPES(self) -> Shapes[SampleT, ViewT] | None:
        """Input shapes that depend on the size of the image; None if all inputs have one size."""
        ...

    @property
    def COCO_RESULTS(self) -> Callable[[Sequence[PredictionT]], list[CocoResult]] | None:
        """Converts predictions into COCO's result format; None if that format does not suit them."""
        ...

    def samples(self, dataset: DatasetT) -> list[SampleT]:
        """The samples in a stable order; those of one image follow each other."""
        ...

    def samples_in_image(self, image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[SampleT]:
        """The samples of one image, (H, W, 3) uint8, with the id 0: one for each box, or the whole image without boxes.

        Boxes are x, y, width, height in pixels. Raises InputError for a box outside the image.
        """
        ...

    def prepare(self, image: np.ndarray, sample: SampleT, card: Card) -> tuple[np.ndarray, ViewT]:
        """The network's input, (3, H, W) float32, and the view with which `decode` interprets the outputs.

        The image is (height, width, 3) uint8 RGB. Raises CardError for settings of the card that do not fit the input.
        """
        ...

    def decode(self, outputs: Outputs, views: Sequence[ViewT], card: Card) -> list[PredictionT]:
        """A prediction for each of `views`; it does not depend on the other samples in the batch.

        Raises GraphError for outputs that do not belong to this task.
        """
        ...

    def encode(self, predictions: Sequence[PredictionT], views: Sequence[ViewT], card: Card) -> dict[str, np.ndarray]:
        """The inverse of `decode`, up to the resolution of the outputs: the outputs of a perfect network."""
        ...

    def truths(self, dataset: DatasetT) -> list[PredictionT]:
        """The annotations as predictions, one for each sample, for datasets without detections."""
        ...

    def flip_inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs (N, 3, H, W), followed by the mirrored ones: (2N, 3, H, W)."""
        ...

    def merge_flipped(self, outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
        """Outputs of inputs and mirrored inputs, (2N, ...), merged into one for each image, (N, ...)."""
        ...

    def score(self, predictions: Sequence[PredictionT], dataset: DatasetT, seed: int = 0) -> dict[str, Metric]:
        """Each of METRICS with its 95 % interval; `predictions` has one for each sample, in their order."""
        ...

    def paired(
        self, before: Sequence[PredictionT], after: Sequence[PredictionT], dataset: DatasetT, seed: int = 0
    ) -> dict[str, Change]:
        """The change of each of METRICS from `before` to `after` on the same images, with its 95 % interval."""
        ...

    def agreement(self, before: PredictionT, after: PredictionT) -> dict[str, float]:
        """Each of FIDELITY for two predictions of the same sample, without labels; NaN where it is undefined."""
        ...

    def draw(self, image: np.ndarray, predictions: Sequence[PredictionT]) -> np.ndarray:
        """A copy of an image, (H, W, 3) uint8 RGB, with the predictions drawn into it."""
        ...


CONTRACT = TaskModule  # a plugin is compared with it
Task = TaskModule[Dataset, Sample, View, Prediction]


def load_task(name: str) -> Task:
    """The task `name`. Raises InputError for an unknown name; the error lists the known ones."""
    return cast(Task, discover.load("tasks", name))


def check_dataset(task: Task, dataset: Dataset) -> None:
    """Raise DatasetError for a dataset of another kind than the task reads."""
    if not isinstance(dataset, task.READS):
        raise _another_kind(task, dataset.name, type(dataset))


def check_dataset_name(task: Task, name: str) -> None:
    """Raise DatasetError for the name of a dataset of another kind than the task reads, without loading the dataset."""
    kind = datasets.load_dataset_module(name).KIND
    if kind is not task.READS:
        raise _another_kind(task, name, kind)


def _another_kind(task: Task, name: str, kind: type[Dataset]) -> DatasetError:
    return DatasetError(
        f"the dataset {name} holds {kind.HOLDS}, but the task of the model reads {task.READS.HOLDS}",
        f"use one of {', '.join(datasets.of_kind(task.READS))}",
    )
