"""The assignment of layers to int8 and float with the least cost when noise has a price: a minimum cut.

    float --[int8 ms + price * noise]--> layer --[float ms]--> int8

Float is the source and int8 the sink. A cut puts each layer on one side and pays for the edges that lead from the float
side to the int8 side: a layer on the int8 side pays its time and noise in int8, one on the float side its time in
float. A conversion is an edge between the layers that compute a tensor (makers) and those that read it:

    maker ==> made --[conversion ms]--> read ==> reader

Double arrows have an unlimited capacity: they are never cut, so that their end is on the float side if their start is.
`made` is on the int8 side only if all makers are, and `read` is on the float side only if all readers are. The edge is
therefore paid if a reader in int8 needs integers and a maker is in float. The minimum cut is the cheapest assignment
(Kolmogorov and Zabih, 2004). It also finds changes of many layers that pay only together.

Example: conv2 reads conv1, and a conversion between them costs 0.8 ms. With the price 50 ms the noise 0.02 of conv2
costs 1 ms. The four cuts are:

    conv1   conv2
    float   float   3 ms + 1 ms                       4.0
    int8    float   1 ms + 1 ms + 0.8 ms              2.8
    float   int8    3 ms + (0.5 ms + 1 ms) + 0.8 ms   5.3
    int8    int8    1 ms + (0.5 ms + 1 ms)            2.5, the minimum

    >>> from sandglass.search.costs import Boundary, LayerCost, LayerVariant
    >>> conv1 = LayerCost("conv1", 3.0, (LayerVariant(8, milliseconds=1.0, noise=0.0),))
    >>> conv2 = LayerCost("conv2", 1.0, (LayerVariant(8, milliseconds=0.5, noise=0.02),))
    >>> between = Conversion(Boundary(frozenset({"conv1"}), frozenset({"conv2"}), both_ways=True), 0.8)
    >>> model = CostModel((conv1, conv2), (between,), float_ms=4.0)
    >>> [list(cheapest(model, price)) for price in (0, 50, 100)]
    [['conv1', 'conv2'], ['conv1', 'conv2'], ['conv1']]

One cost is not counted: the conversion of a tensor that several layers in int8 compute and only layers in float read.
It cannot be written as a cut. `CostModel.saved_ms` counts it.
"""

from __future__ import annotations

from collections.abc import Hashable

import networkx
from networkx.algorithms.flow import boykov_kolmogorov

from sandglass.search.costs import Assignment, Conversion, CostModel

UNITS = 1e12  # units of flow in a millisecond: times are rounded to 1e-12 ms, and flows of whole numbers are exact
FLOAT, INT8 = "float", "int8"


def cheapest(model: CostModel, price: float) -> Assignment:
    """The assignment with the least sum of milliseconds and price times noise.

    Of equal ones it is the one with the fewest layers in int8. `price` is in milliseconds for noise with the power of
    the outputs.
    """
    # Conversions do not depend on the variant of a layer: in int8 its cheapest variant is best in any assignment.
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
        """Add a cost, to be paid if `start` is on the float side and `end` on the int8 side."""
        capacity = self.graph.get_edge_data(start, end, {"capacity": 0})["capacity"]
        self.graph.add_edge(start, end, capacity=capacity + round(UNITS * milliseconds))

    def follow(self, start: Hashable, end: Hashable) -> None:
        """Keep `end` on the float side if `start` is: an edge that is never cut."""
        self.graph.add_edge(start, end)  # an edge without a capacity is unlimited


def _connect(network: _FlowNetwork, number: int, conversion: Conversion, layers: Assignment) -> None:
    """Add a conversion to the network; a layer that is not in `layers` is always in float."""
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
    if can_be_made and boundary.both_ways:  # the other direction: a reader in float needs integers as floats
        if len(makers) == 1:
            network.follow(made, makers[0])
        for reader in readers:
            network.follow(reader, all_read)  # on the int8 side only if all readers are
        network.edge(all_read if len(readers) == len(boundary.readers) else FLOAT, made, milliseconds)
