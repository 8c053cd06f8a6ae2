"""A config of mmpose, mmpretrain or mmocr as a model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandglass.core.errors import ConfigError
from sandglass.sources.card import Card
from sandglass.sources.openmmlab import classification, pose, text
from sandglass.sources.openmmlab.config import MISSHAPEN, Config, read_config
from sandglass.sources.openmmlab.match import family_of, newer_names

Reader = Callable[[Config, Path], tuple[dict[str, object], dict[str, object]]]
# By task: from a config to a card's `[input]` and `[decode]`.
READERS: dict[str, Reader] = {
    "topdown-pose": pose.topdown,
    "bottomup-pose": pose.bottomup,
    "classification": classification.classification,
    "text-detection": text.detection,
}


def config_card(path: Path) -> Card:
    """The card of a config, named as the file; it has no checkpoint.

    Raises ConfigError, naming file and value, for a config that is no data, of a family that Sandglass lacks, or of a
    member that differs from what it computes.
    """
    config = read_config(path)
    model = config.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{path} has no model", "give the config of a model")
    try:
        config["model"] = newer = newer_names(model)
        family, arguments = family_of(newer, path)
        image, decode = READERS[family.task](config, path)
    except MISSHAPEN as error:
        raise ConfigError(
            f"{path} is not of the form of OpenMMLab's configs: {error}", "give a whole config"
        ) from error
    data: dict[str, object] = {"name": path.stem, "task": family.task, "model": family.model, "input": image}
    return Card.from_dict({**data, "arguments": arguments, "decode": decode}, str(path))
