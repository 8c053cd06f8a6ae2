"""Drawn people: an articulated skeleton in three dimensions, with clothes and shading, projected onto an image.

The axes of a figure are x to the right in the image, y down, and z towards the viewer. Lengths are in heights of the
person. A figure that faces the viewer has its left side at positive x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[int, int, int]
FRACTION_BITS = 4  # coordinates for OpenCV are in 1/16 of a pixel
LIGHT = np.array([-0.35, -0.6])  # direction to the light in the image

# Numbers of parts in the label map: those of left limbs; right limbs have the next number. SHOWN_BY lists for each
# keypoint the parts on which it is visible.
HEAD, TORSO, UPPER_ARM, FOREARM, THIGH, SHIN = 1, 2, 3, 5, 7, 9
SHOWN_BY = [(HEAD,)] * 5 + [
    (TORSO, UPPER_ARM), (TORSO, UPPER_ARM + 1), (UPPER_ARM, FOREARM), (UPPER_ARM + 1, FOREARM + 1),
    (FOREARM,), (FOREARM + 1,), (TORSO, THIGH), (TORSO, THIGH + 1), (THIGH, SHIN), (THIGH + 1, SHIN + 1),
    (SHIN,), (SHIN + 1,),
]  # fmt: skip
LABELS_A_PERSON = 16  # labels for the parts of one person


class Outfit(NamedTuple):
    """Colors (RGB) and lengths of clothes."""

    skin: Colour
    hair: Colour
    shirt: Colour
    stripe: Colour
    trousers: Colour
    shoes: Colour
    striped: bool
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool


@dataclass
class Figure:
    """A person in a pose: joints (17, 3) with x, y and depth in pixels, `height` in pixels, and clothes."""

    joints: np.ndarray
    height: float
    outfit: Outfit
    facing: float
    head: np.ndarray = field(default_factory=lambda: np.zeros(3))
    neck: np.ndarray = field(default_factory=lambda: np.zeros(3))


def random_outfit(random: np.random.Generator) -> Outfit:
    """Random clothes, skin and hair."""
    skins = [(255, 219, 190), (241, 194, 150), (224, 172, 120), (170, 115, 75), (110, 72, 48), (82, 52, 36)]
    hairs = [(35, 25, 22), (70, 45, 30), (120, 80, 45), (200, 165, 95), (150, 150, 150), (120, 50, 30)]
    shirt, stripe, trousers, shoes = (_colour(random) for _ in range(4))
    striped, long_sleeves, long_trousers, long_hair = random.random(4) < (0.35, 0.4, 0.65, 0.4)
    return Outfit(
        skins[random.integers(len(skins))], hairs[random.integers(len(hairs))], shirt, stripe, trousers, shoes,
        bool(striped), bool(long_sleeves), bool(long_trousers), bool(long_hair),
    )  # fmt: skip


def random_figure(random: np.random.Generator, foot: tuple[float, float], height: float) -> Figure:
    """A person of `height` pixels (if upright) in a random pose, from a random side, its lowest joint at `foot`."""
    yaw = float(random.choice([0.0, np.pi, random.uniform(-np.pi, np.pi)], p=[0.4, 0.2, 0.4])) + random.normal(0, 0.25)
    points = _turn(_pose(random), yaw, lean=random.normal(0, 0.12))
    points *= height
    points[:, :2] += np.array(foot) - [points[:17, 0].mean(), points[:17, 1].max()]
    return Figure(points[:17], height, random_outfit(random), float(np.cos(yaw)), points[17], points[18])


def _colour(random: np.random.Generator) -> Colour:
    hsv = np.array([[[random.integers(180), random.integers(40, 230), random.integers(60, 250)]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def _pose(random: np.random.Generator) -> np.ndarray:
    """The joints of a figure that faces the viewer, (19, 3): COCO's seventeen, the center of the head, and the neck."""
    kind = random.choice(["stand", "walk", "reach", "sit", "free"], p=[0.25, 0.25, 0.2, 0.12, 0.18])
    hip_y, shoulder_y = -0.50, -0.81
    points = np.zeros((19, 3))
    width = random.uniform(0.95, 1.1)
    stride = random.uniform(0.25, 0.75) * random.choice([-1, 1])
    for side, offset in ((1, 0), (-1, 1)):
        swing = {"stand": random.normal(0, 0.1), "walk": -side * stride, "sit": random.normal(0.4, 0.3)}.get(
            str(kind), random.uniform(-0.7, 2.4)
        )
        spread = abs(random.normal(0.12, 0.12)) if kind in ("stand", "walk", "sit") else random.uniform(0, 2.6)
        bend = abs(random.normal(0.3, 0.3)) if kind in ("stand", "walk") else random.uniform(0, 2.0)
        shoulder = np.array([side * 0.115 * width, shoulder_y, 0])
        elbow = shoulder + 0.165 * _direction(side, swing, spread)
        turn = random.uniform(0, 1)
        outwards = bend * (1 - turn) * random.choice([-1, 1])
        wrist = elbow + 0.15 * _direction(side, swing + bend * turn, spread + outwards)
        lift = {"stand": random.normal(0, 0.06), "walk": side * stride, "sit": random.normal(1.35, 0.15)}.get(
            str(kind), random.normal(0.2, 0.4)
        )
        part = abs(random.normal(0.07, 0.06)) if kind != "free" else abs(random.normal(0.2, 0.25))
        knee_bend = {"stand": abs(random.normal(0, 0.06)), "sit": random.normal(1.35, 0.2)}.get(
            str(kind), abs(random.normal(0.25, 0.35))
        )
        hip = np.array([side * 0.072 * width, hip_y, 0])
        knee = hip + 0.235 * _direction(side, lift, part)
        ankle = knee + 0.225 * _direction(side, lift - knee_bend, part * 0.5)
        for joint, place in zip((5, 7, 9, 11, 13, 15), (shoulder, elbow, wrist, hip, knee, ankle), strict=True):
            points[joint + offset] = place
    points[18] = (0, shoulder_y - 0.02, 0)
    points[17] = (0, shoulder_y - 0.115, 0.01)
    nod, look = random.normal(0, 0.12), random.normal(0, 0.3)
    face = np.array([[0, 0.012, 0.075], [0.028, -0.014, 0.066], [-0.028, -0.014, 0.066], [0.062, 0, 0], [-0.062, 0, 0]])
    face[:, 1] += nod * face[:, 2]
    points[:5] = _turn(face, look, 0.0) + points[17]
    return points


