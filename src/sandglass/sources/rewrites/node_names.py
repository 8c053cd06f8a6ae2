"""Names of nodes, one for each: plans, tables and profiles refer to layers by name."""

from __future__ import annotations

import onnx

from sandglass.graph.names import name_nodes
from sandglass.lowering.transposed_conv import MARK
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ("explicit_padding", "fold_scale_after_conv", "slice_as_pooling")  # they change what names say


def rewrite(model: onnx.ModelProto) -> None:
    """Name the nodes that have no name of their own, or one that lowerings use for parts of a layer."""
    name_nodes(model, reserved=MARK)
