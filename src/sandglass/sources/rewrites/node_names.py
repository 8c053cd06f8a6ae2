"""Give each node a unique name, because plans, tables and profiles refer to layers by name."""

from __future__ import annotations

import onnx

from sandglass.graph.names import name_nodes
from sandglass.lowering.transposed_conv import MARK
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ("explicit_padding", "fold_scale_after_conv", "slice_as_pooling")  # they change outputs


def rewrite(model: onnx.ModelProto) -> None:
    """Name the nodes without a unique name, and those with a name that lowerings use for parts of a layer."""
    name_nodes(model, reserved=MARK)
