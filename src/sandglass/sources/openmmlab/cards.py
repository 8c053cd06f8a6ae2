"""Convert a config of mmpose, mmpretrain or mmocr to a model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandglass.core.errors import ConfigError
from sandglass.sources.card import Card
from sandglass.sources.openmmlab import classification, pose, text
from sandglass.sources.openmmlab.config import MISSHAPEN, Config, read_config
from sandglass.sources.openmmlab.match import family_of, newer_names

Reader = Callable[[Config, Path], tuple[dict[str, object], dict[str, object]]]
# For each task, the function from a config to a card's `[input]` and `[decode]`.
READERS: dict[str, Reader] = {
    "topdown-pose": pose.topdown,
    "bottomup-pose": pose.bottomup,
    "classification": classification.classification,
    "text-detection": text.detection,
}


def config_card(path: Path) -> Card:
    """The card of a config. Its name is that of the file, and it has no checkpoint.

    Raises ConfigError, with the file and the value, for a config that is not plain data, for a family of models that
    Sandglass does not support, and for a model of a known family with unsupported settings.
    """
    config = read_config(path)
    model = config.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{path} has no model", "give the config file of a model")
    try:
        config["model"] = newer = newer_names(model)
        family, arguments = family_of(newer, path)
        image, decode = READERS[family.task](config, path)
    except MISSHAPEN as error:
        raise ConfigError(
            f"{path} does not have the form of an OpenMMLab config: {error}", "give a complete config"
        ) from error
    data: dict[str, object] = {"name": path.stem, "task": family.task, "model": family.model, "input": image}
    return Card.from_dict({**data, "arguments": arguments, "decode": decode}, str(path))
