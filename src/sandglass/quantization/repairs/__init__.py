"""The seam of repairs: one file is one repair, a change of the network after which rounding loses less.

A repair knows of a target only its Spec. Each file without a leading underscore defines, at module level:

    NAME         the repair's name in plans; on the command line its spaces are hyphens
    SOURCE       the paper that it follows, or where it comes from
    BUILDS_ON    names of repairs without which it does nothing
    COMPARISON   None where it never adds noise worth speaking of, else a `Comparison`: the search tries plans without
    STEPS        what it does and when:

        NetworkStep(order, plan)    plan(NetworkState) -> NetworkState: edits of the float network, before its ranges
                                    are read
        RangeStep(order, plan)      plan(RangeState) -> RangeState: other ranges, and edits that follow from ranges
        WeightStep(order, round)    round(LayerToRound, Rounded) -> Rounded: other integers, scales or bias for one
                                    layer, given those of the steps before

Steps of a kind run in the order of their numbers, those of NetworkStep first. A step returns a changed copy of the
state and leaves the float network as it is: its edits are those of `quantization.edits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from sandglass.core import discover
from sandglass.core.errors import InputError, PluginError
from sandglass.quantization.layer_data import RoundWeights
from sandglass.quantization.repair_state import Network, NetworkState, RangeState


@dataclass(frozen=True)
class NetworkStep:
    """A step before ranges are read."""

    order: int
    plan: Callable[[NetworkState], NetworkState]


@dataclass(frozen=True)
class RangeStep:
    """A step that knows ranges."""

    order: int
    plan: Callable[[RangeState], RangeState]


@dataclass(frozen=True)
class WeightStep:
    """A step that rounds the weights of one layer."""

    order: int
    round: RoundWeights


Step = NetworkStep | RangeStep | WeightStep
PHASES: tuple[type[Step], ...] = (NetworkStep, RangeStep, WeightStep)
OneStep = TypeVar("OneStep", NetworkStep, RangeStep, WeightStep)

# Levels of a Comparison.
NOISE = 1  # the float network stays the same, and rounding may add noise or take noise away
UNSEEN = 2  # the float network changes for values beyond those of the calibration set


@dataclass(frozen=True)
class Comparison:
    """How much is at stake with a repair, NOISE or UNSEEN, and whether it `changes` anything in a network."""

    level: int
    changes: Callable[[Network], bool]


class Repair(Protocol):
    """What a file in this folder defines (see the module docstring)."""

    NAME: str
    SOURCE: str
    BUILDS_ON: tuple[str, ...]
    COMPARISON: Comparison | None
    STEPS: tuple[Step, ...]


CONTRACT = Repair  # a plugin is compared with it


def load_repairs() -> tuple[Repair, ...]:
    """The repairs of this folder and of plugins, in the order of their first steps.

    Raises PluginError for a plugin that cannot be used: without its repair the plan would be another one.
    """
    modules = list(discover.load_all("quantization/repairs").values())
    for name, count in Counter(module.NAME for module in modules).items():
        if count > 1:
            where = ", ".join(module.__name__ for module in modules if name == module.NAME)
            raise PluginError(f"{where} are repairs of the same NAME {name!r}", "uninstall the package of one of them")
    return tuple(sorted((cast(Repair, module) for module in modules), key=_first_step))


def repair_names() -> tuple[str, ...]:
    """The names of all repairs, in the order of their first steps."""
    return tuple(repair.NAME for repair in load_repairs())


def chosen_repairs(names: Sequence[str]) -> tuple[Repair, ...]:
    """The repairs with these names, in their own order. Raises InputError for a name that no repair has."""
    repairs = load_repairs()
    known = [repair.NAME for repair in repairs]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(known)}")
    return tuple(repair for repair in repairs if repair.NAME in names)


def working(repairs: Sequence[Repair]) -> tuple[Repair, ...]:
    """Those of `repairs` that have among them all that they build on."""
    names = {repair.NAME for repair in repairs}
    return tuple(repair for repair in repairs if names.issuperset(repair.BUILDS_ON))


def steps_of(repairs: Sequence[Repair], kind: type[OneStep]) -> list[tuple[str, OneStep]]:
    """The steps of one kind in order, each with the name of its repair."""
    steps = [(repair.NAME, step) for repair in repairs for step in repair.STEPS if isinstance(step, kind)]
    return sorted(steps, key=lambda step: step[1].order)


def _first_step(repair: Repair) -> tuple[int, int]:
    return min((PHASES.index(type(step)), step.order) for step in repair.STEPS)
