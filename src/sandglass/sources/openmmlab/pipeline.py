"""What the tasks' readers share: the test pipeline of either generation, and the normalization it ends in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.config import Config, at

FIX = "use another config, or write a model card by hand"
UNIT_PIXELS = 255  # mmpose 0.x normalizes pixels of 0..1


def tested_on(config: Config, path: Path) -> Config:
    """What the model is tested on: `test_dataloader.dataset` of 1.x, `data.test` of 0.x."""
    found = at(config, "test_dataloader.dataset") or at(config, "data.test")
    if not isinstance(found, dict):
        raise ConfigError(f"{path} has no test dataset: it is a part of other configs", "give a config that is whole")
    return found


def of_type(dataset: Config, path: Path, known: Mapping[str, Collection[str] | None]) -> dict[str, Config]:
    """The steps of the test pipeline by type, those inside a step that tests several scales included.

    `known` maps types to their settings, or to None where no setting changes a pixel. Raises ConfigError for others.
    """
    steps = flat(dataset.get("pipeline") or ())
    for step in steps:
        kind = step.get("type")
        expected(path, "a step of the test pipeline", kind, known)
        settings = known[str(kind)]
        if settings is not None:
            only(path, str(kind), step, dict.fromkeys(("type", *settings), ...))
    return {str(step["type"]): step for step in steps}


def flat(steps: object) -> list[Config]:
    """The steps of a pipeline, a step before those inside it. Raises TypeError for what is not a pipeline."""
    if isinstance(steps, dict):
        return [steps, *flat(steps.get("transforms", ()))]
    if not isinstance(steps, list | tuple):
        raise TypeError(f"a step of the test pipeline is {shown(steps)}")
    return [inner for step in steps for inner in flat(step)]


def expected(path: Path, place: str, value: object, known: Collection[object], fix: str = FIX) -> None:
    """Raise ConfigError where a value is none of those that Sandglass knows."""
    if value not in known:
        raise ConfigError(f"{path}: {place} is {shown(value)}, Sandglass knows {', '.join(map(str, known))}", fix)


def only(path: Path, place: str, settings: Config, rules: Config) -> None:
    """Raise ConfigError for a setting that has no rule, or another value than its rule; a rule of `...` allows any."""
    for name, value in settings.items():
        if name not in rules:
            raise ConfigError(f"{path}: {place} has {name}={shown(value)}, which Sandglass lacks", FIX)
        if rules[name] is not ...:
            expected(path, f"{place}.{name}", value, (rules[name],))


def image_input(
    config: Config, steps: Mapping[str, Config], size: object, path: Path, read_as_rgb: bool = False
) -> dict[str, object]:
    """A card's `[input]`: `size` is (width, height), normalization that of either generation.

    `read_as_rgb` is for pixels that come as RGB, where a conversion from BGR would turn them.
    """
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise ConfigError(
            f"{path}: the input's size is {shown(size)}, expected width and height", "give a whole config"
        )
    unit = steps.get("NormalizeTensor")
    if unit is not None:
        scaled = {key: [round(UNIT_PIXELS * value, 6) for value in _numbers(unit[key])] for key in ("mean", "std")}
        return {"size": [size[1], size[0]], **scaled, "channels": "rgb"}
    norm = steps.get("Normalize") or at(config, "model.data_preprocessor") or at(config, "data_preprocessor")
    if not isinstance(norm, dict) or "mean" not in norm or "std" not in norm:
        raise ConfigError(f"{path} does not say how pixels are normalized", "give a whole config")
    turned = bool(norm.get("bgr_to_rgb", norm.get("to_rgb", False)))
    channels = "rgb" if turned != read_as_rgb else "bgr"
    mean, std = _numbers(norm["mean"]), _numbers(norm["std"])
    return {"size": [size[1], size[0]], "mean": mean, "std": std, "channels": channels}


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list | tuple) or not all(isinstance(number, int | float) for number in value):
        raise TypeError(f"{shown(value)} where numbers are expected")
    return list(value)
