"""Heatmaps and tags of all people in an image to one set of keypoints for each person.

Associative embedding (Newell et al., 2017) as mmpose 1.x's AssociativeEmbedding codec decodes it: keypoint by keypoint
the peaks are matched to the people so far by their tags, and what a person lacks is looked for where the tags are like
the person's.
"""

from __future__ import annotations

import cv2
import numpy as np

from sandglass.vision import heatmap
from sandglass.vision.assignment import assign

# From the head and the trunk outwards: the first ones tell people apart best.
ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
PEAK = 0.1  # a peak of a heatmap is a candidate above this
NEAR = 1.0  # a candidate belongs to a person whose mean tag is nearer than this
WINDOW = 5  # pixels around a peak in which it is the largest
CANDIDATES = 30  # peaks of a heatmap that are looked at
PEOPLE = 30
LIKE = 0.5  # half a step: tags as near as this to a person's count as equal
ROUNDING = 1e-3  # steps: more than two ways of computing a distance in float32 differ by
SPARSE, HIGH = 4, 256  # of every 4th pixel of every 4th row the 256 largest say which values are high
EXACT = 2.0**20  # scores are multiples of its reciprocal: sums of costs are exact, and which are equal does not waver
FIRST = 100.0  # tags come first: a whole step of tag distance weighs more than any heatmap's value


def decode(heatmaps: np.ndarray, tags: np.ndarray, centre: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (P, K, 3) as x, y in pixels of the heatmaps and score, and scores (P,) of at most PEOPLE people.

    heatmaps (K, h, w) and tags (L, K, h, w) are float32; L is 1, or 2 with those of the mirrored image. `centre` is
    added to a peak's row and column. A person's score is the mean over all keypoints, 0 for those that no peak gave;
    the place and score of these are filled in after.
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
    """Peaks of each heatmap, best first: K arrays (M, 3 + L) float32 of x, y, score and tags, M up to CANDIDATES."""
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
    """Candidates (see `candidates`) by person: (P, K, 3) float32 of x, y and score, 0 where a keypoint is missing.

    The cost of giving a candidate to a person is the distance of tags in whole steps, then the candidate's score.
    People are numbered by the tag that founded them, as in mmpose: of two with the same tag there is one.
    """
    joints: dict[float, np.ndarray] = {}
    members: dict[float, tuple[np.ndarray, int]] = {}  # the sum (L,) of a person's tags, and how many
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
    """For each candidate (M, 3 + L) the person it belongs to, by name; None for one that founds a new person."""
    if not members:
        return [None] * len(peaks)
    names = list(members)
    totals, counts = zip(*members.values(), strict=True)
    means = np.array(totals) / np.array(counts, np.float32)[:, None]
    distances = np.linalg.norm(peaks[:, None, 3:] - means[None], axis=2)
    scores = np.round(peaks[:, 2:3].astype(np.float64) * EXACT) / EXACT
    chosen = assign(np.round(distances).astype(np.float64) * FIRST - scores)
    return [names[j] if j >= 0 and distances[i, j] < NEAR else None for i, j in enumerate(chosen)]


def fill(joints: np.ndarray, missing: np.ndarray, centres: np.ndarray, heatmaps: np.ndarray, tags: np.ndarray) -> None:
    """Place each keypoint of `joints` (P, K, 3) that is `missing` (P, K), in place.

    Its place is where its heatmap is largest among tags like the person's. `centres` (P, L) are the people's mean tags.
    Where no pixel's tags are within half a step, it is the largest value among the nearest whole step, as in mmpose.
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
    """Pixels of the largest values (h, w), best first: some thousands, among which most of what is missing lies."""
    sample = values[::SPARSE, ::SPARSE].ravel()
    level = np.partition(sample, -min(HIGH, sample.size))[-min(HIGH, sample.size)]
    high = np.flatnonzero(values > level)
    best: np.ndarray = high[np.argsort(-values.flat[high], kind="stable")]
    return best


def _search(values: np.ndarray, tags: np.ndarray, centre: np.ndarray) -> int:
    """The pixel of the least cost: distance of tags (L, h, w) from `centre` in whole steps, then values (h, w).

    The first pass takes pixels whose distance may round to the least step. The second pass computes their costs.
    """
    apart = cv2.absdiff(tags[0], float(centre[0]))
    for part, c in zip(tags[1:], centre[1:], strict=True):
        apart = cv2.magnitude(apart, cv2.subtract(part, float(c)))
    near = np.flatnonzero(apart <= np.round(apart.min()) + LIKE + ROUNDING)
    distances = np.linalg.norm(tags.reshape(len(tags), -1)[:, near] - centre[:, None], axis=0)
    return int(near[(np.round(distances) * np.float32(FIRST) - values.flat[near]).argmin()])


def mean_tags(people: np.ndarray, present: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Mean tags (P, L) float32 of people at their keypoints that are `present` (P, K).

    A tag is read at the pixel that holds the refined place, as mmpose does: a quarter of a pixel to the left of a peak
    is the pixel before it. There the tag may be another person's.
    """
    height, width = tags.shape[2:]
    x, y = (people[..., i].astype(int).clip(0, side - 1) for i, side in enumerate((width, height)))
    values = tags[:, np.arange(tags.shape[1]), y, x].transpose(1, 2, 0)  # people, keypoints, tags
    means = [np.mean(person[seen], axis=0) for person, seen in zip(values, present, strict=True)]
    return np.array(means, np.float32).reshape(-1, len(tags))
