"""Read the test pipeline and the normalization from configs of both generations, for the readers of all tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.config import Config, at

FIX = "use another config, or write a model card by hand"
UNIT_PIXELS = 255  # mmpose 0.x normalizes pixels of 0 to 1


def tested_on(config: Config, path: Path) -> Config:
    """The test dataset of a config: `test_dataloader.dataset` in 1.x, `data.test` in 0.x."""
    dataset = at(config, "test_dataloader.dataset") or at(config, "data.test")
    if not isinstance(dataset, dict):
        raise ConfigError(
            f"{path} has no test dataset; it may be a base of other configs", "give the complete config of a model"
        )
    return dataset


def of_type(dataset: Config, path: Path, known: Mapping[str, Collection[str] | None]) -> dict[str, Config]:
    """The steps of the test pipeline by type, including those inside a step that tests several scales.

    `known` maps each supported type to its supported settings, or to None if all settings are allowed because none
    changes a pixel. Raises ConfigError for an unsupported type or setting.
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
    """The steps of a pipeline as a flat list, a step before those inside it. Raises TypeError for another value."""
    if isinstance(steps, dict):
        return [steps, *flat(steps.get("transforms", ()))]
    if not isinstance(steps, list | tuple):
        raise TypeError(f"a step of the test pipeline is {shown(steps)}")
    return [inner for step in steps for inner in flat(step)]


def expected(path: Path, place: str, value: object, known: Collection[object], fix: str = FIX) -> None:
    """Raise ConfigError if a value is not in `known`."""
    if value not in known:
        raise ConfigError(f"{path}: {place} is {shown(value)}, but supported is {', '.join(map(str, known))}", fix)


def only(path: Path, place: str, settings: Config, rules: Config) -> None:
    """Raise ConfigError for a setting without a rule, or with another value than its rule. `...` allows any value."""
    for name, value in settings.items():
        if name not in rules:
            raise ConfigError(f"{path}: {place} has {name}={shown(value)}, which is not supported", FIX)
        if rules[name] is not ...:
            expected(path, f"{place}.{name}", value, (rules[name],))


def image_input(
    config: Config, steps: Mapping[str, Config], size: object, path: Path, read_as_rgb: bool = False
) -> dict[str, object]:
    """A card's `[input]`, with the normalization of a config of either generation. `size` is (width, height).

    `read_as_rgb` is for datasets whose pixels are RGB already; a conversion "from BGR" then gives BGR.
    """
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise ConfigError(
            f"{path}: the input's size is {shown(size)}, expected width and height", "give a complete config"
        )
    unit = steps.get("NormalizeTensor")
    if unit is not None:
        scaled = {key: [round(UNIT_PIXELS * value, 6) for value in _numbers(unit[key])] for key in ("mean", "std")}
        return {"size": [size[1], size[0]], **scaled, "channels": "rgb"}
    norm = steps.get("Normalize") or at(config, "model.data_preprocessor") or at(config, "data_preprocessor")
    if not isinstance(norm, dict) or "mean" not in norm or "std" not in norm:
        raise ConfigError(f"{path} does not define the normalization of pixels", "give a complete config")
    is_swapped = bool(norm.get("bgr_to_rgb", norm.get("to_rgb", False)))
    channels = "rgb" if is_swapped != read_as_rgb else "bgr"
    mean, std = _numbers(norm["mean"]), _numbers(norm["std"])
    return {"size": [size[1], size[0]], "mean": mean, "std": std, "channels": channels}


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list | tuple) or not all(isinstance(number, int | float) for number in value):
        raise TypeError(f"{shown(value)}, expected numbers")
    return list(value)
