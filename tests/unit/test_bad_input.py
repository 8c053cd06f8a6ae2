"""Bad input through the command line: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.manifest import write_manifest
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.sources.card import ZOO
from sandglass.vision.image import read_image
from unit.test_cli import CARD, SYNTHETIC
from unit.test_coco_keypoints import person, write

MODEL = "hourglass-tiny-synthetic"
HEAD = '<ir_version: 8, opset_import: ["" : 17, "other" : 1]> g (float[1, 3, 32, 24] image) => '


class House:
    """A folder to work in, and the command line on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.card, self.graph, self.out = folder / "small.toml", folder / "small.onnx", folder / "out"
        self.card.write_text(CARD)
        save_graph(self.graph)

    def run(self, *arguments: object) -> int:
        """Exit code of a command."""
        return main([str(argument) for argument in arguments])

    def deploy(self, *targets: str, **options: object) -> int:
        """Exit code of deploying the small card."""
        return self.run("deploy", self.card, "--to", *targets, "--out", self.out, *_flags(options))

    def refused(self, *arguments: object) -> str:
        """What a command says that must fail with one clear line, and leave no file behind that was not there."""
        before = self.files()
        self.capsys.readouterr()
        assert self.run(*arguments) == 2
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        told = [line for line in said.err.splitlines() if line.startswith("sandglass: ") or ": failed: " in line]
        assert len(told) == 1, said.err
        assert self.files() == before
        return said.err

    def refused_deploy(self, *targets: str, **options: object) -> str:
        """The same for deploying the small card."""
        return self.refused("deploy", self.card, "--to", *targets, "--out", self.out, *_flags(options))

    def files(self) -> dict[str, bytes]:
        """All files and their content, and all folders but an empty output folder."""
        return {
            str(path): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.folder.rglob("*"))
            if "cache" not in path.parts and not (path == self.out and not list(path.iterdir()))
        }


def _flags(options: dict[str, object]) -> list[object]:
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture
def house(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> House:
    """A card over the small graph, and a cache of its own."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "cache"))
    return House(tmp_path, capsys)


def runtimes() -> list[str]:
    """Runtimes for users' ONNX files."""
    backends = {name: discover.load("backends", name) for name in discover.names("backends")}
    return [name for name, one in backends.items() if one.PURPOSE == "deploy" and one.CAPABILITIES.runs_graphs]


def usable(name: str) -> bool:
    """Whether a backend's package is installed here."""
    try:
        discover.load("backends", name).available()
    except BackendUnavailable:
        return False
    return True


# Checkpoints


def state() -> dict[str, Any]:
    """The weights in the package as torch has them."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file

    return {key: torch.from_numpy(value) for key, value in load_file(ZOO / f"{MODEL}.safetensors").items()}


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _hostile(path: Path) -> None:
    import torch

    torch.save({"state_dict": state(), "x": Hostile(path.parent / "owned")}, path)


def _other(path: Path) -> None:
    import torch

    from sandglass.models import hourglass

    torch.save(hourglass.build(**hourglass.TINY).state_dict(), path)


def _nan(path: Path) -> None:
    import torch

    weights = state()
    weights["head.multi_final_layers.0.bias"][3] = float("nan")
    torch.save(weights, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "a.pth is not a complete checkpoint"),
        (lambda path: path.write_bytes(b""), "a.pth is not a complete checkpoint"),
        (_hostile, "names posix.system"),
        (_other, "a.pth belongs to another model: "),
        (_nan, "tensor heatmaps is NaN or infinite"),
        (lambda path: path.unlink(), "a.pth does not exist"),
    ],
)
def test_checkpoint(house: House, spoil: Callable[[Path], object], message: str) -> None:
    """A checkpoint that is truncated, hostile, of another model, with NaN or absent is refused, and nothing is run."""
    torch = pytest.importorskip("torch")
    path = house.folder / "a.pth"
    torch.save({"state_dict": state()}, path)
    spoil(path)
    said = house.refused("deploy", MODEL, "--checkpoint", path, "--to", "onnxruntime", "--out", house.out)
    assert message in said
    assert not (house.folder / "owned").exists()


# Graphs


@pytest.mark.parametrize(
    "data", [b"", b"no graph at all", b"\x89PNG\r\n\x1a\n" + bytes(40), None, 0.5], ids=lambda data: repr(data)[:12]
)
def test_file_that_is_no_onnx(house: House, data: bytes | float | None) -> None:
    """An empty file, text, an image, no file and half a file are refused by the file's name."""
    whole = house.graph.read_bytes()
    if data is None:
        house.graph.unlink()
    else:
        house.graph.write_bytes(whole[: int(len(whole) * data)] if isinstance(data, float) else data)
    assert "small.onnx" in house.refused_deploy("onnxruntime")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(int64[n, k] heatmaps) { heatmaps = NonZero(image) }", "heatmaps has the shape [4, '?']"),
        ("(float[1, 3, 32, 24] heatmaps) { heatmaps = other.Bar(image) }", "the graph has other.Bar"),
        ("(float[1, 3, 32, 24] heatmaps) { heatmaps = Frobnicate(image) }", "the graph has Frobnicate"),
        ("(float[1, 3, 32, 24] heatmaps) { heatmaps = Log(image) }", "tensor heatmaps is NaN or infinite on noise"),
    ],
)
def test_graph_that_nothing_runs(house: House, text: str, message: str) -> None:
    """A shape that depends on the data, an operator nobody defines, and NaN are told by their names."""
    onnx.save(onnx.parser.parse_model(HEAD + text), house.graph)
    assert message in house.refused_deploy("onnxruntime")


