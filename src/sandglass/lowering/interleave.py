"""Images whose rows and columns take turns: s x s of them, of one size each, become one that is s times as large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper


def interleaved(
    model: onnx.ModelProto, name: str, parts: Sequence[str], made: str, shape: Sequence[int] = ()
) -> list[onnx.NodeProto]:
    """Nodes that make the tensor `made` of the model of its s * s parts, by row and column.

    `name` is fresh (see `graph.names`): it begins the names of what is added.

    Parts may be the same. With the `shape` of `made` whole pixels are copied, all channels of each: on a runtime whose
    layers around keep them so this is several times as fast as single values.
    """
    side = round(len(parts) ** 0.5)
    if not shape:
        joined = helper.make_node("Concat", parts, [name], name, axis=1)
        spread = helper.make_node("DepthToSpace", [name], [made], f"{name}.interleaved", blocksize=side, mode="DCR")
        return [joined, spread]
    pixels = {part: f"{name}.pixels{i}" for i, part in enumerate(dict.fromkeys(parts))}
    nodes = [helper.make_node("Transpose", [part], [to], to, perm=[0, 2, 3, 1]) for part, to in pixels.items()]
    rows = [f"{name}.row{i}" for i in range(side)]
    for i, row in enumerate(rows):  # a row's pixels take turns in memory when they lie behind one another's channels
        taken = [pixels[part] for part in parts[i * side : (i + 1) * side]]
        nodes.append(helper.make_node("Concat", taken, [row], row, axis=3))
    batch, channels, height, width = shape
    size = np.array([batch, height, width, channels], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(size, f"{name}.size"))
    return [
        *nodes,
        helper.make_node("Concat", rows, [name], name, axis=2),
        helper.make_node("Reshape", [name, f"{name}.size"], [f"{name}.pixels"], f"{name}.pixels"),
        helper.make_node("Transpose", [f"{name}.pixels"], [made], f"{name}.interleaved", perm=[0, 3, 1, 2]),
    ]