def _direction(side: int, swing: float, spread: float) -> np.ndarray:
    """The unit vector of a limb: down, swung forwards and spread sideways by angles in radians."""
    return np.array([side * np.sin(spread), np.cos(spread) * np.cos(swing), np.cos(spread) * np.sin(swing)])


def _turn(points: np.ndarray, yaw: float, lean: float) -> np.ndarray:
    """Points rotated about the vertical axis by `yaw`, then in the image plane about the origin by `lean` (radians)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned = points @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    cos, sin = np.cos(lean), np.sin(lean)
    return turned @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def draw(image: np.ndarray, labels: np.ndarray, figure: Figure, person: int) -> None:
    """Draw a figure into an image, (H, W, 3) uint8 RGB, and its parts into `labels`, (H, W) uint8, in place.

    The label of a part is `person * LABELS_A_PERSON + part`, so that there can be at most fifteen people.
    """
    brush = _Brush(image, labels, person * LABELS_A_PERSON)
    joints, outfit, unit = figure.joints, figure.outfit, figure.height
    depth = joints[:, 2]
    sides = sorted((0, 1), key=lambda side: float(depth[5 + side] + depth[7 + side] + depth[9 + side]))
    legs = sorted((0, 1), key=lambda side: float(depth[11 + side] + depth[13 + side]))
    arms_behind = [side for side in sides if _arm_depth(joints, side) < -0.02 * unit]
    for side in arms_behind:
        _arm(brush, figure, side)
    for side in legs:
        _leg(brush, figure, side)
    if outfit.long_hair and face_shown(figure)[0]:
        _long_hair(brush, figure)
    _torso(brush, figure)
    _head(brush, figure)
    for side in sides:
        if side not in arms_behind:
            _arm(brush, figure, side)


def face_shown(figure: Figure) -> tuple[bool, bool, bool, bool, bool]:
    """Whether nose, left eye, right eye, left ear and right ear are on the viewer's side of the head."""
    depth = (figure.joints[:5, 2] - figure.head[2]) / figure.height
    nose, left_eye, right_eye, left_ear, right_ear = (depth > [-0.01, 0.015, 0.015, -0.02, -0.02]).tolist()
    # Eyes are drawn only on a face: a head from behind has none.
    return nose, nose and left_eye, nose and right_eye, left_ear, right_ear


