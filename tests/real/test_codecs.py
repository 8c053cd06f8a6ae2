"""Codecs and metrics against the outputs of mmpose and pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sandglass.metrics import keypoints
from sandglass.tasks import bottomup_pose, topdown_pose
from sandglass.vision import affine, coco17, grouping, heatmap
from sandglass.vision.nms import oks_nms


def test_affine_equals_mmpose(real_data: Path) -> None:
    """Centres, scales and both warp matrices are mmpose's, for all boxes and sizes of the fixture."""
    for case in json.loads((real_data / "fixtures/codecs/affine.json").read_text()):
        width, height = case["input_wh"]
        centre, scale = affine.centre_and_scale(tuple(case["box_xywh"]), (height, width))
        np.testing.assert_allclose(centre, case["center"], rtol=1e-5)
        np.testing.assert_allclose(scale, case["scale"], rtol=1e-5)
        for unbiased, key in ((False, "warp"), (True, "warp_udp")):
            own = affine.warp_matrix(centre, scale, (height, width), unbiased)
            np.testing.assert_allclose(own, case[key], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "name", "tolerance"), [("quarter", "msra_default", 0), ("dark", "msra_dark", 1e-4), ("udp", "udp", 1e-4)]
)
def test_decoding_equals_mmpose(real_data: Path, method: str, name: str, tolerance: float) -> None:
    """Keypoints are mmpose's: exactly with the quarter offset, to a ten-thousandth of a pixel with a parabola."""
    golden = np.load(real_data / "fixtures/codecs/heatmap_decode.npz")
    places, scores = heatmap.decode(golden["heatmaps"], (256, 192), method)
    np.testing.assert_allclose(places, golden[f"{name}_keypoints"], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(scores, golden[f"{name}_scores"])


def test_grouping_equals_mmpose(real_data: Path) -> None:
    """Heatmaps and tags of two and of five people give mmpose's keypoints and scores, people in its order.

    The fixture adds nothing to the places of peaks, as the codec does where it is not told to.
    """
    golden = np.load(real_data / "fixtures/codecs/associative_embedding.npz")
    for i, people in ((0, 2), (1, 5)):
        found, scores = grouping.decode(golden[f"heatmaps{i}"], golden[f"tags{i}"][None], centre=0.0)
        assert len(found) == people
        np.testing.assert_array_equal(found[..., :2] * 4, golden[f"keypoints{i}"])
        np.testing.assert_array_equal(found[..., 2], golden[f"scores{i}"])
        np.testing.assert_allclose(scores, golden[f"instance_scores{i}"], rtol=1e-6)


def test_sizes_of_whole_images_equal_mmpose(real_data: Path) -> None:
    """Images of all aspect ratios are resized and padded as mmpose's mode expand does it, and put in the middle."""
    for case in json.loads((real_data / "fixtures/codecs/bottomup_size.json").read_text()):
        width, height = case["image_wh"]
        resized, shape = affine.expanded((height, width), (512, 512), bottomup_pose.MULTIPLE)
        assert [[int(side) for side in resized[::-1]], list(shape[::-1])] == case["result"]
        centre, scale = affine.letterbox((0.0, 0.0, width, height), shape, (512, 512), bottomup_pose.MULTIPLE)
        np.testing.assert_allclose(centre, [width / 2, height / 2])
        np.testing.assert_allclose(np.array(shape[::-1]) / scale, resized[0] / height)


def test_flipping_equals_mmpose(real_data: Path) -> None:
    """Heatmaps of a mirrored image come back as mmpose brings them, with and without the shift."""
    golden = np.load(real_data / "fixtures/codecs/flip.npz")
    np.testing.assert_array_equal(golden["flip_indices"], coco17.FLIP_PAIRS)
    for shift, key in ((False, "flipped"), (True, "flipped_shift")):
        np.testing.assert_array_equal(heatmap.flip_back(golden["heatmaps"], coco17.FLIP_PAIRS, shift), golden[key])


def test_metrics_and_suppression_equal_pycocotools_and_mmpose(real_data: Path) -> None:
    """The ten metrics are pycocotools' to 1e-6, and OKS suppression keeps what mmpose keeps."""
    folder = real_data / "fixtures/codecs"
    truth, found, expected = (
        json.loads((folder / f"coco_{name}.json").read_text()) for name in ("gt", "dt", "expected")
    )
    for name, metric in keypoints.score(truth, found).items():
        assert metric["value"] == pytest.approx(expected["metrics"][name], abs=1e-6), name
        assert metric["low"] <= metric["value"] <= metric["high"]
    for entry, rescored in zip(found, expected["rescored_vis_thr_0_2"], strict=True):
        scores = np.array(entry["keypoints"])[2::3]
        assert entry["score"] * scores[scores > topdown_pose.VISIBLE].mean() == pytest.approx(rescored)
    for image, kept in expected["oks_nms_0_9_kept"].items():
        index = [i for i, entry in enumerate(found) if entry["image_id"] == int(image)]
        joints = np.array([found[i]["keypoints"] for i in index]).reshape(-1, 17, 3)
        scores, areas = (np.array([found[i][key] for i in index]) for key in ("score", "area"))
        assert [index[i] for i in oks_nms(joints[..., :2], scores, areas)] == kept
