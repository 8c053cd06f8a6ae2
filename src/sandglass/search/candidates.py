"""Which layers run in int8: assignments at rising prices of noise, and the choices among them worth building.

Noises of single layers add up, and so do times, except for conversions where integers end. A price for noise, in
milliseconds for noise as strong as the outputs, makes one number of both: each layer then runs as the variant that is
cheapest for it, given all others. The higher the price the less noise is bought, and the search is for the lowest price
whose assignment has enough fidelity (a Lagrangian relaxation of the knapsack problem).

    noise
      |*  price 0: all layers that gain time
      |  *
      |     *  .  .  *         * cheapest at some price: the lower left hull
      |                  *     . between two of them that are many layers apart
      +------------------------ milliseconds

Prices rise step by step rather than by bisection, because rounding is chaotic: fidelity on a few images does not rise
monotonically as noise falls, so that bisection would end at an arbitrary place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sandglass.search.costs import Assignment, CostModel, LayerCost
from sandglass.search.min_cut import cheapest

# Assignments between the fastest one and the quietest: a step of the search is 1/24 of the time that can be saved, or
# of the layers. It bounds the time that the choice may miss, and the number of simulations.
STEPS = 24
# Ratio of two prices that count as the same: it ends the division of an interval in which a price has no effect.
CLOSE = 1.02
# Choices that are awaited before the fastest of them is built, besides the first one. Fidelity is not monotonic, and a
# later choice may save more time than the first: each costs one simulation more. Not measured on several networks.
SPARES = 4
# Noise of a layer without any, as a share of the outputs' power: it keeps ratios of time to noise finite.
QUIET = 1e-12


@dataclass(frozen=True)
class Choice:
    """Layers in int8 with the bits of their weights, and for every other layer the reason why it stays in float.

    `fidelity` was simulated, 0 to 1; `noise` (of the outputs' power) and `saved_ms` (over all layers in float) are sums
    over the cost model.
    """

    bits: dict[str, int]
    reasons: dict[str, str]
    fidelity: float
    noise: float
    saved_ms: float


def choice_of(model: CostModel, assignment: Assignment, fidelity: float) -> Choice:
    """The choice that an assignment with a simulated fidelity is."""
    return Choice(
        {name: variant.bits for name, variant in assignment.items()},
        {layer.name: float_reason(layer) for layer in model.layers if layer.name not in assignment},
        fidelity,
        sum(variant.noise for variant in assignment.values()),
        model.saved_ms(assignment),
    )


def float_reason(layer: LayerCost) -> str:
    """Why a layer stays in float."""
    best = min(layer.variants, key=lambda variant: variant.milliseconds)
    if best.milliseconds >= layer.float_ms:
        return f"int8 gains no time: {best.milliseconds:.3f} ms, float {layer.float_ms:.3f} ms"
    return f"gives {best.noise:.1e} of the output's power as noise for {layer.float_ms - best.milliseconds:.3f} ms"


def worth_building(choices: Iterable[Choice], min_fidelity: float, tolerance: float = 0.0) -> Iterator[Choice]:
    """The choices to build, of `choices` at rising prices, which are read no further than needed.

    A choice suffices if its fidelity is `min_fidelity` or more; one that falls short by up to `tolerance` is built too,
    but does not count. Of the first SPARES + 1 that suffice the one that saves the most time comes first. A caller that
    needs more gets quieter ones in steps of 1, 2, 4.. choices, down to the quietest. Where none comes near
    `min_fidelity` the choice with the highest fidelity is the only one.
    """
    waiting: list[Choice] = []
    best: Choice | None = None
    sufficient = 0
    for choice in choices:
        if best is None or choice.fidelity > best.fidelity:
            best = choice
        if choice.fidelity >= min_fidelity - tolerance:
            waiting.append(choice)
        if choice.fidelity < min_fidelity:
            continue
        sufficient += 1
        further = sufficient - SPARES - 1
        if further == 0:
            yield from _fastest_first(waiting)
        elif further > 0 and further.bit_count() == 1:
            yield choice
        else:
            continue
        waiting = []
    if sufficient <= SPARES:
        yield from _fastest_first(waiting or [best] if best else [])
    elif waiting:
        yield waiting[-1]


def _fastest_first(choices: Sequence[Choice]) -> list[Choice]:
    return sorted(choices, key=lambda choice: -choice.saved_ms)


def assignments(model: CostModel) -> Iterator[Assignment]:
    """Different assignments at rising prices, from the fastest to the quietest; all layers in float are the slowest."""
    seen: set[tuple[tuple[str, int], ...]] = set()
    for entry in _ladder(model):
        # A conversion that the cut does not count may make an assignment slower than all layers in float.
        assignment = entry if model.saved_ms(entry) >= 0 else {}
        key = tuple((name, variant.bits) for name, variant in assignment.items())
        if key not in seen:
            seen.add(key)
            yield assignment


def _ladder(model: CostModel) -> Iterator[Assignment]:
    """The assignments of the hull, and some between two of them that are many layers apart."""
    before = cheapest(model, 0.0)
    yield before
    for after in _hull(model):
        if after != before:
            yield from _between(model, before, after)
            yield after
            before = after


@dataclass(frozen=True)
class _Step:
    """The assignment that is cheapest at a price."""

    price: float
    assignment: Assignment


def _hull(model: CostModel) -> Iterator[Assignment]:
    """The cheapest assignments at rising prices, so many that neighbours save times no more than 1/STEPS apart.

    Where neighbours are further apart, no assignment between them is the cheapest at any price but those CLOSE to
    theirs.
    """
    prices = _price_range(model)
    if not prices:
        return
    low, high = (_Step(price, cheapest(model, price)) for price in prices)
    finest = (model.saved_ms(low.assignment) - model.saved_ms(high.assignment)) / STEPS
    yield low.assignment
    yield from _hull_between(model, low, high, finest)


def _hull_between(model: CostModel, first: _Step, last: _Step, finest: float) -> Iterator[Assignment]:
    """The hull's assignments after `first`, up to `last`; `finest` is the difference in milliseconds that suffices."""
    if first.assignment == last.assignment:
        return
    apart = model.saved_ms(first.assignment) - model.saved_ms(last.assignment)
    if apart <= finest or last.price <= CLOSE * first.price:
        yield last.assignment
        return
    price = (first.price * last.price) ** 0.5  # the geometric mean: prices span decades
    middle = _Step(price, cheapest(model, price))
    yield from _hull_between(model, first, middle, finest)
    yield from _hull_between(model, middle, last, finest)


def _price_range(model: CostModel) -> tuple[float, float] | None:
    """A price at which no layer goes back to float for its noise alone, and one at which all layers do.

    None if no layer gains time.
    """
    ratios = [
        (layer.float_ms - variant.milliseconds) / variant.noise
        for layer in model.layers
        for variant in layer.variants
        if variant.noise > 0 and layer.float_ms > variant.milliseconds
    ]
    return (min(ratios) / 2, max(ratios) * 2) if ratios else None


def _between(model: CostModel, before: Assignment, after: Assignment) -> Iterator[Assignment]:
    """Assignments on the way from one to the quieter `after`, as long as they save more time than that one.

    The layers that lose the least time for the noise that they take with them go back to float first.
    """
    layers_a_step, least = max(1, len(model.layers) // STEPS), model.saved_ms(after)
    assignment = {name: after.get(name, variant) for name, variant in before.items()}
    leaving = [name for name in before if name not in after]
    while len(leaving) > layers_a_step:
        for _ in range(layers_a_step):
            name = _next_to_leave(model, assignment, leaving)
            leaving.remove(name)
            del assignment[name]
        if model.saved_ms(assignment) > least:
            yield dict(assignment)


def _next_to_leave(model: CostModel, assignment: Assignment, leaving: Sequence[str]) -> str:
    """The layer of `leaving` with the least time lost, or the most gained, for the noise that goes with it."""
    total = model.saved_ms(assignment)

    def gain_for_noise(name: str) -> tuple[float, str]:
        rest = {other: variant for other, variant in assignment.items() if other != name}
        return (model.saved_ms(rest) - total) / max(assignment[name].noise, QUIET), name

    return max(leaving, key=gain_for_noise)
