"""Load the artifacts and datasets that the command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sandglass.cli.options import CalibrationOptions, Data, Draw, Samples
from sandglass.cli.output import say

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact
    from sandglass.datasets import Dataset
    from sandglass.quantization.calibration import Calibration
    from sandglass.sources.card import Card
    from sandglass.tasks import Task

ANNOTATED = "coco-keypoints"  # the default format of annotations
SHOWN = 3  # number of paths in an error message


def load_calibration(options: CalibrationOptions, source: str | Card) -> Calibration | None:
    """The calibration set for a model; None if no option names one."""
    return required_calibration(options, source) if options.data else None


def required_calibration(options: CalibrationOptions, source: str | Card) -> Calibration:
    """The calibration set for a model. Raises DatasetError if no option names one."""
    from sandglass.quantization.calibration import Calibration

    size = options.calibration_size  # each drawn image has at least one sample
    dataset = load_images(options.data, source, Draw(limit=size), split="train")
    return Calibration(dataset, size, options.calibration_method)


def load_images(data: Data, source: str | Card, draw: Draw, split: str = "test") -> Dataset:
    """The dataset that `--NAME`, `--NAME-annotations` and `--NAME-dataset` name, for the task of a model.

    Without annotations and without a dataset's name, the images are a folder of photos, which has no splits. Raises
    DatasetError for a missing option or file, and for a dataset of another kind than the task reads.
    """
    from sandglass import tasks
    from sandglass.datasets import load_dataset

    task = task_of(source)
    if data.annotations is None and data.dataset is None:
        return _photos(task, data, draw)
    name = data.dataset or _format_of(task, data)
    tasks.check_dataset_name(task, name)
    return load_dataset(name, data.images, data.annotations, limit=draw.limit, split=split, seed=draw.seed)


def load_samples(name: str, samples: Samples) -> Dataset:
    """The dataset `name`, with the files and the subset that `samples` names."""
    from sandglass.datasets import load_dataset

    files = samples.images, samples.annotations, samples.detections
    return load_dataset(name, *files, limit=samples.limit, seed=samples.seed)


def task_of(source: str | Card) -> Task:
    """The task of a model."""
    from sandglass.artifacts.find_card import find_card
    from sandglass.sources.card import Card
    from sandglass.tasks import load_task

    card = source if isinstance(source, Card) else find_card(source)
    return load_task(card.task)


def _photos(task: Task, data: Data, draw: Draw) -> Dataset:
    from sandglass.core.errors import DatasetError
    from sandglass.datasets._photos import load_photos

    if data.images is None:
        raise DatasetError(
            f"the {data.name} images are missing",
            f"give --{data.name} DIR, a folder of photos, or --{data.name}-dataset NAME",
        )
    return load_photos(task.READS, data.images, draw.limit, draw.seed)


def _format_of(task: Task, data: Data) -> str:
    """The default format of annotations. Only one kind of dataset has a default; raises DatasetError for others."""
    from sandglass import datasets
    from sandglass.core.errors import DatasetError

    if datasets.load_dataset_module(ANNOTATED).KIND is not task.READS:
        known = ", ".join(datasets.of_kind(task.READS))
        raise DatasetError(
            f"--{data.name}-annotations needs a format", f"give --{data.name}-dataset with one of {known}"
        )
    return ANNOTATED


def load_artifacts(paths: Sequence[Path]) -> list[Artifact]:
    """Load each artifact among `paths` once. Other paths, such as the plan that `out/*` also matches, are skipped.

    Raises ArtifactError for a path that does not exist, for a changed artifact, and if no path is an artifact.
    """
    from sandglass.artifacts.artifact import MANIFEST, load_artifact
    from sandglass.core.errors import ArtifactError

    folders = []
    for path in dict.fromkeys(paths):
        if not path.exists():
            raise ArtifactError(f"{path} does not exist", "check the path")
        if (path / MANIFEST).is_file():
            folders.append(path)
        elif len(paths) > 1:
            say(f"skipped {path}: it is not an artifact")
    if not folders:
        inside = sorted(str(manifest.parent) for path in paths for manifest in path.glob(f"*/{MANIFEST}"))
        raise ArtifactError(
            f"{', '.join(map(str, paths[:SHOWN]))}: not an artifact, which is a folder with {MANIFEST}",
            f"give {' '.join(inside[:SHOWN])}" if inside else "write an artifact with `sandglass deploy`",
        )
    return [load_artifact(folder) for folder in folders]
