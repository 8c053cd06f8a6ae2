"""Options as data: each group of options is a frozen dataclass, from which the command line is derived.

The text under a field is its help: a phrase with the unit and the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sandglass.cli.values import (
    COUNT,
    DATASET,
    FILE,
    FILE_OR_STDOUT,
    FOLDER,
    POINTS,
    PROCESSOR,
    SHARE,
    WHOLE,
    DatasetName,
    Size,
    each,
    sizes,
)
from sandglass.core.processor import ANY, Processor

Method = Literal["auto", "mse", "minmax", "percentile", "kl"]
Gain = Literal["time", "work"]
Source = Annotated[
    str,
    Parameter(
        metavar="SOURCE",
        help="a zoo model (see `sandglass models`), a model card FILE.toml, an OpenMMLab config FILE.py, or the folder "
        "of a float artifact",
    ),
]
Target = Annotated[str, Parameter(name="--to", metavar="BACKEND:int8", help="runtime that int8 is for")]
ArtifactPath = Annotated[
    Path, Parameter(metavar="ARTIFACT", required=True, help="folders of artifacts; other paths are skipped with a line")
]
Against = Annotated[Path | None, Parameter(name="--against", metavar="ARTIFACT")]


@dataclass(frozen=True)
class Data:
    """A dataset as the command line names it: `--NAME`, `--NAME-annotations`, `--NAME-dataset`."""

    name: str
    images: Path | None = None
    annotations: Path | None = None
    dataset: str | None = None

    def __bool__(self) -> bool:
        """Whether any of it was given."""
        return (self.images, self.annotations, self.dataset) != (None, None, None)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights."""

    checkpoint: Annotated[Path | None, FILE] = None
    """trained weights of a zoo model (default: the one that `sandglass fetch` downloaded)"""
    ema: bool = False
    """take the averaged (EMA) weights of the checkpoint"""


@Parameter(name="*", group="Calibration")
@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Images that set the int8 ranges."""

    calibration: Annotated[Path | None, FOLDER] = None
    """folder of the images that set the int8 ranges"""
    calibration_annotations: Annotated[Path | None, FILE] = None
    """ground truth of the calibration images (default: none is read)"""
    calibration_dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the calibration set (default: coco-keypoints with annotations, a folder of photos without)"""
    calibration_size: Annotated[int, COUNT] = 64
    """number of calibration samples (default: 64)"""
    calibration_method: Method = "auto"
    """how thresholds are chosen (default: auto, the method with the least noise at the network's outputs)"""

    @property
    def data(self) -> Data:
        """The dataset."""
        return Data("calibration", self.calibration, self.calibration_annotations, self.calibration_dataset)


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class Draw:
    """The part of a dataset to measure on."""

    limit: Annotated[int | None, COUNT] = None
    """number of images to measure on, drawn at random, by class (default: all)"""
    seed: Annotated[int, WHOLE] = 0
    """seed of that draw (default: 0)"""


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Draw):
    """Images that a search measures its result on."""

    evaluation: Annotated[Path | None, FOLDER] = None
    """folder of the images that the result is measured on"""
    evaluation_annotations: Annotated[Path | None, FILE] = None
    """ground truth of the evaluation images (default: none is read)"""
    evaluation_dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the evaluation set (default: coco-keypoints with annotations, a folder of photos without)"""

    @property
    def data(self) -> Data:
        """The dataset."""
        return Data("evaluation", self.evaluation, self.evaluation_annotations, self.evaluation_dataset)


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class Samples(Draw):
    """Files of a dataset whose format another option names."""

    images: Annotated[Path | None, FOLDER] = None
    """folder of the images (default: where the dataset's own files are)"""
    annotations: Annotated[Path | None, FILE] = None
    """ground truth, if it is not among the images"""
    detections: Annotated[Path | None, FILE] = None
    """boxes of a person detector, in COCO's result format (default: the annotated boxes)"""


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class KitSamples(Samples):
    """Evaluation samples of a build kit."""

    dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the evaluation samples that a build kit takes along (default: it takes none)"""


@Parameter(name="*", group="Int8")
@dataclass(frozen=True, kw_only=True)
class ProcessorOptions:
    """The processor that int8 is for."""

    processor: Annotated[Processor, PROCESSOR, Parameter(name=("--for-processor", "--for"))] = ANY
    """processor that int8 is for: x86-vnni and arm-dotprod keep 8 bits where x86-avx2 needs 7 (default: any, 7 bits)"""


@Parameter(name="*", group="Int8")
@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """Repairs of the network before its weights are rounded."""

    without: Annotated[tuple[str, ...], Parameter(metavar="REPAIR", allow_repeating=True)] = ()
    """name of a repair to leave out (default: all are used); may be repeated"""


@Parameter(name="*", group="Budget")
@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What a search must keep, and what int8 saves."""

    max_drop: Annotated[float, POINTS] = 0.5
    """largest drop of the metric, in points (hundredths) (default: 0.5)"""
    metric: Annotated[str | None, Parameter(metavar="NAME")] = None
    """metric that must not drop (default: the task's first)"""
    min_fidelity: Annotated[float | None, SHARE] = None
    """smallest agreement with the float network on the evaluation images, 0 to 1 (default: the task's own)"""
    min_int8_share: Annotated[float, SHARE] = 0.0
    """smallest share of multiply-accumulates in int8, 0 to 1, even where it makes a layer slower (default: 0)"""
    gain: Gain = "time"
    """what int8 saves: time on this machine, or work, the multiply-accumulates, for another machine (default: time)"""
    best_effort: bool = False
    """publish the best artifact even if it fails the budget"""


@Parameter(name="*", group="Input shapes")
@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Input shapes of an artifact for images that keep their aspect ratio."""

    shapes: Annotated[tuple[list[Size], ...], each(sizes, "HxW,HxW,...")] = ()
    """shapes in pixels; an image runs in the smallest that holds it (default: the card's size); may be repeated"""
    shapes_from: Annotated[Path | None, FOLDER] = None
    """folder of images to choose the input shapes for, in place of --shapes"""
    max_shapes: Annotated[int, COUNT] = 36
    """largest number of shapes that --shapes-from chooses (default: 36)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Where to deploy to."""

    to: Annotated[
        tuple[str, ...],
        Parameter(metavar="BACKEND[:PRECISION]", consume_multiple=True, allow_repeating=True),
    ] = ()
    """runtimes and precisions, such as ncnn:int8; several may follow one --to, and it may be repeated"""
    deploy_config: Annotated[Path | None, FILE] = None
    """mmdeploy's deploy config FILE.py, in place of --to"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of the results."""

    out: Annotated[Path, FOLDER]
    """folder of the results"""
    force: bool = False
    """replace results that exist"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a runtime runs."""

    threads: Annotated[int | None, COUNT] = None
    """number of threads (default: as many as this machine has, or as `tune` found)"""
    batch: Annotated[int, COUNT] = 1
    """images in one run (default: 1)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the numbers of a result go."""

    json: Annotated[Path | None, FILE_OR_STDOUT] = None
    """write the result as JSON to this file too; - writes JSON to standard output, and nothing else"""
