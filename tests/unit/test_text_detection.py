"""Text detection: pages to inputs, maps back to pages, and how near two predictions are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sandglass.cli.main import main
from sandglass.core.errors import CardError, GraphError, InputError
from sandglass.datasets import synthetic_text
from sandglass.sources.card import Card, Input
from sandglass.tasks import text_detection as task
from sandglass.vision.image import write_image

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def card(size: tuple[int, int] = (736, 1312), channels: str = "rgb", **decode: Any) -> Card:
    """A card whose input is the pixels themselves."""
    return Card("a", "text-detection", Input(size, *PLAIN, channels), model="hourglass", decode=decode)


def prediction(*boxes: tuple[float, float, float, float]) -> dict[str, Any]:
    """Texts in upright boxes x, y, w, h."""
    corners = [[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in boxes]
    return {"image_id": 0, "texts": [{"points": points, "score": 0.9} for points in corners]}


@pytest.mark.parametrize(
    ("page", "size", "decode", "expected"),
    [
        ((720, 1280), (736, 1312), {}, (736, 1308)),  # mmocr: the short side is 736
        ((720, 1280), (736, 1312), {"round_to": 32}, (736, 1312)),  # PaddleOCR: multiples of 32
        ((480, 640), (736, 1312), {"round_to": 32}, (736, 992)),
        ((1000, 300), (736, 1312), {}, (736, 221)),
        ((720, 1280), (736, 1280), {}, (720, 1280)),
        ((736, 1400), (736, 1344), {"longest": 1333}, (701, 1333)),
        ((1, 5000), (64, 64), {}, (1, 64)),
        ((5000, 1), (64, 64), {"round_to": 32}, (64, 32)),
    ],
)
def test_pages_are_as_large_as_fits(
    page: tuple[int, int], size: tuple[int, int], decode: dict[str, Any], expected: tuple[int, int]
) -> None:
    """Sizes are those of the references where the input is large enough."""
    assert task.fit(page, size, card(**decode)) == expected


def test_the_rest_of_the_input_is_zero() -> None:
    """Pixels are OpenCV's bilinear ones, in the card's channel order; what is left is 0, also with another size."""
    image = np.random.default_rng(0).integers(1, 255, (90, 160, 3)).astype(np.uint8)
    (sample,) = task.samples_in_image(image, [])
    for size in (None, (120, 180)):
        array, meta = task.prepare(image, sample, card((100, 200), "bgr"), size)
        height, width = meta["content"]
        assert array.shape == (3, *(size or (100, 200)))
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[..., ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(array[:, :height, :width], expected)
        assert not array[:, height:].any()
        assert not array[:, :, width:].any()


def test_a_box_is_a_page_of_its_own() -> None:
    """Texts found in part of an image are where they are in the whole one, cut to its edge."""
    image = np.zeros((300, 400, 3), np.uint8)
    first, second = task.samples_in_image(image, [(200, 100, 100, 50), (350, -20, 500, 100)])
    assert second.box == (350, 0, 50, 80)
    small = card((100, 200))
    _, meta = task.prepare(image, first, small)
    wanted = prediction((220, 110, 60, 30))
    (found,) = task.decode(task.encode([wanted], [meta], small), [meta], small)
    assert task.agreement(wanted, found)["IoU"] > 0.9
    with pytest.raises(InputError, match="outside"):
        task.samples_in_image(image, [(400, 0, 10, 10)])


@pytest.mark.parametrize("reduced", [1, 4])
def test_maps_may_be_smaller_than_the_input(reduced: int) -> None:
    """Points follow from the size of the maps."""
    image = np.zeros((360, 640, 3), np.uint8)
    (sample,) = task.samples_in_image(image, [])
    wide = card((368, 672), decoder="panet")
    _, meta = task.prepare(image, sample, wide)
    wanted = prediction((100, 50, 200, 60), (320, 200, 200, 100))
    maps = task.encode([wanted], [meta], wide)["maps"][:, :, ::reduced, ::reduced]
    (found,) = task.decode({"maps": maps}, [meta], wide)
    assert task.agreement(wanted, found)["IoU"] > (0.95 if reduced == 1 else 0.85)


def test_settings_of_another_decoder_are_named() -> None:
    """They have no meaning for the one that the card names."""
    with pytest.raises(CardError, match="distance is unknown for dbnet"):
        task.decode({"maps": np.zeros((1, 1, 8, 8), np.float32)}, [], card(distance=2.0))


def test_outputs_of_another_network_are_refused() -> None:
    """The number of maps is the decoder's."""
    with pytest.raises(GraphError, match=r"heatmaps \[1, 17, 8, 8\].*\(1, 6, h, w\)"):
        task.decode({"heatmaps": np.zeros((1, 17, 8, 8), np.float32)}, [], card(decoder="panet"))


