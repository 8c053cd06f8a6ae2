"""Convert an fp32 ncnn model to an ONNX graph, which is then quantized and deployed like any other.

ncnn has no batch axis, and a global pooling returns a vector. In the ONNX graph every tensor is (1, C, H, W), and a
vector is (1, C, 1, 1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendUnavailable, FormatError, ParityError
from sandglass.core.reading import MALFORMED
from sandglass.formats.ncnn_bin import float_weights, read_bin
from sandglass.formats.ncnn_param import ARRAY, Layer, Param, read_param

OPSET, IR_VERSION = 17, 8
# Largest relative difference to ncnn. The denominator is at least SMALLEST: outputs of a sigmoid may be tiny on noise.
TOLERANCE, SMALLEST = 1e-4, 0.01
MOST_ELEMENTS = 1 << 26  # elements of an input
SCALES = (1.0, 50.0)  # standard deviations of the noise for the comparison, for normalized and for plain pixels
ELEMENTWISE = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min"}


def rewrite(source: Path, size: tuple[int, int], out: Path) -> None:
    """Convert the `.param` file `source` and its `.bin` file to ONNX, for images of `size` (height, width).

    Raises FormatError for unknown layers and for int8 models, ParityError if ncnn computes other values, and
    BackendUnavailable if ncnn is not installed for the comparison.
    """
    param = read_param(source)
    weights = read_bin(param, source.with_suffix(".bin"))
    try:
        model = to_onnx(param, weights, size)
        onnx.save(model, out)
        _compare(source, param, model, out)
    except MALFORMED as error:  # an impossible parameter, or layers that do not fit together
        raise FormatError(f"{source} is not a valid network: {error}", "convert the model again") from error


def to_onnx(param: Param, parts: Sequence[Sequence[memoryview]], size: tuple[int, int]) -> onnx.ModelProto:
    """The graph of a `.param` file. `parts` has the weights of each layer, as blobs of bytes."""
    writer = _Writer()
    for layer, blobs in zip(param.layers, parts, strict=True):
        if layer.kind == "Split":  # each of its outputs equals its input
            writer.aliases |= dict.fromkeys(layer.tops, writer.name(layer.bottoms[0]))
        elif layer.kind != "Input":
            if layer.kind not in WRITERS:
                raise FormatError(
                    f"layer {layer.name} of the ncnn model is a {layer.kind}, which is not supported",
                    f"supported: {', '.join(sorted(WRITERS))}",
                )
            WRITERS[layer.kind](writer, layer, blobs)
    if [layer.kind for layer in param.layers].count("Input") != 1:
        raise FormatError("the ncnn model has several inputs or none", "give a model with one input")
    inputs = [
        helper.make_tensor_value_info(layer.tops[0], TensorProto.FLOAT, _input_shape(layer, size))
        for layer in param.layers
        if layer.kind == "Input"
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results(param)]
    graph = helper.make_graph(writer.nodes, "ncnn", inputs, outputs, writer.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def results(param: Param) -> list[str]:
    """The outputs of the network: blobs that no layer reads."""
    read = {blob for layer in param.layers for blob in layer.bottoms}
    return [blob for layer in param.layers for blob in layer.tops if blob not in read]


def _input_shape(layer: Layer, size: tuple[int, int]) -> list[int]:
    """The shape in the Input layer; sides that it leaves open come from `size`."""
    width, height, channels = (layer.integer(key, 0) for key in (0, 1, 2))
    shape = [1, channels or 3, height or size[0], width or size[1]]
    if min(shape) < 1 or prod(shape) > MOST_ELEMENTS:
        raise FormatError(f"layer {layer.name} has the shape {shape[1:]}", "give a model for images")
    return shape


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.aliases: dict[str, str] = {}

    def name(self, blob: str) -> str:
        """The name of a blob's tensor."""
        return self.aliases.get(blob, blob)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Add a node, which gets the name of its output."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add an initializer."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def activated(self, layer: Layer) -> str:
        """Add the activation that is built into a layer, and return the name for the layer's sum before it."""
        kind, top = layer.integer(9, 0), layer.tops[0]
        if kind == 0:
            return top
        if kind == 1:
            self.add("Relu", [f"{top}.sum"], top)
        elif kind == 3:
            low, high = (np.float32(value) for value in layer.parameters[-ARRAY - 10].split(",")[1:])
            bounds = [self.constant(f"{top}.{name}", np.array(v)) for name, v in (("low", low), ("high", high))]
            self.add("Clip", [f"{top}.sum", *bounds], top)
        else:
            raise FormatError(
                f"layer {layer.name} has the unsupported activation {kind}", "supported: ReLU (1) and Clip (3)"
            )
        return f"{top}.sum"

    def result(self, layer: Layer, operator: str, inputs: Sequence[str], **attributes: object) -> None:
        """Add the node for a layer's sum, and its activation after it."""
        position = len(self.nodes)
        self.add(operator, inputs, self.activated(layer), **attributes)
        self.nodes.insert(position, self.nodes.pop())


