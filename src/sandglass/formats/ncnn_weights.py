"""The weights of ncnn layers in the `.bin` file: the blobs of each kind of layer, in the order of loading.

The sizes follow from the layer's parameters. A test compares them with the sizes that the installed ncnn loads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from sandglass.core.errors import FormatError
from sandglass.formats.ncnn_param import Layer

# A blob is (number of elements, whether a storage tag comes before them).
Blobs = list[tuple[int, bool]]
DYNAMIC, DYNAMIC_TRANSPOSED = 19, 28  # parameters of layers whose weights are an input
BLOCK_SIZES = (32, 64, 128)  # weights in a block, by the last digit of the quantize term


def tagged(*counts: int) -> Blobs:
    """Blobs with a storage tag, which ncnn loads as type 0."""
    return [(count, True) for count in counts]


def plain(*counts: int) -> Blobs:
    """Blobs of float32 values without a tag, which ncnn loads as type 1."""
    return [(count, False) for count in counts]


def _weights_and_bias(layer: Layer) -> Blobs:
    return tagged(layer.integer(6, 0)) + plain(layer.integer(0, 0)) * bool(layer.integer(5, 0))


def _convolution(layer: Layer) -> Blobs:
    return [] if layer.integer(DYNAMIC, 0) else _weights_and_bias(layer)


def _deconvolution(layer: Layer) -> Blobs:
    return [] if layer.integer(DYNAMIC_TRANSPOSED, 0) else _weights_and_bias(layer)


def _convolution_2d(layer: Layer) -> Blobs:
    term, blobs = layer.integer(8, 0), _convolution(layer)
    if not blobs or not term:
        return blobs
    return blobs + plain(layer.integer(0, 0), 1) + plain(1) * (term > 100)


def _depthwise_2d(layer: Layer) -> Blobs:
    term, blobs = layer.integer(8, 0), _convolution(layer)
    if not blobs or not term:
        return blobs
    scales = {1: layer.integer(7, 1), 2: 1}.get(term % 100)
    return blobs + (plain(scales, 1) if scales is not None else []) + plain(1) * (term > 100)


def _inner_product(layer: Layer) -> Blobs:
    outputs = layer.integer(0, 0)
    blobs = tagged(layer.integer(2, 0)) + plain(outputs) * bool(layer.integer(1, 0))
    return blobs + (plain(outputs, 1) if layer.integer(8, 0) else [])


def _embed(layer: Layer) -> Blobs:
    blobs = tagged(layer.integer(3, 0)) + plain(layer.integer(0, 0)) * bool(layer.integer(2, 0))
    return blobs + plain(1) * bool(layer.integer(18, 0))


def _gemm(layer: Layer) -> Blobs:
    a, b, c = (layer.integer(key, 0) == 1 for key in (4, 5, 6))
    rows, columns, depth = (layer.integer(key, 0) for key in (7, 8, 9))
    term = layer.integer(18, 0)
    blocks = _block_size(term)
    added = {0: 1, 1: rows, 2: rows, 3: columns * rows, 4: columns}.get(layer.integer(10, 0))
    weights = plain(_packed(depth, columns, term)) if blocks else tagged(columns * depth)
    blobs = tagged(depth * rows) * a + weights * b + (tagged(added) if c and added is not None else [])
    if blocks:
        return blobs + plain(-(-depth // blocks) * columns) + plain(depth) * _scales_inputs(term)
    return blobs + (plain(rows) * a + plain(1) * b if term else [])


def _attention(layer: Layer) -> Blobs:
    width, term = layer.integer(0, 0), layer.integer(18, 0)
    queries = _quotient(layer, layer.integer(2, 0), width)
    depths = (queries, layer.integer(3, width), layer.integer(4, width), width)  # for q, k, v and the projection
    outputs = (width, width, width, queries)
    blocks = _block_size(term)
    blobs: Blobs = []
    for depth, count in zip(depths, outputs, strict=True):
        blobs += plain(_packed(depth, count, term)) if blocks else tagged(depth * count)
        blobs += plain(count)
    if blocks:
        blobs += plain(*(-(-depth // blocks) * count for depth, count in zip(depths, outputs, strict=True)))
        return blobs + plain(*depths) * _scales_inputs(term)
    return blobs + (plain(width, width, width, 1) if term else [])


def _block_size(term: int) -> int:
    """The number of weights in a block with one scale, from the quantize term; 0 for weights without blocks."""
    bits, form, code = term // 100, term % 100 // 10, term % 10
    return BLOCK_SIZES[code] if bits in (4, 6, 8) and form in (0, 1) and code < len(BLOCK_SIZES) else 0


def _packed(depth: int, rows: int, term: int) -> int:
    """The number of 4-byte words for `rows` of `depth` weights of 4, 6 or 8 bits; each row starts at a byte."""
    row = (depth * (term // 100) + 7) // 8
    return (row * rows + 3) // 4


def _scales_inputs(term: int) -> bool:
    return term % 100 // 10 == 1


def _recurrent(gates: int, biases: int) -> Callable[[Layer], Blobs]:
    """GRU and RNN: for each direction, the weights of the input, the biases, and the weights of the state."""

    def blobs(layer: Layer) -> Blobs:
        outputs, directions = layer.integer(0, 0), _directions(layer)
        size = _quotient(layer, layer.integer(1, 0), directions * outputs * gates)
        rows = directions * outputs * gates
        scales = plain(rows, rows) if layer.integer(8, 0) else []
        return tagged(size * rows, outputs * biases * directions, outputs * rows) + scales

    return blobs


def _lstm(layer: Layer) -> Blobs:
    outputs, directions = layer.integer(0, 0), _directions(layer)
    hidden = layer.integer(3, outputs)
    rows = 4 * hidden * directions
    blobs = tagged(_quotient(layer, layer.integer(1, 0), rows) * rows, rows, outputs * rows)
    blobs += tagged(hidden * outputs * directions) if outputs != hidden else []
    return blobs + (plain(rows, rows) if layer.integer(8, 0) else [])


def _directions(layer: Layer) -> int:
    return 2 if layer.integer(2, 0) == 2 else 1


def _quotient(layer: Layer, dividend: int, divisor: int) -> int:
    if divisor <= 0:
        raise FormatError(f"layer {layer.name} is a {layer.kind} of size 0", "the .param file is damaged")
    return dividend // divisor


def _memory(layer: Layer) -> Blobs:
    width, height, depth, channels = (layer.integer(key, 0) for key in (0, 1, 11, 2))
    if depth:
        sides: tuple[int, ...] = (width, height, depth, channels)
    else:
        sides = (width, height, channels) if channels else (width, height) if height else (width,)
    return [(prod(sides), layer.integer(21, 1) == 0)] if any((width, height, depth, channels)) else []


def _scale(layer: Layer) -> Blobs:
    channels = layer.integer(0, 0)
    return [] if channels == -233 else plain(channels) * (2 if layer.integer(1, 0) else 1)


def _affine(size: int, switch: int, blobs: int = 2) -> Callable[[Layer], Blobs]:
    """The scales and shifts of a normalization. `size` is the parameter for their number, `switch` turns them off."""
    return lambda layer: plain(layer.integer(size, 0)) * (blobs if layer.integer(switch, 1) else 0)


def _requantize(layer: Layer) -> Blobs:
    added = layer.integer(2, 0)
    return plain(layer.integer(0, 1), layer.integer(1, 1)) + plain(added) * bool(added)


def _dequantize(layer: Layer) -> Blobs:
    added = layer.integer(1, 0)
    return plain(layer.integer(0, 1)) + plain(added) * bool(added)


def _padding(layer: Layer) -> Blobs:
    channels = layer.integer(6, 0)
    return plain(channels) * bool(channels)


BLOBS: dict[str, Callable[[Layer], Blobs]] = {
    "Convolution": _convolution_2d,
    "Convolution1D": _convolution,
    "Convolution3D": _weights_and_bias,
    "ConvolutionDepthWise": _depthwise_2d,
    "ConvolutionDepthWise1D": _convolution,
    "ConvolutionDepthWise3D": _weights_and_bias,
    "Deconvolution": _deconvolution,
    "Deconvolution1D": _deconvolution,
    "Deconvolution3D": _weights_and_bias,
    "DeconvolutionDepthWise": _deconvolution,
    "DeconvolutionDepthWise1D": _deconvolution,
    "DeconvolutionDepthWise3D": _weights_and_bias,
    "DeformableConv2D": _weights_and_bias,
    "InnerProduct": _inner_product,
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
    "Embed": _embed,
    "LSTM": _lstm,
    "GRU": _recurrent(gates=3, biases=4),
    "RNN": _recurrent(gates=1, biases=1),
    "BatchNorm": lambda layer: plain(*[layer.integer(0, 0)] * 4),
    "Bias": lambda layer: plain(layer.integer(0, 0)),
    "PReLU": lambda layer: plain(layer.integer(0, 0)),
    "Normalize": lambda layer: plain(layer.integer(3, 0)),
    "Scale": _scale,
    "MemoryData": _memory,
    "Padding": _padding,
    "LayerNorm": _affine(size=0, switch=2),
    "InstanceNorm": _affine(size=0, switch=2),
    "GroupNorm": _affine(size=1, switch=3),
    "RMSNorm": _affine(size=0, switch=2, blobs=1),
    "Quantize": lambda layer: plain(layer.integer(0, 1)),
    "Dequantize": _dequantize,
    "Requantize": _requantize,
}

WITHOUT_WEIGHTS = frozenset({
    "AbsVal", "ArgMax", "BNLL", "BinaryOp", "CELU", "Cast", "Clip", "Concat", "CopyTo", "Crop", "CumulativeSum",
    "DeepCopy", "DetectionOutput", "Diag", "Dropout", "ELU", "Einsum", "Eltwise", "Erf", "Exp", "ExpandDims", "Flatten",
    "Flip", "Fold", "GELU", "GLU", "GridSample", "HardSigmoid", "HardSwish", "Input", "Interp", "InverseSpectrogram",
    "LRN", "Log", "MVN", "MatMul", "Mish", "Noop", "PSROIPooling", "Packing", "Permute", "PixelShuffle", "Pooling",
    "Pooling1D", "Pooling3D", "Power", "PriorBox", "Proposal", "ROIAlign", "ROIPooling", "ReLU", "Reduction", "Reorg",
    "Reshape", "RotaryEmbed", "SDPA", "SELU", "SPP", "ShuffleChannel", "Shrink", "Sigmoid", "Slice", "Softmax",
    "Softplus", "Spectrogram", "Split", "Squeeze", "StatisticsPooling", "Swish", "TanH", "Threshold", "Tile", "UnaryOp",
    "Unfold", "YoloDetectionOutput", "Yolov3DetectionOutput",
})  # fmt: skip


def blobs_of(layer: Layer) -> Blobs:
    """The blobs of a layer; none for a kind that is not in BLOBS. Raises FormatError for invalid parameters."""
    return BLOBS.get(layer.kind, lambda _: [])(layer)


def unknown_kinds(layers: list[Layer]) -> list[str]:
    """The kinds that ncnn does not have, for which it is unknown whether they have weights."""
    return sorted({layer.kind for layer in layers} - BLOBS.keys() - WITHOUT_WEIGHTS)
