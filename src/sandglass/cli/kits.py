"""`sandglass collect`: the results of a build kit; and the samples that `deploy` puts into one."""

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
    """Accuracy and speed of a build kit that came back with results.

    Parameters
    ----------
    kit
        folder of the build kit
    against
        a float artifact, to compare the accuracy with (default: none)
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
    """The evaluation samples that a build kit takes along; None if no option names any.

    Raises InputError for options of samples without their dataset.
    """
    from sandglass.artifacts.build_key import Samples

    dataset = _dataset(options, flip_test)
    return None if dataset is None else Samples(dataset, flip_test)


def _dataset(options: KitSamples, *more: object) -> Dataset | None:
    """The dataset of the samples; None if it is not named, in which case no other option may be about it."""
    if options.dataset is not None:
        return load_samples(options.dataset, options)
    values = (options.images, options.annotations, options.detections, options.limit, *more)
    if any(value is not None for value in values):
        raise InputError("options of samples need --dataset", f"give --dataset {'|'.join(discover.names('datasets'))}")
    return None


def _evaluations(result: Evaluation | None, against: Path | None) -> list[Evaluation]:
    """The float artifact's result, if there is one to compare with, and the kit's."""
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
    """The speed as the kit measured it, without the memory, which it does not measure."""
    from sandglass.table.rows import speed_row

    return {column: cell for column, cell in speed_row(speed, speed.median).items() if column != "peak MiB"}
