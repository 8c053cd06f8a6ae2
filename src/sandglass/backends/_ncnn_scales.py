"""Find the layers of a plan in an ncnn model, and compute their scales."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sandglass.backends import FLOAT, LayerDecision
from sandglass.quantization.plan import Plan

if TYPE_CHECKING:
    import onnx

    from sandglass.formats.ncnn_param import Layer, Param
    from sandglass.formats.ncnn_table import Scales

LAYER_KINDS = {"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct"}


def plan_scales(
    param: Param,
    parts: list[list[memoryview]],
    plan: Plan,
    decisions: Mapping[str, LayerDecision],
    places: Mapping[str, int],
) -> tuple[dict[str, Scales], dict[str, LayerDecision]]:
    """The scales by ncnn layer, and the decision for each layer of the plan with its kernel.

    `places` has the index of each layer in the `.param`, in which layers have pnnx's own names. A layer whose weights
    are not in the ncnn model stays in float, with this as its reason.
    """
    from sandglass.formats import ncnn_int8
    from sandglass.formats.ncnn_bin import float_weights
    from sandglass.formats.ncnn_table import Scales

    scales: dict[str, Scales] = {}
    final: dict[str, LayerDecision] = {}
    for name, decision in decisions.items():
        if decision.weight_bits is None or name not in places:
            final[name] = LayerDecision(FLOAT, reason=decision.reason or "its weights are not in the converted model")
            continue
        bits = decision.weight_bits
        layer, weights = param.layers[places[name]], float_weights(parts[places[name]][0])
        assert weights is not None
        final[name] = msgspec.structs.replace(decision, kernel=_kernel(layer, bits))
        steps = plan.weight_scales(name, bits)
        factors = ncnn_int8.weight_scales(weights, layer, largest_integer(bits)) if steps is None else 1 / steps
        scales[layer.name] = Scales(factors, 127 / plan.tensors[plan.layers[name].input].threshold)
    return scales, final


def largest_integer(bits: int) -> int:
    """The largest signed integer with this number of bits."""
    return int(2 ** (bits - 1) - 1)


def _kernel(layer: Layer, bits: int) -> str:
    """The int8 kernel of a layer that has two in ncnn; "" for a layer with a single kernel."""
    from sandglass.formats import ncnn_int8

    if not ncnn_int8.runs_winograd(layer):
        return ""
    return "Winograd" if largest_integer(bits) <= ncnn_int8.WINOGRAD_LEVELS else "Winograd masked"


def weight_digests(model: onnx.ModelProto) -> dict[str, tuple[bytes, ...]]:
    """Hashes of each layer's weights, unchanged and with the axes of inputs and outputs exchanged.

    Matrices and transposed convolutions may be stored in both forms.
    """
    from onnx import numpy_helper

    from sandglass.graph.layers import find_layers

    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    digests = {}
    for name, layer in find_layers(model).items():
        weight = numpy_helper.to_array(constants[layer.weight]).astype(np.float32)
        exchanged = layer.operator != "Conv" and weight.ndim > 1
        digests[name] = (_digest(weight), *([_digest(weight.swapaxes(0, 1))] if exchanged else []))
    return digests


def match_layers(
    param: Param, parts: list[list[memoryview]], digests: Mapping[str, tuple[bytes, ...]]
) -> dict[str, int]:
    """The index in the `.param` of each layer of the graph, found by equal weights.

    Layers with the same weights are matched in their order.
    """
    from sandglass.formats.ncnn_bin import float_weights

    stored: dict[bytes, list[int]] = {}
    for i, layer in enumerate(param.layers):
        if layer.kind in LAYER_KINDS and parts[i]:
            weights = float_weights(parts[i][0])
            if weights is not None:
                stored.setdefault(_digest(weights), []).append(i)
    places = {}
    for name, candidates in digests.items():
        equal = next((stored[digest] for digest in candidates if stored.get(digest)), None)
        if equal:
            places[name] = equal.pop(0)
    return places


def _digest(weights: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).digest()
