"""Times of layers that add up to what whole runs take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sandglass.core import host
from sandglass.quantization.channel_links import Link
from sandglass.search.costs import Cost, Crossing

FACTORS = (0.5 / host.threads(), 2.0)  # of layers' times on one thread: all may share the work, or none


@dataclass(frozen=True)
class Timed:
    """What a search adds up: costs of layers, conversions, and the milliseconds that the float artifact takes."""

    costs: list[Cost]
    crossings: list[Crossing]
    milliseconds: float

    def by_work(self) -> Timed:
        """The same with times in proportion to multiply-accumulates, int8 twice as fast: for another processor."""
        costs = []
        for cost in self.costs:
            share = self._of_one * cost.macs
            ways = tuple(replace(way, milliseconds=share / 2) for way in cost.ways)
            costs.append(replace(cost, float_ms=share, ways=ways))
        return Timed(costs, [], self.milliseconds)

    def crediting(self, credit: float) -> Timed:
        """The same where int8 is also worth `credit` of what a layer's multiply-accumulates take on average."""
        each = credit * self._of_one
        return replace(self, costs=[replace(cost, float_ms=cost.float_ms + each * cost.macs) for cost in self.costs])

    @property
    def _of_one(self) -> float:
        """Milliseconds of a multiply-accumulate in float, on average."""
        return self.milliseconds / max(1, sum(cost.macs for cost in self.costs))


def two_numbers(
    gains: Sequence[float], counts: Sequence[float], seen: Sequence[float], least: float = 0.0
) -> tuple[float, float]:
    """The factor of gains and the price of a count with which gains less counts are nearest to what was seen.

    The factor lies within FACTORS, and the price is `least` or more.
    """
    price = 0.0
    for _ in range(20):  # alternating least squares: each is the best one given the other
        wanted = [value + price * count for value, count in zip(seen, counts, strict=True)]
        factor = float(np.dot(gains, wanted) / max(float(np.dot(gains, gains)), 1e-12))
        factor = min(max(factor, FACTORS[0]), FACTORS[1])
        left = [factor * gain - value for gain, value in zip(gains, seen, strict=True)]
        price = max(least, float(np.dot(counts, left) / max(float(np.dot(counts, counts)), 1e-12)))
    return factor, price


def scaled(cost: Cost, factor: float, converting: float = 0.0) -> Cost:
    """A layer's times by a factor, and those in int8 with what converting its input takes over what was timed."""
    times = [max(0.0, factor * way.milliseconds + converting) for way in cost.ways]
    ways = tuple(replace(way, milliseconds=time) for way, time in zip(cost.ways, times, strict=True))
    return replace(cost, float_ms=factor * cost.float_ms, ways=ways)


def splitting(
    costs: Sequence[Cost], around: Sequence[Link], longer: Mapping[str, float]
) -> tuple[list[Cost], list[Crossing]]:
    """Costs and conversions where tensors are split as soon as a layer in int8 reads them.

    `around` are the links of those tensors, and `longer` milliseconds that layers take longer in float then. That is
    the price of a split, whoever reads it, and layers in int8, whose times are with it, have not to pay theirs.
    """
    entries, free = [], dict[str, float]()
    for link in around:
        own = {name: max(0.0, longer.get(name, 0.0)) for name in (*link.producers, *link.consumers) if name not in free}
        entries.append(Crossing(frozenset(), frozenset(link.consumers), sum(own.values()), False))
        free |= own
    return [scaled(cost, 1.0, -free.get(cost.name, 0.0)) for cost in costs], entries
