"""What layers cost in float and in int8: milliseconds, noise, and conversions where the two meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """One way in which a layer runs in int8, alone among float layers.

    `bits` are those of its weights; `noise` is the power of the error at the network's outputs over that of the
    outputs, on a typical input, `local` the same at the layer's own output, over all inputs, `fidelity` the agreement
    with the float network.
    """

    bits: int
    milliseconds: float
    noise: float
    local: float = 0.0
    fidelity: float = 1.0

    def total(self, price: float) -> float:
        """Milliseconds, with noise at a price for the whole output's power."""
        return self.milliseconds + price * self.noise


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


Chosen = dict[str, Way]  # by layer, for those in int8


def saved(costs: Sequence[Cost], crossings: Sequence[Crossing], chosen: Mapping[str, Way]) -> float:
    """Milliseconds that a choice saves over all in float."""
    gain = sum(cost.float_ms - chosen[cost.name].milliseconds for cost in costs if cost.name in chosen)
    return gain - sum(entry.milliseconds for entry in crossings if entry.crossed(chosen))
