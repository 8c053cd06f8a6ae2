"""What subcommands read before their work: artifacts, and the datasets for a model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sandglass.cli.options import ANNOTATED, say
from sandglass.core import discover

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact
    from sandglass.quantization.calibration import Calibration
    from sandglass.sources.card import Card

SHOWN = 3  # paths that an error names


def load_calibration(arguments: argparse.Namespace, source: str | Card) -> Calibration | None:
    """The calibration set for a model that was asked for; None where none was."""
    asked = (arguments.calibration, arguments.calibration_annotations, arguments.calibration_dataset)
    return None if asked == (None, None, None) else needed_calibration(arguments, source)


def needed_calibration(arguments: argparse.Namespace, source: str | Card) -> Calibration:
    """The calibration set for a model; raises DatasetError where none was asked for."""
    from sandglass.quantization.calibration import Calibration

    size = arguments.calibration_size  # every image that is drawn has a sample at least
    dataset = load_images(arguments, "calibration", source, split="train", limit=size)
    return Calibration(dataset, size, arguments.calibration_method)


def load_images(arguments: argparse.Namespace, name: str, source: str | Card, **options: Any) -> Any:
    """The dataset that `--NAME`, `--NAME-annotations` and `--NAME-dataset` ask for, for the task of a model.

    Without annotations and without a dataset's name it is a folder of photos. Raises DatasetError for what is missing,
    and for a dataset of another kind than the task reads.
    """
    from sandglass import tasks

    task = task_of(source)
    images, annotations, dataset = (getattr(arguments, f"{name}{part}") for part in ("", "_annotations", "_dataset"))
    if annotations is None and dataset is None:
        return _photos(task, name, images, options)
    chosen = dataset or _format_of(task, name)
    tasks.check_dataset_name(task, chosen)
    return discover.load("datasets", chosen).load(images=images, annotations=annotations, **options)


def task_of(source: str | Card) -> ModuleType:
    """The task of a model."""
    from sandglass.artifacts.find_card import find_card
    from sandglass.sources.card import Card

    card = source if isinstance(source, Card) else find_card(source)
    return discover.load("tasks", card.task)


def _photos(task: ModuleType, name: str, folder: Path | None, options: Mapping[str, Any]) -> Any:
    from sandglass.core.errors import DatasetError
    from sandglass.datasets._photos import load_photos

    if folder is None:
        raise DatasetError(
            f"there are no {name} images", f"give --{name} DIR, a folder of photos, or name a --{name}-dataset"
        )
    return load_photos(task.READS, folder, options["limit"], options.get("seed", 0))


def _format_of(task: ModuleType, name: str) -> str:
    """The format of annotations without a dataset's name, which only one kind of truths has."""
    from sandglass import datasets
    from sandglass.core.errors import DatasetError

    if datasets.load_dataset_module(ANNOTATED).KIND is not task.READS:
        known = ", ".join(datasets.of_kind(task.READS))
        raise DatasetError(f"the format of --{name}-annotations is not known", f"give --{name}-dataset, one of {known}")
    return ANNOTATED


def load_artifacts(paths: Sequence[Path]) -> list[Artifact]:
    """The artifacts among `paths`, each once; a line says what is skipped, such as the plan that `out/*` names too.

    Raises ArtifactError for a path that does not exist, for an artifact that was changed, and where none is left.
    """
    from sandglass.artifacts.artifact import MANIFEST, load_artifact
    from sandglass.core.errors import ArtifactError

    folders = []
    for path in dict.fromkeys(paths):
        if not path.exists():
            raise ArtifactError(f"there is no {path}", "check the path")
        if (path / MANIFEST).is_file():
            folders.append(path)
        elif len(paths) > 1:
            say(f"skipped {path}: it is not an artifact")
    if not folders:
        inside = sorted(str(manifest.parent) for path in paths for manifest in path.glob(f"*/{MANIFEST}"))
        raise ArtifactError(
            f"{', '.join(map(str, paths[:SHOWN]))}: none is an artifact, a folder with {MANIFEST}",
            f"give {' '.join(inside[:SHOWN])}" if inside else "make one with `sandglass deploy`",
        )
    return [load_artifact(folder) for folder in folders]
