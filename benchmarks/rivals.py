"""The int8 models that other tools make of SimplePose: what they cost, keep and gain, beside our own.

    pip install nncf
    python benchmarks/rivals.py [--half even] [--accuracy-control] [--ours FOLDER ...] [--out rivals.json]

nncf.quantize for OpenVINO and onnxruntime.quantization.quantize_static, each with its defaults and the settings that
its documentation offers for better accuracy. All start from the same brought-up graph and the same prepared inputs;
seconds count from there to the written file. One half of the annotated images of
`$SANDGLASS_TEST_DATA/data/pose/coco-mini` calibrates, the other evaluates: images by id, the even-indexed or the
odd-indexed of them. Every model, ours too, is an artifact that the same code evaluates and times, interleaved with the
fp32 model of its runtime.

OKS to fp32 is the mean over people of the OKS between the keypoints of a model and of its runtime's fp32, over joints
with an fp32 score above 0.2; a person's area is 0.53 of its box. It is also given elsewhere: for 25 people on 8 images
that neither half holds, for them and 56 others (81 have a box without annotated keypoints, which nothing here was made
or chosen with), and for what fp32 sees in photographs that hardly ever show people, looked at whole:
`$SANDGLASS_TEST_DATA/data/classification/imagenet-sample`. Latencies are those of one image on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.manifest import Check, write_manifest
from sandglass.backends import load_backend
from sandglass.core import distribution, host
from sandglass.core.errors import BackendUnavailable, ParityError, SandglassError
from sandglass.core.files import atomic_folder, sha256, write_json
from sandglass.datasets import KeypointDataset, coco_keypoints
from sandglass.deployment import deploy
from sandglass.measure.benchmarking import BURST_SECONDS
from sandglass.measure.evaluation import Evaluation, evaluate
from sandglass.measure.inspection import inspect
from sandglass.measure.worker import Worker
from sandglass.metrics import bootstrap, keypoints
from sandglass.sources.card import Card, Input
from sandglass.sources.prepare import prepared_source
from sandglass.sources.source import Source
from sandglass.table.markdown import markdown
from sandglass.table.rows import change
from sandglass.tasks import load_task, topdown_pose
from sandglass.vision.coco_format import CocoBox, CocoTruth

DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", "../shared")) / "data/pose"
HALVES = ("even", "odd")
MAX_DROP = 0.005
NNCF, ORT = "nncf.quantize", "quantize_static"


@dataclass(frozen=True)
class Given:
    """What every tool starts from: the fp32 graph, and the calibration half as people and prepared inputs."""

    source: Source
    input_name: str
    people: KeypointDataset
    arrays: Sequence[np.ndarray]


@dataclass(frozen=True)
class Rival:
    """A model that another tool made: the tool and its settings in words, and the seconds that it took."""

    artifact: Artifact
    tool: str
    settings: str
    seconds: float | None


@dataclass(frozen=True)
class Recipe:
    """How one model is made: `make` writes the backend's files into a folder."""

    tool: str
    settings: str
    backend: str
    make: Callable[[Given, Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its artifact's folder."""
        words = "".join(letter if letter.isalnum() else " " for letter in f"{self.backend} {self.settings}").split()
        return "-".join(words).lower()


def simplepose() -> Card:
    """The model: RGB, mean and deviation of ImageNet."""
    normalization = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    graph = DATA / "simplepose/simplepose-nano.onnx"
    return Card("simplepose-nano", "topdown-pose", Input((256, 192), *normalization), graph=graph)


def people() -> KeypointDataset:
    """All images; `half_of` takes the annotated ones."""
    return coco_keypoints.load(
        DATA / "coco-mini/train2017", DATA / "coco-mini/annotations/person_keypoints_train2017.json"
    )


def half_of(dataset: KeypointDataset, half: str) -> KeypointDataset:
    """The images with samples, by id, that have an even (or odd) index among them."""
    annotated = sorted({sample.image_id for sample in topdown_pose.samples(dataset)})
    kept = set(annotated[HALVES.index(half) :: 2])
    coco: CocoTruth = {
        **dataset.coco,
        "images": [image for image in dataset.coco["images"] if image["id"] in kept],
        "annotations": [entry for entry in dataset.coco["annotations"] if entry["image_id"] in kept],
    }
    subset = f"{len(kept)} {half}-indexed of {len(annotated)} annotated images"
    return replace(dataset, coco=coco, protocol={**dataset.protocol, "subset": subset})


def other(half: str) -> str:
    """The half that the one does not hold."""
    return HALVES[1 - HALVES.index(half)]


def strangers(dataset: KeypointDataset) -> KeypointDataset:
    """The people with a box whose keypoints are not annotated, as detections: no half holds them."""
    people = [entry for entry in dataset.coco["annotations"] if not entry["iscrowd"] and not entry["num_keypoints"]]
    boxes: list[CocoBox] = [
        {"image_id": entry["image_id"], "category_id": 1, "bbox": entry["bbox"], "score": 1.0} for entry in people
    ]
    return replace(dataset, detections=boxes, protocol={**dataset.protocol, "subset": "people without keypoints"})


def elsewhere() -> dict[str, KeypointDataset]:
    """Images or people that neither half holds."""
    everyone = people()
    apart, held = strangers(everyone), {sample.image_id for sample in topdown_pose.samples(everyone)}
    new = [entry for entry in apart.detections or [] if entry["image_id"] not in held]
    return {
        "new images": replace(apart, detections=new, protocol={**apart.protocol, "subset": "on images of no half"}),
        "new people": apart,
        "photographs": coco_keypoints.load(DATA.parent / "classification/imagenet-sample/images"),
    }


def prepared(dataset: KeypointDataset, card: Card) -> list[np.ndarray]:
    """The inputs (1, 3, H, W) of a dataset's people."""
    return [
        topdown_pose.prepare(dataset.read(sample.image_id), sample, card)[0][np.newaxis]
        for sample in topdown_pose.samples(dataset)
    ]


def make_rivals(out: Path, half: str, accuracy_control: bool = False) -> list[Rival]:
    """Write an artifact folder in `out` for each recipe, calibrated on `half` of the annotated images.

    With `accuracy_control` nncf.quantize_with_accuracy_control is among them, which takes minutes. Raises
    BackendUnavailable when a tool is not installed.
    """
    require("nncf", "openvino")
    card, chosen = simplepose(), half_of(people(), half)
    with prepared_source(card, None) as source:
        arrays = prepared(chosen, card)
        reference = parity.Reference(source, arrays)
        given = Given(source, next(iter(reference.inputs)), chosen, arrays)
        return [_make(recipe, given, reference, out) for recipe in recipes(accuracy_control)]


def require(*modules: str) -> None:
    """Raise BackendUnavailable, with the command to type, for a module that is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise BackendUnavailable(f"{name} is not installed", f"pip install {name}")


def _make(recipe: Recipe, given: Given, reference: parity.Reference, out: Path) -> Rival:
    backend = load_backend(recipe.backend)
    outputs = list(reference.expected[0])
    notes = msgspec.convert({"outputs": outputs} if "outputs" in backend.Notes.__struct_fields__ else {}, backend.Notes)
    package = recipe.tool.partition(".")[0] if recipe.backend == "openvino" else recipe.backend
    with atomic_folder(out / recipe.folder) as folder:
        with _quiet():
            started = time.perf_counter()
            recipe.make(given, folder)
            seconds = time.perf_counter() - started
        try:
            check = reference.check(backend, folder, notes, "int8")
        except ParityError as error:  # other tools' models may be that far off: it is what is measured
            check = Check(error.message)
        fields = {
            "card": given.source.card.to_dict(),
            "backend": recipe.backend,
            "precision": "int8",
            "inputs": {name: list(shape) for name, shape in reference.inputs.items()},
            "graph_sha256": sha256(given.source.graph),
            "checkpoint_sha256": None,
            "plan_sha256": None,
            "versions": {package: version(package), recipe.backend: backend.available()},
            "made_by": f"{recipe.tool}, {recipe.settings}",
            "check": msgspec.to_builtins(check),
            "backend_notes": msgspec.to_builtins(notes),
        }
        write_manifest(folder, fields)
    return Rival(load_artifact(out / recipe.folder), recipe.tool, recipe.settings, seconds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' own progress and advice."""
    with contextlib.redirect_stdout(io.StringIO()):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def recipes(accuracy_control: bool) -> list[Recipe]:
    """All of them, in the order of the table."""
    return [_converted(), *_nncf_recipes(), *([_accuracy_control()] if accuracy_control else []), *_ort_recipes()]


def _converted() -> Recipe:
    """OpenVINO's own conversion of the graph to float: our fp32, which is the first row, is rewritten to be faster."""

    def make(given: Given, folder: Path) -> None:
        import openvino

        openvino.save_model(openvino.convert_model(given.source.graph), folder / "model.xml", compress_to_fp16=False)

    return Recipe("openvino.convert_model", "fp32 as published", "openvino", make, {})


def _nncf_recipes() -> list[Recipe]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters as Advanced
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    mixed = {"preset": nncf.QuantizationPreset.MIXED}
    best: dict[str, Any] = {**mixed, "fast_bias_correction": False}
    # Smooth quant leaves convolutions out unless it is given an alpha for them, and needs the transformer's scheme.
    smooth = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "advanced_parameters": Advanced(smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=0.5)),
    }
    # Half of the weights' range: what keeps sums from overflowing where the processor lacks VNNI.
    overflow = OverflowFix.ENABLE if host.sums_saturate() else OverflowFix.DISABLE
    choices: list[tuple[str, dict[str, Any]]] = [
        ("defaults", {}),
        ("mixed", mixed),
        ("accurate bias correction", {"fast_bias_correction": False}),
        ("mixed, accurate bias correction", best),
        ("best, histogram ranges", {**best, "advanced_parameters": Advanced(
            activations_range_estimator_params=Ranges.HISTOGRAM)}),
        ("best, global min max ranges", {**best, "advanced_parameters": Advanced(
            activations_range_estimator_params=Ranges.MINMAX)}),
        (f"best, overflow fix {overflow.value}d", {**best, "advanced_parameters": Advanced(overflow_fix=overflow)}),
        ("best, smooth quant", {**best, **smooth}),
    ]  # fmt: skip
    return [Recipe(NNCF, settings, "openvino", _nncf(options), options) for settings, options in choices]


