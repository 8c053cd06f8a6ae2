"""Each file of a seam has what its protocol asks for. Mypy checks the assignments."""

from __future__ import annotations

from pathlib import Path

from sandglass.core import discover
from sandglass.datasets import (
    DatasetModule,
    KeypointDataset,
    LabelledDataset,
    TextDataset,
    cifar10,
    coco_keypoints,
    ctw1500,
    icdar2015,
    imagenet,
    synthetic_crowd,
    synthetic_people,
    synthetic_shapes,
    synthetic_text,
)
from sandglass.tasks import TaskModule, bottomup_pose, classification, text_detection, topdown_pose

_bottomup: TaskModule[KeypointDataset, bottomup_pose.Sample, bottomup_pose.ImageView, bottomup_pose.People]
_bottomup = bottomup_pose
_topdown: TaskModule[KeypointDataset, topdown_pose.Sample, topdown_pose.PersonView, topdown_pose.Person]
_topdown = topdown_pose
_classes: TaskModule[LabelledDataset, classification.Sample, classification.LabelledView, classification.Classes]
_classes = classification
_texts: TaskModule[TextDataset, text_detection.Sample, text_detection.PageView, text_detection.Texts]
_texts = text_detection

_people: list[DatasetModule[KeypointDataset]] = [coco_keypoints, synthetic_crowd, synthetic_people]
_labelled: list[DatasetModule[LabelledDataset]] = [cifar10, imagenet, synthetic_shapes]
_pages: list[DatasetModule[TextDataset]] = [ctw1500, icdar2015, synthetic_text]


def test_no_file_of_a_seam_is_missing_here() -> None:
    """A new file in tasks/ or datasets/ is added to the assignments above, so that mypy checks it too."""
    text = Path(__file__).read_text(encoding="utf-8")
    checked = text[: text.index("def test_")]
    for seam in ("tasks", "datasets"):
        missing = [name for name in discover.own_names(seam) if name.replace("-", "_") not in checked]
        assert missing == [], f"add {missing} of {seam} to the assignments at the top of this file"
