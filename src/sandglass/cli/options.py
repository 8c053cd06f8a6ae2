"""The options of the command line, as frozen dataclasses. cyclopts derives the parser and the help from them.

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
        help="model: a name in the zoo (see `sandglass models`), a model card FILE.toml, an OpenMMLab config FILE.py, "
        "or the folder of a float artifact",
    ),
]
Target = Annotated[
    str, Parameter(name="--to", metavar="BACKEND:int8", help="runtime to quantize for, followed by :int8")
]
ArtifactPath = Annotated[
    Path,
    Parameter(metavar="ARTIFACT", required=True, help="folders of artifacts; other paths are skipped with a message"),
]
Against = Annotated[Path | None, Parameter(name="--against", metavar="ARTIFACT")]


@dataclass(frozen=True)
class Data:
    """The values of the options `--NAME`, `--NAME-annotations` and `--NAME-dataset`."""

    name: str
    images: Path | None = None
    annotations: Path | None = None
    dataset: str | None = None

    def __bool__(self) -> bool:
        """Whether at least one of the options was given."""
        return (self.images, self.annotations, self.dataset) != (None, None, None)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights."""

    checkpoint: Annotated[Path | None, FILE] = None
    """file of the trained weights (default: the card's, or the one that `sandglass fetch` downloaded)"""
    ema: bool = False
    """use the averaged (EMA) weights of the checkpoint (default: its plain weights)"""


@Parameter(name="*", group="Calibration")
@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Images on which the ranges of activations are measured for int8."""

    calibration: Annotated[Path | None, FOLDER] = None
    """folder of the calibration images, on which the ranges for int8 are measured"""
    calibration_annotations: Annotated[Path | None, FILE] = None
    """annotation file of the calibration images (default: none; the folder is read as plain photos)"""
    calibration_dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the calibration set (default: coco-keypoints if annotations are given, otherwise a folder of photos)"""
    calibration_size: Annotated[int, COUNT] = 64
    """number of calibration samples (default: 64)"""
    calibration_method: Method = "auto"
    """method for the thresholds (default: auto, by the outputs of layers; with --quick by those of the network)"""

    @property
    def data(self) -> Data:
        """The dataset that the options name."""
        return Data("calibration", self.calibration, self.calibration_annotations, self.calibration_dataset)


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class Draw:
    """A random subset of a dataset."""

    limit: Annotated[int | None, COUNT] = None
    """number of images, a random subset in which each class keeps its share (default: all images)"""
    seed: Annotated[int, WHOLE] = 0
    """random seed of the subset of --limit (default: 0)"""


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Draw):
    """Images on which the result of a search is measured."""

    evaluation: Annotated[Path | None, FOLDER] = None
    """folder of the evaluation images, on which the result is measured"""
    evaluation_annotations: Annotated[Path | None, FILE] = None
    """annotation file of the evaluation images (default: none; only the fidelity is measured)"""
    evaluation_dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the evaluation set (default: coco-keypoints if annotations are given, otherwise a folder of photos)"""

    @property
    def data(self) -> Data:
        """The dataset that the options name."""
        return Data("evaluation", self.evaluation, self.evaluation_annotations, self.evaluation_dataset)


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class Samples(Draw):
    """Files of the dataset whose format --dataset names."""

    images: Annotated[Path | None, FOLDER] = None
    """folder of the images; embedded datasets need none"""
    annotations: Annotated[Path | None, FILE] = None
    """annotation file or folder, for formats that keep the annotations apart from the images"""
    detections: Annotated[Path | None, FILE] = None
    """file with the boxes of a person detector, in COCO's result format (default: use the annotated boxes)"""


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True, kw_only=True)
class KitSamples(Samples):
    """Evaluation samples of a build kit."""

    dataset: Annotated[DatasetName | None, DATASET] = None
    """format of the evaluation samples that a build kit contains (default: the kit contains none)"""


@Parameter(name="*", group="Int8")
@dataclass(frozen=True, kw_only=True)
class ProcessorOptions:
    """The kind of processor that runs the int8 artifact."""

    processor: Annotated[Processor, PROCESSOR, Parameter(name=("--for-processor", "--for"))] = ANY
    """kind of processor for int8: any, x86-avx2, x86-vnni or arm-dotprod, see docs/int8.md (default: any)"""


@Parameter(name="*", group="Int8")
@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """Repairs of the network against the noise of int8."""

    without: Annotated[tuple[str, ...], Parameter(metavar="REPAIR", allow_repeating=True)] = ()
    """name of a repair to leave out, see docs/repairs.md (default: use all repairs); may be repeated"""


@Parameter(name="*", group="Budget")
@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """The requirements of a search, and the quantity that it minimizes."""

    max_drop: Annotated[float, POINTS] = 0.5
    """largest drop of the metric against float, in points (hundredths) (default: 0.5)"""
    metric: Annotated[str | None, Parameter(metavar="NAME")] = None
    """metric for --max-drop (default: the first metric of the task)"""
    min_fidelity: Annotated[float | None, SHARE] = None
    """smallest agreement with the float network on the evaluation images, 0 to 1 (default: a value of the task)"""
    min_int8_share: Annotated[float, SHARE] = 0.0
    """smallest share of multiply-accumulates in int8, 0 to 1, even where it makes a layer slower (default: 0)"""
    gain: Gain = "time"
    """quantity that int8 saves: measured time on this machine, or work (multiply-accumulates) (default: time)"""
    best_effort: bool = False
    """publish the best artifact even if it is over the budget (default: publish nothing then)"""


@Parameter(name="*", group="Input shapes")
@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Input shapes of an artifact for images that keep their aspect ratio."""

    shapes: Annotated[tuple[list[Size], ...], each(sizes, "HxW,HxW,...")] = ()
    """input shapes in pixels; an image runs in the smallest one that holds it (default: the card's); may be repeated"""
    shapes_from: Annotated[Path | None, FOLDER] = None
    """folder of images; input shapes are chosen to fit them, in place of --shapes"""
    max_shapes: Annotated[int, COUNT] = 36
    """largest number of input shapes for --shapes-from (default: 36)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The runtimes and precisions to deploy to."""

    to: Annotated[
        tuple[str, ...],
        Parameter(metavar="BACKEND[:PRECISION]", consume_multiple=True, allow_repeating=True),
    ] = ()
    """runtimes and precisions, such as ncnn:int8; one --to takes several, and it may be repeated"""
    deploy_config: Annotated[Path | None, FILE] = None
    """deploy config of mmdeploy, FILE.py, in place of --to"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of the results."""

    out: Annotated[Path, FOLDER]
    """folder of the results"""
    force: bool = False
    """replace existing results (default: refuse)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Threads and batch size of a runtime."""

    threads: Annotated[int | None, COUNT] = None
    """number of threads (default: the number that `tune` stored, or all threads of this machine)"""
    batch: Annotated[int, COUNT] = 1
    """number of images in one run (default: 1)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """The destination of the result as JSON."""

    json: Annotated[Path | None, FILE_OR_STDOUT] = None
    """file for the result as JSON (default: none); - writes only JSON to standard output"""