def _both(layer: Layer, across: int, down: int, default: int) -> list[int]:
    """A setting [vertical, horizontal]; the vertical value defaults to the horizontal one."""
    value = layer.integer(across, default)
    return [layer.integer(down, value), value]


def _pads(layer: Layer, keys: Sequence[int]) -> list[int]:
    """Padding [top, left, bottom, right]. `keys` are the parameters for left, top, right and bottom."""
    left = layer.integer(keys[0], 0)
    top = layer.integer(keys[1], left)
    pads = [top, left, layer.integer(keys[3], top), layer.integer(keys[2], left)]
    if min(pads) < 0:
        raise FormatError(
            f"layer {layer.name} has padding that depends on its input size", "convert the model with explicit padding"
        )
    return pads


def _weights(writer: _Writer, layer: Layer, blobs: Sequence[memoryview], transposed: bool) -> list[str]:
    """Names of the constants of a convolution: weights in ONNX's layout, and the bias if there is one."""
    values = float_weights(blobs[0]) if blobs and not layer.integer(8, 0) else None
    if values is None:
        raise FormatError(f"layer {layer.name} has no float weights", "give the fp32 ncnn model")
    outputs, group = layer.integer(0, 0), layer.integer(7, 1)
    weight = values[: layer.integer(6, 0)].reshape(outputs, -1, *_both(layer, 1, 11, 1))
    if transposed and group == 1:
        weight = weight.swapaxes(0, 1)
    elif transposed and weight.shape[1] != 1:
        raise FormatError(f"layer {layer.name} is a transposed convolution with groups, which is not supported",
                          "supported: one group, and depthwise")  # fmt: skip
    names = [writer.constant(f"{layer.name}.weight", weight)]
    if layer.integer(5, 0):
        names.append(writer.constant(f"{layer.name}.bias", np.frombuffer(blobs[1], np.float32)))
    return names


def _convolution(writer: _Writer, layer: Layer, blobs: Sequence[memoryview], transposed: bool = False) -> None:
    extra = {"output_padding": [layer.integer(19, 0), layer.integer(18, 0)]} if transposed else {}
    writer.result(
        layer,
        "ConvTranspose" if transposed else "Conv",
        [writer.name(layer.bottoms[0]), *_weights(writer, layer, blobs, transposed)],
        kernel_shape=_both(layer, 1, 11, 1),
        dilations=_both(layer, 2, 12, 1),
        strides=_both(layer, 3, 13, 1),
        pads=_pads(layer, (4, 14, 15, 16)),
        group=layer.integer(7, 1),
        **extra,
    )


