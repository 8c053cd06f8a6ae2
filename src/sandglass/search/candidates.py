"""How each layer runs: choices whose fidelity is high enough, the fastest first.

Noises of single layers add up, and so do times but for conversions where integers end. A price for noise, in
milliseconds for the whole output's power, makes one number of both: each layer then runs the way that is cheapest for
it, given all others. The higher the price the less noise is bought, and the search is for the lowest price that
reaches the fidelity (a Lagrangian relaxation of the knapsack problem). Prices rise step by step, because rounding is
chaotic: a few people's joints make fidelity fall and rise again with less noise, and halving an interval would end
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sandglass.search.costs import Chosen, Cost, Crossing, saved
from sandglass.search.min_cut import cheapest

STEPS = 24  # between all that pay and none: of time that is saved, and of layers
CLOSE = 1.02  # times a price is as good as the same
SPARES = 4  # for a caller whom the fastest one does not suffice after all
QUIET = 1e-12  # noise of a layer that makes none


@dataclass(frozen=True)
class _Step:
    """What is cheapest at a price."""

    price: float
    chosen: Chosen


@dataclass(frozen=True)
class Choice:
    """Layers in int8 with the bits of their weights, and why the others are in float.

    `fidelity` is what `search` was told of it, `noise` and `saved` (milliseconds over float) what the costs add up to.
    """

    bits: dict[str, int]
    reasons: dict[str, str]
    fidelity: float
    noise: float
    saved: float


def search(
    costs: Sequence[Cost],
    crossings: Sequence[Crossing],
    fidelity: Callable[[Mapping[str, int]], float],
    least: float,
    say: Callable[[str], None] = lambda line: None,
    near: float = 0.0,
) -> Iterator[Choice]:
    """The choices found whose `fidelity`, which is given the bits of the layers in int8, is `least` or more, or nearly.

    It is below 0 for what is out of the question: nothing is said of that.

    Those that fall short by up to `near` are among them, but none counts as one found. Of the first SPARES + 1 found
    the one that saves the most time comes first; then, for whom they all do not suffice, quieter ones in ever larger
    steps, as far as the quietest. Where all fall short by more, the one of the highest fidelity alone.
    """
    known: dict[tuple[tuple[str, int], ...], Choice] = {}
    waiting: list[Choice] = []
    found = 0
    for chosen in _ladder(costs, crossings):
        if saved(costs, crossings, chosen) < 0:  # by a conversion that the cut does not count
            chosen = {}
        bits = {name: way.bits for name, way in chosen.items()}
        key = tuple(bits.items())
        if key in known:
            continue
        choice = known[key] = _choice(costs, crossings, fidelity(bits), chosen)
        if choice.fidelity < 0:
            continue
        share = sum(c.macs for c in costs if c.name in bits) / max(1, sum(c.macs for c in costs))
        say(
            f"search: {len(bits)} of {len(costs)} layers in int8 ({share:.0%} of their multiply-accumulates), "
            f"{choice.saved:.2f} ms saved: fidelity {choice.fidelity:.4f}"
        )
        if choice.fidelity >= least - near:
            waiting.append(choice)
        if choice.fidelity < least:
            continue
        found += 1
        further = found - SPARES - 1
        if further == 0:
            yield from _fastest_first(waiting)
        elif further > 0 and further.bit_count() == 1:
            yield choice
        else:
            continue
        waiting = []
    if found <= SPARES:
        yield from _fastest_first(waiting or [max(known.values(), key=lambda choice: choice.fidelity)])
    elif waiting:
        yield waiting[-1]


def _ladder(costs: Sequence[Cost], crossings: Sequence[Crossing]) -> Iterator[Chosen]:
    """Different choices at rising prices, and some between those that are many layers apart."""
    before = cheapest(costs, crossings, 0.0)
    yield before
    for after in _hull(costs, crossings):
        if after != before:
            yield from _between(costs, crossings, before, after)
            yield after
            before = after


def _hull(costs: Sequence[Cost], crossings: Sequence[Crossing]) -> Iterator[Chosen]:
    """The cheapest choices at rising prices: neighbours save times that differ by a STEPS-th of it all, or less.

    Where they differ by more no choice between them is the cheapest one, but at prices that are CLOSE to theirs.
    """
    prices = _prices(costs)
    if not prices:
        return
    low, high = (_Step(price, cheapest(costs, crossings, price)) for price in prices)
    finest = (saved(costs, crossings, low.chosen) - saved(costs, crossings, high.chosen)) / STEPS

    def up_to(last: _Step, first: _Step) -> Iterator[Chosen]:
        apart = saved(costs, crossings, first.chosen) - saved(costs, crossings, last.chosen)
        if first.chosen == last.chosen:
            return
        if apart <= finest or last.price <= CLOSE * first.price:
            yield last.chosen
            return
        price = (first.price * last.price) ** 0.5
        middle = _Step(price, cheapest(costs, crossings, price))
        yield from up_to(middle, first)
        yield from up_to(last, middle)

    yield low.chosen
    yield from up_to(high, low)


def _between(costs: Sequence[Cost], crossings: Sequence[Crossing], before: Chosen, after: Chosen) -> Iterator[Chosen]:
    """Choices on the way from one to a quieter one, as long as they save more time than that one.

    The layers go back in turn that lose the least time for the noise that they take with them.
    """
    most, least = max(1, len(costs) // STEPS), saved(costs, crossings, after)
    chosen = {name: after.get(name, way) for name, way in before.items()}
    leaving = [name for name in before if name not in after]

    def time_for_noise(name: str) -> tuple[float, str]:
        rest = {other: way for other, way in chosen.items() if other != name}
        return (saved(costs, crossings, rest) - total) / max(chosen[name].noise, QUIET), name

    while len(leaving) > most:
        for _ in range(most):
            total = saved(costs, crossings, chosen)
            first = max(leaving, key=time_for_noise)
            leaving.remove(first)
            del chosen[first]
        if saved(costs, crossings, chosen) > least:
            yield dict(chosen)


def _fastest_first(choices: Sequence[Choice]) -> list[Choice]:
    return sorted(choices, key=lambda choice: -choice.saved)


def _choice(costs: Sequence[Cost], crossings: Sequence[Crossing], fidelity: float, chosen: Chosen) -> Choice:
    return Choice(
        {name: way.bits for name, way in chosen.items()},
        {cost.name: reason(cost) for cost in costs if cost.name not in chosen},
        fidelity,
        sum(way.noise for way in chosen.values()),
        saved(costs, crossings, chosen),
    )


def _prices(costs: Sequence[Cost]) -> tuple[float, float] | None:
    """A price at which no layer goes back for its noise alone, and one at which all do; None if none ever does."""
    ratios = [
        (cost.float_ms - way.milliseconds) / way.noise
        for cost in costs
        for way in cost.ways
        if way.noise > 0 and cost.float_ms > way.milliseconds
    ]
    return (min(ratios) / 2, max(ratios) * 2) if ratios else None


def reason(cost: Cost) -> str:
    """Why a layer stays in float."""
    best = min(cost.ways, key=lambda way: way.milliseconds)
    if best.milliseconds >= cost.float_ms:
        return f"int8 gains no time: {best.milliseconds:.3f} ms, float {cost.float_ms:.3f} ms"
    return f"gives {best.noise:.1e} of the output's power as noise for {cost.float_ms - best.milliseconds:.3f} ms"
