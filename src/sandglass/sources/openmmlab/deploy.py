"""Read mmdeploy's deploy configs: backend, precision and input shape.

A setting that Sandglass ignores gives a note. A setting that contradicts the model or is not supported is an error. The
format is that of mmdeploy 1.3; 0.x has the same format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sandglass.core import discover
from sandglass.core.errors import ConfigError, shown
from sandglass.sources.bring_up import OPSET
from sandglass.sources.card import Card
from sandglass.sources.openmmlab.config import MISSHAPEN, Config, at, read_config, settings_at

TASKS = {
    "PoseDetection": ("topdown-pose", "bottomup-pose"),
    "Classification": ("classification",),
    "TextDetection": ("text-detection",),
}
ANY_SHAPE = ("bottomup-pose", "text-detection")  # networks of these tasks read whole images of any shape
# Settings of the exported ONNX file, which Sandglass does not write.
FORM = {"type", "export_params", "keep_initializers_as_inputs", "save_file", "input_names", "optimize"}
USED = {
    "codebase_config": {"type", "task", "model_type"},
    "onnx_config": {*FORM, "opset_version", "input_shape", "output_names", "dynamic_axes"},
    "backend_config": {"type", "precision", "use_vulkan", "model_inputs", "common_config"},
    "calib_config": {"create_calib", "calib_file"},
}
SHAPES = ("opt_shapes", "input_shapes", "shape")
AXES = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class DeployConfig:
    """The content of a deploy config.

    `tasks` are the tasks of models that it fits. `size` is the input's (height, width), or None if it is not set.
    `dynamic` names the dynamic axes of the input. `notes` has a line for each setting that Sandglass ignores.
    """

    path: Path
    target: str
    tasks: tuple[str, ...]
    size: tuple[int, int] | None
    dynamic: tuple[str, ...]
    notes: tuple[str, ...]

    def applied(self, card: Card) -> Card:
        """The card with the input shape of the deploy config, if its task supports any shape.

        Raises ConfigError if the card is for another task, or for another fixed shape.
        """
        if card.task not in self.tasks:
            raise ConfigError(
                f"{self.path} is for {' or '.join(self.tasks)}, but the task of {card.name} is {card.task}",
                f"give a deploy config for {card.task}",
            )
        if self.size is None or self.size == card.input.size:
            return card
        if card.task not in ANY_SHAPE:
            own, other = ("x".join(map(str, size)) for size in (card.input.size, self.size))
            raise ConfigError(
                f"{self.path} has an input of {other} (height x width), but {card.name} needs {own}",
                "give a deploy config with this shape, or one without a shape",
            )
        return replace(card, input=replace(card.input, size=self.size))


def read_deploy_config(path: Path) -> DeployConfig:
    """Read a deploy config with its bases.

    Raises ConfigError for a config that is not plain data, for a backend, precision, task or setting that is not
    supported, and for shapes that contradict each other.
    """
    config = read_config(path)
    if "backend_config" not in config or "codebase_config" not in config:
        raise ConfigError(f"{path} has no backend_config and codebase_config", "give a complete deploy config")
    try:
        return _read(config, path)
    except MISSHAPEN as error:
        raise ConfigError(
            f"{path} does not have the form of a deploy config: {error}", "give a complete deploy config"
        ) from error


def _read(config: Config, path: Path) -> DeployConfig:
    _refuse_unknown(config, path)
    task = at(config, "codebase_config.task")
    if task not in TASKS:
        raise ConfigError(f"{path}: the task {task} is not supported", f"supported: {', '.join(TASKS)}")
    model = at(config, "codebase_config.model_type", "end2end")
    if model != "end2end":
        raise ConfigError(f"{path}: model_type is {shown(model)}, but only end2end is supported", "leave it out")
    dynamic = _dynamic(config)
    notes = list(_notes(config, dynamic))
    return DeployConfig(path, _target(config, path), TASKS[task], _size(config, path), dynamic, tuple(notes))


def _refuse_unknown(config: Config, path: Path) -> None:
    backend = at(config, "backend_config.type")
    if not (isinstance(backend, str) and discover.has("backends", backend)):
        known = [name for name, module in discover.load_usable("backends").items() if module.PURPOSE == "deploy"]
        raise ConfigError(f"{path}: Sandglass has no backend {shown(backend)}", f"known: {', '.join(known)}")
    for section in config:
        if section not in USED:
            raise ConfigError(f"{path}: {section} is not supported", f"supported: {', '.join(USED)}")
        if unknown := [name for name in settings_at(config, section) if name not in USED[section]]:
            raise ConfigError(f"{path}: {section}.{unknown[0]} is not supported", "leave it out")


def _target(config: Config, path: Path) -> str:
    settings = settings_at(config, "backend_config")
    backend = str(settings["type"])
    known = discover.load("backends", backend).PRECISIONS
    precision = str(settings.get("precision", known[0])).lower()
    if precision not in known:
        raise ConfigError(f"{path}: {backend} has no precision {shown(precision)}", f"known: {', '.join(known)}")
    if settings.get("use_vulkan", False):
        raise ConfigError(f"{path}: use_vulkan is not supported", "leave it out; the model then runs on the CPU")
    return f"{backend}:{precision}"


def _size(config: Config, path: Path) -> tuple[int, int] | None:
    """The input's (height, width), from all places that may set it; None if none does."""
    sizes: dict[tuple[int, int], str] = {}
    shape = at(config, "onnx_config.input_shape")
    if shape is not None:
        if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(isinstance(side, int) for side in shape):
            raise ConfigError(
                f"{path}: onnx_config.input_shape is {shown(shape)}, expected [width, height]", "correct it"
            )
        sizes[shape[1], shape[0]] = "onnx_config.input_shape"
    for part in _model_inputs(config):
        for key in SHAPES:
            for value in settings_at(part, key).values():
                if isinstance(value, list | tuple) and len(value) == 4 and min(value[2:]) > 0:
                    sizes[value[2], value[3]] = f"backend_config.model_inputs.{key}"
    if len(sizes) > 1:
        listing = " and ".join(f"{where} is {height}x{width}" for (height, width), where in sizes.items())
        raise ConfigError(f"{path} contradicts itself: {listing} (height x width)", "make them equal")
    return next(iter(sizes), None)


