"""The three decoders of text detection."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import shapely

from sandglass.vision import panet, polygon, textsnake
from sandglass.vision.dbnet import DBNet
from sandglass.vision.panet import PANet
from sandglass.vision.polygon import ScoredOutline
from sandglass.vision.textsnake import TextSnake
from sandglass.vision.thinning import thin

SIZE = (200, 320)
WORDS = [
    np.array([[30.0, 20], [130, 20], [130, 50], [30, 50]]),
    np.array([[40.0, 90], [180, 110], [175, 145], [35, 125]]),
    np.array([[220.0, 60], [260, 60], [260, 180], [220, 180]]),
]


Decoder = DBNet | PANet | TextSnake


def texts_in(decoder: Decoder, maps: np.ndarray) -> list[ScoredOutline]:
    """Texts in pixels of the map, in the order of `WORDS`."""
    texts = decoder.decode(maps, (1, 1), SIZE)
    return sorted(texts, key=lambda text: (text[0][:, 0].min() > 200, text[0][:, 1].min()))


@pytest.mark.parametrize(("decoder", "least"), [(DBNet(), 0.9), (PANet(), 0.9), (TextSnake(), 0.75)])
def test_words_are_found_where_they_are(decoder: Decoder, least: float) -> None:
    """What a perfect network gives for upright, turned and tall words is decoded to them, with their scores."""
    scores = (0.7, 0.9, 0.8)
    words = [np.roll(word, 1, axis=0) if i == 2 else word for i, word in enumerate(WORDS)]  # along its length
    maps = decoder.encode(list(zip(words, scores, strict=True)), SIZE)
    assert maps.shape == (decoder.channels, *SIZE)
    assert maps.dtype == np.float32
    texts = texts_in(decoder, maps)
    assert len(texts) == 3
    similar = polygon.similarities(polygon.regions(WORDS), polygon.regions([points for points, _ in texts]))
    assert similar.diagonal().min() > least
    assert [score for _, score in texts] == pytest.approx(scores, abs=0.07)


@pytest.mark.parametrize("decoder", [DBNet(), PANet(), TextSnake()])
def test_a_page_larger_than_the_map(decoder: Decoder) -> None:
    """Points are in pixels of the page, which may differ by direction."""
    maps = decoder.encode([(WORDS[0], 0.9)], SIZE)
    ((near, _),) = decoder.decode(maps, (1, 1), SIZE)
    ((far, _),) = decoder.decode(maps, (4, 3), (600, 1280))
    np.testing.assert_allclose(far, near * (4, 3), atol=4)


@pytest.mark.parametrize("decoder", [DBNet(), PANet(), TextSnake()])
@pytest.mark.parametrize("value", [-40.0, 0.0, 40.0])
def test_maps_of_one_value_have_at_most_one_text(decoder: Decoder, value: float) -> None:
    """Nothing, or the whole page; never an error."""
    assert len(texts_in(decoder, np.full((decoder.channels, *SIZE), value, np.float32))) <= 1


@pytest.mark.parametrize("decoder", [DBNet(), PANet(), TextSnake()])
def test_noise_does_not_stop_decoding(decoder: Decoder) -> None:
    """Whatever the outlines in noise, each has four points at least, finite ones, and a score from 0 to 1."""
    random = np.random.default_rng(0)
    for spread in (0.2, 1.0, 5.0):
        maps = random.normal(0.5, spread, (decoder.channels, *SIZE)).astype(np.float32)
        for points, score in decoder.decode(maps, (1, 1), SIZE):
            assert len(points) >= 4
            assert np.isfinite(points).all()
            if not isinstance(decoder, DBNet):  # there it is a mean of what the network gives
                assert 0 <= score <= 1


def test_dbnet_drops_what_is_small_or_weak() -> None:
    """A region of 2 pixels, and one of a probability below `box`; `threshold` decides what a region is."""
    maps = np.zeros((1, *SIZE), np.float32)
    maps[0, 10:12, 10:60] = 1
    maps[0, 40:60, 10:60] = 0.5
    assert texts_in(DBNet(), maps) == []
    ((_, score),) = texts_in(DBNet(box=0.4), maps)
    assert score == pytest.approx(0.5)
    assert texts_in(DBNet(box=0.4, threshold=0.55), maps) == []


def test_dbnet_boxes_are_whole_pixels_of_the_page() -> None:
    """Corners are rounded, and a box that grows over the edge is cut there."""
    maps = np.zeros((1, *SIZE), np.float32)
    maps[0, 0:20, 0:100] = 1
    ((corners, _),) = DBNet().decode(maps, (1.7, 1.3), (260, 544))
    np.testing.assert_array_equal(corners, np.round(corners))
    np.testing.assert_array_equal(corners.min(0), [0, 0])


def plain_growth(labels: np.ndarray, text: np.ndarray, embeddings: np.ndarray, distance: float) -> np.ndarray:
    """Pixel aggregation with a queue, one pixel at a time."""
    labels = labels.copy()
    means = {k: embeddings[:, labels == k].mean(1) for k in range(1, labels.max() + 1)}
    queue = deque(np.argwhere(labels > 0).tolist())
    while queue:
        row, column = queue.popleft()
        kernel = labels[row, column]
        for y, x in ((row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)):
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if not inside or not text[y, x] or labels[y, x]:
                continue
            if ((embeddings[:, y, x] - means[kernel]) ** 2).sum() < distance**2:
                labels[y, x] = kernel
                queue.append([y, x])
    return labels


@pytest.mark.parametrize("seed", range(6))
def test_growth_equals_the_queue(seed: int) -> None:
    """All of a ring at once gives the labels that a queue gives, where kernels meet and embeddings decide too."""
    random = np.random.default_rng(seed)
    text = random.random((40, 50)) < 0.8
    labels = np.zeros((40, 50), np.int32)
    for number, (row, column) in enumerate(random.integers(0, 38, (6, 2)), 1):
        labels[row : row + 2, column : column + 3] = number
    labels *= text
    embeddings = random.normal(0, 1.2, (4, 40, 50)).astype(np.float32)
    expected = plain_growth(labels, text, embeddings, 3.0)
    assert (expected > 0).sum() > 2 * (labels > 0).sum()
    grown = labels.copy()
    panet.grow(grown, text, embeddings, 3.0)
    np.testing.assert_array_equal(grown, expected)


def test_panet_parts_texts_that_touch() -> None:
    """Two words in one region are two texts when their embeddings differ, and the outline may be the region's own."""
    words = [(np.array([[20.0, 20], [100, 20], [100, 50], [20, 50]]), 0.9),
             (np.array([[101.0, 20], [180, 20], [180, 50], [101, 50]]), 0.9)]  # fmt: skip
    maps = PANet().encode(words, SIZE)
    for outline in ("quad", "polygon"):
        texts = texts_in(PANet(outline=outline), maps)
        assert sorted(points[:, 0].min().round() for points, _ in texts) == [20, 101]
        assert sorted(points[:, 0].max().round() for points, _ in texts) == [100, 180]


