"""`sandglass collect` reads the results of a build kit. Also the evaluation samples that `deploy` adds to a kit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sandglass.cli.inputs import load_samples
from sandglass.cli.options import Against, KitSamples, Output
from sandglass.cli.output import Part, show, write_result
from sandglass.core import discover
from sandglass.core.errors import InputError

if TYPE_CHECKING:
    from sandglass.artifacts.build_key import Samples
    from sandglass.datasets import Dataset
    from sandglass.measure.benchmarking import Speed
    from sandglass.measure.evaluation import Evaluation
    from sandglass.table.markdown import Row


def collect(
    kit: Annotated[Path, Parameter(metavar="KIT")],
    /,
    *,
    samples: KitSamples = KitSamples(),
    against: Against = None,
    output: Output = Output(),
) -> int:
    """Print the accuracy and the speed of a build kit after it ran on its host.

    Parameters
    ----------
    kit
        folder of the build kit, with the results that its `run.py` wrote
    against
        float artifact for a comparison of the accuracy (default: none)
    """
    from sandglass.core.records import to_data
    from sandglass.kit import collect as kits

    collection = kits.collect(kit, _dataset(samples, against))
    check, loaded = collection.check, collection.kit
    results = _evaluations(collection.evaluation, against)
    parts: list[Part] = [check.summary, *_evaluation_parts(results), [_speed_row(collection.speed)]]
    show(output, *parts, f"measured there: {loaded.version()}, {loaded.report.host['system']}")
    evaluations = {"evaluations": _to_dicts(results)} if results else {}
    write_result(output, {"check": to_data(check), "speed": loaded.speed_dict(), **evaluations})
    return 0


def kit_samples(options: KitSamples, flip_test: bool | None) -> Samples | None:
    """The evaluation samples for a build kit; None if no option names any.

    Raises InputError for options of samples without --dataset.
    """
    from sandglass.artifacts.build_key import Samples

    dataset = _dataset(options, flip_test)
    return None if dataset is None else Samples(dataset, flip_test)


def _dataset(options: KitSamples, *more: object) -> Dataset | None:
    """The dataset of the samples; None without --dataset. Raises InputError if another option needs --dataset."""
    if options.dataset is not None:
        return load_samples(options.dataset, options)
    values = (options.images, options.annotations, options.detections, options.limit, *more)
    if any(value is not None for value in values):
        names = discover.names("datasets")
        raise InputError("the options for evaluation samples need --dataset", f"give --dataset {'|'.join(names)}")
    return None


def _evaluations(result: Evaluation | None, against: Path | None) -> list[Evaluation]:
    """The evaluation of the float artifact, if there is one to compare with, and that of the kit."""
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.measure.evaluation import evaluate

    if result is None or against is None:
        return [result] if result else []
    return [evaluate(load_artifact(against), result.dataset, flip_test=bool(result.protocol["flip_test"])), result]


def _evaluation_parts(results: list[Evaluation]) -> list[Part]:
    from sandglass.measure.evaluation import changes
    from sandglass.table.rows import evaluation_rows, protocol_text

    return [evaluation_rows(results, changes(results)), protocol_text(results[0].protocol)] if results else []


def _to_dicts(results: list[Evaluation]) -> list[dict[str, object]]:
    from sandglass.measure.evaluation import changes

    rows = zip(results, changes(results), strict=True)
    return [{**result.to_dict(), "change": change} for result, change in rows]


def _speed_row(speed: Speed) -> Row:
    """The row of the kit's speed. It has no memory, which a kit does not measure."""
    from sandglass.table.rows import speed_row

    return {column: cell for column, cell in speed_row(speed, speed.median).items() if column != "peak MiB"}
