"""Artifacts for images of many sizes, on the embedded bottom-up model: what they do, and what they refuse."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from sandglass import deployment
from sandglass.artifacts import build_files, input_shapes, shape_choice
from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.backends import Capabilities, load_backend
from sandglass.cli.main import main
from sandglass.core import discover
from sandglass.core.compare import relative_difference
from sandglass.core.errors import BackendError, BackendUnavailable, DatasetError, GraphError, InputError
from sandglass.datasets import synthetic_crowd
from sandglass.measure import benchmarking
from sandglass.measure.benchmarking import benchmark, mean_throughput, speed
from sandglass.measure.evaluation import evaluate
from sandglass.measure.worker import Worker
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card, Input
from sandglass.sources.load_card import load_card
from sandglass.tasks import bottomup_pose
from sandglass.vision.image import write_image

pytest.importorskip("torch")
CARD = load_card("hrnet-ae-tiny-synthetic")
SHAPES = {(192, 192): 3, (192, 256): 2, (256, 192): 1}
DYNAMIC = [name for name in discover.names("backends") if load_backend(name).CAPABILITIES.dynamic_shapes]


def deployed(out: Path, target: str, of: dict[tuple[int, int], int] = SHAPES, **options: Any) -> Artifact:
    """The embedded model as an artifact with shapes."""
    name = target.partition(":")[0]
    try:
        discover.load("backends", name).available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    (outcome,) = deployment.deploy(CARD, [target], out, shapes=of, **options)
    assert outcome.artifact is not None, outcome.error
    return outcome.artifact


def predictions(artifact: Artifact, images: int = 8) -> list[dict[str, Any]]:
    return evaluate(artifact, synthetic_crowd.load(limit=images)).predictions


def assert_same_people(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """As many people in each image, at the same places to a hundredth of a pixel, with the same scores."""
    for a, b in zip(first, second, strict=True):
        assert len(a["people"]) == len(b["people"])
        for one, other in zip(a["people"], b["people"], strict=True):
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-2)
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One artifact for all shapes."""
    return deployed(tmp_path_factory.mktemp("free"), "onnxruntime:fp32")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same from a runtime that has to build each shape: this one, changed here, where it then has to be built."""
    backend = discover.load("backends", "onnxruntime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CAPABILITIES", Capabilities())
        patch.setattr(build_files, "run_isolated", lambda name, function, *given, more_seconds: function(*given))
        return deployed(tmp_path_factory.mktemp("apart"), "onnxruntime:fp32")


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
def test_runtimes_with_open_sides_agree_with_static_graphs(name: str, apart: Artifact, tmp_path: Path) -> None:
    """One set of files serves every shape: its maps of real inputs are those of a graph made for each."""
    artifact = deployed(tmp_path, f"{name}:fp32")
    assert artifact.manifest.by_shape == []
    assert artifact.shapes == SHAPES
    crowd, sessions = synthetic_crowd.load(limit=2 if name == "reference" else 8), [artifact.open(1), apart.open(1)]
    for image in crowd.image_ids:
        pixels = crowd.read(image)
        size = bottomup_pose.needed(pixels.shape[:2], CARD)
        array, _ = bottomup_pose.prepare(pixels, bottomup_pose.Sample(0, image), CARD, size)
        found, expected = (next(iter(session.run({"input": array[None]}).values())) for session in sessions)
        assert relative_difference(expected, found) < 1e-4


@pytest.mark.slow
def test_static_graphs_find_the_same_people(apart: Artifact, free: Artifact) -> None:
    """The same runtime with a graph for each shape and with one for all."""
    assert_same_people(predictions(free), predictions(apart))


@pytest.mark.slow
def test_static_runtimes_get_files_for_each_shape(apart: Artifact, free: Artifact) -> None:
    """A folder a shape, verified when loaded; the size on disk is that of all."""
    assert sorted(path.name for path in apart.folder.iterdir() if path.is_dir()) == ["192x192", "192x256", "256x192"]
    assert apart.size == pytest.approx(3 * free.size, rel=0.05)
    assert load_artifact(apart.folder).shapes == SHAPES
    session = apart.open(1)
    for height, width in SHAPES:
        (maps,) = session.run(apart.noise(2, (height, width))).values()
        assert maps.shape == (2, 34, height // 4, width // 4)
    with pytest.raises(BackendError, match="no input shape 64x64"):
        session.run(apart.noise(1, (64, 64)))


@pytest.mark.slow
def test_a_shape_of_its_own_is_what_an_image_gets_without_shapes(free: Artifact, tmp_path: Path) -> None:
    """In the smallest shape that holds it an image gives exactly what a plain artifact of that size gives."""
    crowd = synthetic_crowd.load(limit=8)
    wide = [i["id"] for i in crowd.coco["images"] if (i["height"], i["width"]) == (240, 320)]
    assert wide
    size = bottomup_pose.needed((240, 320), CARD)
    assert size == (192, 256)
    card = replace(CARD, input=replace(CARD.input, size=size))
    (outcome,) = deployment.deploy(card, ["onnxruntime:fp32"], tmp_path)
    assert outcome.artifact is not None
    plain = outcome.artifact.open(1)
    found = {prediction["image_id"]: prediction for prediction in predictions(free)}
    for image in wide:
        array, meta = bottomup_pose.prepare(crowd.read(image), bottomup_pose.Sample(0, image), CARD, size)
        (expected,) = bottomup_pose.decode(plain.run({"input": array[None]}), [meta], CARD)
        assert expected["people"]
        assert_same_people([expected], [found[image]])


@pytest.mark.slow
def test_larger_shapes_change_little(free: Artifact, tmp_path: Path) -> None:
    """One shape for all images finds most people that three find; wide borders cost this small network some AP."""
    large = deployed(tmp_path, "onnxruntime:fp32", {(256, 256): 6})
    data = synthetic_crowd.load(limit=24)
    results = [evaluate(artifact, data) for artifact in (free, large)]
    agreed = [bottomup_pose.agreement(a, b)["OKS"] for a, b in zip(*(r.predictions for r in results), strict=True)]
    assert np.nanmean(agreed) > 0.85
    assert results[1].metrics["AP"]["value"] == pytest.approx(results[0].metrics["AP"]["value"], abs=0.1)


def test_batches_hold_inputs_of_one_shape(free: Artifact) -> None:
    """A batch of images of several shapes gives what they give one by one, mirrored images included."""
    crowd = synthetic_crowd.load(limit=6)
    for flip_test in (False, True):
        one, four = (evaluate(free, crowd, batch=batch, flip_test=flip_test).predictions for batch in (1, 4))
        assert_same_people(one, four)


@pytest.mark.slow
def test_int8_with_shapes(tmp_path: Path) -> None:
    """Ranges are read at the first shape and serve all: the loss is small at each."""
    calibration = Calibration(synthetic_crowd.load(limit=16, split="train"), size=16)
    int8 = deployed(tmp_path, "onnxruntime:int8", calibration=calibration)
    float_ = deployed(tmp_path, "onnxruntime:fp32")
    found = [bottomup_pose.agreement(a, b)["OKS"] for a, b in zip(predictions(float_), predictions(int8), strict=True)]
    assert np.nanmean(found) > 0.85


def test_benchmark_times_every_shape(free: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """One result for each shape, of bursts of that shape alone; the process runs inputs of the shape it is told."""
    asked = Counter[tuple[int, int] | None]()
    burst = Worker.burst

    def counted(worker: Worker, seconds: float, shape: tuple[int, int] | None = None) -> list[float]:
        times = burst(worker, seconds, shape)
        asked[shape] += len(times)
        return times

    monkeypatch.setattr(Worker, "burst", counted)
    monkeypatch.setattr(benchmarking, "WARM_UP_SECONDS", 0)
    speeds = benchmark([free], threads=1, seconds=0.5)
    assert [speed.shape for speed in speeds] == list(SHAPES)
    assert {speed.shape: speed.runs + 1 for speed in speeds} == asked  # one to warm up
    inputs = [next(iter(free.noise(1, shape).values())) for shape in SHAPES]
    assert [values.shape[2:] for values in inputs] == list(SHAPES)
    assert speeds[1].to_dict()["images_in_shape"] == 2
    total = sum(SHAPES[s.shape] / s.throughput for s in speeds if s.shape)
    assert mean_throughput(speeds) == pytest.approx(6 / total)


def test_mean_throughput_is_weighted_by_images(free: Artifact) -> None:
    """Three images at 10 a second, two at 5, one at 2: 1.2 seconds for six. Without counts there is no mean."""
    seconds = dict(zip(SHAPES, (0.1, 0.2, 0.5), strict=True))
    speeds = [speed(free, [spent], 1.0, 1, 1, shape) for shape, spent in seconds.items()]
    assert mean_throughput(speeds) == pytest.approx(6 / 1.2)
    unknown = Artifact(free.folder, replace(free.manifest, shapes=[(192, 192, 0)]), CARD)
    assert mean_throughput([speed(unknown, [0.1], 1.0, 1, 1, (192, 192))]) is None


@pytest.mark.slow
def test_from_a_folder_to_results_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shapes from images, evaluated into COCO's result format, and benchmarked at each."""
    crowd = synthetic_crowd.load(limit=8)
    for image in crowd.image_ids:
        write_image(tmp_path / "images" / f"{image}.png", crowd.read(image))
    out, file = tmp_path / "out", tmp_path / "result.json"
    options = ["--shapes-from", tmp_path / "images", "--max-shapes", "2", "--out", out]
    assert run("deploy", CARD.name, "--to", "onnxruntime:fp32", *options) == 0
    told = capsys.readouterr()
    assert "shapes: 2 for 8 images" in told.err
    assert "| 2 shapes |" in told.out
    folder = out / "onnxruntime-fp32"
    assert run("evaluate", folder, "--dataset", "synthetic-crowd", "--limit", "8", "--results", file) == 0
    entries = json.loads(file.read_text())
    assert {entry["image_id"] for entry in entries} <= set(crowd.image_ids)
    assert all(len(entry["keypoints"]) == 51 and entry["category_id"] == 1 for entry in entries)
    capsys.readouterr()
    assert run("benchmark", folder, "--seconds", "0.3", "--threads", "1") == 0
    table = capsys.readouterr().out
    assert table.count(CARD.name) == 3
    assert "all, weighted" in table


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_shapes_of_images_come_most_frequent_first(tmp_path: Path) -> None:
    """Only sizes matter; a larger shape is shared where there may be fewer."""
    for i, size in enumerate([(100, 100), (100, 150), (100, 150), (160, 100)]):
        write_image(tmp_path / f"{i}.png", np.zeros((*size, 3), np.uint8))
    found, wasted = input_shapes.shapes_of_images(CARD, tmp_path, 36)
    assert list(found.items()) == [((192, 320), 2), ((192, 192), 1), ((320, 192), 1)]
    assert wasted == 0
    found, wasted = input_shapes.shapes_of_images(CARD, tmp_path, 2)
    assert sum(found.values()) == 4
    assert len(found) == 2
    assert wasted > 0


