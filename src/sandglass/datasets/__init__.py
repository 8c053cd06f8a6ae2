"""Where samples and truths come from: one file is one dataset, with `load(...) -> KeypointDataset`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sandglass import discover


@dataclass
class KeypointDataset:
    """Images with people.

    `coco` is the ground truth in COCO's format (images, annotations, categories); `read` returns an image by its id,
    HWC uint8 RGB; `protocol` says where the boxes come from and how the subset was drawn; `detections` are boxes in
    COCO's result format that replace the ground-truth ones.
    """

    name: str
    coco: dict[str, Any]
    read: Callable[[int], np.ndarray]
    protocol: dict[str, Any]
    detections: list[dict[str, Any]] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of truths and boxes: two datasets with the same one have the same samples."""
        content = json.dumps([self.name, self.coco, self.detections], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def load_dataset(name: str, **options: Any) -> KeypointDataset:
    """Load a dataset by name; `options` are those of its file, such as images and annotations."""
    dataset: KeypointDataset = discover.load("datasets", name).load(**options)
    return dataset