def _nncf(options: Mapping[str, Any]) -> Callable[[Given, Path], None]:
    return lambda given, folder: nncf_model(given, folder, options)


def nncf_model(given: Given, folder: Path, options: Mapping[str, Any]) -> None:
    """Write `model.xml`, quantized by nncf.quantize with `options`."""
    import nncf
    import openvino

    model = openvino.convert_model(given.source.graph)
    dataset = nncf.Dataset(given.arrays, lambda array: {given.input_name: array})
    quantized = nncf.quantize(model, dataset, **options)
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def _accuracy_control() -> Recipe:
    settings = f"accuracy control, max drop {MAX_DROP}"
    return Recipe("nncf.quantize_with_accuracy_control", settings, "openvino", _controlled, {"max_drop": MAX_DROP})


def _controlled(given: Given, folder: Path) -> None:
    import nncf
    import openvino

    card, dataset = given.source.card, given.people
    samples = topdown_pose.samples(dataset)
    metas = [topdown_pose.prepare(dataset.read(sample.image_id), sample, card)[1] for sample in samples]

    def validate(model: Any, items: Iterable[tuple[np.ndarray, topdown_pose.PersonView]]) -> tuple[float, None]:
        """AP on the images of `items`."""
        found = []
        for array, meta in items:
            found += topdown_pose.decode({"heatmaps": model({given.input_name: array})[0]}, [meta], card)
        return average_precision(found, dataset), None

    model = openvino.convert_model(given.source.graph)
    calibration = nncf.Dataset(given.arrays, lambda array: {given.input_name: array})
    items = list(zip(given.arrays, metas, strict=True))
    validation = nncf.Dataset(items, lambda item: {given.input_name: item[0]})
    made = nncf.quantize_with_accuracy_control(model, calibration, validation, validate, max_drop=MAX_DROP)
    openvino.save_model(made, folder / "model.xml", compress_to_fp16=False)


