"""Convert an fp32 ncnn model to int8 with given scales, like ncnn2int8 but without a C++ toolchain.

ncnn runs an int8 3x3 convolution of stride 1 with Winograd F(4,3). The transform of the weights overflows 16 bits
unless the weights have at most 6 bits. Bit 64 of parameter 31 disables Winograd for one layer, which can then use all 8
bits. The bit is set here for each layer whose scales lead to larger weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sandglass.core.errors import FormatError
from sandglass.formats.ncnn_bin import float_weights, floats_blob, int8_blob
from sandglass.formats.ncnn_param import Layer, Param
from sandglass.formats.ncnn_table import Scales

KINDS = ("Convolution", "ConvolutionDepthWise", "InnerProduct")  # the layers for which ncnn has int8 kernels
SCALE_TERM, PAD_VALUE, FEATURE_MASK, NO_WINOGRAD = 8, 18, 31, 64  # three parameters, and a bit of the last one
REQUANTIZE = 100  # added to the scale term of a layer whose result stays in int8
TERMS = {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}  # scale terms
WINOGRAD_LEVELS, ALL_LEVELS = 31, 127  # largest integer weight with Winograd (6 bits), and in general (8 bits)
SMALLEST = 1e-12  # smallest weight with a scale of its own: the factor for a smaller one may exceed float32


def runs_winograd(layer: Layer) -> bool:
    """Whether ncnn would run this layer with Winograd in int8."""
    if layer.kind != "Convolution" or layer.integer(FEATURE_MASK, 0) & NO_WINOGRAD:
        return False
    kernel, stride, dilation = (layer.integer(key, default) for key, default in ((1, 0), (3, 1), (2, 1)))
    square = (layer.integer(11, kernel), layer.integer(13, stride), layer.integer(12, dilation)) == (3, 1, 1)
    outputs = layer.integer(0, 0)
    inputs = layer.integer(6, 0) // max(1, 9 * outputs)
    return square and (kernel, stride, dilation) == (3, 1, 1) and max(inputs, outputs) > 8


def channels(layer: Layer) -> int:
    """The number of a layer's weight scales: one for each group of a depthwise layer, otherwise one for each output."""
    return layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.integer(0, 0)


def weight_scales(weights: np.ndarray, layer: Layer, levels: int) -> np.ndarray:
    """The factors that scale each channel's largest weight to `levels`; 0 for a channel of zeros, as in ncnn2table.

    ncnn adds the bias in float, so a factor is limited only by float32.
    """
    largest = np.abs(weights.reshape(channels(layer), -1)).max(axis=1)
    return np.divide(levels, np.maximum(largest, SMALLEST), out=np.zeros_like(largest), where=largest > 0)


def quantize(param: Param, parts: list[list[memoryview]], scales: Mapping[str, Scales], chain: bool = True) -> None:
    """Convert the layers named in `scales` to int8, in place.

    With `chain`, a layer whose result goes only to int8 convolutions passes on integers, as with ncnn2int8. Raises
    FormatError for a layer that does not exist, has no int8 kernel, or has another number of channels.
    """
    by_name = {layer.name: i for i, layer in enumerate(param.layers)}
    for name, entry in scales.items():
        if name not in by_name:
            raise FormatError(
                f"the table has scales for layer {name}, which is not in the .param", "use the table of this model"
            )
        _quantize(param.layers[by_name[name]], parts[by_name[name]], entry)
    if chain:
        for name, scale in chained(param, scales).items():
            layer = param.layers[by_name[name]]
            layer.set(SCALE_TERM, layer.integer(SCALE_TERM, 0) + REQUANTIZE)
            parts[by_name[name]].append(floats_blob(np.array([scale])))


def _quantize(layer: Layer, blobs: list[memoryview], scales: Scales) -> None:
    if layer.kind not in KINDS:
        raise FormatError(
            f"layer {layer.name} is a {layer.kind}, for which ncnn has no int8 kernel", "remove it from the table"
        )
    weights = float_weights(blobs[0]) if blobs else None
    if weights is None or len(scales.weight) != channels(layer):
        raise FormatError(f"layer {layer.name} has {channels(layer)} channels of float weights, but the table has "
                          f"{len(scales.weight)} scales", "use the table of this model")  # fmt: skip
    weights = weights[: layer.integer(2 if layer.kind == "InnerProduct" else 6, 0)]
    scaled = weights.reshape(channels(layer), -1) * scales.weight.astype(np.float32)[:, None]
    integers = _integers(scaled)
    if runs_winograd(layer) and np.abs(integers).max(initial=0) > WINOGRAD_LEVELS:
        layer.set(FEATURE_MASK, layer.integer(FEATURE_MASK, 0) | NO_WINOGRAD)
    blobs[0] = int8_blob(integers)
    blobs += [floats_blob(scales.weight), floats_blob(np.array([scales.activation]))]
    layer.set(SCALE_TERM, TERMS[layer.kind])
    if layer.kind != "InnerProduct" and (value := layer.number(PAD_VALUE)):
        # ncnn pads after quantization, with this number as a byte. A negative value is written as an unsigned byte,
        # because ncnn's kernels for eight channels would otherwise extend the sign into the other seven.
        layer.set(PAD_VALUE, float(int(_integers(np.float32(value * scales.activation))) % 256))


def _integers(scaled: np.ndarray | np.float32) -> np.ndarray:
    """Round scaled values as ncnn does, with halves away from 0, and clip them to -127 .. 127."""
    return np.asarray(np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), -127, 127))


def chained(param: Param, scales: Mapping[str, Scales]) -> dict[str, float]:
    """Layers that can pass on integers, with the common activation scale of all layers that read their result."""
    readers: dict[str, list[Layer]] = {}
    for layer in param.layers:
        for blob in layer.bottoms:
            readers.setdefault(blob, []).append(layer)
    chains = {}
    for layer in param.layers:
        if layer.name in scales and layer.kind in ("Convolution", "ConvolutionDepthWise"):
            final = _final_readers(readers, layer.tops[0])
            integer = all(r.name in scales and r.kind in ("Convolution", "ConvolutionDepthWise") for r in final)
            shared = {scales[r.name].activation for r in final} if integer else set()
            if len(shared) == 1:
                chains[layer.name] = shared.pop()
    return chains


def _final_readers(readers: Mapping[str, list[Layer]], blob: str) -> list[Layer]:
    """The layers that read a blob, directly or through a Split."""
    direct = readers.get(blob, [])
    return [
        r
        for d in direct
        for r in ([x for t in d.tops for x in _final_readers(readers, t)] if d.kind == "Split" else [d])
    ]