def _deconvolution(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    _convolution(writer, layer, blobs, transposed=True)


def _pooling(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    average, over_all, rule = layer.integer(0, 0), layer.integer(4, 0), layer.integer(5, 0)
    source, top = [writer.name(layer.bottoms[0])], layer.tops[0]
    if over_all:
        writer.add("GlobalAveragePool" if average else "GlobalMaxPool", source, top)
    elif average or rule > 1:
        raise FormatError(f"layer {layer.name} has an unsupported kind of pooling",
                          "supported: maximum, and global average")  # fmt: skip
    else:
        settings = {"kernel_shape": _both(layer, 1, 11, 1), "strides": _both(layer, 2, 12, 1)}
        writer.add("MaxPool", source, top, pads=_pads(layer, (3, 13, 14, 15)), ceil_mode=int(rule == 0), **settings)


def _concat(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    writer.add("Concat", [writer.name(b) for b in layer.bottoms], layer.tops[0], axis=1 + layer.integer(0, 0))


def _binary(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    kind, inputs = layer.integer(0, 0), [writer.name(blob) for blob in layer.bottoms]
    if kind not in ELEMENTWISE:
        raise FormatError(f"layer {layer.name} has the unsupported BinaryOp {kind}",
                          f"supported: 0 to {max(ELEMENTWISE)}")  # fmt: skip
    if layer.integer(1, 0):
        inputs.append(writer.constant(f"{layer.name}.scalar", np.array(layer.parameters.get(2, "0"), np.float32)))
    writer.add(ELEMENTWISE[kind], inputs, layer.tops[0])


def _hard_sigmoid(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    alpha, beta = (float(layer.parameters.get(key, default)) for key, default in ((0, "0.2"), (1, "0.5")))
    source, top = writer.name(layer.bottoms[0]), layer.tops[0]
    if layer.kind == "HardSigmoid":
        writer.add("HardSigmoid", [source], top, alpha=alpha, beta=beta)
    elif abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        writer.add("HardSwish", [source], top)
    else:
        gate = writer.add("HardSigmoid", [source], f"{top}.gate", alpha=alpha, beta=beta)
        writer.add("Mul", [source, gate], top)


def _interp(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    factors = [float(layer.parameters.get(key, "1")) for key in (1, 2)]
    if layer.integer(0, 0) != 1 or layer.integer(3, 0) or layer.integer(4, 0):
        raise FormatError(f"layer {layer.name} has an unsupported kind of resizing",
                          "supported: nearest, by a factor")  # fmt: skip
    scales = writer.constant(f"{layer.name}.scales", np.array([1, 1, *factors], np.float32))
    rule = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    writer.add("Resize", [writer.name(layer.bottoms[0]), "", scales], layer.tops[0], **rule)


def _reshape(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    """A reshape of a vector to an image of one pixel, which changes nothing here."""
    if [layer.integer(key, 0) for key in (0, 1, 2)] != [1, 1, -1]:
        raise FormatError(f"layer {layer.name} has an unsupported kind of reshape",
                          "supported: a vector to an image of one pixel")  # fmt: skip
    writer.aliases[layer.tops[0]] = writer.name(layer.bottoms[0])


def _softmax(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    writer.add("Softmax", [writer.name(layer.bottoms[0])], layer.tops[0], axis=1 + layer.integer(0, 0))


def _sigmoid(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    writer.add("Sigmoid", [writer.name(layer.bottoms[0])], layer.tops[0])


WRITERS: dict[str, Callable[[_Writer, Layer, Sequence[memoryview]], None]] = {
    "BinaryOp": _binary,
    "Concat": _concat,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _deconvolution,
    "DeconvolutionDepthWise": _deconvolution,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_sigmoid,
    "Interp": _interp,
    "Pooling": _pooling,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
}


def _compare(source: Path, param: Param, model: onnx.ModelProto, written: Path) -> None:
    """Raise ParityError if the outputs of ncnn and of the ONNX graph differ on noise."""
    from sandglass.graph.session import GraphSession

    try:
        import ncnn
    except ImportError as error:
        raise BackendUnavailable(
            f"reading {source.name} needs ncnn for a comparison", install_command("ncnn")
        ) from error
    net = ncnn.Net()
    net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = False  # these round more coarsely
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_bf16_storage = False
    with _silent():
        failed = net.load_param(str(source)) or net.load_model(str(source.with_suffix(".bin")))
    if failed:
        raise FormatError(f"ncnn cannot load {source}", "check it with ncnn's own tools")
    session, random, (graph_input,) = GraphSession(written), np.random.default_rng(0), model.graph.input
    shape = [dim.dim_value for dim in graph_input.type.tensor_type.shape.dim]
    for scale in SCALES:
        image = (scale * random.standard_normal(shape)).astype(np.float32)
        outputs = session.run({graph_input.name: image})
        extractor = net.create_extractor()
        extractor.input(graph_input.name, ncnn.Mat(image[0]).clone())
        with _silent():
            references = {name: np.array(extractor.extract(name)[1]) for name in results(param)}
        for name, expected in references.items():
            largest = max(float(np.abs(expected).max()), SMALLEST)
            worst = float(np.abs(expected - outputs[name].reshape(expected.shape)).max()) / largest
            if not worst <= TOLERANCE:
                raise ParityError(
                    f"{source.name} as ONNX has a relative difference of {worst:.1e} to ncnn", "report the model"
                )


@contextmanager
def _silent() -> Iterator[None]:
    """Discard standard error, because ncnn prints two lines for each layer of an old file."""
    original = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