def average_precision(predictions: Sequence[topdown_pose.Person], dataset: KeypointDataset) -> float:
    """AP of people on the images that they are in."""
    seen = {prediction["image_id"] for prediction in predictions}
    truth: CocoTruth = {
        **dataset.coco,
        "images": [image for image in dataset.coco["images"] if image["id"] in seen],
        "annotations": [entry for entry in dataset.coco["annotations"] if entry["image_id"] in seen],
    }
    matches = keypoints.match(truth, topdown_pose.to_coco(predictions))
    return float(keypoints.accumulate(matches, np.ones((1, len(truth["images"])), int))["AP"][0])


def _ort_recipes() -> list[Recipe]:
    from onnxruntime.quantization import CalibrationMethod as Method
    from onnxruntime.quantization import QuantType

    channel = {"per_channel": True}
    # What its documentation names for x86, with a reduced range of weights where the processor lacks VNNI.
    unsigned = {**channel, "activation_type": QuantType.QUInt8, "reduce_range": host.sums_saturate()}
    moving = {**unsigned, "extra_options": {"CalibMovingAverage": True}}
    methods = {"min max": Method.MinMax, "entropy": Method.Entropy, "percentile": Method.Percentile}
    chosen = {name: {**channel, "calibrate_method": method} for name, method in methods.items()}
    part = {"calibrate_method": Method.Percentile, "extra_options": {"CalibPercentile": 99.99}}
    choices: list[tuple[str, dict[str, Any]]] = [
        ("defaults", {}),
        *((f"per channel, {name}", options) for name, options in chosen.items()),
        *((f"pre-processed, per channel, {name}", {**options, "pre": True}) for name, options in chosen.items()),
        ("per channel, symmetric activations", {**channel, "extra_options": {"ActivationSymmetric": True}}),
        ("per channel, reduced range", {**channel, "reduce_range": True}),
        ("per channel, unsigned activations", unsigned),
        ("per channel, unsigned activations, Conv only", {**unsigned, "op_types_to_quantize": ["Conv"]}),
        ("per channel, unsigned activations, percentile", {**unsigned, "calibrate_method": Method.Percentile}),
        ("per channel, unsigned activations, percentile 99.99", {**unsigned, **part}),
        ("per channel, unsigned activations, moving average", moving),
        ("per channel, unsigned activations, moving average, output layer in float", {**moving, "keep_output": True}),
    ]
    return [Recipe(ORT, settings, "onnxruntime", _ort(options), options) for settings, options in choices]


