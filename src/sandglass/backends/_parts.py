"""What a runtime tells of a layer that it was given in parts (`graph.phases`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandglass.backends import LayerRun
from sandglass.lowering.transposed_conv import layer_of


def joined(runs: Sequence[LayerRun]) -> list[LayerRun]:
    """One run for a layer and all its parts, where the first of them runs, with what joins their results."""
    found: list[LayerRun] = []
    places: dict[str, int] = {}
    for run in runs:
        name = layer_of(run.name)
        if name != run.name and name in places:
            first = found[places[name]]
            milliseconds = (first.milliseconds or 0.0) + (run.milliseconds or 0.0)
            found[places[name]] = replace(first, macs=first.macs + run.macs, milliseconds=milliseconds)
            continue
        if name != run.name or run.macs:
            places[name] = len(found)
        found.append(replace(run, name=name))
    return found
