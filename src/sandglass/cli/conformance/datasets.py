"""The contract of datasets: each is loaded from a few samples that it writes itself."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandglass.cli.conformance import members
from sandglass.core import discover
from sandglass.core.errors import DatasetError
from sandglass.datasets import Dataset, DatasetModule, LabelledDataset, Options, load_dataset, load_dataset_module
from sandglass.tasks import load_task

OPTIONS = ["images", "annotations", "detections", "limit", "split", "seed"]


@pytest.fixture(params=members("datasets"))
def source(request: pytest.FixtureRequest) -> DatasetModule[Dataset]:
    """Each dataset's module."""
    return load_dataset_module(request.param)


@pytest.fixture
def options(source: DatasetModule[Dataset], tmp_path: Path) -> Options:
    """The options that load its example."""
    return source.example(tmp_path)


def files(options: Options) -> dict[str, Path]:
    """The options that are paths."""
    return {name: value for name, value in options.items() if isinstance(value, Path)}


def load(source: DatasetModule[Dataset], options: Options, **changes: Any) -> Dataset:
    """The dataset with some options changed."""
    arguments: dict[str, Any] = {**options, **changes}
    return source.load(**arguments)


def test_options_are_those_of_every_dataset(source: DatasetModule[Dataset]) -> None:
    """`load` has the options of every dataset, each with a default, and its docstring describes the limit."""
    parameters = inspect.signature(source.load).parameters
    assert list(parameters) == OPTIONS
    assert all(parameter.default is not inspect.Parameter.empty for parameter in parameters.values())
    assert "limit" in (inspect.getdoc(source.load) or "")


def test_loading_twice_gives_the_same(source: DatasetModule[Dataset], options: Options) -> None:
    """A second load gives the same ids, protocol and fingerprint, and the protocol is JSON."""
    first, second = source.load(**options), source.load(**options)
    assert load_dataset_module(first.name) is source
    assert first.image_ids == second.image_ids
    assert len(set(first.image_ids)) == len(first.image_ids) > 0
    assert first.protocol == second.protocol == json.loads(json.dumps(first.protocol))
    assert {"dataset", "subset"} <= set(first.protocol)
    assert first.fingerprint == second.fingerprint


def test_limit_is_the_number_of_images(source: DatasetModule[Dataset], options: Options) -> None:
    """A limit draws this number of images, the same ones each time; protocol and fingerprint are other ones."""
    whole, few = source.load(**options), load(source, options, limit=2)
    assert len(few.image_ids) == 2
    assert few.image_ids == load(source, options, limit=2).image_ids
    assert set(few.image_ids) <= set(whole.image_ids)
    assert few.protocol["subset"] != whole.protocol["subset"]
    assert "2" in str(few.protocol["subset"])
    assert few.fingerprint != whole.fingerprint


def test_fingerprint_tells_samples_apart(source: DatasetModule[Dataset], options: Options) -> None:
    """Different subsets have different fingerprints."""
    prints = {load(source, options, limit=limit).fingerprint for limit in (1, 2, 3)}
    assert len(prints) == 3


def test_images_are_rgb_bytes_of_the_callers_own(source: DatasetModule[Dataset], options: Options) -> None:
    """Every image is (H, W, 3) uint8, and a caller may change it without an effect on the next read."""
    dataset = source.load(**options)
    for number in dataset.image_ids:
        image = dataset.read(number)
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        before = image.copy()
        image[:] = 0
        np.testing.assert_array_equal(dataset.read(number), before)


def test_example_is_of_a_kind_that_a_task_reads(source: DatasetModule[Dataset], options: Options) -> None:
    """A task reads this kind of dataset, and finds a sample or more for each image of the example."""
    dataset = source.load(**options)
    tasks = [load_task(name) for name in discover.own_names("tasks")]
    kinds = [(task, type(load_dataset(task.DATASET, limit=1))) for task in tasks]
    assert all(task.READS is kind for task, kind in kinds)
    assert load_dataset_module(dataset.name).KIND is source.KIND is type(dataset)
    readers = [task for task, kind in kinds if isinstance(dataset, kind)]
    assert readers
    for task in readers:
        assert len(task.samples(dataset)) >= len(dataset.image_ids)


def test_files_that_are_missing_are_named(source: DatasetModule[Dataset], options: Options, tmp_path: Path) -> None:
    """Each path that does not exist is a DatasetError that names the path."""
    for name, path in files(options).items():
        gone = path.with_name(f"no-{path.name}")
        with pytest.raises(DatasetError, match=gone.name):
            load(source, options, **{name: gone})


def test_folder_without_its_images_is_refused(source: DatasetModule[Dataset], options: Options, tmp_path: Path) -> None:
    """A folder without the images is an error when the dataset is loaded, not in the middle of a run."""
    for name, path in files(options).items():
        if path.is_dir():
            (tmp_path / "empty").mkdir(exist_ok=True)
            with pytest.raises(DatasetError, match="empty"):
                load(source, options, **{name: tmp_path / "empty"})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[1]", b'{"images": 3}', b"\xff\xfe\x00"])
def test_files_of_other_content_are_refused(source: DatasetModule[Dataset], options: Options, content: bytes) -> None:
    """A file with other content is a DatasetError that names the file."""
    for path in files(options).values():
        if path.is_file():
            kept = path.read_bytes()
            path.write_bytes(content)
            with pytest.raises(DatasetError, match=path.name):
                source.load(**options)
            path.write_bytes(kept)


def test_image_that_breaks_later_is_named(source: DatasetModule[Dataset], options: Options) -> None:
    """A file that is damaged after loading is a DatasetError that names the file when it is read."""
    dataset = source.load(**options)
    folder = options.get("images")
    if folder is None:
        return
    for file in (f for f in folder.rglob("*") if f.is_file()):
        file.write_bytes(b"broken")
    with pytest.raises(DatasetError, match="is not a readable image"):
        dataset.read(dataset.image_ids[0])
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match="cannot read"):
        dataset.read(dataset.image_ids[0])


def test_limit_below_one_is_refused(source: DatasetModule[Dataset], options: Options) -> None:
    """A limit of 0 or less is a DatasetError."""
    for limit in (0, -1):
        with pytest.raises(DatasetError, match="limit"):
            load(source, options, limit=limit)


def test_names_of_classes_are_those_of_labels(source: DatasetModule[Dataset], options: Options) -> None:
    """Class names that are known without files are as many as the labels need."""
    dataset = source.load(**options)
    if source.class_names is not None:
        assert isinstance(dataset, LabelledDataset)
        assert all(label is None or label < len(source.class_names()) for label in dataset.labels.values())
