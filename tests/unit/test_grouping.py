"""Heatmaps and tags of all people to people: against loops that say plainly what is meant, and case by case."""

from __future__ import annotations

from itertools import permutations

import cv2
import numpy as np
import pytest

from sandglass.vision import grouping

SHAPE = (14, 18)


def blank(tags: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Empty heatmaps, and tags far from everybody's."""
    return np.zeros((17, *SHAPE), np.float32), np.full((tags, 17, *SHAPE), 50, np.float32)


def put(maps: tuple[np.ndarray, np.ndarray], k: int, x: int, y: int, value: float, *tag: float) -> None:
    """A peak of keypoint k with a tag around it."""
    maps[0][k, y, x] = value
    maps[1][:, k, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = np.array(tag)[:, None, None]


def plain_peaks(heatmap: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns of pixels above 0.1 that are the largest within two pixels, best first."""
    found = []
    for y, x in np.ndindex(*SHAPE):
        around = heatmap[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        if heatmap[y, x] > 0.1 and heatmap[y, x] == around.max():
            found.append((y, x))
    return sorted(found, key=lambda place: -heatmap[place])


def plain_decode(heatmaps: np.ndarray, tags: np.ndarray, centre: float = 0.5) -> list[list[tuple[float, float, float]]]:
    """What `decode` is to give, with a loop for everything and every matching tried."""
    people: list[dict[int, tuple[int, int]]] = []
    for k in grouping.ORDER:
        peaks = plain_peaks(heatmaps[k])
        means = [
            np.mean([tags[:, j][(slice(None), *place)] for j, place in person.items()], axis=0) for person in people
        ]
        known = len(people)
        apart = np.array(
            [[np.linalg.norm(tags[:, k][(slice(None), *place)] - mean) for mean in means] for place in peaks]
        )
        best: tuple[float, list[tuple[int, int]]] = (np.inf, [])
        longer, shorter = max(len(peaks), known), min(len(peaks), known)
        for chosen in permutations(range(longer), shorter):
            pairs = list(enumerate(chosen)) if len(peaks) <= known else [(i, j) for j, i in enumerate(chosen)]
            cost = sum(np.round(apart[i, j]) * 100 - heatmaps[k][peaks[i]] for i, j in pairs)
            best = min(best, (float(cost), pairs), key=lambda entry: entry[0])
        owners = {i: j for i, j in best[1] if apart[i, j] < 1}
        for i, place in enumerate(peaks):
            if i in owners:
                people[owners[i]][k] = place
            else:
                people.append({k: place})
    return [plain_person(person, heatmaps, tags, centre) for person in people]


def plain_person(
    person: dict[int, tuple[int, int]], heatmaps: np.ndarray, tags: np.ndarray, centre: float
) -> list[tuple[float, float, float]]:
    """x, y, score of each keypoint: moved by a quarter of a pixel where it has a peak, else found by tags."""
    places = {k: plain_refined(heatmaps[k], y, x, centre) for k, (y, x) in person.items()}
    mean = np.mean([tags[:, k, int(y), int(x)] for k, (x, y, _) in places.items()], axis=0)
    result = []
    for k, heatmap in enumerate(heatmaps):
        if k in places:
            result.append(places[k])
        else:
            apart = np.linalg.norm(tags[:, k] - mean[:, None, None], axis=0)
            y, x = np.unravel_index((np.round(apart) * 100 - heatmap).argmin(), SHAPE)
            result.append((x, y, heatmap[y, x]))
    return result


def plain_refined(heatmap: np.ndarray, y: int, x: int, centre: float) -> tuple[float, float, float]:
    """A peak's x and y, moved by a quarter of a pixel towards the larger neighbour, and its score."""
    inside_x, inside_y = (1 < v < n - 1 for v, n in ((x, SHAPE[1]), (y, SHAPE[0])))
    right = np.sign(heatmap[y, x + 1] - heatmap[y, x - 1]) if inside_x and y > 0 else 0
    down = np.sign(heatmap[y + 1, x] - heatmap[y - 1, x]) if inside_y and x > 0 else 0
    return x + 0.25 * right + centre, y + 0.25 * down + centre, heatmap[y, x]


def scene(seed: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Three people with a nose each, who lack other keypoints, strangers with a single one, and noise below all peaks.

    Only one matching is the cheapest: a stranger is where nobody else is missing.
    """
    random = np.random.default_rng(seed)
    heatmaps = np.stack([cv2.GaussianBlur(random.uniform(-0.1, 0.1, SHAPE), (0, 0), 1.5) for _ in range(17)])
    maps = heatmaps.astype(np.float32), random.normal(0, 4, (kinds, 17, *SHAPE)).astype(np.float32)
    strangers = 0
    for k in range(17):
        rows, columns = random.permutation([2, 5, 8, 11]), random.integers(0, SHAPE[1], 4)
        here = random.random(3) < (1 if k == 0 else 0.7)
        for person in np.flatnonzero(here):
            tag = 4.3 * person + random.normal(0, 0.1, kinds)
            put(maps, k, int(columns[person]), int(rows[person]), float(random.uniform(0.15, 1)), *tag)
        if here.all() and k and random.random() < 0.4:
            strangers += 1
            put(maps, k, int(columns[3]), int(rows[3]), 0.3, *([10 + 4.3 * strangers] * kinds))
    return maps


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize("kinds", [1, 2])
def test_equals_plain_loops(kinds: int, centre: float) -> None:
    """On people with keypoints missing, strangers and noise everything is as the loops have it."""
    for seed in range(20):
        heatmaps, tags = scene(seed, kinds)
        found, scores = grouping.decode(heatmaps, tags, centre)
        expected = np.array(plain_decode(heatmaps, tags, centre)).reshape(-1, 17, 3)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert len(scores) == len(found) >= 3


def test_people_are_told_apart_by_their_tags() -> None:
    """Keypoints with a tag within one of a person's mean are that person's, wherever they are."""
    maps = blank()
    for k in range(17):
        put(maps, k, 3 + k % 3, 4, 0.9, 1.0 + 0.02 * k)
        put(maps, k, 12 + k % 3, 9, 0.8, 3.0 - 0.02 * k)
    found, scores = grouping.decode(*maps)
    assert found[..., 1].tolist() == [[4.5] * 17, [9.5] * 17]
    np.testing.assert_allclose(scores, [0.9, 0.8], rtol=1e-6)


def test_score_counts_missing_keypoints_which_are_filled_in_after() -> None:
    """A person whose heatmaps have no peak elsewhere scores less, and gets the best places with tags like its own."""
    maps = blank()
    put(maps, 0, 5, 5, 0.85, 2.0)
    put(maps, 1, 7, 8, 0.05, 2.3)  # too low for a peak
    maps[0][1, 2, 2] = 0.09  # higher, with another's tag
    (person,), (score,) = grouping.decode(*maps)
    assert score == pytest.approx(0.85 / 17)
    np.testing.assert_allclose(person[0], [5.5, 5.5, 0.85], rtol=1e-6)
    np.testing.assert_allclose(person[1], [7, 8, 0.05], rtol=1e-6)


@pytest.mark.parametrize(("centre", "place"), [(0.0, (12, 9)), (0.5, (4, 8))])
def test_tags_are_read_at_the_refined_place(centre: float, place: tuple[int, int]) -> None:
    """A peak that moves to the left has its tag in the pixel before it, where nothing is added to its place.

    The missing keypoint is then looked for with that tag.
    """
    maps = blank()
    put(maps, 0, 5, 5, 0.85, 2.0)
    maps[0][0, 5, 4] = 0.3  # the larger neighbour
    maps[1][0, 0, 5, 4] = 7.0  # another person's tag
    put(maps, 1, 4, 8, 0.05, 2.0)
    put(maps, 1, 12, 9, 0.05, 7.0)
    (person,), _ = grouping.decode(*maps, centre)
    assert tuple(person[1, :2]) == place


def test_tags_are_read_inside_the_map() -> None:
    """A peak in the last pixel, whose refined place lies beyond it, has the tag of the last pixel."""
    maps = blank()
    put(maps, 0, SHAPE[1] - 1, SHAPE[0] - 1, 0.85, 2.0)
    put(maps, 1, 4, 8, 0.05, 2.0)
    (person,), _ = grouping.decode(*maps, centre=1.5)
    assert tuple(person[1, :2]) == (4, 8)


def test_half_steps_round_to_the_even_step() -> None:
    """Where no tags are alike, a distance of 1.5 counts as two steps as one of 2.5 does, and the heatmap decides."""
    maps = blank()
    put(maps, 0, 5, 5, 0.85, 2.0)
    put(maps, 1, 7, 8, 0.02, 3.5)
    put(maps, 1, 12, 8, 0.03, 4.5)
    (person,), _ = grouping.decode(*maps)
    assert tuple(person[1, :2]) == (12, 8)
    put(maps, 1, 2, 3, 0.01, 3.4)
    (person,), _ = grouping.decode(*maps)
    assert tuple(person[1, :2]) == (2, 3)


def test_nearest_step_of_tags_is_taken_where_none_is_alike() -> None:
    """Without tags within half a step the nearest whole step decides, then the heatmap."""
    maps = blank()
    put(maps, 0, 5, 5, 0.85, 2.0)
    put(maps, 1, 7, 8, 0.02, 4.8)  # three steps away, as is the next
    put(maps, 1, 12, 8, 0.03, 5.2)
    (person,), _ = grouping.decode(*maps)
    np.testing.assert_allclose(person[1], [12, 8, 0.03], rtol=1e-6)


def test_a_tag_further_than_one_is_another_person() -> None:
    """A candidate that is matched to nobody near founds a person."""
    maps = blank()
    put(maps, 0, 5, 5, 0.9, 2.0)
    put(maps, 1, 6, 4, 0.9, 3.1)
    assert len(grouping.decode(*maps)[0]) == 2
    put(maps, 1, 6, 4, 0.9, 2.9)
    assert len(grouping.decode(*maps)[0]) == 1


def test_both_tags_count_with_the_mirrored_images() -> None:
    """Two people whose first tags are equal are told apart by their second."""
    maps = blank(2)
    for k in (0, 5):
        put(maps, k, 4, 4, 0.9, 1.0, 1.0 + 0.1 * k)
        put(maps, k, 12, 9, 0.8, 1.01, 3.0 + 0.1 * k)
    found, _ = grouping.decode(*maps)
    assert found[:, [0, 5], 1].tolist() == [[4.5, 4.5], [9.5, 9.5]]


def test_no_more_people_than_thirty() -> None:
    """Of forty tags the first thirty people are kept, those with the best peaks of the first keypoint."""
    heatmaps, tags = np.zeros((17, 40, 40), np.float32), np.zeros((1, 17, 40, 40), np.float32)
    for n in range(40):
        heatmaps[0, 5 * (n // 8) + 2, 5 * (n % 8) + 2] = 0.2 + 0.01 * n
    tags[0, 0] = 3 * np.arange(1600).reshape(40, 40)
    found, _ = grouping.decode(heatmaps, tags)
    np.testing.assert_allclose(found[:, 0, 2], 0.59 - 0.01 * np.arange(30), rtol=1e-5)


def test_nobody_is_found_in_nothing() -> None:
    """Heatmaps without a peak give no people."""
    found, scores = grouping.decode(*blank())
    assert found.shape == (0, 17, 3)
    assert scores.shape == (0,)
