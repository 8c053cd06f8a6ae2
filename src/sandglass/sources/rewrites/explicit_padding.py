"""Replace implicit padding (auto_pad, ceil_mode, output_shape), which depends on sizes, by explicit `pads`.

Runtimes interpret these attributes differently, and some do not support them. `pads` means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import Attributes, attributes_of, changed_node
from sandglass.graph.shapes import forget_shapes, has_open_outputs, known_shapes
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ()

Shape = Sequence[int]
WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}  # index of the input with the kernel
POOLS = ("AveragePool", "LpPool", "MaxPool")
SAME = ("SAME_UPPER", "SAME_LOWER")
IMPLICIT = ("auto_pad", "ceil_mode", "output_shape")


def rewrite(model: onnx.ModelProto) -> None:
    """Replace auto_pad, ceil_mode and output_shape of convolutions and pools by pads, in place.

    A node with unknown sizes does not change, nor does a pool whose last window would need larger `pads` than runtimes
    allow.
    """
    while _rewrite_to_misjudged(model):
        _infer_again(model)


def _rewrite_to_misjudged(model: onnx.ModelProto) -> bool:
    """Replace nodes up to the first pool whose inferred shape is wrong. Returns whether there was one."""
    if not any(attribute.name in IMPLICIT for node in model.graph.node for attribute in node.attribute):
        return False
    shapes = known_shapes(model)
    with GraphIndex(model) as graph:
        for node in graph:
            new = _explicit(graph, node, shapes) if _has_window(node, shapes) else [node]
            if new[-1] is not node:
                graph.replace(node, new)
                if node.op_type in POOLS and _is_misjudged(new[-1], shapes):
                    return True
    return False


def _has_window(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    return (node.op_type in WEIGHTS or node.op_type in POOLS) and len(shapes.get(node.input[0], ())) > 2


def _is_misjudged(pool: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether the shape inferred for a pool counts a window outside the image, as ONNX before opset 22 does."""
    data, output = (shapes.get(name) for name in (pool.input[0], pool.output[0]))
    if data is None or output is None:
        return False
    return _Window(attributes_of(pool), data[2:]).outputs() != list(output[2:])


def _infer_again(model: onnx.ModelProto) -> None:
    again = onnx.ModelProto.FromString(model.SerializeToString())
    forget_shapes(again)
    again = onnx.shape_inference.infer_shapes(again)
    if not has_open_outputs(again):
        model.CopyFrom(again)


