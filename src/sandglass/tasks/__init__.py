"""The seam of tasks: one file is what inputs and outputs of a network mean. A task never imports a backend.

Each file defines, at module level:

    METRICS      names of its metrics, the one that decides first
    READS        the kind of datasets that it reads samples and truths from: a class of `sandglass.datasets`
    DATASET      name of a dataset of its kind that needs no files
    DECODE       fields of a card's `[decode]`: by name its type, or a tuple of its values with the default first.
                 `flip_test` says whether evaluations average with the mirrored image unless told otherwise
    PROTOCOL     what a result says of its conditions in place of what the dataset says, JSON-able
    samples(dataset) -> samples
                 in a stable order; each has `index` (its place in the list) and `image_id`, and those of an image are
                 neighbours
    samples_in_image(image, boxes) -> samples
                 of one image with the id 0; without boxes the whole image is looked at
    prepare(image, sample, card) -> array, meta
                 the network's input (3, H, W) float32, and what `decode` needs to know of the sample
    decode(outputs, metas, card) -> predictions
                 from the graph's outputs by name, batch first: one JSON-able dict for each meta, the same whatever
                 else is in the batch. Raises GraphError for outputs that are not of this task
    encode(predictions, metas, card) -> outputs
                 the inverse of `decode`, as near as the outputs' resolution allows: what a perfect network would give
    truths(dataset) -> predictions
                 the annotations in the form of predictions, one for each sample, for datasets without detections
    flip_inputs(inputs) -> inputs
                 the mirrored images after the plain ones
    merge_flipped(outputs, card) -> outputs
                 of a batch and its mirror images, back to one for each image
    score(predictions, dataset, seed) -> metrics
                 each of METRICS with value, low and high (95 %); predictions are one for each sample, in their order
    paired(before, after, dataset, seed) -> changes
                 the same for the difference of two sets of predictions on the same images
    FIDELITY     names of the measures of agreement, the one that decides first: 1 for equal predictions
    LEAST_FIDELITY
                 what a search for int8 layers keeps of the first of them, where nothing else is asked for
    agreement(before, after) -> measures
                 of two predictions for the same sample, without truths: each of FIDELITY, NaN where it has no meaning
    draw(image, predictions) -> image
                 a copy of an HWC uint8 RGB image with the predictions in it

A task whose samples are parts of images defines also

    wider(sample) -> sample
                 the same with more around it, which may reach beyond the image: repairs see each sample both ways
    smaller(image, sample) -> image, sample
                 the same in an image of fewer pixels: fidelity is to be kept there as well

A task whose input may follow the size of the image defines also

    MULTIPLE     sides of such inputs are multiples of it
    needed(size, card) -> shape
                 the smallest input for an image (or the `box` of a sample) of `size`, both (height, width). `prepare`
                 then takes a fourth argument, a shape that holds it, and a larger one changes only what is around the
                 image

Every field of a card's `[decode]` has a default.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sandglass import datasets
from sandglass.core.errors import DatasetError


def check_dataset(task: ModuleType, dataset: Any) -> None:
    """Raise DatasetError for a dataset of another kind than the task reads."""
    if not hasattr(dataset, task.READS.TRUTHS):
        raise _another_kind(task, dataset.name, getattr(dataset, "HOLDS", "something else"))


def check_dataset_name(task: ModuleType, name: str) -> None:
    """Raise DatasetError for the name of a dataset of another kind than the task reads; nothing is loaded."""
    kind: Any = datasets.kind_of(name)
    if kind is not task.READS:
        raise _another_kind(task, name, kind.HOLDS)


def _another_kind(task: ModuleType, name: str, holds: str) -> DatasetError:
    own = task.__name__.rpartition(".")[2].replace("_", "-")
    return DatasetError(
        f"the dataset {name} holds {holds}, and the task of the model, {own}, reads {task.READS.HOLDS}",
        f"use one of {', '.join(datasets.of_kind(task.READS))}",
    )
