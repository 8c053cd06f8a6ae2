"""Rewrite a graph so that pnnx converts it for ncnn correctly, and refuse operators that ncnn would compute wrongly.

pnnx silently drops some attributes: uneven padding of pools and transposed convolutions, axes of a Pad, and the cubic
mode of a GridSample. Each rewrite here computes the same values with operators that pnnx converts correctly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper

from sandglass.core.errors import UnsupportedOperator
from sandglass.formats.ncnn_param import Param
from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import Attributes, attributes_of, changed_node
from sandglass.graph.shapes import known_shapes
from sandglass.sources.rewrites.explicit_padding import pad

Nodes = list[onnx.NodeProto]
Step = tuple[str, ArrayLike | None]  # an operator, and its second input or None
LOWEST = float(np.finfo(np.float32).min)
CUBIC = 3  # ncnn's number for the cubic mode, in parameter 0 of a GridSample


def lower(model: onnx.ModelProto, any_size: bool = False) -> None:
    """Change a static graph, in place, so that pnnx can convert it. With `any_size`, it stays valid for other sizes.

    Raises UnsupportedOperator, with node, operator and attribute, for a node that cannot be converted.
    """
    del model.graph.value_info[:]  # pnnx infers shapes by itself
    with _Graph(model, any_size) as graph:
        for node in graph:
            rewrite = REWRITES.get(node.op_type)
            if rewrite is not None:
                graph.replace(node, rewrite(graph, node, attributes_of(node)))


def restore(param: Param, model: onnx.ModelProto) -> None:
    """Set attributes of `model` that pnnx dropped in the `.param`, in place."""
    modes = {attributes_of(node).get("mode") for node in model.graph.node if node.op_type == "GridSample"}
    if modes == {"cubic"}:
        for layer in param.layers:
            if layer.kind == "GridSample":
                layer.set(0, CUBIC)


def refuse(node: onnx.NodeProto, what: str) -> UnsupportedOperator:
    """The error for a node whose attribute or input `what` ncnn does not support."""
    return UnsupportedOperator(f"ncnn lacks {node.op_type} with {what} (node {node.name})", "choose another backend")


class _Graph(GraphIndex):
    """A graph with the shapes of its tensors."""

    def __init__(self, model: onnx.ModelProto, any_size: bool) -> None:
        super().__init__(model)
        self.shapes, self.any_size = known_shapes(model), any_size
        modes = {attributes_of(node).get("mode") for node in model.graph.node if node.op_type == "GridSample"}
        self.mixed = "cubic" in modes and len(modes) > 1

    def is_read(self, tensor: str) -> bool:
        """Whether a node or an output of the graph reads a tensor."""
        return tensor in self.outputs or bool(self.consumers(tensor))

    def sizes(self, node: onnx.NodeProto, tensor: str, what: str) -> Sequence[int]:
        """The height and width of a tensor, for a rewrite that depends on them.

        Raises UnsupportedOperator if they are not fixed.
        """
        if self.any_size or tensor not in self.shapes:
            raise refuse(node, f"{what}, for inputs of several sizes")
        return self.shapes[tensor][2:]

    def steps(self, start: str, operators: Iterable[Step]) -> Nodes:
        """A chain of elementwise operators that begins at the tensor `start`; each may have a constant second input."""
        nodes: Nodes = []
        for operator, operand in operators:
            name = self.fresh(f"{start}.step")
            second = [] if operand is None else [self.add_constant(f"{name}.operand", np.array(operand, np.float32))]
            nodes.append(helper.make_node(operator, [nodes[-1].output[0] if nodes else start, *second], [name], name))
        return nodes


def _uneven(pads: Sequence[int]) -> bool:
    return bool(pads) and list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :])


def _pool(graph: _Graph, node: onnx.NodeProto, attributes: Attributes) -> Nodes:
    if len(node.output) > 1 and any(map(graph.is_read, node.output[1:])):
        raise refuse(node, "its second output, Indices")
    if any(step != 1 for step in attributes.get("dilations", ())):
        raise refuse(node, f"dilations = {list(attributes['dilations'])}")
    if attributes.get("ceil_mode") and any(attributes.get("pads", ())):
        raise refuse(node, "ceil_mode = 1 and pads")
    pads = attributes.get("pads", ())
    if not _uneven(pads) or len(pads) != 4:
        return [changed_node(node, output=node.output[0])]
    largest = node.op_type == "MaxPool"
    border = pad(graph, node.input[0], f"{node.output[0]}.padded", pads, LOWEST if largest else 0.0)
    if largest or attributes.get("count_include_pad"):
        return [border, changed_node(node, border.output, node.output[0], pads=None)]
    mean = graph.fresh(f"{node.output[0]}.mean")
    factors = graph.add_constant(f"{node.output[0]}.factors", _shares(graph, node, attributes))
    pool = changed_node(node, border.output, mean, pads=None)
    return [border, pool, helper.make_node("Mul", [mean, factors], [node.output[0]], factors)]


def _shares(graph: _Graph, node: onnx.NodeProto, attributes: Attributes) -> np.ndarray:
    """The factor from a window's mean with padding to its mean over the image alone, (1, 1, height, width) float32."""
    sizes = graph.sizes(node, node.input[0], "uneven pads that do not count")
    outputs = graph.sizes(node, node.output[0], "uneven pads that do not count")
    strides, axes = attributes.get("strides", (1, 1)), []
    for size, count, side, stride, begin in zip(
        sizes, outputs, attributes["kernel_shape"], strides, attributes["pads"], strict=False
    ):
        starts = np.arange(count) * stride - begin
        axes.append(side / (np.minimum(starts + side, size) - np.maximum(starts, 0)))
    return (axes[0][:, None] * axes[1])[None, None].astype(np.float32)


