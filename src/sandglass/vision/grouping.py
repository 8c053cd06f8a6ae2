"""From the heatmaps and tags of all people in an image to one set of keypoints for each person.

This is associative embedding (Newell et al., 2017), decoded as in mmpose 1.x's AssociativeEmbedding codec. For one
keypoint after the other, peaks are matched with the people so far by their tags. A missing keypoint of a person is then
searched where the tags are similar to the person's.
"""

from __future__ import annotations

import cv2
import numpy as np

from sandglass.vision import heatmap
from sandglass.vision.assignment import assign

# Keypoints from head and trunk outwards: the first ones separate people best.
ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
PEAK = 0.1  # value of a heatmap above which a peak is a candidate
NEAR = 1.0  # distance of tags below which a candidate belongs to a person
WINDOW = 5  # side of the square in which a peak is the largest value, in pixels
CANDIDATES = 30  # peaks of a heatmap, at most
PEOPLE = 30  # people in an image, at most
LIKE = 0.5  # distance of tags up to which they count as equal: half a step
ROUNDING = 1e-3  # more than the difference between two ways to compute a distance in float32, in steps
SPARSE, HIGH = 4, 256  # in every 4th row and column, the 256 largest values define which values are high
EXACT = 2.0**20  # scores are rounded to multiples of its reciprocal: then sums of costs are exact, and ties are stable
FIRST = 100.0  # weight of a step of tag distance: it counts more than any value of a heatmap


