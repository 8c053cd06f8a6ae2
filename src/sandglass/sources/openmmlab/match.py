"""From a config's `model` to the family it is of, and the arguments of its architecture."""

from __future__ import annotations

from collections.abc import Iterator

from sandglass.core import discover
from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.config import Config, at
from sandglass.sources.openmmlab.families import FAMILIES, Family, Only

PARTS = ("backbone", "neck", "head", "det_head")
OLDER_NAMES = {"keypoint_head": "head", "bbox_head": "det_head"}
# What matters for training only, or is read as decoding by the task.
IGNORED = {
    "type", "init_cfg", "pretrained", "frozen_stages", "norm_eval", "with_cp", "zero_init_residual", "requires_grad",
    "loss", "loss_keypoint", "keypoint_loss", "tag_loss", "module_loss", "with_ae_loss", "topk", "cal_acc",
    "decoder", "postprocessor",
}  # fmt: skip


def newer_names(model: Config) -> dict[str, object]:
    """A config's `model` under 1.x names: 0.x says `keypoint_head` and `bbox_head`, as its checkpoints do."""
    return {OLDER_NAMES.get(key, key): value for key, value in model.items()}


def family_of(model: Config, path: object) -> tuple[Family, dict[str, object]]:
    """The family of a config's `model`, and the arguments of its architecture.

    Raises ConfigError for a family that Sandglass lacks, naming those it has, and for a member that differs from what
    the architecture is.
    """
    for family in FAMILIES:
        if all(_type(model, part) in names for part, names in family.types.items()):
            return family, _arguments(family, model, path)
    told = " with ".join(kind for part in ("", *PARTS) if (kind := _type(model, part)))
    raise ConfigError(f"{path} is a {told or 'model of no type'}, which Sandglass lacks", f"it has {known()}")


def known() -> str:
    """The families, and how configs call their parts."""
    have = discover.names("models")
    return "; ".join(
        f"{family.model} ({' with '.join(' or '.join(names) for part, names in family.types.items() if part)})"
        for family in FAMILIES
        if family.model in have
    )


def _type(model: Config, part: str) -> str:
    found = at(model, f"{part}.type" if part else "type", "")
    return found if isinstance(found, str) else ""


def _arguments(family: Family, model: Config, path: object) -> dict[str, object]:
    """Arguments that the config gives, checked; where it is silent, OpenMMLab's defaults are the architecture's."""
    found: dict[str, object] = dict(family.defaults)
    for name, place in family.arguments.items():
        value = _plain(at(model, place, ...) if isinstance(place, str) else [at(model, one, ...) for one in place])
        if value is not ...:
            found[name] = value
    try:
        checks = {place: Only((rule(found),)) if callable(rule) else rule for place, rule in family.only.items()}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: model is no whole {family.model}: there is no {error}", "complete it") from error
    for place, rule in checks.items():
        value = _plain(at(model, place, rule.default))
        if value is not ... and value not in rule.values:
            expected = " or ".join(repr(one) for one in rule.values)
            raise ConfigError(
                f"{path}: model.{place} is {shown(value)}, and the {family.model} of Sandglass has {expected}",
                "its checkpoint would not fit",
            )
    taken = {part for place in family.arguments.values() for part in ([place] if isinstance(place, str) else place)}
    for place in _places({part: model[part] for part in PARTS if model.get(part)}, {*taken, *checks}):
        if place.split(".")[0] not in family.types or place.rpartition(".")[2] not in IGNORED:
            raise ConfigError(
                f"{path}: model.{place} is {shown(at(model, place))}, which the {family.model} of Sandglass lacks",
                "its checkpoint would not fit",
            )
    return found


def _places(tree: Config, known: set[str], above: str = "") -> Iterator[str]:
    """Places of values that no rule knows; a place under one that is known, or is ignored, is known too."""
    for key, value in tree.items():
        place = f"{above}{key}"
        if place in known:
            continue
        if isinstance(value, dict) and key not in IGNORED and any(value):
            yield from _places(value, known, f"{place}.")
        elif not any(one.startswith(f"{place}.") for one in known):
            yield place


def _plain(value: object) -> object:
    """Tuples as lists, as TOML and JSON have them; `...` where a part is missing."""
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return ... if ... in parts else parts
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value