def test_panet_drops_what_is_small_or_weak() -> None:
    """A text of fewer pixels than `area`, and one with a score not above `box`."""
    maps = PANet().encode([(WORDS[0], 0.7)], SIZE)
    assert texts_in(PANet(area=31 * 101 + 1), maps) == []
    assert len(texts_in(PANet(area=31 * 101), maps)) == 1
    assert texts_in(PANet(box=0.71), maps) == []


def test_textsnake_follows_a_curve() -> None:
    """The outline of an arc of text is the arc, not its hull."""
    angles = np.linspace(np.pi, 0, 7)
    outer, inner = (np.stack([160 + r * np.cos(angles), 170 - r * np.sin(angles)], 1) for r in (140, 90))
    arc = np.concatenate([outer, inner[::-1]])
    ((points, _),) = texts_in(TextSnake(), TextSnake().encode([(arc, 0.9)], SIZE))
    got, wanted = polygon.regions([points, arc])
    assert got.intersection(wanted).area / got.union(wanted).area > 0.8
    assert not got.contains(shapely.Point(160, 160))


def test_disks_are_merged_into_the_best() -> None:
    """Near ones become one of their mean; others stay."""
    disks = np.array([[10, 10, 20, 0.5], [11, 10, 20, 0.9], [40, 10, 20, 0.7]], float)
    np.testing.assert_allclose(textsnake.merged(disks, 0.03), [[10.5, 10, 20, 0.7], [40, 10, 20, 0.7]])


def test_skeletons_are_thin_and_as_connected() -> None:
    """A thick ring becomes a ring of one pixel's width; a bar becomes a line; nothing stays nothing."""
    rows, columns = np.mgrid[:60, :60]
    distance = np.hypot(rows - 30, columns - 30)
    ring = (distance < 25) & (distance > 15)
    line = thin(ring)
    assert not (line & ~ring).any()
    assert line.sum() == pytest.approx(2 * np.pi * 20, rel=0.2)
    bar = np.zeros((20, 60), bool)
    bar[5:14, 5:55] = True
    assert thin(bar).sum(0).max() == 1
    assert not thin(np.zeros((5, 5))).any()


def test_skeleton_equals_scikit_images() -> None:
    """Of two bands and a blob, computed with scikit-image 0.26; the paper's own rules differ in 11 pixels."""
    rows, columns = np.mgrid[:16, :36]
    region = np.sin(columns / 4) + np.cos(rows / 3 + columns / 7) > 0.2
    expected = [
        ".........###........................",
        "......###...........................",
        "..####...........................#..",
        "................................#...",
        "................................#...",
        "...............................#....",
        "...............................#....",
        "..............................#.....",
        ".............................#......",
        ".........................####.......",
        "....................................",
        "....................................",
        "........####........................",
        ".....###....##......................",
        "..###...............................",
        ".#..................................",
    ]
    assert ["".join(".#"[int(value)] for value in row) for row in thin(region)] == expected
