"""Candidates for a search: assignments of layers to int8 at rising prices of noise, and the choices worth building.

The noises of single layers add up, and so do their times, except for conversions between int8 and float. A price for
noise, in milliseconds for noise with the power of the outputs, combines both into one cost, and the minimum cut gives
the cheapest assignment. The higher the price, the less noise and the more time. The search takes the lowest price whose
assignment has enough fidelity (a Lagrangian relaxation of the knapsack problem).

    noise
      |*  price 0: all layers that are faster in int8
      |  *
      |     *  .  .  *         * cheapest at some price: the lower left hull
      |                  *     . inserted where two neighbours differ in many layers
      +------------------------ milliseconds

Prices rise step by step. Bisection would not work: fidelity on a few images does not rise monotonically as noise falls,
so that bisection would end at an arbitrary price.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sandglass.search.costs import Assignment, CostModel, LayerCost
from sandglass.search.min_cut import cheapest

# Steps between the fastest assignment and the quietest: a step is 1/24 of the time that can be saved, or of the layers.
# It bounds the time by which the choice may miss the best one, and the number of simulations.
STEPS = 24
# Ratio of two prices that count as equal: it ends the division of an interval in which a price has no effect.
CLOSE = 1.02
# Further sufficient choices that are simulated before the fastest of them is built. Fidelity is not monotonic, so that
# a later choice may save more time than the first. Each costs one more simulation. Not measured on several networks.
SPARES = 4
# Least noise by which a time is divided, as a share of the outputs' power.
QUIET = 1e-12


@dataclass(frozen=True)
class Choice:
    """The layers in int8 with the bits of their weights, and for each other layer the reason why it stays in float.

    `fidelity` comes from a simulation, 0 to 1. `noise`, as a share of the outputs' power, and `saved_ms`, compared with
    all layers in float, are sums from the cost model.
    """

    bits: dict[str, int]
    reasons: dict[str, str]
    fidelity: float
    noise: float
    saved_ms: float


def choice_of(model: CostModel, assignment: Assignment, fidelity: float) -> Choice:
    """An assignment and its simulated fidelity as a choice."""
    return Choice(
        {name: variant.bits for name, variant in assignment.items()},
        {layer.name: float_reason(layer) for layer in model.layers if layer.name not in assignment},
        fidelity,
        sum(variant.noise for variant in assignment.values()),
        model.saved_ms(assignment),
    )


def float_reason(layer: LayerCost) -> str:
    """The reason why a layer stays in float."""
    best = min(layer.variants, key=lambda variant: variant.milliseconds)
    if best.milliseconds >= layer.float_ms:
        return f"int8 is not faster: {best.milliseconds:.3f} ms, float {layer.float_ms:.3f} ms"
    saved_ms = layer.float_ms - best.milliseconds
    return f"int8 saves {saved_ms:.3f} ms, but its noise is {best.noise:.1e} of the outputs' power"


def worth_building(choices: Iterable[Choice], min_fidelity: float, tolerance: float = 0.0) -> Iterator[Choice]:
    """The choices to build; `choices` come at rising prices, and no more are read than needed.

    A choice suffices if its fidelity is at least `min_fidelity`. Choices that fall short by up to `tolerance` are built
    too, but do not count. The first SPARES + 1 sufficient choices come first, ordered by the time that they save. A
    caller that reads on gets quieter choices in steps of 1, 2, 4.. down to the quietest. If no choice comes near
    `min_fidelity`, the one with the highest fidelity is the only result.
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
        further = sufficient - SPARES - 1  # number of the choice after the first SPARES + 1
        if further == 0:
            yield from _fastest_first(waiting)
        elif further > 0 and further.bit_count() == 1:  # a power of two
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
    """Different assignments at rising prices, from the fastest to the quietest, with all layers in float."""
    yielded: set[tuple[tuple[str, int], ...]] = set()
    for entry in _ladder(model):
        # The cut leaves out one kind of conversion: with it an assignment may be slower than all layers in float.
        assignment = entry if model.saved_ms(entry) >= 0 else {}
        key = tuple((name, variant.bits) for name, variant in assignment.items())
        if key not in yielded:
            yielded.add(key)
            yield assignment


def _ladder(model: CostModel) -> Iterator[Assignment]:
    """The assignments of the hull, with some inserted between neighbours that differ in many layers."""
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
    """The cheapest assignments at rising prices; neighbours differ by at most 1/STEPS of the time that can be saved.

    If two neighbours differ by more, no other assignment between them is the cheapest at any price (up to CLOSE).
    """
    prices = _price_range(model)
    if not prices:
        return
    low, high = (_Step(price, cheapest(model, price)) for price in prices)
    finest = (model.saved_ms(low.assignment) - model.saved_ms(high.assignment)) / STEPS
    yield low.assignment
    yield from _hull_between(model, low, high, finest)


def _hull_between(model: CostModel, first: _Step, last: _Step, finest: float) -> Iterator[Assignment]:
    """The assignments of the hull after `first`, up to `last`, at most `finest` milliseconds apart where possible."""
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
    """A price at which no layer stays in float because of its noise, and one at which all layers do.

    None if no layer is faster in int8.
    """
    # A layer changes sides at the price (float_ms - int8_ms) / noise, if no conversion depends on it.
    ratios = [
        (layer.float_ms - variant.milliseconds) / variant.noise
        for layer in model.layers
        for variant in layer.variants
        if variant.noise > 0 and layer.float_ms > variant.milliseconds
    ]
    return (min(ratios) / 2, max(ratios) * 2) if ratios else None


def _between(model: CostModel, before: Assignment, after: Assignment) -> Iterator[Assignment]:
    """Assignments between `before` and the quieter `after`, as long as they save more time than `after`.

    Layers return to float one group after the other: first those that lose the least time for the noise that they take
    away.
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
    """The layer of `leaving` whose return to float costs the least time, or saves the most, per noise."""
    total = model.saved_ms(assignment)

    def gain_for_noise(name: str) -> tuple[float, str]:
        rest = {other: variant for other, variant in assignment.items() if other != name}
        return (model.saved_ms(rest) - total) / max(assignment[name].noise, QUIET), name

    return max(leaving, key=gain_for_noise)
