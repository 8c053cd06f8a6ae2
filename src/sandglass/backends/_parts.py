"""Join the parts of layers in reports, for layers that a lowering splits (see `lowering.transposed_conv`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandglass.backends import LayerRun
from sandglass.lowering.transposed_conv import layer_of


def join_parts(runs: Sequence[LayerRun]) -> list[LayerRun]:
    """One run for each layer, in the place of its first part, with the sum of the work and the time of its parts.

    Operators that join the parts count as parts too.
    """
    layers: list[LayerRun] = []
    places: dict[str, int] = {}
    for run in runs:
        name = layer_of(run.name)
        if name != run.name and name in places:
            first = layers[places[name]]
            milliseconds = (first.milliseconds or 0.0) + (run.milliseconds or 0.0)
            layers[places[name]] = replace(first, macs=first.macs + run.macs, milliseconds=milliseconds)
            continue
        if name != run.name or run.macs:
            places[name] = len(layers)
        layers.append(replace(run, name=name))
    return layers
