"""Padding that a graph leaves to be computed from sizes (auto_pad, ceil_mode, output_shape), as numbers of rows.

Runtimes differ in what they make of these attributes, and some lack them. `pads` alone means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.io import set_nodes
from sandglass.graph.names import Names
from sandglass.graph.shapes import forget_shapes, has_open_outputs

Attributes = dict[str, Any]
Shape = Sequence[int]
WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}  # the input that has the kernel's shape
POOLS = ("AveragePool", "LpPool", "MaxPool")
SAME = ("SAME_UPPER", "SAME_LOWER")


def explicit_padding(model: onnx.ModelProto) -> None:
    """Replace auto_pad, ceil_mode and output_shape of convolutions and pools by pads, in place.

    Shapes must have been inferred. A node whose sizes are not known stays, and so does a pool whose last window would
    lie further beyond the image than a runtime lets `pads` reach.
    """
    shapes, names = known_shapes(model), Names(model)
    done, rest = [], list(model.graph.node)
    while rest:
        node = rest.pop(0)
        done += _explicit(model, node, shapes, names) if _has_window(node, shapes) else [node]
        if node.op_type in POOLS and done[-1] is not node and _is_misjudged(done[-1], shapes):
            set_nodes(model, [*done, *rest])
            _infer_again(model)
            shapes, nodes = known_shapes(model), list(model.graph.node)
            done, rest = nodes[: len(done)], nodes[len(done) :]
    if done != list(model.graph.node):
        set_nodes(model, done)


def _has_window(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    return (node.op_type in WEIGHTS or node.op_type in POOLS) and len(shapes.get(node.input[0], ())) > 2


def _is_misjudged(pool: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether the shape inferred for a pool counts a window that lies outside, as ONNX's before opset 22 does."""
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


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors and weights by name; those with an open dimension are left out."""
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.dim_value > 0 for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """A node's attributes by name, texts as str."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _explicit(
    model: onnx.ModelProto, node: onnx.NodeProto, shapes: Mapping[str, Shape], names: Names
) -> list[onnx.NodeProto]:
    given = attributes_of(node)
    if node.op_type in WEIGHTS:
        kernel = shapes.get(node.input[WEIGHTS[node.op_type]], ())[2:]
        given.setdefault("kernel_shape", list(kernel))
    window = _Window(given, shapes[node.input[0]][2:])
    automatic = given.get("auto_pad", "NOTSET")
    if len(given["kernel_shape"]) != len(window.sizes):
        return [node]
    if automatic == "VALID":
        return [_written(node, {"pads": [0] * len(window.pads)})]
    if node.op_type == "ConvTranspose":
        wanted = given.get("output_shape") or (window.enlarged() if automatic in SAME else [])
        return [_written(node, window.transposed(wanted[-len(window.sizes) :], automatic)) if wanted else node]
    if automatic in SAME:
        return [_written(node, {"pads": window.same(automatic)})]
    return _without_ceiling(model, node, window, names) if given.get("ceil_mode") else [node]