def test_flip_test_is_for_probabilities() -> None:
    """The mirrored probability comes back to its place; maps of vectors have no mean."""
    maps = np.random.default_rng(0).random((1, 1, 8, 12)).astype(np.float32)
    both = np.concatenate([maps, maps[..., ::-1]])
    np.testing.assert_allclose(task.merge_flipped({"maps": both}, card())["maps"], maps)
    with pytest.raises(InputError, match="flip"):
        task.merge_flipped({"maps": both}, card(decoder="panet"))


def test_agreement_counts_what_is_missing_on_both_sides() -> None:
    """1 for equal texts in any order, less for each that is displaced, missing or too many, NaN for none at all."""
    three = prediction((0, 0, 100, 20), (0, 50, 100, 20), (0, 100, 100, 20))
    assert task.agreement(three, prediction((0, 100, 100, 20), (0, 0, 100, 20), (0, 50, 100, 20))) == {
        "IoU": 1,
        "hmean": 1,
    }
    two = prediction((0, 0, 100, 20), (0, 50, 100, 20))
    assert task.agreement(three, two) == task.agreement(two, three) == pytest.approx({"IoU": 0.8, "hmean": 0.8})
    moved = task.agreement(two, prediction((10, 0, 100, 20), (0, 50, 100, 20)))
    assert moved == pytest.approx({"IoU": (90 / 110 + 1) / 2, "hmean": 1})
    assert task.agreement(two, prediction()) == {"IoU": 0, "hmean": 0}
    assert np.isnan(task.agreement(prediction(), prediction())["IoU"])


def test_a_text_agrees_with_one_only() -> None:
    """Two texts in place of one: the better one counts, the other is too many."""
    doubled = prediction((0, 0, 100, 20), (0, 0, 90, 20))
    assert task.agreement(prediction((0, 0, 100, 20)), doubled)["IoU"] == pytest.approx(2 / 3)


def ink_detector(folder: Path) -> Path:
    """A card over a network of one convolution: the probability of text is the darkness around a pixel."""
    size, window = (128, 160), 7
    weights = np.full((1, 3, window, window), -1 / (3 * window**2), np.float32)
    nodes = [
        helper.make_node("Conv", ["page", "w", "b"], ["logits"], "conv", pads=[window // 2] * 4),
        helper.make_node("Sigmoid", ["logits"], ["maps"], "sigmoid"),
    ]
    graph = helper.make_graph(
        nodes,
        "ink",
        [helper.make_tensor_value_info("page", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(1, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "ink.onnx")
    (folder / "ink.toml").write_text(f"""
        name = "ink"
        task = "text-detection"
        graph = "ink.onnx"
        [input]
        size = {list(size)}
        mean = [110, 110, 110]
        std = [10, 10, 10]
        [decode]
        decoder = "dbnet"
        unclip = 0.5
    """)
    return folder / "ink.toml"


def test_pages_go_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dynamic graph is deployed, scored with its best threshold named, and its texts are drawn."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    card_file, out = ink_detector(tmp_path), tmp_path / "out"
    assert main(["deploy", str(card_file), "--to", "onnxruntime", "--out", str(out)]) == 0
    artifact = str(out / "onnxruntime-fp32")
    capsys.readouterr()
    results = tmp_path / "results.json"
    assert main(["evaluate", artifact, "--dataset", "synthetic-text", "--limit", "12", "--json", str(results)]) == 0
    table = capsys.readouterr().out
    header = [cell.strip() for cell in table.splitlines()[0].strip("| ").split("|")]
    assert header == [
        "model", "input", "backend", "precision", "hmean", "hmean 95 %", "score threshold", "recall",
        "precision (metric)",
    ]  # fmt: skip
    metrics = json.loads(results.read_text())[0]["metrics"]
    assert 0.2 < metrics["hmean"]["value"] < 1
    assert f"{metrics['hmean']['threshold']:.2f}" in table
    assert "IoU above 0.5" in table
    image = tmp_path / "page.png"
    write_image(image, synthetic_text.render(0, "test", 0)[0])
    told = tmp_path / "texts.json"
    assert main(["predict", artifact, str(image), "--out", str(tmp_path / "drawn.png"), "--json", str(told)]) == 0
    assert json.loads(told.read_text())[0]["texts"]
    assert (cv2.imread(str(image)) != cv2.imread(str(tmp_path / "drawn.png"))).any()
