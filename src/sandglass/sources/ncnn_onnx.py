"""An fp32 ncnn model as an ONNX graph, so that it is quantized and deployed like any other.

ncnn has no batch, and what a global pooling leaves is a vector. Here every tensor is (1, C, H, W), with a vector as
(1, C, 1, 1).
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
TOLERANCE, SMALLEST = 1e-4, 0.01  # of the largest output, or of this: a sigmoid may give nothing but dust on noise
MOST_ELEMENTS = 1 << 26  # of an input
SCALES = (1.0, 50.0)  # of the noise that both run on: networks take pixels as they are, or normalized
ELEMENTWISE = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min"}


def rewrite(source: Path, size: tuple[int, int], out: Path) -> None:
    """Write the `.param` file `source`, with the `.bin` beside it, as ONNX for images of `size` (height, width).

    Raises FormatError for layers that are not known here, and for int8 models; ParityError where ncnn computes
    something else; BackendUnavailable where ncnn is not installed to be compared with.
    """
    param = read_param(source)
    weights = read_bin(param, source.with_suffix(".bin"))
    try:
        model = to_onnx(param, weights, size)
        onnx.save(model, out)
        _compare(source, param, model, out)
    except MALFORMED as error:  # a parameter that no layer has, or layers that do not fit each other
        raise FormatError(f"{source} does not describe a network: {error}", "convert the model again") from error


def to_onnx(param: Param, parts: Sequence[Sequence[memoryview]], size: tuple[int, int]) -> onnx.ModelProto:
    """The graph of a `.param` and the blobs of its layers."""
    writer = _Writer()
    for layer, blobs in zip(param.layers, parts, strict=True):
        if layer.kind == "Split":  # all its results are its input
            writer.aliases |= dict.fromkeys(layer.tops, writer.name(layer.bottoms[0]))
        elif layer.kind != "Input":
            if layer.kind not in WRITERS:
                raise FormatError(
                    f"layer {layer.name} is a {layer.kind}, which is not read from ncnn models",
                    f"known: {', '.join(sorted(WRITERS))}",
                )
            WRITERS[layer.kind](writer, layer, blobs)
    if [layer.kind for layer in param.layers].count("Input") != 1:
        raise FormatError("the model has several inputs or none", "give a model of one input")
    inputs = [
        helper.make_tensor_value_info(layer.tops[0], TensorProto.FLOAT, _input_shape(layer, size))
        for layer in param.layers
        if layer.kind == "Input"
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results(param)]
    graph = helper.make_graph(writer.nodes, "ncnn", inputs, outputs, writer.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def results(param: Param) -> list[str]:
    """Blobs that no layer reads."""
    read = {blob for layer in param.layers for blob in layer.bottoms}
    return [blob for layer in param.layers for blob in layer.tops if blob not in read]


def _input_shape(layer: Layer, size: tuple[int, int]) -> list[int]:
    """As the layer fixes it, else of the size that is asked for."""
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
        """The tensor of a blob."""
        return self.aliases.get(blob, blob)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """A node that bears its output's name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def activated(self, layer: Layer) -> str:
        """What a layer's sum is called: the clamp that the layer has built in, added here, makes its result."""
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
            raise FormatError(f"layer {layer.name} has the activation {kind}", "known are ReLU (1) and Clip (3)")
        return f"{top}.sum"

    def result(self, layer: Layer, operator: str, inputs: Sequence[str], **attributes: object) -> None:
        """A layer's sum, and after it its clamp."""
        position = len(self.nodes)
        self.add(operator, inputs, self.activated(layer), **attributes)
        self.nodes.insert(position, self.nodes.pop())


def _both(layer: Layer, across: int, down: int, default: int) -> list[int]:
    """A setting that may differ, rows first."""
    value = layer.integer(across, default)
    return [layer.integer(down, value), value]


def _pads(layer: Layer, keys: Sequence[int]) -> list[int]:
    """Padding top, left, bottom, right; `keys` are those of left, top, right, bottom, each with the one before it."""
    left = layer.integer(keys[0], 0)
    top = layer.integer(keys[1], left)
    pads = [top, left, layer.integer(keys[3], top), layer.integer(keys[2], left)]
    if min(pads) < 0:
        raise FormatError(f"layer {layer.name} is padded by the size of its input", "convert the model anew")
    return pads


