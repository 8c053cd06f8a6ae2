"""Input shapes of artifacts for images of many sizes, and the choice of a shape for an image.

`Shapes` maps (height, width) to the number of images that the shape was chosen for, or 0 if this is unknown. The graph
has the first shape; it is also the default for timing, and the shape at which int8 ranges are measured.
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
    """Shapes (height, width) that a user names. Raises InputError for one that the card's task does not support."""
    multiple = _shapes(card).multiple
    for size in sizes:
        if wrong := [side for side in size if side % multiple or side < multiple]:
            right = text([max(1, round(side / multiple)) * multiple for side in size])
            raise InputError(
                f"the shape {text(size)} has a side of {wrong[0]}, but {card.name} needs multiples of {multiple}",
                f"use {right}, the nearest possible shape",
            )
    return dict.fromkeys(sizes, 0)


def shapes_of_images(card: Card, folder: Path, most: int) -> tuple[dict[Size, int], float]:
    """Choose at most `most` shapes for the images in a folder; the most frequent shape comes first.

    Also returns the padding: padded pixels over needed pixels, 0 or more. Only the headers of the images are read.
    Raises DatasetError for a folder without images and for a damaged image.
    """
    needed = Counter(_shapes(card).needed(image_size(path), card) for path in find_photos(folder))
    shapes = shape_choice.choose(needed, most)
    return dict(sorted(shapes.items(), key=lambda item: -item[1])), shape_choice.padding(shapes, needed)


def smallest_shape(shapes: Shapes, needed: Size, what: str) -> Size:
    """The shape with the fewest pixels that holds the size `needed` (height, width).

    `what` names the image in the error. Raises InputError with the nearest shape if no shape is large enough.
    """
    fitting = [shape for shape in shapes if shape_choice.holds(shape, needed)]
    if not fitting:
        raise InputError(
            f"{what} needs an input of {text(needed)}, which does not fit into any of the {len(shapes)} shapes; "
            f"the nearest is {text(shape_choice.nearest(shapes, needed))}",
            "deploy with a larger shape, or with --shapes-from and a folder that contains such images",
        )
    return min(fitting, key=shape_choice.area)


def _shapes(card: Card) -> tasks.Shapes[tasks.Sample, tasks.View]:
    """How the card's task derives input shapes from image sizes. Raises InputError for a task with one fixed size."""
    shapes = tasks.load_task(card.task).SHAPES
    if shapes is None:
        raise InputError(f"the task {card.task} has a single input shape", "leave out --shapes and --shapes-from")
    return shapes


class ShapeSession:
    """A session for each input shape, opened at the first input of this shape."""

    def __init__(self, openers: Mapping[Size, Callable[[], Session]]) -> None:
        self.openers, self.opened = openers, dict[Size, Session]()
        self.lock = threading.Lock()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, batch first, float32. Raises BackendError for inputs of an unknown shape."""
        height, width = next(iter(inputs.values())).shape[2:]
        if (height, width) not in self.openers:
            raise BackendError(
                f"the artifact has no input shape {height}x{width}",
                f"use one of its shapes: {', '.join(map(text, self.openers))}",
            )
        with self.lock:
            if (height, width) not in self.opened:
                self.opened[height, width] = self.openers[height, width]()
        return self.opened[height, width].run(inputs)
