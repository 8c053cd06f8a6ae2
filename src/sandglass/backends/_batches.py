"""Batches for runtimes that run one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from sandglass.backends import Arrays
from sandglass.core.parallel import wait_for


def run_by_one(
    run: Callable[[Arrays], dict[str, np.ndarray]], inputs: Arrays, pool: Executor | None = None
) -> dict[str, np.ndarray]:
    """Run a batch image by image, and stack the outputs.

    With `pool`, its threads run several images at the same time; `run` must then be thread-safe.
    """
    count = len(next(iter(inputs.values())))
    images = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
    if pool and count > 1:
        parts = [wait_for(future, "an image") for future in [pool.submit(run, image) for image in images]]
    else:
        parts = [run(image) for image in images]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
