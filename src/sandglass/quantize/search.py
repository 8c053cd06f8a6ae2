"""Which layers stay in int8: as many as a budget of fidelity allows, and none that gains no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one layer costs, rounded alone, and what it gains.

    `noise` is the power of the error at the network's outputs over that of the outputs, `local` the same at the
    layer's own output, `fidelity` the agreement with the float network; milliseconds in float and in int8.
    """

    name: str
    noise: float
    float_ms: float
    int8_ms: float
    macs: int = 0
    local: float = 0.0
    fidelity: float = 1.0

    @property
    def gain(self) -> float:
        """Milliseconds that int8 saves."""
        return self.float_ms - self.int8_ms


@dataclass(frozen=True)
class Choice:
    """Layers that go back to float and why, with the fidelity and the time that are expected of it."""

    reasons: dict[str, str]
    fidelity: float
    milliseconds: float


def idle(costs: Sequence[Cost]) -> dict[str, str]:
    """Layers that int8 makes no faster: their noise buys nothing."""
    return {
        cost.name: f"int8 gains no time: {cost.int8_ms:.3f} ms, float {cost.float_ms:.3f} ms"
        for cost in costs
        if cost.gain <= 0
    }


def ranking(costs: Sequence[Cost]) -> list[Cost]:
    """Layers in the order in which they go back to float: most noise for the time that they gain first."""
    return sorted(costs, key=lambda cost: (-cost.noise / max(cost.gain, 1e-9), cost.name))


def search(
    costs: Sequence[Cost],
    fidelity: Callable[[Mapping[str, str]], float],
    least: float,
    say: Callable[[str], None] = lambda line: None,
) -> Choice:
    """The fewest layers in float, along the ranking, whose `fidelity` is `least` or more.

    `fidelity` simulates the plan without the given layers. Fidelity rises along the ranking but for noise, so bisection
    finds the place in a handful of simulations. Where even the end falls short, that is returned.
    """
    given_back = idle(costs)
    ranked = ranking([cost for cost in costs if cost.name not in given_back])
    known: dict[int, float] = {}

    def reasons(count: int) -> dict[str, str]:
        told = {cost.name: f"gives {cost.noise:.1e} of the output's power as noise for {cost.gain:.3f} ms"
                for cost in ranked[:count]}  # fmt: skip
        return given_back | told

    def reached(count: int) -> float:
        if count not in known:
            known[count] = fidelity(reasons(count))
            say(f"search: {len(ranked) - count} layers in int8: fidelity {known[count]:.4f}")
        return known[count]

    low, high = 0, len(ranked)
    if reached(0) < least:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) >= least else (middle, high)
        count = high
    else:
        count = 0
    chosen = reasons(count)
    spent = sum(cost.float_ms if cost.name in chosen else cost.int8_ms for cost in costs)
    return Choice(chosen, reached(count), spent)