def test_graph_of_another_size_than_its_card(house: House) -> None:
    """Both sizes are told."""
    house.card.write_text(CARD.replace("[32, 24]", "[64, 48]"))
    said = house.refused_deploy("onnxruntime")
    assert "[1, 3, 32, 24]" in said
    assert "[1, 3, 64, 48]" in said


def test_free_dimensions_are_the_cards(house: House) -> None:
    """A graph with a free batch, height and width is no bad input: the card says them."""
    text = HEAD.replace("1, 3, 32, 24", "n, 3, h, w") + "(float[n, 3, h, w] heatmaps) { heatmaps = Relu(image) }"
    onnx.save(onnx.parser.parse_model(text), house.graph)
    assert house.deploy("onnxruntime") == 0
    assert load_artifact(house.out / "onnxruntime-fp32").manifest.inputs == {"image": (1, 3, 32, 24)}


DETERMINANT = """(float[1, 3] y) {
    start = Constant<value = int64[4] {0, 0, 0, 0}>() end = Constant<value = int64[4] {1, 3, 24, 24}>()
    square = Slice(image, start, end) y = Det(square) }"""


@pytest.mark.parametrize(
    ("name", "operator", "text", "others"),
    [
        (
            "ncnn",
            "Trilu",
            "(float[1, 3, 32, 24] heatmaps) { heatmaps = Trilu(image) }",
            ["onnxruntime", "openvino", "tvm"],
        ),
        ("ncnn", "Det", DETERMINANT, ["onnxruntime"]),
        ("openvino", "Det", DETERMINANT, ["onnxruntime"]),
    ],
)
def test_operator_that_a_backend_lacks_is_named_with_the_backends_that_have_it(
    house: House, name: str, operator: str, text: str, others: list[str]
) -> None:
    """The line names the operator and exactly the other runtimes that take this graph."""
    if not usable(name):
        pytest.skip(f"{name} is not installed")
    onnx.save(onnx.parser.parse_model(HEAD + text), house.graph)
    said = house.refused_deploy(name)
    assert "lacks" in said
    assert operator in said
    assert f"(use a backend that runs this graph: {', '.join(other for other in others if usable(other))})" in said
    assert "reference" not in said
    assert "null" not in said