def _arm_depth(joints: np.ndarray, side: int) -> float:
    return float(joints[[7 + side, 9 + side], 2].mean() - joints[[5, 6, 11, 12], 2].mean())


def _arm(brush: _Brush, figure: Figure, side: int) -> None:
    joints, outfit, unit = figure.joints, figure.outfit, figure.height
    shoulder, elbow, wrist = joints[5 + side], joints[7 + side], joints[9 + side]
    hand = wrist + 0.25 * (wrist - elbow)
    brush.limb(wrist, hand, 0.016 * unit, 0.02 * unit, outfit.skin, FOREARM + side)
    lower = outfit.shirt if outfit.long_sleeves else outfit.skin
    brush.limb(elbow, wrist, 0.024 * unit, 0.017 * unit, lower, FOREARM + side)
    brush.limb(shoulder, elbow, 0.034 * unit, 0.027 * unit, outfit.shirt, UPPER_ARM + side)


def _leg(brush: _Brush, figure: Figure, side: int) -> None:
    joints, outfit, unit = figure.joints, figure.outfit, figure.height
    hip, knee, ankle = joints[11 + side], joints[13 + side], joints[15 + side]
    towards_nose = np.sign(joints[0, 0] - figure.head[0] + 1e-6)
    toe = ankle + unit * np.array([0.04 * towards_nose * (1 - abs(figure.facing)), 0.03, 0])
    lower = outfit.trousers if outfit.long_trousers else outfit.skin
    brush.limb(knee, ankle, 0.036 * unit, 0.024 * unit, lower, SHIN + side)
    brush.limb(ankle, toe, 0.022 * unit, 0.02 * unit, outfit.shoes, SHIN + side)
    brush.limb(hip, knee, 0.054 * unit, 0.04 * unit, outfit.trousers, THIGH + side)


def _torso(brush: _Brush, figure: Figure) -> None:
    joints, outfit, unit = figure.joints, figure.outfit, figure.height
    brush.limb(figure.neck, figure.head, 0.026 * unit, 0.026 * unit, outfit.skin, TORSO)
    shoulders, hips = joints[5:7, :2], joints[11:13, :2]
    brush.hull([*shoulders, *hips], [0.04 * unit] * 2 + [0.05 * unit] * 2, outfit.trousers, TORSO)
    waist = hips + 0.2 * (shoulders - hips)
    brush.hull([*shoulders, *waist], [0.04 * unit] * 2 + [0.048 * unit] * 2, outfit.shirt, TORSO)
    if outfit.striped:
        for level in (0.2, 0.45, 0.7):
            band = shoulders + level * (waist - shoulders)
            brush.hull([*band], [0.014 * unit] * 2, outfit.stripe, TORSO)
    if figure.facing > 0.2:  # collar and buttons mark the front
        middle = _moved(shoulders.mean(axis=0), 0, 0.02 * unit)
        collar = [_moved(middle, across * unit, -0.03 * unit) for across in (-0.02, 0.02)]
        brush.hull([*collar, middle], [1, 1, 1], outfit.skin, TORSO)
        low = waist.mean(axis=0)
        for level in (0.25, 0.5, 0.75):
            brush.dot(middle + level * (low - middle), 0.007 * unit, _shade(outfit.shirt, 0.45), TORSO)


