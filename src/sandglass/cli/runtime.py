"""Commands that run an artifact: `sandglass inspect`, `sandglass tune` and `sandglass predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sandglass.cli.inputs import load_artifacts
from sandglass.cli.options import Against, ArtifactPath, Output
from sandglass.cli.output import say, show, write_result
from sandglass.cli.values import COUNT, SECONDS, Box, box, each
from sandglass.core.errors import SandglassError

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact


def inspect(
    *artifacts: ArtifactPath,
    against: Against = None,
    threads: Annotated[int | None, COUNT] = None,
    output: Output = Output(),
) -> int:
    """Show whether int8 is really int8: list each layer as the runtime executes it.

    Parameters
    ----------
    against
        float artifact for a comparison, to show layers that are slower in int8 (default: none)
    threads
        number of threads (default: the number that `tune` stored, or all threads of this machine)
    """
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.measure import inspection
    from sandglass.table.rows import inspection_rows

    base = load_artifact(against) if against else None

    def inspect_one(artifact: Artifact) -> dict[str, object]:
        result = inspection.inspect(artifact, threads=threads, against=base)
        layers = inspection_rows(result) if result.runs else "this backend executes no layers"
        show(output, layers, "\n".join(inspection.summary(result)))
        return result.to_dict()

    return _each(artifacts, inspect_one, output)


def tune(
    *artifacts: ArtifactPath,
    goal: Annotated[str, Parameter(name="--for", metavar="GOAL")] = "latency",
    seconds: Annotated[float, SECONDS] = 60.0,
    output: Output = Output(),
) -> int:
    """Search for the fastest settings of the runtime on this machine, and store them next to the artifact.

    Parameters
    ----------
    goal
        quantity to optimize: latency or throughput (default: latency)
    seconds
        time of the search, in seconds for each artifact (default: 60)
    """
    from sandglass.measure import tuning
    from sandglass.table.rows import trial_row

    def tune_one(artifact: Artifact) -> dict[str, object]:
        result = tuning.tune(artifact, goal=goal, seconds=seconds, say=say)
        show(output, [trial_row(trial) for trial in result.trials], "\n".join(tuning.summary(result)))
        return result.to_dict()

    return _each(artifacts, tune_one, output)


def predict(
    artifact: Annotated[Path, Parameter(metavar="ARTIFACT")],
    image: Annotated[Path, Parameter(metavar="IMAGE")],
    /,
    *,
    out: Annotated[Path, Parameter(metavar="PNG")],
    boxes: Annotated[tuple[Box, ...], each(box, "X,Y,W,H"), Parameter(name="--box")] = (),
    output: Output = Output(),
) -> int:
    """Draw the predictions of an artifact for one image.

    Parameters
    ----------
    artifact
        folder of the artifact
    image
        image file
    out
        file for the picture, PNG or JPEG
    boxes
        box of a person or an object in the image, in pixels (default: the whole image); may be repeated
    """
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.measure import prediction
    from sandglass.vision.image import write_image

    picture, predictions = prediction.predict(load_artifact(artifact), image, boxes)
    write_image(out, picture)
    say(f"wrote {out}")
    write_result(output, predictions)
    return 0


def _each(paths: tuple[Path, ...], work: Callable[[Artifact], dict[str, object]], output: Output) -> int:
    """Call `work` for each artifact, and write the results as JSON: a list if there are several artifacts.

    With several artifacts, the error of one is printed and does not stop the others. The exit code is then 2.
    """
    artifacts = load_artifacts(paths)
    if len(artifacts) == 1:
        write_result(output, work(artifacts[0]))
        return 0
    results: list[dict[str, object]] = []
    for artifact in artifacts:
        show(output, f"\n{artifact.folder}\n")
        try:
            results.append(work(artifact))
        except SandglassError as error:
            say(f"{artifact.folder}: {error}")
    write_result(output, results)
    return 2 if len(results) < len(artifacts) else 0