def test_outputs_that_the_task_cannot_read(house: House) -> None:
    """A graph whose outputs are no heatmaps is told when it is used, with their shapes."""
    onnx.save(onnx.parser.parse_model(HEAD + "(float[1, 3, 32, 24] y) { y = Relu(image) }"), house.graph)
    assert house.deploy("onnxruntime") == 0
    said = house.refused("evaluate", house.out / "onnxruntime-fp32", "--dataset", "synthetic-people", "--limit", 1)
    assert "outputs are y [1, 3, 32, 24], expected 17 heatmaps" in said


def _weights(path: Path, **values: float) -> None:
    """Fill weights of the small graph with one value."""
    model = onnx.load(path)
    for entry in model.graph.initializer:
        if entry.name in values:
            filled = np.full(tuple(entry.dims), values[entry.name], np.float32)
            entry.CopyFrom(numpy_helper.from_array(filled, entry.name))
    onnx.save(model, path)


def test_nan_activation_is_named(house: House) -> None:
    """The error names the first tensor that is NaN and the input, with calibration images and without."""
    _weights(house.graph, w2=float("nan"))
    first = "the tensor c2 is NaN or infinite on"
    assert f"{first} calibration samples, input 0" in house.refused(
        "deploy", house.card, "--to", "onnxruntime:int8", "--out", house.out, *SYNTHETIC
    )
    assert f"{first} noise, input 0" in house.refused_deploy("onnxruntime")


@pytest.mark.slow
def test_constant_activations_are_no_error(house: House) -> None:
    """Layers that see only zeros stay in float, and so does nothing else; every backend agrees with the graph."""
    _weights(house.graph, w2=0.0)
    targets = [f"{name}:int8" for name in runtimes() if usable(name)]
    assert house.run("deploy", house.card, "--to", *targets, "--out", house.out, *SYNTHETIC) == 0
    layers = json.loads((house.out / "onnxruntime-int8.plan.json").read_text())["layers"]
    dead = {name for name, layer in layers.items() if layer["keep_float"]}
    assert dead == {"pointwise", "three", "last"}
    assert all(layers[name]["reason"] == "its input was 0 on every calibration sample" for name in dead)


# Plans and calibration sets


EMPTY_PLAN = {"format": 1, "graph": "a", "method": "kl", "calibration": {}, "tensors": {}, "layers": {}}


def _other_graphs_plan(folder: Path) -> str:
    from sandglass.quantization import make_plan

    graph = save_graph(folder / "other.onnx")
    _weights(graph, w4=0.25)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 24)).astype(np.float32)
    return make_plan.make_plan(graph, [{"image": image}], "kl").to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("", "is not JSON"),
        ("[]", "is not a plan"),
        ("3", "is not a plan"),
        (json.dumps({**EMPTY_PLAN, "tensors": {"a": 1}}), "tensors.a is 1, expected table"),
        (json.dumps(EMPTY_PLAN), "differ in the layer"),
        (_other_graphs_plan, "the plan is for the graph"),
    ],
)
def test_plan_that_does_not_fit(house: House, text: Any, message: str) -> None:
    """A plan that is absent, no plan, or another graph's is refused before anything is written."""
    plan = house.folder / "p.json"
    if text is not None:
        plan.write_text(text(house.folder) if callable(text) else text)
    said = house.refused(
        "deploy", house.card, "--to", "onnxruntime:int8", "--plan", plan, "--out", house.out, *SYNTHETIC
    )
    assert message in said


