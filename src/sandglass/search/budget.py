"""What a search is asked to keep, and whether an artifact keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandglass.artifacts.target import Target
from sandglass.core.errors import InputError
from sandglass.core.files import read_json, refuse_existing, sweep, write_json
from sandglass.core.locks import locked_folder
from sandglass.core.processor import ANY, Processor
from sandglass.quantization.calibration import Calibration
from sandglass.search.fidelity_check import Kept
from sandglass.sources.card import Card

GAINS = ("time", "work")
ARGUMENTS, FINISHED = "search.json", "finished"
COUNTLESS = 1e6  # images, more than anybody evaluates on


@dataclass(frozen=True)
class Request:
    """What a search is asked for: `max_drop` in points of `metric`, `fidelity` from 0 to 1, and one of GAINS.

    `share` of the multiply-accumulates, 0 to 1, are to run in int8, or more. Integer sums are exact on `processor`.
    """

    target: Target
    max_drop: float
    metric: str
    fidelity: float
    repairs: tuple[str, ...]
    gain: str = GAINS[0]
    share: float = 0.0
    processor: Processor = ANY


def judge(change: Mapping[str, float] | None, kept: Kept, images: int, wanted: Request) -> tuple[bool, str]:
    """Whether a paired change (None without truths) and a fidelity keep the budget, and how sure that is."""
    keeps, agrees = kept.least >= wanted.fidelity, f"fidelity is {kept.value:.4f}"
    if kept.value < wanted.fidelity:
        agrees += f", under the {wanted.fidelity:g} asked for"
    else:
        agrees += f", {kept.together:.4f} with the calibration images"
        agrees += "" if keeps else f": other images may have less than the {wanted.fidelity:g} asked for"
    if change is None:
        return keeps, f"{agrees}; there are no truths to measure {wanted.metric} with"
    drop, worst = -100 * change["value"], -100 * change["low"]
    told = f"{wanted.metric} drops by {drop:.2f} points (95 %: {-100 * change['high']:.2f} .. {worst:.2f})"
    if drop > wanted.max_drop:
        return False, f"{told}, over the budget of {wanted.max_drop:g}; {agrees}"
    if worst <= wanted.max_drop:
        return keeps, f"{told}, within {wanted.max_drop:g}; {agrees}"
    needed = images * ((worst - drop) / max(wanted.max_drop - drop, 1e-9)) ** 2
    enough = f"about {needed:.0f} would do" if needed < COUNTLESS else "and the drop is too near to it for more to do"
    return keeps, f"{told}: {images} images are too few to prove {wanted.max_drop:g}, {enough}; {agrees}"


def arguments(card: Card, wanted: Request, calibration: Calibration, evaluation: Any) -> dict[str, Any]:
    """What a search that goes on has to be asked for again."""
    return {
        "model": card.name,
        "target": str(wanted.target),
        "max_drop": wanted.max_drop,
        "metric": wanted.metric,
        "fidelity": wanted.fidelity,
        "repairs": list(wanted.repairs),
        "gain": wanted.gain,
        "share": wanted.share,
        "processor": wanted.processor.name,
        "calibration": [calibration.dataset.fingerprint, calibration.size, calibration.method, calibration.seed],
        "evaluation": evaluation.fingerprint,
    }


@contextmanager
def own_search(out: Path, target: Target, given: Mapping[str, Any], force: bool) -> Iterator[bool]:
    """`out` for one search with the arguments `given` alone; yields whether an artifact that is there may be replaced.

    It may by `force`, and where the same search was killed before its end. Raises BusyError where another run works in
    `out`, InputError where `out` holds a search with other arguments, and ArtifactError for another artifact.
    """
    with locked_folder(out):
        sweep(out)
        replace = force or _is_unfinished(out / ARGUMENTS, given)
        refuse_existing(out / target.folder, replace)
        write_json(out / ARGUMENTS, {**given, FINISHED: False})
        yield replace
        write_json(out / ARGUMENTS, {**given, FINISHED: True})


def _is_unfinished(path: Path, given: Mapping[str, Any]) -> bool:
    """Whether a search was begun with the arguments `given`, which `path` notes, and did not come to its end."""
    if not path.exists():
        return False
    before = read_json(path, InputError)
    if not isinstance(before, dict):
        raise InputError(f"{path} does not hold the arguments of a search", "begin again with --force")
    if changed := [name for name, value in given.items() if before.get(name) != value]:
        raise InputError(
            f"{path.parent} holds a search that was begun with another {', '.join(changed)}",
            "choose another folder, or begin again with --force",
        )
    return not before.get(FINISHED, False)
