"""Rewrites of an exported network into operators that every runtime supports. This folder is a seam.

One file is one rewrite. It has

- `STAGE`: when it runs. "exported": before the conversion to the current opset. "converted": after it. "simplified":
  after constants were folded. "requested": only if the user asks for it.
- `AFTER`: names of the rewrites of its stage that run before it.
- `rewrite(model)`: changes the model in place and returns nothing. The network computes the same function, and a second
  call changes nothing.

A new file in this folder is found and tested without any registration.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Literal, Protocol, cast

import onnx

from sandglass.core import discover

Stage = Literal["exported", "converted", "simplified", "requested"]


class Rewrite(Protocol):
    """A file of this folder."""

    STAGE: Stage
    AFTER: tuple[str, ...]

    def rewrite(self, model: onnx.ModelProto) -> None:
        """Change the model in place."""


CONTRACT = Rewrite  # a plugin is compared with it


def rewrites() -> dict[str, Rewrite]:
    """All rewrites by name."""
    return {name: cast(Rewrite, module) for name, module in discover.load_all("sources/rewrites").items()}


def of_stage(stage: Stage) -> dict[str, Rewrite]:
    """The rewrites of a stage by name, in the order of their `AFTER`."""
    members = {name: entry for name, entry in rewrites().items() if stage == entry.STAGE}
    order = TopologicalSorter({name: entry.AFTER for name, entry in members.items()}).static_order()
    return {name: members[name] for name in order}


def run_stage(stage: Stage, model: onnx.ModelProto) -> None:
    """Run the rewrites of a stage on a model, in place. Raises GraphError if one of them refuses the graph."""
    for entry in of_stage(stage).values():
        entry.rewrite(model)
