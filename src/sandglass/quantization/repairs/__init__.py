"""The seam of repairs: each file is one repair, a change of the network that reduces the errors of rounding.

A repair depends on a target through its Spec only. Each file without a leading underscore defines, at module level:

    NAME         the name of the repair in plans; on the command line its spaces become hyphens
    SOURCE       the paper that it follows, or "this project"
    STEPS        what the repair does, and when:

        NetworkStep(order, plan)    plan(NetworkState) -> NetworkState: edits of the float network, before its ranges
                                    are measured
        RangeStep(order, plan)      plan(RangeState) -> RangeState: new ranges, and edits that follow from ranges
        WeightStep(order, round)    round(LayerToRound, Rounded) -> Rounded: new integers, scales or bias of one layer,
                                    from the result of the previous step

All NetworkSteps run first, then all RangeSteps, then all WeightSteps; steps of one kind run in the order of their
numbers. A step returns a changed copy of the state. After its edits, which are those of `quantization.edits`, the float
network computes the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from sandglass.core import discover
from sandglass.core.errors import InputError, PluginError
from sandglass.quantization.layer_data import RoundWeights
from sandglass.quantization.repair_state import NetworkState, RangeState


@dataclass(frozen=True)
class NetworkStep:
    """A step before ranges are measured."""

    order: int
    plan: Callable[[NetworkState], NetworkState]


@dataclass(frozen=True)
class RangeStep:
    """A step after ranges are measured."""

    order: int
    plan: Callable[[RangeState], RangeState]


@dataclass(frozen=True)
class WeightStep:
    """A step that changes the integers, scales or bias of one layer."""

    order: int
    round: RoundWeights


Step = NetworkStep | RangeStep | WeightStep
PHASES: tuple[type[Step], ...] = (NetworkStep, RangeStep, WeightStep)
OneStep = TypeVar("OneStep", NetworkStep, RangeStep, WeightStep)


class Repair(Protocol):
    """The protocol of a file in this folder (see the module docstring)."""

    NAME: str
    SOURCE: str
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
    """The repairs with these names, in the order of their first steps. Raises InputError for an unknown name."""
    repairs = load_repairs()
    all_names = [repair.NAME for repair in repairs]
    if unknown := [name for name in names if name not in all_names]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(all_names)}")
    return tuple(repair for repair in repairs if repair.NAME in names)


def steps_of(repairs: Sequence[Repair], kind: type[OneStep]) -> list[tuple[str, OneStep]]:
    """The steps of one kind in order, each with the name of its repair."""
    steps = [(repair.NAME, step) for repair in repairs for step in repair.STEPS if isinstance(step, kind)]
    return sorted(steps, key=lambda step: step[1].order)


def _first_step(repair: Repair) -> tuple[int, int]:
    return min((PHASES.index(type(step)), step.order) for step in repair.STEPS)
