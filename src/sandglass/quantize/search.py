"""How each layer runs: choices whose fidelity is high enough, the fastest first.

Noises of single layers add up, and so do times but for conversions where integers end. A price for noise, in
milliseconds for the whole output's power, makes one number of both: each layer then runs the way that is cheapest for
it, given its neighbours. The higher the price the less noise is bought, and the search is for the lowest price that
reaches the fidelity (a Lagrangian relaxation of the knapsack problem). Prices rise step by step, because rounding is
chaotic: a few people's joints make fidelity fall and rise again with less noise, and halving an interval would end
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 24  # prices, from the lowest that matters to the highest
SPARES = 4  # for a caller whom the fastest one does not suffice after all
PASSES = 10


@dataclass(frozen=True)
class Way:
    """One way in which a layer runs in int8, alone among float layers.

    `bits` are those of its weights; `noise` is the power of the error at the network's outputs over that of the
    outputs, `local` the same at the layer's own output, `fidelity` the agreement with the float network.
    """

    bits: int
    milliseconds: float
    noise: float
    local: float = 0.0
    fidelity: float = 1.0


@dataclass(frozen=True)
class Cost:
    """What one layer costs in float and in each of its int8 ways; `macs` are multiply-accumulates."""

    name: str
    float_ms: float
    ways: tuple[Way, ...]
    macs: int = 0


@dataclass(frozen=True)
class Crossing:
    """A tensor that has to be converted where int8 and float meet: `milliseconds`, if one of `makers` is in float.

    Without makers it is never made of integers. With `both_ways` it is also converted where all makers are in int8 and
    one of `readers` is not.
    """

    makers: frozenset[str]
    readers: frozenset[str]
    milliseconds: float
    both_ways: bool

    def crossed(self, integer: Mapping[str, object]) -> bool:
        """Whether the tensor is converted, `integer` being the layers in int8."""
        made = bool(self.makers) and all(name in integer for name in self.makers)
        if made:
            return self.both_ways and any(name not in integer for name in self.readers)
        return any(name in integer for name in self.readers)


@dataclass(frozen=True)
class Choice:
    """Layers in int8 with the bits of their weights, and why the others are in float.

    `fidelity` is what the simulation says, `noise` and `saved` (milliseconds over float) what the costs add up to.
    """

    bits: dict[str, int]
    reasons: dict[str, str]
    fidelity: float
    noise: float
    saved: float


Chosen = dict[str, Way]


def search(
    costs: Sequence[Cost],
    crossings: Sequence[Crossing],
    fidelity: Callable[[Mapping[str, int]], float],
    least: float,
    say: Callable[[str], None] = lambda line: None,
    near: float = 0.0,
) -> list[Choice]:
    """The choices found whose `fidelity`, which is given the bits of the layers in int8, is `least` or more, or nearly.

    Those that fall short by up to `near` are among them, but none counts as one found. The one that saves the most time
    is the first. Where all fall short by more, the one of the highest fidelity.
    """
    known: dict[tuple[tuple[str, int], ...], tuple[float, Chosen]] = {}

    def suffices(chosen: Chosen) -> bool:
        bits = {name: way.bits for name, way in chosen.items()}
        key = tuple(bits.items())
        if key not in known:
            known[key] = fidelity(bits), chosen
            share = sum(c.macs for c in costs if c.name in bits) / max(1, sum(c.macs for c in costs))
            say(
                f"search: {len(bits)} of {len(costs)} layers in int8 ({share:.0%} of their multiply-accumulates), "
                f"{saved(costs, crossings, chosen):.2f} ms saved: fidelity {known[key][0]:.4f}"
            )
        return known[key][0] >= least

    passed = 0
    for chosen in _ladder(costs, crossings):
        passed += suffices(chosen)
        if passed > SPARES:
            break
    good = [entry for entry in known.values() if entry[0] >= least - near]
    good = good or [max(known.values(), key=lambda entry: entry[0])]
    good.sort(key=lambda entry: -saved(costs, crossings, entry[1]))
    return [_choice(costs, crossings, agreed, chosen) for agreed, chosen in good]


def _ladder(costs: Sequence[Cost], crossings: Sequence[Crossing]) -> Iterator[Chosen]:
    """Different choices at rising prices. Of many layers that go back at one price the noisiest go first."""
    before = cheapest(costs, crossings, 0.0)
    yield before
    most = max(1, len(costs) // STEPS)  # layers that go back from one choice to the next
    for price in _prices(costs):
        after = cheapest(costs, crossings, price)
        if after == before:
            continue
        quiet = sorted((name for name in before if name not in after), key=lambda name: (before[name].noise, name))
        for count in range((len(quiet) - 1) // most * most, 0, -most):
            ways = after | {name: before[name] for name in quiet[:count]}
            between = {cost.name: ways[cost.name] for cost in costs if cost.name in ways}
            if saved(costs, crossings, between) > 0:
                yield between
        yield after
        before = after


def _choice(costs: Sequence[Cost], crossings: Sequence[Crossing], fidelity: float, chosen: Chosen) -> Choice:
    return Choice(
        {name: way.bits for name, way in chosen.items()},
        {cost.name: _reason(cost) for cost in costs if cost.name not in chosen},
        fidelity,
        sum(way.noise for way in chosen.values()),
        saved(costs, crossings, chosen),
    )


def saved(costs: Sequence[Cost], crossings: Sequence[Crossing], chosen: Mapping[str, Way]) -> float:
    """Milliseconds that a choice saves over all in float."""
    gain = sum(cost.float_ms - chosen[cost.name].milliseconds for cost in costs if cost.name in chosen)
    return gain - sum(entry.milliseconds for entry in crossings if entry.crossed(chosen))


def cheapest(costs: Sequence[Cost], crossings: Sequence[Crossing], price: float) -> Chosen:
    """The ways of the layers in int8 when noise has a price: no layer alone would do better another way.

    Layers change one by one from all in int8, so that those that pay only together are kept together, and from all in
    float, so that those that together do not pay are not kept.
    """
    ways = {cost.name: min(cost.ways, key=lambda way: _total(way, price)) for cost in costs}
    settled = [_settled(costs, crossings, ways, start, price) for start in (ways, {})]
    return min(
        settled, key=lambda chosen: price * sum(w.noise for w in chosen.values()) - saved(costs, crossings, chosen)
    )


def _settled(
    costs: Sequence[Cost], crossings: Sequence[Crossing], ways: Chosen, chosen: Chosen, price: float
) -> Chosen:
    near: dict[str, list[Crossing]] = {cost.name: [] for cost in costs}
    for entry in crossings:
        for name in entry.makers | entry.readers:
            if name in near:
                near[name].append(entry)
    order = sorted(costs, key=lambda cost: (_total(ways[cost.name], price) - cost.float_ms, cost.name), reverse=True)
    for _ in range(PASSES):
        before = dict(chosen)
        for cost in order:
            best = ways[cost.name]
            inside, outside = chosen | {cost.name: best}, {n: way for n, way in chosen.items() if n != cost.name}
            integer = _total(best, price) + sum(e.milliseconds for e in near[cost.name] if e.crossed(inside))
            floating = cost.float_ms + sum(e.milliseconds for e in near[cost.name] if e.crossed(outside))
            chosen = inside if integer < floating else outside
        if chosen == before:
            break
    return {cost.name: chosen[cost.name] for cost in costs if cost.name in chosen}


def _total(way: Way, price: float) -> float:
    return way.milliseconds + price * way.noise


def _prices(costs: Sequence[Cost]) -> list[float]:
    """Rising prices, from one at which no layer goes back for its noise alone to one at which all do, if any does."""
    ratios = [
        (cost.float_ms - way.milliseconds) / way.noise
        for cost in costs
        for way in cost.ways
        if way.noise > 0 and cost.float_ms > way.milliseconds
    ]
    return [float(price) for price in np.geomspace(min(ratios) / 2, max(ratios) * 2, STEPS)] if ratios else []


def _reason(cost: Cost) -> str:
    best = min(cost.ways, key=lambda way: way.milliseconds)
    if best.milliseconds >= cost.float_ms:
        return f"int8 gains no time: {best.milliseconds:.3f} ms, float {cost.float_ms:.3f} ms"
    return f"gives {best.noise:.1e} of the output's power as noise for {cost.float_ms - best.milliseconds:.3f} ms"