def _ort(options: Mapping[str, Any]) -> Callable[[Given, Path], None]:
    return lambda given, folder: ort_model(given, folder, options)


def ort_model(given: Given, folder: Path, options: Mapping[str, Any]) -> None:
    """Write `model.onnx`, quantized by quantize_static with `options`.

    `pre` pre-processes the graph before, and `keep_output` leaves the layers that make the outputs in float.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter({given.input_name: array} for array in given.arrays)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    passed = {key: value for key, value in options.items() if key not in ("pre", "keep_output")}
    with TemporaryDirectory(prefix="sandglass-") as scratch:
        graph = given.source.graph
        if options.get("pre"):
            graph = Path(scratch) / "graph.onnx"
            quant_pre_process(str(given.source.graph), str(graph))
        if options.get("keep_output"):
            passed["nodes_to_exclude"] = _output_layers(onnx.load(graph))
        quantize_static(str(graph), str(folder / "model.onnx"), Reader(), quant_format=QuantFormat.QDQ, **passed)


def _output_layers(model: Any) -> list[str]:
    """The nodes that make the graph's outputs."""
    outputs = {value.name for value in model.graph.output}
    return [node.name for node in model.graph.node if outputs & set(node.output)]


def oks_to_fp32(base: Evaluation, result: Evaluation) -> dict[str, float]:
    """Mean over people of the OKS between two models' keypoints, with its 95 % interval over images.

    A person of whom fp32 sees no joint does not count.
    """
    pairs = zip(base.predictions, result.predictions, strict=True)
    values = np.array([load_task("topdown-pose").agreement(before, after)["OKS"] for before, after in pairs])
    seen = np.isfinite(values)
    ids = base.dataset.image_ids
    places = np.array([ids.index(prediction["image_id"]) for prediction in base.predictions])
    weights = bootstrap.multiplicities(len(ids), 0)[:, places[seen]]
    low, high = bootstrap.interval((weights * values[seen]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1))
    return {"value": float(values[seen].mean()), "low": low, "high": high}


def race(base: Artifact, others: Sequence[Artifact], seconds: float) -> list[dict[str, float]]:
    """Latency of one image of `base` and of each of `others`, `seconds` of bursts each, and its ratio to `base`.

    A burst of `base` goes before each burst of another, and the ratio is the median over these pairs: other load on
    the machine comes and goes more slowly.
    """
    workers: list[Worker] = []
    try:
        for artifact in (base, *others):
            workers.append(Worker(artifact, host.threads(), 1))
            workers[-1].burst(BURST_SECONDS)
        times: list[list[float]] = [[] for _ in workers]
        ratios: list[list[float]] = [[1.0], *([] for _ in others)]
        for _ in range(max(1, round(seconds / BURST_SECONDS))):
            for worker, collected, found in zip(workers[1:], times[1:], ratios[1:], strict=True):
                before, after = workers[0].burst(BURST_SECONDS), worker.burst(BURST_SECONDS)
                times[0] += before
                collected += after
                found.append(float(np.median(after) / np.median(before)))
    finally:
        for worker in workers:
            worker.close()
    return [
        {
            "median_ms": 1e3 * float(np.median(spent)),
            "minimum_ms": 1e3 * min(spent),
            "to_fp32": float(np.median(found)),
            "runs": len(spent),
            "threads": host.threads(),
        }
        for spent, found in zip(times, ratios, strict=True)
    ]


