"""What the tasks' readers share: the test pipeline of either generation, and the normalization it ends in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.config import at

FIX = "use another config, or write a model card by hand"
UNIT_PIXELS = 255  # mmpose 0.x normalizes pixels of 0..1


def tested_on(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What the model is tested on: `test_dataloader.dataset` of 1.x, `data.test` of 0.x."""
    found = at(config, "test_dataloader.dataset") or at(config, "data.test")
    if not isinstance(found, dict):
        raise ConfigError(f"{path} has no test dataset: it is a part of other configs", "give a config that is whole")
    return found


def of_type(
    dataset: Mapping[str, Any], path: Path, known: Mapping[str, Collection[str] | None]
) -> dict[str, Mapping[str, Any]]:
    """The steps of the test pipeline by type, those inside a step that tests several scales included.

    `known` maps types to their settings, or to None where no setting changes a pixel. Raises ConfigError for others.
    """
    steps = flat(dataset.get("pipeline") or ())
    for step in steps:
        expected(path, "a step of the test pipeline", step.get("type"), known)
        settings = known[step["type"]]
        if settings is not None:
            only(path, step["type"], step, dict.fromkeys(("type", *settings), ...))
    return {str(step["type"]): step for step in steps}


def flat(steps: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The steps of a pipeline, a step before those inside it."""
    found: list[Mapping[str, Any]] = []
    for step in steps:
        if isinstance(step, list | tuple):
            found += flat(step)
        else:
            found += [step, *flat(step.get("transforms", ()))]
    return found


def expected(path: Path, place: str, value: Any, known: Collection[Any], fix: str = FIX) -> None:
    """Raise ConfigError where a value is none of those that Sandglass knows."""
    if value not in known:
        raise ConfigError(f"{path}: {place} is {shown(value)}, Sandglass knows {', '.join(map(str, known))}", fix)


def only(path: Path, place: str, settings: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting that has no rule, or another value than its rule; a rule of `...` allows any."""
    for name, value in settings.items():
        if name not in rules:
            raise ConfigError(f"{path}: {place} has {name}={shown(value)}, which Sandglass lacks", FIX)
        if rules[name] is not ...:
            expected(path, f"{place}.{name}", value, (rules[name],))


def image_input(
    config: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]], size: Any, path: Path, read_as_rgb: bool = False
) -> dict[str, Any]:
    """A card's `[input]`: `size` is (width, height), normalization that of either generation.

    `read_as_rgb` is for pixels that come as RGB, where a conversion from BGR would turn them.
    """
    numbers = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
    if not numbers:
        raise ConfigError(
            f"{path}: the input's size is {shown(size)}, expected width and height", "give a whole config"
        )
    unit = steps.get("NormalizeTensor")
    if unit is not None:
        scaled = {key: [round(UNIT_PIXELS * value, 6) for value in unit[key]] for key in ("mean", "std")}
        return {"size": [size[1], size[0]], **scaled, "channels": "rgb"}
    norm = steps.get("Normalize") or at(config, "model.data_preprocessor") or at(config, "data_preprocessor")
    if not isinstance(norm, dict) or "mean" not in norm or "std" not in norm:
        raise ConfigError(f"{path} does not say how pixels are normalized", "give a whole config")
    turned = bool(norm.get("bgr_to_rgb", norm.get("to_rgb", False)))
    channels = "rgb" if turned != read_as_rgb else "bgr"
    return {"size": [size[1], size[0]], "mean": list(norm["mean"]), "std": list(norm["std"]), "channels": channels}