def test_what_is_no_shape_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Malformed text, and sides that the network cannot have, with the nearest that it can."""
    for text in ("192", "192x", "192x256,", "a x b", "-64x64"):
        assert run("deploy", CARD.name, "--to", "onnxruntime", "--out", tmp_path, f"--shapes={text}") == 2
        assert "is not HEIGHTxWIDTH" in capsys.readouterr().err
    assert run("deploy", CARD.name, "--to", "onnxruntime", "--out", tmp_path, "--shapes", "192x192,192x300") == 2
    told = capsys.readouterr().err
    assert "the shape 192x300 has a side of 300" in told
    assert "multiples of 64" in told
    assert "use 192x320" in told
    with pytest.raises(InputError, match="side of 0"):
        input_shapes.named_shapes(CARD, [(0, 64)])


def test_an_image_that_no_shape_holds_is_named_with_the_nearest(free: Artifact, tmp_path: Path) -> None:
    """Not cut and not shrunk: refused."""
    write_image(tmp_path / "long.png", np.zeros((50, 400, 3), np.uint8))
    assert run("predict", free.folder, tmp_path / "long.png", "--out", tmp_path / "p.png") == 2
    with pytest.raises(InputError, match=r"image 7 needs an input of 192x1536.* 3 shapes.* nearest is 192x256"):
        input_shapes.smallest_shape(SHAPES, (192, 1536), "image 7")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    """Missing, empty, or with a broken image."""
    with pytest.raises(DatasetError, match="no folder"):
        input_shapes.shapes_of_images(CARD, tmp_path / "none", 3)
    with pytest.raises(DatasetError, match="has no images"):
        input_shapes.shapes_of_images(CARD, tmp_path, 3)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"a.jpg is not a readable image"):
        input_shapes.shapes_of_images(CARD, tmp_path, 3)


def test_what_cannot_have_shapes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks with one input size, build kits, and graphs of one size."""
    assert run("deploy", "hourglass-tiny-synthetic", "--to", "onnxruntime", "--out", tmp_path, "--shapes", "64x64") == 2
    assert "the task topdown-pose has a single input shape" in capsys.readouterr().err
    with pytest.raises(InputError, match="ascend:fp16 makes a build kit, which has a single input shape"):
        deployment.deploy(CARD, ["ascend:fp16"], tmp_path, soc="Ascend310P3", shapes=SHAPES)
    (plain,) = deployment.deploy(CARD, ["onnxruntime:fp32"], tmp_path)
    assert plain.artifact is not None
    graph = replace(CARD, model=None, arguments={}, checkpoint=None, graph=plain.artifact.folder / "model.onnx")
    with pytest.raises(GraphError, match=r"does not hold for inputs of 192x256.*free height and width"):
        deployment.deploy(graph, ["onnxruntime:fp32"], tmp_path / "again", shapes=SHAPES)