def compare(rivals: Sequence[Rival], half: str, seconds: float, out: Path) -> list[dict[str, Any]]:
    """What each of `rivals`, calibrated on `half`, is on the other one, below the fp32 of its runtime; JSON-able."""
    dataset, others, rows = half_of(people(), other(half)), elsewhere(), []
    names = list(dict.fromkeys(rival.artifact.backend for rival in rivals))
    outcomes = deploy(simplepose(), [f"{name}:fp32" for name in names], out)
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.artifact is None:
            raise outcome.error or BackendUnavailable(f"{name} has no fp32")
        chosen = [rival for rival in rivals if rival.artifact.backend == name]
        artifacts = [outcome.artifact, *(rival.artifact for rival in chosen)]
        speeds = race(artifacts[0], artifacts[1:], seconds)
        results = [evaluate(artifact, dataset) for artifact in artifacts]
        found = [{name: evaluate(a, data) for name, data in others.items()} for a in artifacts]
        everyone = [Rival(outcome.artifact, "fp32", "", None), *chosen]
        for rival, speed, result, seen in zip(everyone, speeds, results, found, strict=True):
            rows.append({
                "tool": rival.tool,
                "settings": rival.settings,
                "calibrated_on": half if rival.tool != "fp32" else None,
                "evaluated_on": other(half),
                "seconds": rival.seconds,
                "check": rival.artifact.manifest.check.summary,
                "int8_share_of_macs": inspect(rival.artifact).integer_share,
                "evaluation": result.to_dict(),
                "change": load_task("topdown-pose").paired(results[0].predictions, result.predictions, dataset),
                "oks_to_fp32": oks_to_fp32(results[0], result),
                "oks_elsewhere": {name: oks_to_fp32(found[0][name], one) for name, one in seen.items()},
                "latency": speed,
            })  # fmt: skip
            print(f"{half}: {name} {rival.tool} {rival.settings}: measured", file=sys.stderr)
    return rows


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """One row of the table."""
    metrics, base = row["evaluation"]["metrics"], row["tool"] == "fp32"
    return {
        "evaluated on": row["evaluated_on"],
        "runtime": row["evaluation"]["backend"],
        "made with": row["tool"],
        "settings": row["settings"],
        "seconds": "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        "int8 MACs %": f"{100 * row['int8_share_of_macs']:.0f}",
        "AP": f"{metrics['AP']['value']:.4f}",
        "change in points (95 %)": "" if base else change(row["change"]["AP"]),
        "OKS to fp32": "" if base else f"{row['oks_to_fp32']['value']:.4f}",
        **{name: "" if base else f"{found['value']:.4f}" for name, found in row["oks_elsewhere"].items()},
        "median ms": f"{row['latency']['median_ms']:.2f}",
        "to fp32": f"{row['latency']['to_fp32']:.2f}",
    }


def ours(folders: Sequence[str], half: str) -> list[Rival]:
    """Further artifacts; `{half}` in a folder's name stands for the half that calibrates."""
    found = [load_artifact(Path(folder.replace("{half}", half))) for folder in folders]
    for artifact in found:
        load_backend(artifact.backend).available()
    return [Rival(artifact, "sandglass", artifact.folder.name, None) for artifact in found]


def main() -> int:
    """Measure, print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=[*HALVES, "both"], default="both", help="the half that calibrates")
    parser.add_argument("--accuracy-control", action="store_true", help="nncf's too, which takes minutes")
    parser.add_argument("--ours", nargs="+", default=[], metavar="FOLDER", help="artifacts; {half} is filled in")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each model")
    parser.add_argument("--out", type=Path, default=Path("rivals.json"))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    try:
        for half in HALVES if arguments.half == "both" else (arguments.half,):
            with TemporaryDirectory(prefix="sandglass-") as folder:
                own = ours(arguments.ours, half)
                rivals = make_rivals(Path(folder) / "rivals", half, arguments.accuracy_control)
                rows += compare([*rivals, *own], half, arguments.seconds, Path(folder) / "fp32")
            packages = ("nncf", "openvino", "onnxruntime", distribution.NAME)
            versions = {name: version(name) for name in packages}
            write_json(arguments.out, {"host": host.describe(), "versions": versions, "rows": rows})
    except SandglassError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown([cells(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