class _Window:
    """How a kernel walks over an image, axis by axis."""

    def __init__(self, given: Attributes, sizes: Shape) -> None:
        ones = [1] * len(sizes)
        self.sizes, self.kernel = sizes, given["kernel_shape"]
        self.strides = given.get("strides") or ones
        dilations = given.get("dilations") or ones
        self.extents = [(side - 1) * step + 1 for side, step in zip(self.kernel, dilations, strict=False)]
        self.pads = given.get("pads") or [0] * 2 * len(sizes)
        self.added = given.get("output_padding") or [0] * len(sizes)

    def outputs(self) -> list[int]:
        """How many windows there are on each axis."""
        begins, ends = self.pads[: len(self.sizes)], self.pads[len(self.sizes) :]
        padded = [sum(parts) for parts in zip(self.sizes, begins, ends, strict=True)]
        return [(a - b) // stride + 1 for a, b, stride in zip(padded, self.extents, self.strides, strict=True)]

    def same(self, automatic: str) -> list[int]:
        """Pads that give one output for each stride."""
        totals = [
            max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(self.sizes, self.strides, self.extents, strict=True)
        ]
        return _halves(totals, smaller_first=automatic == "SAME_UPPER")

    def enlarged(self) -> list[int]:
        """Sizes of the result of a transposed convolution: the stride's multiples, or what smaller kernels cover."""
        return [
            min(stride * size, stride * (size - 1) + added + extent)
            for size, stride, extent, added in zip(self.sizes, self.strides, self.extents, self.added, strict=True)
        ]

    def transposed(self, wanted: Shape, automatic: str) -> Attributes:
        """Pads, and rows added at the end, that give a transposed convolution's result the size `wanted`."""
        whole = [
            stride * (size - 1) + added + extent
            for size, stride, extent, added in zip(self.sizes, self.strides, self.extents, self.added, strict=True)
        ]
        totals = [have - want for have, want in zip(whole, wanted, strict=True)]
        added = [more + max(-total, 0) for more, total in zip(self.added, totals, strict=True)]
        pads = _halves([max(total, 0) for total in totals], smaller_first=automatic == "SAME_UPPER")
        return {"pads": pads, "output_padding": added}

    def overhang(self) -> list[int]:
        """How far the last window of each axis reaches beyond the pads, where sizes are rounded up.

        A window that would begin behind the image is left out.
        """
        found = []
        ends = self.pads[len(self.sizes) :]
        for size, begin, end, stride, extent in zip(
            self.sizes, self.pads, ends, self.strides, self.extents, strict=False
        ):
            padded = begin + size + end
            last = -(-(padded - extent) // stride) * stride
            last -= stride if last >= begin + size else 0
            found.append(max(last + extent - padded, 0))
        return found


def _halves(totals: Sequence[int], smaller_first: bool) -> list[int]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if smaller_first else large + small


def _without_ceiling(
    model: onnx.ModelProto, node: onnx.NodeProto, window: _Window, names: Names
) -> list[onnx.NodeProto]:
    """The pool with its overhang as padding. Padding counts in some averages, the overhang never does."""
    axes, overhang = len(window.sizes), window.overhang()
    counted = node.op_type == "AveragePool" and attributes_of(node).get("count_include_pad") and any(overhang)
    begins, ends = ([0] * axes, [0] * axes) if counted else (window.pads[:axes], window.pads[axes:])
    ends = [end + more for end, more in zip(ends, overhang, strict=True)]
    if any(end >= side for end, side in zip(ends, window.kernel, strict=True)):
        return [node]
    pool = _written(node, {"pads": [*begins, *ends], "count_include_pad": 0 if counted else None})
    if not counted or not any(window.pads):
        return [pool]
    padded = names.fresh(f"{node.output[0]}.padded")
    pool.input[0] = padded
    return [pad(model, names, node.input[0], padded, window.pads), pool]


def pad(
    model: onnx.ModelProto, names: Names, data: str, output: str, pads: Sequence[int], value: float = 0.0
) -> onnx.NodeProto:
    """A Pad of `data` (N, C, ...) by `pads`, as pools have them. Its constants are added to `model`."""
    half = len(pads) // 2
    sizes, filler = names.fresh(f"{output}.pads"), names.fresh(f"{output}.value")
    amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(amounts, sizes))
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), filler))
    return helper.make_node("Pad", [data, sizes, filler], [output], output, mode="constant")


def _written(node: onnx.NodeProto, changes: Mapping[str, Any]) -> onnx.NodeProto:
    """The node with these attributes, and without those that say the same in another way; None leaves one as it is."""
    changes = {name: value for name, value in changes.items() if value is not None}
    removed = {"auto_pad", "ceil_mode", "output_shape", *changes}
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    del copy.attribute[:]
    copy.attribute.extend(attribute for attribute in node.attribute if attribute.name not in removed)
    copy.attribute.extend(helper.make_attribute(name, value) for name, value in changes.items())
    return copy