def test_an_onnx_file_with_open_sides_gets_shapes(free: Artifact, tmp_path: Path) -> None:
    """The artifact's own file is such a one."""
    graph = replace(CARD, model=None, arguments={}, checkpoint=None, graph=free.folder / "model.onnx")
    (outcome,) = deployment.deploy(graph, ["onnxruntime:fp32"], tmp_path, shapes=SHAPES)
    assert outcome.artifact is not None, outcome.error
    assert_same_people(predictions(outcome.artifact, 4), predictions(free, 4))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["panet", "textsnake"])
def test_text_detectors_take_shapes_too(name: str, backend: str, tmp_path: Path) -> None:
    """Their graphs, which resize to sizes, hold for every shape; a page lies in a larger one as in its own."""
    pytest.importorskip(backend)
    from safetensors.numpy import save_file

    from sandglass.sources.export import build_module
    from sandglass.tasks import text_detection

    family = discover.load("models", name)
    card = Card("tiny", "text-detection", Input((64, 96), (1, 2, 3), (4, 5, 6)), name, dict(family.TINY))
    card = replace(card, decode={"decoder": name})
    state = {key: value.numpy() for key, value in build_module(card).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    page = np.random.default_rng(0).integers(0, 255, (80, 115, 3), np.uint8)
    own = text_detection.needed((80, 115), card)
    assert own == (64, 96)
    assert text_detection.needed((115, 80), card) == (96, 64)
    known = {own: 1, (96, 64): 1, (128, 160): 1}
    (outcome,) = deployment.deploy(
        card, [f"{backend}:fp32"], tmp_path / "out", checkpoint=tmp_path / "a.safetensors", shapes=known
    )
    assert outcome.artifact is not None, outcome.error
    (sample,) = text_detection.samples_in_image(page, [])
    small, meta = text_detection.prepare(page, sample, card, own)
    large, other = text_detection.prepare(page, sample, card, (128, 160))
    assert meta["content"] == other["content"]
    np.testing.assert_array_equal(small, large[:, : own[0], : own[1]])
    assert not large[:, own[0] :].any()


def test_buckets_of_an_artifact_are_those_that_waste_least(free: Artifact) -> None:
    """Every image of the embedded scenes runs without padding beyond the multiple."""
    sizes = [(i["height"], i["width"]) for i in synthetic_crowd.load(limit=24).coco["images"]]
    needed: dict[tuple[int, int], int] = {}
    for size in sizes:
        shape = bottomup_pose.needed(size, CARD)
        needed[shape] = needed.get(shape, 0) + 1
    assert shape_choice.padding(free.shapes, needed) == 0