def _transposed_convolution(graph: _Graph, node: onnx.NodeProto, attributes: Attributes) -> Nodes:
    """A transposed convolution without padding, and a Slice that removes the uneven padding from its result."""
    pads = attributes.get("pads", ())
    if not _uneven(pads):
        return [node]
    axes = len(pads) // 2
    whole = graph.fresh(f"{node.output[0]}.whole")
    last = np.iinfo(np.int64).max
    bounds = pads[:axes], [-cut if cut else last for cut in pads[axes:]], range(2, 2 + axes)
    names = [
        graph.add_constant(f"{whole}.{part}", np.array(values, np.int64))
        for part, values in zip(("starts", "ends", "axes"), bounds, strict=True)
    ]
    convolution = changed_node(node, output=whole, pads=[0] * 2 * axes)
    cut = helper.make_node("Slice", [whole, *names], [node.output[0]], graph.fresh(f"{whole}.cut"))
    return [convolution, cut]


def _padding(graph: _Graph, node: onnx.NodeProto, attributes: Attributes) -> Nodes:
    """A Pad with values for all axes, in place of one with the input `axes`."""
    rank = len(graph.shapes.get(node.input[0], ()))
    if attributes.get("mode") == "wrap":
        raise refuse(node, "mode = wrap")
    if len(node.input) < 4 or not node.input[3] or not rank:
        return [node]
    pads, axes = graph.value(node.input[1]), graph.value(node.input[3])
    if pads is None or axes is None or pads.size != 2 * axes.size or not axes.size:
        raise refuse(node, "axes or pads that are computed at run time")
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes.astype(int)] = pads.reshape(2, -1)
    sizes = graph.add_constant(f"{node.output[0]}.pads", whole.ravel())
    return [changed_node(node, [node.input[0], sizes, *node.input[2:3]])]


def _grid_sample(graph: _Graph, node: onnx.NodeProto, attributes: Attributes) -> Nodes:
    """A GridSample whose grid is changed such that ncnn reads the pixels that ONNX defines."""
    mode, grid = attributes.get("mode", "linear"), node.input[1]
    if graph.mixed:
        raise refuse(node, f"mode = {mode}, while another GridSample has another mode")
    if len(graph.shapes.get(node.input[0], (0,) * 4)) != 4:
        raise refuse(node, "an input that is not an image")
    moved: Nodes = []
    if mode == "nearest":
        sizes = graph.sizes(node, node.input[0], "mode = nearest")
        moved += _rounded(graph, grid, sizes, bool(attributes.get("align_corners")))
    if attributes.get("padding_mode") == "reflection":
        moved += _folded(graph, moved[-1].output[0] if moved else grid)
    return [*moved, changed_node(node, [node.input[0], moved[-1].output[0] if moved else grid])]


def _rounded(graph: _Graph, grid: str, sizes: Sequence[int], corners: bool) -> Nodes:
    """A grid moved to the centers of the nearest pixels. Halves are rounded to even as in ONNX; ncnn rounds them up."""
    across = np.array(sizes[::-1], np.float32)
    if corners:
        half = np.maximum(across - 1, 1) / 2
        return graph.steps(grid, [("Add", 1), ("Mul", half), ("Round", None), ("Div", half), ("Sub", 1)])
    inward: list[Step] = [
        ("Add", 1),
        ("Mul", across),
        ("Sub", 1),
        ("Mul", 0.5),
        ("Round", None),
    ]
    return graph.steps(grid, [*inward, ("Mul", 2), ("Add", 1), ("Div", across), ("Sub", 1)])


def _folded(graph: _Graph, grid: str) -> Nodes:
    """A grid folded into the image, -1 to 1: ncnn mirrors the image once at each side, ONNX repeatedly.

    The folded value of g is 1 - |(g + 1) mod 4 - 2|.
    """
    turns = graph.steps(grid, [("Add", 1), ("Mul", 0.25), ("Floor", None), ("Mul", 4)])
    rest = graph.fresh(f"{grid}.rest")
    within = helper.make_node("Sub", [grid, turns[-1].output[0]], [rest], rest)
    return [*turns, within, *graph.steps(rest, [("Sub", 1), ("Abs", None), ("Mul", -1), ("Add", 1)])]


REWRITES: dict[str, Callable[[_Graph, onnx.NodeProto, Attributes], Nodes]] = {
    "AveragePool": _pool,
    "ConvTranspose": _transposed_convolution,
    "GridSample": _grid_sample,
    "MaxPool": _pool,
    "Pad": _padding,
}
