"""Find the family of a config's `model`, and the arguments of its architecture."""

from __future__ import annotations

from collections.abc import Iterator

from sandglass.core import discover
from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.config import Config, at
from sandglass.sources.openmmlab.families import FAMILIES, Family, Only

PARTS = ("backbone", "neck", "head", "det_head")
OLDER_NAMES = {"keypoint_head": "head", "bbox_head": "det_head"}
# Settings that matter only for the training, or that the reader of the task's decoding uses.
IGNORED = {
    "type", "init_cfg", "pretrained", "frozen_stages", "norm_eval", "with_cp", "zero_init_residual", "requires_grad",
    "loss", "loss_keypoint", "keypoint_loss", "tag_loss", "module_loss", "with_ae_loss", "topk", "cal_acc",
    "decoder", "postprocessor",
}  # fmt: skip


def newer_names(model: Config) -> dict[str, object]:
    """A config's `model` with 1.x names. In 0.x, `head` is `keypoint_head` and `det_head` is `bbox_head`."""
    return {OLDER_NAMES.get(key, key): value for key, value in model.items()}


def family_of(model: Config, path: object) -> tuple[Family, dict[str, object]]:
    """The family of a config's `model`, and the arguments of its architecture.

    Raises ConfigError with the supported families for an unknown one, and for a model with settings that the
    architecture of Sandglass does not have.
    """
    for family in FAMILIES:
        if all(_type(model, part) in names for part, names in family.types.items()):
            return family, _arguments(family, model, path)
    types = " with ".join(kind for part in ("", *PARTS) if (kind := _type(model, part)))
    raise ConfigError(f"{path}: the model is {types or 'of no type'}, which is not supported", f"supported: {known()}")


def known() -> str:
    """The supported families, with the names of their parts in configs."""
    architectures = discover.names("models")
    return "; ".join(
        f"{family.model} ({' with '.join(' or '.join(names) for part, names in family.types.items() if part)})"
        for family in FAMILIES
        if family.model in architectures
    )


def _type(model: Config, part: str) -> str:
    name = at(model, f"{part}.type" if part else "type", "")
    return name if isinstance(name, str) else ""


def _arguments(family: Family, model: Config, path: object) -> dict[str, object]:
    """The arguments that the config sets, after checks. The defaults of the architecture are those of OpenMMLab."""
    arguments: dict[str, object] = dict(family.defaults)
    for name, place in family.arguments.items():
        value = _plain(at(model, place, ...) if isinstance(place, str) else [at(model, one, ...) for one in place])
        if value is not ...:
            arguments[name] = value
    try:
        checks = {place: Only((rule(arguments),)) if callable(rule) else rule for place, rule in family.only.items()}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: model is not a complete {family.model}: {error} is missing", "complete the config"
        ) from error
    for place, rule in checks.items():
        value = _plain(at(model, place, rule.default))
        if value is not ... and value not in rule.values:
            expected = " or ".join(repr(one) for one in rule.values)
            raise ConfigError(
                f"{path}: model.{place} is {shown(value)}, but the {family.model} of Sandglass has {expected}",
                "this variant is not supported",
            )
    used = {part for place in family.arguments.values() for part in ([place] if isinstance(place, str) else place)}
    for place in _places({part: model[part] for part in PARTS if model.get(part)}, {*used, *checks}):
        if place.split(".")[0] not in family.types or place.rpartition(".")[2] not in IGNORED:
            raise ConfigError(
                f"{path}: model.{place} is {shown(at(model, place))}, which the {family.model} of Sandglass lacks",
                "this variant is not supported",
            )
    return arguments


def _places(tree: Config, known: set[str], above: str = "") -> Iterator[str]:
    """Dotted paths of values that no rule covers. A rule or an ignored setting also covers everything inside."""
    for key, value in tree.items():
        place = f"{above}{key}"
        if place in known:
            continue
        if isinstance(value, dict) and key not in IGNORED and any(value):
            yield from _places(value, known, f"{place}.")
        elif not any(one.startswith(f"{place}.") for one in known):
            yield place


def _plain(value: object) -> object:
    """A value with lists in place of tuples, as in TOML and JSON; `...` if a part is missing."""
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return ... if ... in parts else parts
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value
