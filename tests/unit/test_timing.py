"""What is added to layers' times and taken off them, so that choices of layers cost what they do."""

from __future__ import annotations

import pytest

from sandglass.quantization.channel_links import Link
from sandglass.search.costs import Cost, Way, saved
from sandglass.search.min_cut import cheapest
from sandglass.search.timing import Timed, splitting

TIMES = {"p": (1.0, 10), "d": (1.5, 60), "e": (2.1, 20), "y": (2.2, 10)}  # in int8, and multiply-accumulates
COSTS = [Cost(name, 2.0, (Way(8, time, 1e-4),), macs) for name, (time, macs) in TIMES.items()]
AROUND = [Link("p", ("p", "s"), ("p", "s"), ("p",), ("d", "e"), float("inf"))]  # p makes it, d and e read it


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", 0.0),
        ("y", -0.2),
        ("p", 1.0 + 0.3),  # nobody reads it in int8: its channels are there once
        ("d", 0.5 - 0.3 - 0.4),  # p and e are float layers at twice the channels
        ("de", 0.5 - 0.1 - 0.3),
        ("pde", 1.0 + 0.5 - 0.1),
    ],
)
def test_splits_are_paid_for_by_who_reads_them_first(names: str, expected: float) -> None:
    """Times in int8 were measured with the split: only layers that stay in float take longer by it."""
    costs, entries = splitting(COSTS, AROUND, {"p": 0.3, "d": 0.2, "e": 0.4, "y": 9.0})
    ways = {cost.name: cost.ways[0] for cost in costs if cost.name in names}
    assert saved(costs, entries, ways) == pytest.approx(expected)


def test_noise_in_the_clock_is_no_gain() -> None:
    """A layer that seems to be faster with twice the channels is as fast as before."""
    costs, entries = splitting(COSTS, AROUND, {"p": -0.3, "d": 0.0})
    assert costs == COSTS
    assert [entry.milliseconds for entry in entries] == [0.0]


def test_work_in_int8_can_be_worth_something_besides() -> None:
    """Layers that lose time are chosen as well, those first that lose the least for their work."""
    timed = Timed(COSTS, [], 8.0)
    taken = [set(cheapest(timed.crediting(credit).costs, [], 0.0)) for credit in (0.0, 0.1, 0.5)]
    assert taken == [{"p", "d"}, {"p", "d", "e"}, {"p", "d", "e", "y"}]
    assert timed.crediting(0.5).milliseconds == 8.0
