"""Artifacts for images of many sizes: the input shapes that they have, and the one that an image runs in.

Shapes are (height, width) with the number of images that each was chosen for, 0 where that is not known. The first is
the one that the graph has, that an artifact is timed at where nothing else is said, and that int8 ranges are read at.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from sandglass import tasks
from sandglass.artifacts import shape_choice
from sandglass.backends import Arrays, Session
from sandglass.core.errors import BackendError, InputError
from sandglass.core.sizes import Size, text
from sandglass.datasets._photos import find_photos
from sandglass.sources.card import Card
from sandglass.vision.image import image_size

Shapes = Mapping[Size, int]
MOST = 36


def named_shapes(card: Card, sizes: Iterable[Size]) -> dict[Size, int]:
    """The shapes that a user names. Raises InputError for one that no input of the card's task can have."""
    multiple = _shapes(card).multiple
    for size in sizes:
        if wrong := [side for side in size if side % multiple or side < multiple]:
            right = text([max(1, round(side / multiple)) * multiple for side in size])
            raise InputError(
                f"the shape {text(size)} has a side of {wrong[0]}, and {card.name} needs multiples of {multiple}",
                f"the nearest is {right}",
            )
    return dict.fromkeys(sizes, 0)


def shapes_of_images(card: Card, folder: Path, most: int) -> tuple[dict[Size, int], float]:
    """At most `most` shapes for the images in a folder, the most frequent one first, and the share that is padding.

    Only headers of the files are read. Raises DatasetError for a folder without images and for a broken one.
    """
    needed = Counter(_shapes(card).needed(image_size(path), card) for path in find_photos(folder))
    shapes = shape_choice.choose(needed, most)
    return dict(sorted(shapes.items(), key=lambda item: -item[1])), shape_choice.padding(shapes, needed)


def smallest_shape(shapes: Shapes, needed: Size, what: str) -> Size:
    """The shape of the fewest pixels that holds what `what` needs. Raises InputError naming the nearest where none."""
    fitting = [shape for shape in shapes if shape_choice.holds(shape, needed)]
    if not fitting:
        raise InputError(
            f"{what} needs an input of {text(needed)}, which none of the {len(shapes)} shapes holds; "
            f"the nearest is {text(shape_choice.nearest(shapes, needed))}",
            "deploy with a shape that does, or with --shapes-from a folder that has such images",
        )
    return min(fitting, key=shape_choice.area)


def _shapes(card: Card) -> tasks.Shapes[tasks.Sample, tasks.View]:
    """How inputs of the card's task follow the size of an image. Raises InputError where they have one size."""
    shapes = tasks.load_task(card.task).SHAPES
    if shapes is None:
        raise InputError(f"inputs of {card.task} have one size, and shapes were asked for", "leave the shapes out")
    return shapes


class ShapeSession:
    """A session for each shape, opened when an input has that shape for the first time."""

    def __init__(self, openers: Mapping[Size, Callable[[], Session]]) -> None:
        self.openers, self.opened = openers, dict[Size, Session]()
        self.lock = threading.Lock()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name. Raises BackendError for inputs of another shape."""
        height, width = next(iter(inputs.values())).shape[2:]
        if (height, width) not in self.openers:
            raise BackendError(
                f"the artifact has no input of {height}x{width}", f"it has {', '.join(map(text, self.openers))}"
            )
        with self.lock:
            if (height, width) not in self.opened:
                self.opened[height, width] = self.openers[height, width]()
        return self.opened[height, width].run(inputs)