def _head(brush: _Brush, figure: Figure) -> None:
    joints, outfit, unit = figure.joints, figure.outfit, figure.height
    head, radius = figure.head, 0.062 * unit
    centre = head[:2]
    chin = _moved(centre, 0, 0.03 * unit)
    top = _moved(centre, 0, -0.016 * unit)
    nose_shown, *eyes_shown, left_ear, right_ear = face_shown(figure)
    brush.hull([centre, chin], [radius, radius * 0.8], outfit.skin, HEAD)
    for ear, shown in ((joints[3], left_ear), (joints[4], right_ear)):
        if shown:
            brush.dot(ear[:2], 0.016 * unit, _shade(outfit.skin, 0.85), HEAD)
    back = (centre - joints[0, :2]) * 0.55
    if nose_shown:
        crown = _moved(centre, 0, -0.044 * unit)
        brush.hull([crown + back * 0.4, crown + back], [radius * 0.55, radius * 0.6], outfit.hair, HEAD)
        for eye, shown in zip(joints[1:3], eyes_shown, strict=True):
            if shown:
                brush.dot(eye[:2], 0.0125 * unit, (250, 250, 250), HEAD)
                brush.dot(eye[:2], 0.008 * unit, (25, 25, 35), HEAD)
        brush.dot(joints[0, :2], 0.011 * unit, _shade(outfit.skin, 0.72), HEAD)
        mouth = _moved(joints[0, :2], 0, 0.027 * unit)
        corners = [_moved(mouth, across * unit, 0) for across in (-0.014, 0.014)]
        brush.hull(corners, [0.005 * unit] * 2, (170, 60, 60), HEAD)
    else:
        brush.hull([top, _moved(centre, 0, 0.015 * unit)], [radius * 1.05, radius * 0.95], outfit.hair, HEAD)
        if outfit.long_hair:
            _long_hair(brush, figure)


def _long_hair(brush: _Brush, figure: Figure) -> None:
    """Hair to the shoulders: drawn before the torso if the face is visible, and after it for a figure from behind."""
    centre, unit = figure.head[:2], figure.height
    top, bottom = _moved(centre, 0, -0.016 * unit), _moved(centre, 0, 0.06 * unit)
    brush.hull([top, bottom], [0.0713 * unit, 0.0651 * unit], figure.outfit.hair, HEAD)


def _moved(point: np.ndarray, right: float, down: float) -> np.ndarray:
    return np.asarray(point + np.array([right, down]))


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return red, green, blue


class _Brush:
    """Draws hulls of circles into an image and its label map, with light from the upper left."""

    CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 14)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 14)[:-1])], axis=1)

    def __init__(self, image: np.ndarray, labels: np.ndarray, base: int) -> None:
        self.image, self.labels, self.base = image, labels, base

    def limb(self, start: np.ndarray, end: np.ndarray, r0: float, r1: float, colour: Colour, part: int) -> None:
        """Draw a tapered limb between two joints."""
        self.hull([start[:2], end[:2]], [r0, r1], colour, part)

    def hull(self, centres: list[np.ndarray], radii: list[float], colour: Colour, part: int) -> None:
        """Draw the convex hull of circles in four tones, from a dark rim to a highlight towards the light."""
        places, sizes = np.array(centres), np.array(radii)
        for scale, tone in ((1.0, 0.62), (0.86, 0.85), (0.62, 1.0), (0.3, 1.12)):
            shifted = places + LIGHT * (sizes * (1 - scale))[:, None]
            self._fill(self.image, shifted, sizes * scale, _shade(colour, tone), cv2.LINE_AA)
        self._fill(self.labels, places, sizes, self.base + part, cv2.LINE_8)

    def dot(self, centre: np.ndarray, radius: float, colour: Colour, part: int) -> None:
        """Draw a small disk: a mark on a part, or a nose or ear that extends beyond the head."""
        point = tuple(int(v) for v in np.round(centre * (1 << FRACTION_BITS)))
        size = max(1, round(radius * (1 << FRACTION_BITS)))
        cv2.circle(self.image, point, size, colour, -1, cv2.LINE_AA, FRACTION_BITS)
        cv2.circle(self.labels, point, size, self.base + part, -1, cv2.LINE_8, FRACTION_BITS)

    def _fill(self, target: np.ndarray, places: np.ndarray, sizes: np.ndarray, value: Colour | int, line: int) -> None:
        points = (places[:, None] + self.CIRCLE * sizes[:, None, None]).reshape(-1, 2)
        outline = cv2.convexHull(np.round(points * (1 << FRACTION_BITS)).astype(np.int32))
        cv2.fillConvexPoly(target, outline, value, line, FRACTION_BITS)
