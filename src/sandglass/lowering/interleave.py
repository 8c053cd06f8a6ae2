"""Interleave s x s images of the same size into one image that is s times as high and s times as wide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex


def interleaved(
    graph: GraphIndex, prefix: str, parts: Sequence[str], output: str, shape: Sequence[int] = ()
) -> list[onnx.NodeProto]:
    """Nodes that compute the tensor `output` from its s * s parts; their names begin with `prefix`.

    Part i * s + j holds the pixels in the rows i, i + s, ... and the columns j, j + s, ... of the output. Several parts
    may be the same tensor. If the `shape` of the output, (batch, channels, height, width), is given, whole pixels with
    all their channels are copied. On a runtime that stores the channels of a pixel together this is several times as
    fast as copies of single values.
    """
    side, name = round(len(parts) ** 0.5), graph.fresh(prefix)
    last = graph.fresh(f"{name}.interleaved")
    if not shape:
        concat = helper.make_node("Concat", parts, [name], name, axis=1)
        spread = helper.make_node("DepthToSpace", [name], [output], last, blocksize=side, mode="DCR")
        return [concat, spread]
    pixels = {part: graph.fresh(f"{name}.pixels{i}") for i, part in enumerate(dict.fromkeys(parts))}
    nodes = [helper.make_node("Transpose", [part], [to], to, perm=[0, 2, 3, 1]) for part, to in pixels.items()]
    rows = [graph.fresh(f"{name}.row{i}") for i in range(side)]
    # (batch, height, width, channels): joined along the channels, the pixels of the parts alternate in memory; joined
    # along the width, the rows do.
    for i, row in enumerate(rows):
        row_parts = [pixels[part] for part in parts[i * side : (i + 1) * side]]
        nodes.append(helper.make_node("Concat", row_parts, [row], row, axis=3))
    batch, channels, height, width = shape
    size = np.array([batch, height, width, channels], np.int64)
    sizes, joined = graph.add_constant(f"{name}.size", size), graph.fresh(f"{name}.pixels")
    return [
        *nodes,
        helper.make_node("Concat", rows, [name], name, axis=2),
        helper.make_node("Reshape", [name, sizes], [joined], joined),
        helper.make_node("Transpose", [joined], [output], last, perm=[0, 3, 1, 2]),
    ]
