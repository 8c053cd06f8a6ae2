"""mmdeploy's deploy configs: which backend, which precision, which input shape.

What Sandglass decides otherwise is told in notes, and what contradicts the model or cannot be is an error. The format
is that of mmdeploy 1.3; that of 0.x is the same.
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
ANY_SHAPE = ("bottomup-pose", "text-detection")  # of these a network sees whole images
# The form of a file that is not written here.
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
    """What a deploy config asks for: a target, the model's task, the input's (height, width) where it is said, and the
    input's axes that are free. `notes` are lines for what is decided otherwise here."""

    path: Path
    target: str
    tasks: tuple[str, ...]
    size: tuple[int, int] | None
    dynamic: tuple[str, ...]
    notes: tuple[str, ...]

    def applied(self, card: Card) -> Card:
        """The card, for the input shape that was asked for where its task takes any.

        Raises ConfigError where it is of another task, or was trained for another shape.
        """
        if card.task not in self.tasks:
            raise ConfigError(
                f"{self.path} deploys {' or '.join(self.tasks)}, and {card.name} is of {card.task}",
                "give the deploy config of its task",
            )
        if self.size is None or self.size == card.input.size:
            return card
        if card.task not in ANY_SHAPE:
            own, asked = ("x".join(map(str, size)) for size in (card.input.size, self.size))
            raise ConfigError(
                f"{self.path} asks for an input of {asked} (height x width), and {card.name} is made for {own}",
                "give a deploy config of that shape, or one that leaves the shape to the model",
            )
        return replace(card, input=replace(card.input, size=self.size))


def read_deploy_config(path: Path) -> DeployConfig:
    """Read a deploy config with its bases.

    Raises ConfigError for a config that is no data, for a backend, precision, task or setting that Sandglass lacks, and
    for shapes that contradict one another.
    """
    config = read_config(path)
    if "backend_config" not in config or "codebase_config" not in config:
        raise ConfigError(f"{path} has no backend_config and codebase_config", "give a whole deploy config")
    try:
        return _read(config, path)
    except MISSHAPEN as error:
        raise ConfigError(f"{path} is not of the form of a deploy config: {error}", "give a whole one") from error


def _read(config: Config, path: Path) -> DeployConfig:
    _refuse_unknown(config, path)
    task = at(config, "codebase_config.task")
    if task not in TASKS:
        raise ConfigError(f"{path} deploys {task}, which Sandglass lacks", f"it has {', '.join(TASKS)}")
    model = at(config, "codebase_config.model_type", "end2end")
    if model != "end2end":
        raise ConfigError(f"{path}: model_type is {shown(model)}, Sandglass makes end2end ones", "leave it out")
    dynamic = _dynamic(config)
    notes = list(_notes(config, dynamic))
    return DeployConfig(path, _target(config, path), TASKS[task], _size(config, path), dynamic, tuple(notes))


def _refuse_unknown(config: Config, path: Path) -> None:
    backend = at(config, "backend_config.type")
    if not (isinstance(backend, str) and discover.has("backends", backend)):
        have = [name for name, module in discover.load_usable("backends").items() if module.PURPOSE == "deploy"]
        raise ConfigError(f"{path}: Sandglass has no backend {shown(backend)}", f"it has {', '.join(have)}")
    for section in config:
        if section not in USED:
            raise ConfigError(f"{path}: {section} is not supported", f"Sandglass reads {', '.join(USED)}")
        if unknown := [name for name in settings_at(config, section) if name not in USED[section]]:
            raise ConfigError(f"{path}: {section}.{unknown[0]} is not supported", "leave it out")


def _target(config: Config, path: Path) -> str:
    settings = settings_at(config, "backend_config")
    backend = str(settings["type"])
    known = discover.load("backends", backend).PRECISIONS
    precision = str(settings.get("precision", known[0])).lower()
    if precision not in known:
        raise ConfigError(f"{path}: {backend} has no precision {shown(precision)}", f"it has {', '.join(known)}")
    if settings.get("use_vulkan", False):
        raise ConfigError(f"{path}: use_vulkan is not supported", "Sandglass runs it on the processor")
    return f"{backend}:{precision}"


def _size(config: Config, path: Path) -> tuple[int, int] | None:
    """The input's (height, width), from wherever it is said."""
    found: dict[tuple[int, int], str] = {}
    shape = at(config, "onnx_config.input_shape")
    if shape is not None:
        if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(isinstance(side, int) for side in shape):
            raise ConfigError(
                f"{path}: onnx_config.input_shape is {shown(shape)}, expected width and height", "correct it"
            )
        found[shape[1], shape[0]] = "onnx_config.input_shape"
    for part in _model_inputs(config):
        for key in SHAPES:
            for value in settings_at(part, key).values():
                if isinstance(value, list | tuple) and len(value) == 4 and min(value[2:]) > 0:
                    found[value[2], value[3]] = f"backend_config.model_inputs.{key}"
    if len(found) > 1:
        told = " and ".join(f"{where} says {height}x{width}" for (height, width), where in found.items())
        raise ConfigError(f"{path} contradicts itself: {told} (height x width)", "make them the same")
    return next(iter(found), None)


def _dynamic(config: Config) -> tuple[str, ...]:
    axes = settings_at(config, "onnx_config.dynamic_axes").get("input", ())
    free = axes if isinstance(axes, dict | list | tuple) else ()
    return tuple(name for axis, name in AXES.items() if axis in free)


def _model_inputs(config: Config) -> list[Config]:
    """What the backend is to know of each input. Raises TypeError for what is not a dictionary."""
    value = at(config, "backend_config.model_inputs", [])
    parts = value if isinstance(value, list | tuple) else [value]
    return [settings_at({"model_inputs": part}, "model_inputs") for part in parts]


def _notes(config: Config, dynamic: tuple[str, ...]) -> Iterator[str]:
    opset = at(config, "onnx_config.opset_version", OPSET)
    if opset != OPSET:
        yield f"opset_version {opset} is not used: graphs are of opset {OPSET}"
    if "batch" in dynamic:
        yield "a dynamic batch needs no saying: artifacts take any"
    if sides := [name for name in dynamic if name != "batch"]:
        yield f"dynamic {' and '.join(sides)} is not used: the artifact has the shape of the model's card"
    names = at(config, "onnx_config.output_names", ["output"])
    if names != ["output"]:
        listed = names if isinstance(names, list | tuple) else [names]
        yield f"output_names {', '.join(map(str, listed))} is not used: outputs have the architecture's names"
    if "common_config" in settings_at(config, "backend_config"):
        yield "backend_config.common_config is not used: `sandglass tune` finds a runtime's settings"
    for part in _model_inputs(config):
        for name in part:
            if name not in SHAPES:
                yield f"backend_config.model_inputs.{name} is not used"
    if "calib_config" in config:
        yield "calib_config is not used: --calibration names the images that set the ranges"