def test_plan_that_was_edited_is_not_replaced(house: House) -> None:
    """A second deployment into the folder keeps an edited plan.json unless it is forced; the same plan is no matter."""
    arguments = ("deploy", house.card, "--out", house.out, *SYNTHETIC, "--to")
    assert house.run(*arguments, "onnxruntime:int8") == 0
    shutil.rmtree(house.out / "onnxruntime-int8")
    assert house.run(*arguments, "onnxruntime:int8") == 0
    shutil.rmtree(house.out / "onnxruntime-int8")
    plan = house.out / "onnxruntime-int8.plan.json"
    plan.write_text(plan.read_text().replace('"keep_float": false', '"keep_float": true', 1))
    assert "plan.json exists already and is another plan" in house.refused(*arguments, "onnxruntime:int8")
    assert house.run(*arguments, "onnxruntime:int8", "--plan", plan) == 0
    assert house.run(*arguments, "onnxruntime:int8", "--force") == 0


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([], "has no person with keypoints"),
        ([person(1, 0, bbox=[5, 5, 0, 9])], "has no box with an area"),
        ([person(1, 0, iscrowd=1)], "has no box with an area"),
        ([person(1, 0, image_id=[0])], "annotation 1 has no number as its image_id"),
        ([person(1, 0, keypoints=[float("nan")] * 51)], "annotation 1 has no image_id, 17 keypoints and bbox"),
    ],
)
def test_annotations_without_use(house: House, people: list[dict[str, Any]], message: str) -> None:
    """No people, boxes of no area, crowds only and malformed people: refused as calibration set and for evaluation."""
    images, annotations = write(house.folder, people)
    files = {"calibration": images, "calibration_annotations": annotations}
    assert message in house.refused_deploy("onnxruntime:int8", **files)
    assert house.deploy("onnxruntime") == 0
    assert message in house.refused(
        "evaluate", house.out / "onnxruntime-fp32", "--dataset", "coco-keypoints", "--images", images,
        "--annotations", annotations, "--json", house.folder / "r.json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.update(width="30"), "image 0 has no width and height in pixels"),
        (lambda image: image.update(file_name=3), "image 0 has no file_name"),
        (lambda image: image.update(id=[0]), r"no number as its id"),
        (lambda image: image.pop("height"), "image 0 has no height"),
    ],
)
def test_image_entries_of_wrong_types(house: House, change: Callable[[dict[str, Any]], object], message: str) -> None:
    """An entry of `images` with a value of another type is told by its id and field."""
    images, annotations = write(house.folder, [person(1, 0)])
    data = json.loads(annotations.read_text())
    change(data["images"][0])
    annotations.write_text(json.dumps(data))
    files = {"calibration": images, "calibration_annotations": annotations}
    assert message in house.refused_deploy("onnxruntime:int8", **files)


def test_calibration_images_that_are_missing_or_broken(house: House) -> None:
    """An absent folder, an absent image and a corrupt one are told by name."""
    images, annotations = write(house.folder, [person(1, 0), person(2, 1)])
    files = {"calibration": images, "calibration_annotations": annotations}
    absent = {**files, "calibration": house.folder / "nowhere"}
    assert "there is no folder of images" in house.refused_deploy("onnxruntime:int8", **absent)
    (images / "1.png").write_bytes(b"no image")
    assert "1.png is not a readable image" in house.refused_deploy("onnxruntime:int8", **files)
    (images / "1.png").unlink()
    assert "names 1.png: 1 of 2 images are not in" in house.refused_deploy("onnxruntime:int8", **files)


# Images


@pytest.fixture
def artifact(house: House) -> Path:
    """The small graph as an artifact."""
    assert house.deploy("onnxruntime") == 0
    return house.out / "onnxruntime-fp32"


@pytest.mark.parametrize("data", [None, b"", b"no image", 0.5], ids=["missing", "empty", "text", "truncated"])
def test_image_that_cannot_be_read(house: House, artifact: Path, data: bytes | float | None) -> None:
    """An image that is missing, empty, something else or cut off is named, and no picture is written."""
    image = house.folder / "a.png"
    if data is not None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
        whole = cv2.imencode(".png", noise)[1].tobytes()
        image.write_bytes(whole[: int(len(whole) * data)] if isinstance(data, float) else data)
    assert "a.png" in house.refused("predict", artifact, image, "--out", house.folder / "p.png")