def decode(heatmaps: np.ndarray, tags: np.ndarray, centre: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (P, K, 3) as x, y in pixels of the heatmaps and score, and scores (P,), of at most PEOPLE people.

    P is the number of people and K that of keypoints. `heatmaps` (K, h, w) and `tags` (L, K, h, w) are float32; L is 1,
    or 2 with the tags of the mirrored image. `centre` is added to the row and column of a peak. The score of a person
    is the mean over all keypoints, where a keypoint without a peak counts 0. Such keypoints are filled in afterwards.
    """
    people = group(candidates(heatmaps, tags))
    scores = people[..., 2].mean(axis=1)
    missing = people[..., 2] == 0
    repeated = np.broadcast_to(heatmaps, (len(people), *heatmaps.shape))
    offsets = heatmap.quarter_offset(repeated, people[..., :2].astype(int)) + centre
    people[..., :2] += np.where(missing[..., None], 0, offsets).astype(np.float32)
    fill(people, missing, mean_tags(people, ~missing, tags), heatmaps, tags)
    return people, scores


def candidates(heatmaps: np.ndarray, tags: np.ndarray) -> list[np.ndarray]:
    """The peaks of each heatmap, the best first: K arrays (M, 3 + L) float32 with x, y, score and tags.

    M is at most CANDIDATES.
    """
    by_keypoint = []
    window = np.ones((WINDOW, WINDOW), np.uint8)
    for k, values in enumerate(heatmaps):
        high = np.flatnonzero(values > PEAK)
        peaks = high[values.flat[high] == cv2.dilate(values, window).flat[high]]
        best = peaks[np.argsort(-values.flat[peaks], kind="stable")[:CANDIDATES]]
        y, x = np.divmod(best, values.shape[1])
        by_keypoint.append(np.column_stack([x, y, values[y, x], tags[:, k, y, x].T]).astype(np.float32))
    return by_keypoint


def group(peaks: list[np.ndarray]) -> np.ndarray:
    """Candidates (see `candidates`) by person: (P, K, 3) float32 with x, y and score, 0 for a missing keypoint.

    The cost of a match between a candidate and a person is the distance of their tags in whole steps, and then the
    score of the candidate. As in mmpose, a person is identified by the tag of its first candidate, so that two people
    with the same tag are one.
    """
    joints: dict[float, np.ndarray] = {}
    members: dict[float, tuple[np.ndarray, int]] = {}  # the sum of a person's tags, (L,), and their number
    for k in ORDER:
        if not len(peaks[k]):
            continue
        matched = _match(peaks[k], members)
        for candidate, owner in zip(peaks[k], matched, strict=True):
            key = float(candidate[3]) if owner is None else owner
            joints.setdefault(key, np.zeros((len(peaks), 3), np.float32))[k] = candidate[:3]
            if owner is None:
                members[key] = candidate[3:].copy(), 1
            else:
                total, count = members[key]
                members[key] = total + candidate[3:], count + 1
    return np.array(list(joints.values())[:PEOPLE], np.float32).reshape(-1, len(peaks), 3)


def _match(peaks: np.ndarray, members: dict[float, tuple[np.ndarray, int]]) -> list[float | None]:
    """For each candidate (M, 3 + L) the key of its person; None if it starts a new person."""
    if not members:
        return [None] * len(peaks)
    names = list(members)
    totals, counts = zip(*members.values(), strict=True)
    means = np.array(totals) / np.array(counts, np.float32)[:, None]
    distances = np.linalg.norm(peaks[:, None, 3:] - means[None], axis=2)  # (candidates, people)
    scores = np.round(peaks[:, 2:3].astype(np.float64) * EXACT) / EXACT
    chosen = assign(np.round(distances).astype(np.float64) * FIRST - scores)
    return [names[j] if j >= 0 and distances[i, j] < NEAR else None for i, j in enumerate(chosen)]


def fill(joints: np.ndarray, missing: np.ndarray, centres: np.ndarray, heatmaps: np.ndarray, tags: np.ndarray) -> None:
    """Fill in each keypoint of `joints` (P, K, 3) that is `missing` (P, K), in place.

    It gets the pixel with the largest value of its heatmap among the pixels whose tags are similar to those of the
    person. `centres` (P, L) are the mean tags of the people. If no tags are within half a step, the pixels within the
    nearest whole step count, as in mmpose.
    """
    for k in np.flatnonzero(missing.any(axis=0)):
        people = np.flatnonzero(missing[:, k])
        high = _highest(heatmaps[k])
        near = tags[:, k].reshape(len(tags), -1)[:, high]
        alike = np.linalg.norm(near[:, None] - centres[people].T[..., None], axis=0) <= LIKE
        for person, row in zip(people, alike, strict=True):
            place = high[row.argmax()] if row.any() else _search(heatmaps[k], tags[:, k], centres[person])
            y, x = divmod(int(place), heatmaps.shape[2])
            joints[person, k] = x, y, heatmaps[k, y, x]


def _highest(values: np.ndarray) -> np.ndarray:
    """The pixels with the largest values of a map (h, w), the best first: some thousands, which usually suffice."""
    sample = values[::SPARSE, ::SPARSE].ravel()
    level = np.partition(sample, -min(HIGH, sample.size))[-min(HIGH, sample.size)]
    high = np.flatnonzero(values > level)
    best: np.ndarray = high[np.argsort(-values.flat[high], kind="stable")]
    return best


def _search(values: np.ndarray, tags: np.ndarray, centre: np.ndarray) -> int:
    """The pixel with the least cost: the distance of tags (L, h, w) to `centre` in whole steps, then the value (h, w).

    The first pass selects the pixels whose distance may round to the least step; the second pass computes their costs.
    """
    apart = cv2.absdiff(tags[0], float(centre[0]))
    for part, c in zip(tags[1:], centre[1:], strict=True):
        apart = cv2.magnitude(apart, cv2.subtract(part, float(c)))
    near = np.flatnonzero(apart <= np.round(apart.min()) + LIKE + ROUNDING)
    distances = np.linalg.norm(tags.reshape(len(tags), -1)[:, near] - centre[:, None], axis=0)
    return int(near[(np.round(distances) * np.float32(FIRST) - values.flat[near]).argmin()])


def mean_tags(people: np.ndarray, present: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """The mean tags of people, (P, L) float32, over their keypoints that are `present` (P, K).

    As in mmpose, a tag is read at the pixel that contains the refined position. A quarter of a pixel to the left of a
    peak that is the previous pixel, whose tag may belong to another person.
    """
    height, width = tags.shape[2:]
    x, y = (people[..., i].astype(int).clip(0, side - 1) for i, side in enumerate((width, height)))
    values = tags[:, np.arange(tags.shape[1]), y, x].transpose(1, 2, 0)  # people, keypoints, tags
    means = [np.mean(person[flags], axis=0) for person, flags in zip(values, present, strict=True)]
    return np.array(means, np.float32).reshape(-1, len(tags))
