"""From an fp32 ncnn model and scales to an int8 one: what ncnn2int8 does, without a C++ toolchain.

ncnn runs an int8 3x3 convolution of stride 1 by Winograd F(4,3), whose transform of the weights overflows 16 bits
unless they keep to 6 bits. Parameter 31 with bit 64 masks Winograd for one layer; then all 8 bits may be used. It is
set here wherever scales lead to larger weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sandglass.core.errors import FormatError
from sandglass.formats.ncnn_bin import float_weights, floats_blob, int8_blob
from sandglass.formats.ncnn_param import Layer, Param
from sandglass.formats.ncnn_table import Scales

KINDS = ("Convolution", "ConvolutionDepthWise", "InnerProduct")  # ncnn has no other int8 kernels for these weights
SCALE_TERM, PAD_VALUE, FEATURE_MASK, NO_WINOGRAD = 8, 18, 31, 64
REQUANTIZE = 100  # added to the scale term of a layer whose result stays int8
TERMS = {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}
WINOGRAD_LEVELS, ALL_LEVELS = 31, 127
SMALLEST = 1e-12  # weights that have a scale: a factor for smaller ones might be more than a float32 holds


def runs_winograd(layer: Layer) -> bool:
    """Whether ncnn would run this layer, in int8, by Winograd."""
    if layer.kind != "Convolution" or layer.integer(FEATURE_MASK, 0) & NO_WINOGRAD:
        return False
    kernel, stride, dilation = (layer.integer(key, default) for key, default in ((1, 0), (3, 1), (2, 1)))
    square = (layer.integer(11, kernel), layer.integer(13, stride), layer.integer(12, dilation)) == (3, 1, 1)
    outputs = layer.integer(0, 0)
    inputs = layer.integer(6, 0) // max(1, 9 * outputs)
    return square and (kernel, stride, dilation) == (3, 1, 1) and max(inputs, outputs) > 8


def channels(layer: Layer) -> int:
    """How many weight scales a layer has: one for each group of a depthwise layer, else for each output."""
    return layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.integer(0, 0)


def weight_scales(weights: np.ndarray, layer: Layer, levels: int) -> np.ndarray:
    """Factors that bring each channel's largest weight to `levels`; 0 for a channel of zeros, as in ncnn2table.

    ncnn adds the bias in float, so that a factor is bounded by float32 alone.
    """
    largest = np.abs(weights.reshape(channels(layer), -1)).max(axis=1)
    return np.divide(levels, np.maximum(largest, SMALLEST), out=np.zeros_like(largest), where=largest > 0)


def quantize(param: Param, parts: list[list[memoryview]], scales: Mapping[str, Scales], chain: bool = True) -> None:
    """Turn the layers named in `scales` to int8, in place.

    With `chain` a layer whose result goes only to int8 convolutions hands on integers, as ncnn2int8 arranges it.
    Raises FormatError for a layer that is not there, has no int8 form, or has another number of channels.
    """
    by_name = {layer.name: i for i, layer in enumerate(param.layers)}
    for name, entry in scales.items():
        if name not in by_name:
            raise FormatError(
                f"the scales name layer {name}, which is not in the .param", "use the table of this model"
            )
        _quantize(param.layers[by_name[name]], parts[by_name[name]], entry)
    if chain:
        for name, scale in chained(param, scales).items():
            layer = param.layers[by_name[name]]
            layer.set(SCALE_TERM, layer.integer(SCALE_TERM, 0) + REQUANTIZE)
            parts[by_name[name]].append(floats_blob(np.array([scale])))


def _quantize(layer: Layer, blobs: list[memoryview], scales: Scales) -> None:
    if layer.kind not in KINDS:
        raise FormatError(f"layer {layer.name} is a {layer.kind}, which has no int8 form in ncnn", "leave it in float")
    weights = float_weights(blobs[0]) if blobs else None
    if weights is None or len(scales.weight) != channels(layer):
        raise FormatError(f"layer {layer.name} has {channels(layer)} channels of float weights, the scales are for "
                          f"{len(scales.weight)}", "use the table of this model")  # fmt: skip
    weights = weights[: layer.integer(2 if layer.kind == "InnerProduct" else 6, 0)]
    scaled = weights.reshape(channels(layer), -1) * scales.weight.astype(np.float32)[:, None]
    integers = _integers(scaled)
    if runs_winograd(layer) and np.abs(integers).max(initial=0) > WINOGRAD_LEVELS:
        layer.set(FEATURE_MASK, layer.integer(FEATURE_MASK, 0) | NO_WINOGRAD)
    blobs[0] = int8_blob(integers)
    blobs += [floats_blob(scales.weight), floats_blob(np.array([scales.activation]))]
    layer.set(SCALE_TERM, TERMS[layer.kind])
    if layer.kind != "InnerProduct" and (value := layer.number(PAD_VALUE)):
        # It pads after rounding, with this number as a byte: one below 0 is written as that byte without its sign,
        # because ncnn's kernels for eight channels at a time would spread a sign over the other seven.
        layer.set(PAD_VALUE, float(int(_integers(np.float32(value * scales.activation))) % 256))


def _integers(scaled: np.ndarray | np.float32) -> np.ndarray:
    """Scaled values as ncnn rounds them: halves away from 0."""
    return np.asarray(np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), -127, 127))


def chained(param: Param, scales: Mapping[str, Scales]) -> dict[str, float]:
    """Layers that can hand on integers, with the scale that all their readers share."""
    readers: dict[str, list[Layer]] = {}
    for layer in param.layers:
        for blob in layer.bottoms:
            readers.setdefault(blob, []).append(layer)
    found = {}
    for layer in param.layers:
        if layer.name in scales and layer.kind in ("Convolution", "ConvolutionDepthWise"):
            final = _final_readers(readers, layer.tops[0])
            integer = all(r.name in scales and r.kind in ("Convolution", "ConvolutionDepthWise") for r in final)
            shared = {scales[r.name].activation for r in final} if integer else set()
            if len(shared) == 1:
                found[layer.name] = shared.pop()
    return found


def _final_readers(readers: Mapping[str, list[Layer]], blob: str) -> list[Layer]:
    """What reads a blob, looking through Split."""
    direct = readers.get(blob, [])
    return [
        r
        for d in direct
        for r in ([x for t in d.tops for x in _final_readers(readers, t)] if d.kind == "Split" else [d])
    ]