def _exif(data: bytes) -> bytes:
    """A JPEG that its camera marked as turned by 90 degrees."""
    tag = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    return data[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + data[2:]


@pytest.mark.parametrize("kind", ["grey", "sixteen bits", "grey of sixteen bits", "alpha", "turned"])
def test_unusual_images_are_read(house: House, artifact: Path, kind: str) -> None:
    """Grey, 16-bit, RGBA and EXIF-turned images are predicted on, and the picture is upright RGB."""
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8), (32, 40))
    stored = {
        "grey": pixels[..., 0],
        "sixteen bits": pixels.astype(np.uint16) * 257,
        "alpha": np.dstack([pixels, pixels[..., 0]]),
        "grey of sixteen bits": pixels[..., 0].astype(np.uint16) * 257,
        "turned": pixels,
    }[kind]
    image = house.folder / ("a.jpg" if kind == "turned" else "a.png")
    data = cv2.imencode(image.suffix, stored)[1].tobytes()
    image.write_bytes(_exif(data) if kind == "turned" else data)
    picture, predictions = house.folder / "p.png", house.folder / "p.json"
    assert house.run("predict", artifact, image, "--out", picture, "--json", predictions) == 0
    assert read_image(picture).shape == ((32, 40, 3) if kind == "turned" else (40, 32, 3))
    assert np.isfinite(json.loads(predictions.read_text())[0]["keypoints"]).all()


# Artifacts


@pytest.mark.parametrize("name", runtimes())
def test_runtime_files_that_do_not_belong_together(house: House, name: str) -> None:
    """Files cut short are refused as changed; where the manifest was made anew, the runtime's own files are."""
    if not usable(name):
        pytest.skip(f"{name} is not installed")
    assert house.deploy(name) == 0
    folder = house.out / f"{name}-fp32"
    manifest = json.loads((folder / "sandglass.json").read_text())
    evaluate = ("evaluate", folder, "--dataset", "synthetic-people", "--limit", 1)
    for file in sorted(manifest["files"]):
        whole = (folder / file).read_bytes()
        for data in (whole[: len(whole) // 2], b""):
            (folder / file).write_bytes(data)
            assert f"{file} was changed" in house.refused(*evaluate)
            fields = {key: value for key, value in manifest.items() if key not in ("format", "files")}
            write_manifest(folder, fields)
            house.refused(*evaluate)
            (folder / file).write_bytes(whole)
            write_manifest(folder, fields)
    assert house.run(*evaluate) == 0


def test_weights_of_another_model_under_the_same_parameters(house: House) -> None:
    """An int8 `.bin` beside a float `.param`, with a manifest to match, does not reach the runtime."""
    pytest.importorskip("ncnn")
    assert house.run("deploy", house.card, "--to", "ncnn", "ncnn:int8", "--out", house.out, *SYNTHETIC) == 0
    folder = house.out / "ncnn-fp32"
    shutil.copyfile(house.out / "ncnn-int8/model.bin", folder / "model.bin")
    manifest = json.loads((folder / "sandglass.json").read_text())
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})
    said = house.refused("evaluate", folder, "--dataset", "synthetic-people", "--limit", 1)
    assert "bytes" in said
    assert "deploy the model again" in said


# Places to write to


def test_output_in_the_way(house: House, artifact: Path) -> None:
    """A folder where a file should be, a file where a folder should be, and no image format are told."""
    image = house.folder / "a.png"
    cv2.imwrite(str(image), np.zeros((40, 30, 3), np.uint8))
    (house.folder / "p.png").mkdir()
    assert "p.png: it is a folder" in house.refused("predict", artifact, image, "--out", house.folder / "p.png")
    assert "is not an image format" in house.refused("predict", artifact, image, "--out", house.folder / "p.xyz")
    for place in (image / "p.png", Path("/dev/null/p.png")):
        assert "cannot write" in house.refused("predict", artifact, image, "--out", place)
    assert "cannot write" in house.refused("deploy", house.card, "--to", "onnxruntime", "--out", image)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(house: House) -> None:
    """A folder that may not be written is told."""
    house.out.mkdir()
    house.out.chmod(0o500)
    assert "Permission denied" in house.refused_deploy("onnxruntime")


def test_the_same_target_twice_is_made_once(house: House) -> None:
    """A backend named with and without its default precision is one target."""
    assert house.deploy("onnxruntime", "onnxruntime:fp32") == 0
