"""The demo: deploy the embedded model to every installed runtime, measure accuracy and speed, and write a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from sandglass import deployment
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.target import Outcome
from sandglass.backends import usable_backends
from sandglass.core import host
from sandglass.core.errors import BackendUnavailable, SandglassError
from sandglass.core.files import atomic_file, refuse_existing, write_json
from sandglass.core.image_ids import Id
from sandglass.core.locks import LOCK, locked_folder
from sandglass.core.progress import Say
from sandglass.datasets import load_dataset_module
from sandglass.measure.benchmarking import Speed, benchmark_each
from sandglass.measure.evaluation import Evaluation, changes, evaluate, evaluate_each
from sandglass.metrics import Interval
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card
from sandglass.sources.load_card import load_card
from sandglass.table.markdown import Row, markdown
from sandglass.table.rows import (
    change,
    failed_row,
    identity,
    machine_text,
    megabytes,
    metric_cells,
    part,
    protocol_text,
)
from sandglass.table.run import NewProgress
from sandglass.tasks import load_task
from sandglass.tasks.topdown_pose import Person
from sandglass.vision.image import write_image

MODEL = "hourglass-tiny-synthetic"
DATASET = "synthetic-people"
PICTURES = 4  # first images of the dataset that are drawn; no result depends on it
ARTIFACTS, RESULTS = "artifacts", "results.json"
METRICS = ("AP", "AP50", "AP75", "AR", "AR50")


@dataclass(frozen=True)
class Demo:
    """The result: the rows of the table, the conditions under it, and the numbers as JSON data.

    `complete` is false if a target failed.
    """

    rows: list[Row]
    conditions: str
    numbers: dict[str, object]
    complete: bool


def run_demo(out: Path, *, force: bool, say: Say, progress: NewProgress) -> Demo:
    """Run the demo and write artifacts, `results.md`, `results.json` and pictures to `out`.

    If `out` holds an unfinished demo, the run continues it. Raises ArtifactError if `out` exists otherwise and `force`
    is false, and BusyError if another run works in `out`.
    """
    unfinished = ((out / ARTIFACTS).exists() or (out / LOCK).exists()) and not (out / RESULTS).exists()
    refuse_existing(out, force or unfinished)
    with locked_folder(out):
        return _demo(out, force, say, progress)


def _demo(out: Path, force: bool, say: Say, progress: NewProgress) -> Demo:
    card = load_card(MODEL)
    datasets = load_dataset_module(DATASET)
    calibration = Calibration(datasets.load(split="train", limit=128), size=128)
    outcomes = deployment.deploy(
        card, runnable_targets(say), out / ARTIFACTS, calibration=calibration, force=force, say=say
    )
    artifacts = [outcome.artifact for outcome in outcomes if outcome.artifact]
    test = datasets.load()
    say(f"evaluate: measuring {len(artifacts)} artifacts on {len(test.image_ids)} test images")
    evaluations = evaluate_each(
        artifacts, lambda a: evaluate(a, test, progress=progress(f"evaluate {a.backend} {a.precision}", "samples"))
    )
    say(f"benchmark: timing {len(artifacts)} artifacts in turns")
    timed = benchmark_each(artifacts, seconds=1.0, progress=progress("benchmark", "rounds"))
    results, speeds = list[Evaluation](), list[Speed]()
    failures = [failure_row(card, outcome) for outcome in outcomes if outcome.error]
    for artifact, result, measured in zip(artifacts, evaluations, timed, strict=True):
        if isinstance(result, SandglassError):
            failures.append(failed_row(artifact, result))
        elif isinstance(measured, SandglassError):
            failures.append(failed_row(artifact, measured))
        else:
            results.append(result)
            speeds += measured
    if not results:
        return Demo(failures, conditions_text(None, host.describe()), {"results": [], "failures": failures}, False)
    return write_results(out, results, speeds, failures, say)


def runnable_targets(say: Say) -> list[str]:
    """Every precision of every runtime that is installed here, as `BACKEND:PRECISION`."""
    targets = []
    for name, backend in usable_backends().items():
        if backend.PURPOSE != "deploy" or backend.CAPABILITIES.compiles_for_soc:  # the latter needs a processor's name
            continue
        try:
            backend.available()
        except BackendUnavailable as error:
            say(f"{name}: skipped: {error}")
            continue
        targets += [f"{name}:{precision}" for precision in backend.PRECISIONS]
    return targets


def write_results(
    out: Path, results: Sequence[Evaluation], speeds: Sequence[Speed], failures: list[Row], say: Say
) -> Demo:
    """Write the table with its conditions, the numbers as JSON, and the pictures."""
    differences = changes(results)
    rows = results_rows(results, differences, speeds, METRICS) + failures
    conditions = conditions_text(results[0], host.describe())
    with atomic_file(out / "results.md") as temporary:
        temporary.write_text(f"{markdown(rows)}\n\n{conditions}\n", encoding="utf-8")
    numbers = [
        {**result.to_dict(), "change": difference, "speed": speed.to_dict(), "bytes": result.artifact.size}
        for result, difference, speed in zip(results, differences, speeds, strict=True)
    ]
    pictures = [picture(results, image_id) for image_id in results[0].dataset.image_ids[:PICTURES]]
    for number, pixels in enumerate(pictures, 1):
        write_image(out / f"people-{number}.png", pixels)
    result: dict[str, object] = {"results": numbers, "failures": failures}
    write_json(out / RESULTS, result)  # written last: this file marks the demo as complete
    say(f"wrote {out / 'results.md'}, results.json and {len(pictures)} pictures: people-1.png ...")
    return Demo(rows, conditions, result, not failures)


def picture(results: Sequence[Evaluation], image_id: Id) -> np.ndarray:
    """Predictions of the first fp32 artifact and of each int8 artifact for one image, side by side, HWC uint8 RGB."""
    drawn = [result for result in results if result.artifact.precision == "fp32"][:1]
    drawn += [result for result in results if result.artifact.precision == "int8"]
    return np.hstack([_panel(result, image_id) for result in drawn or results[:1]])


def _panel(result: Evaluation, image_id: Id) -> np.ndarray:
    task = load_task(result.artifact.card.task)
    image = result.dataset.read(image_id)
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    people = [_scaled(cast(Person, person), 2) for person in result.predictions if person["image_id"] == image_id]
    return _captioned(task.draw(large, people), result.artifact)


def _scaled(prediction: Person, factor: float) -> Person:
    keypoints = [[x * factor, y * factor, score] for x, y, score in prediction["keypoints"]]
    return {**prediction, "keypoints": keypoints, "area": prediction["area"] * factor**2}


def _captioned(image: np.ndarray, artifact: Artifact) -> np.ndarray:
    strip = np.full((28, image.shape[1], 3), 255, np.uint8)
    text = f"{artifact.backend} {artifact.precision}"
    cv2.putText(strip, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def results_rows(
    results: Sequence[Evaluation],
    differences: Sequence[Mapping[str, Interval] | None],
    speeds: Sequence[Speed],
    metrics: Sequence[str],
) -> list[Row]:
    """One row for each artifact: accuracy, change against the first fp32 artifact, latency and size."""
    return [
        {
            **identity(result.artifact),
            **metric_cells(result.metrics, metrics),
            f"{metrics[0]} change in points (95 %)": change(difference[metrics[0]]) if difference else "",
            "median ms": f"{speed.median:.2f}",
            "MB": megabytes(result.artifact.size),
            **part(result.protocol),
        }
        for result, difference, speed in zip(results, differences, speeds, strict=True)
    ]


def failure_row(card: Card, outcome: Outcome) -> Row:
    """The row of a target that failed, with the reason."""
    height, width = card.input.size
    target = outcome.target
    return {
        "model": card.name,
        "input": f"{height}x{width}",
        "backend": target.backend,
        "precision": target.precision,
        "failed": str(outcome.error),
    }


def conditions_text(example: Evaluation | None, machine: Mapping[str, object]) -> str:
    """The text under the table: the protocol, if there is a result, and the machine."""
    protocol = f"Protocol: {protocol_text(example.protocol, '; ')}.\n" if example else ""
    return (
        f"{protocol}{machine_text(machine)}\n"
        "Intervals are bootstrapped over images; a change is the paired difference to the first fp32 row. "
        "Latency is inference only, batch 1, the median over bursts in which the artifacts take turns."
    )
