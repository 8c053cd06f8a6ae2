"""Records of COCO's format for people, in annotation files, detection files and result files."""

from __future__ import annotations

from typing import TypedDict

from sandglass.core.image_ids import Id


class CocoImage(TypedDict):
    """An image; width and height in pixels."""

    id: Id
    file_name: str
    width: float
    height: float


class CocoCategory(TypedDict):
    """A category, with the names of its keypoints and the pairs of keypoints (from 1) that limbs connect."""

    id: int
    name: str
    supercategory: str
    keypoints: list[str]
    skeleton: list[list[int]]


class CocoShape(TypedDict):
    """A person without its image: `keypoints` is 17 times x, y and flag, `bbox` is x, y, width, height in pixels."""

    category_id: int
    iscrowd: int
    keypoints: list[float]
    num_keypoints: int
    bbox: list[float]
    area: float


class CocoPerson(CocoShape):
    """An annotated person."""

    id: Id
    image_id: Id


class CocoBox(TypedDict):
    """A detected person; `bbox` is x, y, width, height in pixels."""

    image_id: Id
    category_id: int
    bbox: list[float]
    score: float


class CocoResult(TypedDict):
    """A predicted person; `keypoints` is 17 times x, y and score."""

    image_id: Id
    category_id: int
    keypoints: list[float]
    score: float


class CocoInfo(TypedDict, total=False):
    """The optional description of a file."""

    info: dict[str, object]


class CocoTruth(CocoInfo):
    """The content of an annotation file."""

    images: list[CocoImage]
    annotations: list[CocoPerson]
    categories: list[CocoCategory]
