"""Images whose rows and columns take turns: s x s of them, of one size each, become one that is s times as large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex


def interleaved(
    graph: GraphIndex, wanted: str, parts: Sequence[str], made: str, shape: Sequence[int] = ()
) -> list[onnx.NodeProto]:
    """Nodes that make the tensor `made` from its s * s parts, by row and column; their names begin with `wanted`.

    Parts may be the same. With the `shape` of `made` whole pixels are copied, all channels of each: on a runtime whose
    layers around keep them so this is several times as fast as single values.
    """
    side, name = round(len(parts) ** 0.5), graph.fresh(wanted)
    last = graph.fresh(f"{name}.interleaved")
    if not shape:
        concat = helper.make_node("Concat", parts, [name], name, axis=1)
        spread = helper.make_node("DepthToSpace", [name], [made], last, blocksize=side, mode="DCR")
        return [concat, spread]
    pixels = {part: graph.fresh(f"{name}.pixels{i}") for i, part in enumerate(dict.fromkeys(parts))}
    nodes = [helper.make_node("Transpose", [part], [to], to, perm=[0, 2, 3, 1]) for part, to in pixels.items()]
    rows = [graph.fresh(f"{name}.row{i}") for i in range(side)]
    for i, row in enumerate(rows):  # a row's pixels take turns in memory when they lie behind one another's channels
        taken = [pixels[part] for part in parts[i * side : (i + 1) * side]]
        nodes.append(helper.make_node("Concat", taken, [row], row, axis=3))
    batch, channels, height, width = shape
    size = np.array([batch, height, width, channels], np.int64)
    sizes, joined = graph.add_constant(f"{name}.size", size), graph.fresh(f"{name}.pixels")
    return [
        *nodes,
        helper.make_node("Concat", rows, [name], name, axis=2),
        helper.make_node("Reshape", [name, sizes], [joined], joined),
        helper.make_node("Transpose", [joined], [made], last, perm=[0, 3, 1, 2]),
    ]
