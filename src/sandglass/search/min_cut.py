"""The assignment of layers to int8 and float that is cheapest when noise has a price: a minimum cut.

    float --[int8 ms + price * noise]--> layer --[float ms]--> int8

Float is the source and int8 the sink. A cut leaves each layer on one side and pays for the edges that lead from the
float side to the int8 side: a layer on the int8 side pays its time and noise in int8, one on the float side its time in
float. A conversion is an edge between the layers that make a tensor and those that read it:

    maker ==> made --[conversion ms]--> read ==> reader

Double arrows have no limit: they are never cut, so that their end is on the float side whenever their start is. `made`
is on the int8 side only if all makers are, and `read` is on the float side only if all readers are. The edge is
therefore paid where a reader in int8 needs integers that a maker in float does not make. The least cut is the cheapest
assignment (Kolmogorov and Zabih, 2004), even where many layers have to change together before any of them pays.

One case is not a cut: where several layers make the integers of a tensor that only floats read, the conversion is not
counted. `CostModel.saved_ms` does count it.
"""

from __future__ import annotations

from collections.abc import Hashable

import networkx
from networkx.algorithms.flow import boykov_kolmogorov

from sandglass.search.costs import Assignment, Conversion, CostModel

UNITS = 1e12  # of flow in a millisecond: times are rounded to 1e-12 ms, and flows of whole numbers are exact
FLOAT, INT8 = "float", "int8"


def cheapest(model: CostModel, price: float) -> Assignment:
    """The assignment whose milliseconds and noise cost least; of equal ones the one with the fewest layers in int8.

    `price` is in milliseconds for noise as strong as the outputs.
    """
    best = {layer.name: min(layer.variants, key=lambda variant: variant.total(price)) for layer in model.layers}
    network = _FlowNetwork()
    for layer in model.layers:
        network.edge(FLOAT, (layer.name,), best[layer.name].total(price))
        network.edge((layer.name,), INT8, layer.float_ms)
    for number, conversion in enumerate(model.conversions):
        _connect(network, number, conversion, best)
    _, integer = networkx.minimum_cut(network.graph, FLOAT, INT8, flow_func=boykov_kolmogorov)[1]
    return {name: variant for name, variant in best.items() if (name,) in integer}


class _FlowNetwork:
    def __init__(self) -> None:
        self.graph = networkx.DiGraph()
        self.graph.add_nodes_from((FLOAT, INT8))

    def edge(self, start: Hashable, end: Hashable, milliseconds: float) -> None:
        """Add to what it costs that `start` is on the float side and `end` on the int8 side."""
        capacity = self.graph.get_edge_data(start, end, {"capacity": 0})["capacity"]
        self.graph.add_edge(start, end, capacity=capacity + round(UNITS * milliseconds))

    def follow(self, start: Hashable, end: Hashable) -> None:
        """Keep `end` on the float side wherever `start` is: an edge that is never cut."""
        self.graph.add_edge(start, end)  # an edge without a capacity is unlimited


def _connect(network: _FlowNetwork, number: int, conversion: Conversion, layers: Assignment) -> None:
    """Add a conversion to the network of `layers`; a layer that is not among them is always in float."""
    boundary, milliseconds = conversion.boundary, conversion.milliseconds
    made, read, all_read = (("made", number), ("read", number), ("all read", number))
    makers = [(name,) for name in boundary.makers]
    readers = [(name,) for name in boundary.readers if name in layers]
    can_be_made = bool(boundary.makers) and boundary.makers <= layers.keys()
    for reader in readers:
        network.follow(read, reader)
    if can_be_made:
        for maker in makers:
            network.follow(maker, made)
    network.edge(made if can_be_made else FLOAT, read, milliseconds)
    if can_be_made and boundary.both_ways:  # the way back: integers that a reader in float needs as floats
        if len(makers) == 1:
            network.follow(made, makers[0])
        for reader in readers:
            network.follow(reader, all_read)  # on the int8 side only if all readers are
        network.edge(all_read if len(readers) == len(boundary.readers) else FLOAT, made, milliseconds)