def _explicit(graph: GraphIndex, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> list[onnx.NodeProto]:
    attributes = attributes_of(node)
    if node.op_type in WEIGHTS:
        kernel = shapes.get(node.input[WEIGHTS[node.op_type]], ())[2:]
        attributes.setdefault("kernel_shape", list(kernel))
    window = _Window(attributes, shapes[node.input[0]][2:])
    automatic = attributes.get("auto_pad", "NOTSET")
    if len(attributes["kernel_shape"]) != len(window.sizes):
        return [node]
    if automatic == "VALID":
        return [_with(node, pads=[0] * len(window.pads))]
    if node.op_type == "ConvTranspose":
        sizes = attributes.get("output_shape") or (window.enlarged() if automatic in SAME else [])
        return [_with(node, **window.transposed(sizes[-len(window.sizes) :], automatic)) if sizes else node]
    if automatic in SAME:
        return [_with(node, pads=window.same(automatic))]
    return _without_ceiling(graph, node, window) if attributes.get("ceil_mode") else [node]


class _Window:
    """The windows of a kernel on an image, axis by axis."""

    def __init__(self, attributes: Attributes, sizes: Shape) -> None:
        ones = [1] * len(sizes)
        self.sizes, self.kernel = sizes, attributes["kernel_shape"]
        self.strides = attributes.get("strides") or ones
        dilations = attributes.get("dilations") or ones
        self.extents = [(side - 1) * step + 1 for side, step in zip(self.kernel, dilations, strict=False)]
        self.pads = attributes.get("pads") or [0] * 2 * len(sizes)
        self.added = attributes.get("output_padding") or [0] * len(sizes)

    def outputs(self) -> list[int]:
        """The number of windows on each axis."""
        begins, ends = self.pads[: len(self.sizes)], self.pads[len(self.sizes) :]
        padded = [sum(parts) for parts in zip(self.sizes, begins, ends, strict=True)]
        return [(a - b) // stride + 1 for a, b, stride in zip(padded, self.extents, self.strides, strict=True)]

    def same(self, automatic: str) -> list[int]:
        """The pads for auto_pad SAME: one output for each stride."""
        totals = [
            max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(self.sizes, self.strides, self.extents, strict=True)
        ]
        return _halves(totals, smaller_first=automatic == "SAME_UPPER")

    def enlarged(self) -> list[int]:
        """Sizes of the result of a transposed convolution: stride times size, or less for a kernel below the stride."""
        return [
            min(stride * size, stride * (size - 1) + added + extent)
            for size, stride, extent, added in zip(self.sizes, self.strides, self.extents, self.added, strict=True)
        ]

    def transposed(self, sizes: Shape, automatic: str) -> Attributes:
        """The pads and output_padding with which the result of a transposed convolution has these sizes."""
        whole = [
            stride * (size - 1) + added + extent
            for size, stride, extent, added in zip(self.sizes, self.strides, self.extents, self.added, strict=True)
        ]
        totals = [full - size for full, size in zip(whole, sizes, strict=True)]
        added = [more + max(-total, 0) for more, total in zip(self.added, totals, strict=True)]
        pads = _halves([max(total, 0) for total in totals], smaller_first=automatic == "SAME_UPPER")
        return {"pads": pads, "output_padding": added}

    def overhang(self) -> list[int]:
        """For ceil_mode, the number of rows by which the last window of each axis extends beyond the pads.

        A window that would start after the image does not count.
        """
        rows = []
        ends = self.pads[len(self.sizes) :]
        for size, begin, end, stride, extent in zip(
            self.sizes, self.pads, ends, self.strides, self.extents, strict=False
        ):
            padded = begin + size + end
            last = -(-(padded - extent) // stride) * stride
            last -= stride if last >= begin + size else 0
            rows.append(max(last + extent - padded, 0))
        return rows


def _halves(totals: Sequence[int], smaller_first: bool) -> list[int]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if smaller_first else large + small


def _without_ceiling(graph: GraphIndex, node: onnx.NodeProto, window: _Window) -> list[onnx.NodeProto]:
    """The pool with its overhang as padding. Padding counts in some averages, but the overhang never does."""
    axes, overhang = len(window.sizes), window.overhang()
    counted = node.op_type == "AveragePool" and attributes_of(node).get("count_include_pad") and any(overhang)
    begins, ends = ([0] * axes, [0] * axes) if counted else (window.pads[:axes], window.pads[axes:])
    ends = [end + more for end, more in zip(ends, overhang, strict=True)]
    if any(end >= side for end, side in zip(ends, window.kernel, strict=True)):
        return [node]
    pool = _with(node, pads=[*begins, *ends], **({"count_include_pad": 0} if counted else {}))
    if not counted or not any(window.pads):
        return [pool]
    border = pad(graph, node.input[0], f"{node.output[0]}.padded", window.pads)
    pool.input[0] = border.output[0]
    return [border, pool]


def pad(graph: GraphIndex, data: str, name: str, pads: Sequence[int], value: float = 0.0) -> onnx.NodeProto:
    """A Pad node for `data` (N, C, ...) with `pads` in the form of pools. Its result has a free name similar to `name`.

    The constants of the node are added to the graph.
    """
    half, output = len(pads) // 2, graph.fresh(name)
    sizes = graph.add_constant(f"{output}.pads", np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
    filler = graph.add_constant(f"{output}.value", np.array(value, np.float32))
    return helper.make_node("Pad", [data, sizes, filler], [output], output, mode="constant")


def _with(node: onnx.NodeProto, **changes: object) -> onnx.NodeProto:
    """The node with these attributes, and without the implicit ones that they replace."""
    return changed_node(node, (), "", **(dict.fromkeys(IMPLICIT) | changes))
