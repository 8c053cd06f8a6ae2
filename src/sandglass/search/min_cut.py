"""The choice of layers in int8 that is cheapest when noise has a price: a minimum cut.

Float is the source and int8 the sink. What a layer costs in one is the capacity towards the other, and a conversion is
one between those who make a tensor and those who read it; then the least cut is the cheapest choice (Kolmogorov and
Zabih, 2004), however many layers have to change together before any of them pays. One case is no cut: where several
layers make a tensor of integers that floats alone read, its conversion is not counted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import networkx
from networkx.algorithms.flow import boykov_kolmogorov

from sandglass.search.costs import Chosen, Cost, Crossing

UNITS = 1e12  # in a millisecond: flows of integers are exact
FLOAT, INT8 = "float", "int8"


def cheapest(costs: Sequence[Cost], crossings: Sequence[Crossing], price: float) -> Chosen:
    """The ways of the layers in int8 whose milliseconds and noise, at a price, cost least; of equal ones the fewest."""
    ways = {cost.name: min(cost.ways, key=lambda way: way.total(price)) for cost in costs}
    graph = _Graph()
    for cost in costs:
        graph.edge(FLOAT, (cost.name,), ways[cost.name].total(price))
        graph.edge((cost.name,), INT8, cost.float_ms)
    for number, entry in enumerate(crossings):
        _connect(graph, number, entry, ways)
    _, integer = networkx.minimum_cut(graph.edges, FLOAT, INT8, flow_func=boykov_kolmogorov)[1]
    return {name: way for name, way in ways.items() if (name,) in integer}


class _Graph:
    def __init__(self) -> None:
        self.edges = networkx.DiGraph()
        self.edges.add_nodes_from((FLOAT, INT8))

    def edge(self, start: Hashable, end: Hashable, milliseconds: float) -> None:
        """What it costs that `start` is in float and `end` in int8, beside what it cost before."""
        before = self.edges.get_edge_data(start, end, {"capacity": 0})["capacity"]
        self.edges.add_edge(start, end, capacity=before + round(UNITS * milliseconds))

    def follow(self, start: Hashable, end: Hashable) -> None:
        """Where `start` is in float so is `end`."""
        self.edges.add_edge(start, end)  # without a capacity, which is infinite


def _connect(graph: _Graph, number: int, entry: Crossing, ways: Chosen) -> None:
    """Put in what a conversion costs. A node stands for integers that are made, one for integers that are read."""
    made, read, kept = ((kind, number) for kind in ("made", "read", "kept"))
    makers, readers = [(name,) for name in entry.makers], [(name,) for name in entry.readers if name in ways]
    whole = bool(entry.makers) and entry.makers <= ways.keys()  # can be made of integers
    for reader in readers:
        graph.follow(read, reader)  # read is in float only where nobody reads integers
    if whole:
        for maker in makers:
            graph.follow(maker, made)  # made is in int8 only where all makers are
    graph.edge(made if whole else FLOAT, read, entry.milliseconds)
    if whole and entry.both_ways:
        if len(makers) == 1:
            graph.follow(made, makers[0])
        for reader in readers:
            graph.follow(reader, kept)  # kept is in int8 only where all readers are
        graph.edge(kept if len(readers) == len(entry.readers) else FLOAT, made, entry.milliseconds)