def _weights(writer: _Writer, layer: Layer, blobs: Sequence[memoryview], transposed: bool) -> list[str]:
    """Constants of a convolution: weights in ONNX's layout, and the bias."""
    values = float_weights(blobs[0]) if blobs and not layer.integer(8, 0) else None
    if values is None:
        raise FormatError(f"layer {layer.name} has no float weights", "give the fp32 model")
    outputs, group = layer.integer(0, 0), layer.integer(7, 1)
    weight = values[: layer.integer(6, 0)].reshape(outputs, -1, *_both(layer, 1, 11, 1))
    if transposed and group == 1:
        weight = weight.swapaxes(0, 1)
    elif transposed and weight.shape[1] != 1:
        raise FormatError(f"layer {layer.name} is a transposed one in groups", "known are a single one, and depthwise")
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
        raise FormatError(f"layer {layer.name} pools in a way that is not read", "known: largest, mean of all")
    else:
        settings = {"kernel_shape": _both(layer, 1, 11, 1), "strides": _both(layer, 2, 12, 1)}
        writer.add("MaxPool", source, top, pads=_pads(layer, (3, 13, 14, 15)), ceil_mode=int(rule == 0), **settings)


def _concat(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    writer.add("Concat", [writer.name(b) for b in layer.bottoms], layer.tops[0], axis=1 + layer.integer(0, 0))


def _binary(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    kind, inputs = layer.integer(0, 0), [writer.name(blob) for blob in layer.bottoms]
    if kind not in ELEMENTWISE:
        raise FormatError(f"layer {layer.name} computes the BinaryOp {kind}", f"known are 0 to {max(ELEMENTWISE)}")
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
        raise FormatError(f"layer {layer.name} resizes in a way that is not read", "known: nearest, by a factor")
    scales = writer.constant(f"{layer.name}.scales", np.array([1, 1, *factors], np.float32))
    rule = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    writer.add("Resize", [writer.name(layer.bottoms[0]), "", scales], layer.tops[0], **rule)


def _reshape(writer: _Writer, layer: Layer, blobs: Sequence[memoryview]) -> None:
    """A vector to an image of one pixel, which it is here already."""
    if [layer.integer(key, 0) for key in (0, 1, 2)] != [1, 1, -1]:
        raise FormatError(f"layer {layer.name} reshapes in a way that is not read", "known is a vector to one pixel")
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
    """Raise ParityError where ncnn's results differ from the rewritten model's, on noise."""
    from sandglass.graph.session import GraphSession

    try:
        import ncnn
    except ImportError as error:
        raise BackendUnavailable(
            f"reading {source.name} needs ncnn, to compare with", install_command("ncnn")
        ) from error
    net = ncnn.Net()
    net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = False  # these round more coarsely
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_bf16_storage = False
    with _silent():
        failed = net.load_param(str(source)) or net.load_model(str(source.with_suffix(".bin")))
    if failed:
        raise FormatError(f"ncnn cannot load {source}", "check it with ncnn's own tools")
    session, random, (given,) = GraphSession(written), np.random.default_rng(0), model.graph.input
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    for scale in SCALES:
        image = (scale * random.standard_normal(shape)).astype(np.float32)
        found = session.run({given.name: image})
        extractor = net.create_extractor()
        extractor.input(given.name, ncnn.Mat(image[0]).clone())
        with _silent():
            outputs = {name: np.array(extractor.extract(name)[1]) for name in results(param)}
        for name, expected in outputs.items():
            largest = max(float(np.abs(expected).max()), SMALLEST)
            worst = float(np.abs(expected - found[name].reshape(expected.shape)).max()) / largest
            if not worst <= TOLERANCE:
                raise ParityError(
                    f"{source.name} as ONNX differs from ncnn by {worst:.1e} of its largest value", "report the model"
                )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what a library writes to standard error: ncnn advises on an old file with two lines a layer."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