def _dynamic(config: Config) -> tuple[str, ...]:
    axes = settings_at(config, "onnx_config.dynamic_axes").get("input", ())
    dynamic = axes if isinstance(axes, dict | list | tuple) else ()
    return tuple(name for axis, name in AXES.items() if axis in dynamic)


def _model_inputs(config: Config) -> list[Config]:
    """The backend's settings for each input. Raises TypeError for a value that is not a dictionary."""
    value = at(config, "backend_config.model_inputs", [])
    parts = value if isinstance(value, list | tuple) else [value]
    return [settings_at({"model_inputs": part}, "model_inputs") for part in parts]


def _notes(config: Config, dynamic: tuple[str, ...]) -> Iterator[str]:
    opset = at(config, "onnx_config.opset_version", OPSET)
    if opset != OPSET:
        yield f"opset_version {opset} is ignored: graphs have opset {OPSET}"
    if "batch" in dynamic:
        yield "a dynamic batch needs no setting: artifacts support any batch"
    if sides := [name for name in dynamic if name != "batch"]:
        yield f"dynamic {' and '.join(sides)} is ignored: the artifact has the shape of the model's card"
    names = at(config, "onnx_config.output_names", ["output"])
    if names != ["output"]:
        listed = names if isinstance(names, list | tuple) else [names]
        yield f"output_names {', '.join(map(str, listed))} is ignored: outputs have the architecture's names"
    if "common_config" in settings_at(config, "backend_config"):
        yield "backend_config.common_config is ignored: `sandglass tune` searches for a runtime's settings"
    for part in _model_inputs(config):
        for name in part:
            if name not in SHAPES:
                yield f"backend_config.model_inputs.{name} is ignored"
    if "calib_config" in config:
        yield "calib_config is ignored: --calibration names the calibration images"
