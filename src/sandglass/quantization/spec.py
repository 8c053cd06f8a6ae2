"""The int8 arithmetic of a target: the layers that it can run on integers, and why the others stay in float.

Each backend with int8 declares one `Spec`. A plan does not depend on a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sandglass.core.processor import ANY, Processor
from sandglass.graph.layers import Facts, facts
from sandglass.quantization.plan import Plan, TensorRange

# Bits of weights with which a sum of two products fits into signed 16 bits. A product is an unsigned byte (at most 255)
# times a weight: 2 * 255 * 63 = 32,130 < 2 ** 15 with 7 bits, but 2 * 255 * 127 = 64,770 saturates with 8 bits.
EXACT_BITS = 7


def no_exception(layer: Facts) -> str:
    """The default of `Spec.exception`: the target keeps no layer in float."""
    return ""


def eight_bits(layer: Facts) -> tuple[int, ...]:
    """The default of `Spec.bits`: weights have 8 bits."""
    return (8,)


def pairs_products(layer: Facts) -> bool:
    """Whether a fast x86 kernel adds the products of a layer in pairs.

    It does not for a depthwise layer, whose sums have one input channel each.
    """
    return not layer.channelwise


def never(layer: Facts) -> bool:
    """The default of `Spec.saturates`: the sums of a layer saturate on no processor."""
    return False


@dataclass(frozen=True)
class Grid:
    """The conversion of an activation to integers: clip(round(value * factor + shift), first, last) - zero.

    With `fused` one instruction multiplies and adds, so that value * factor + shift is rounded to float once.
    """

    factor: np.float32
    shift: np.float32 | None
    zero: int
    first: int
    last: int
    fused: bool = False


@dataclass(frozen=True)
class Arithmetic:
    """The details of a target's conversions between float and int8 that decide the last bits of its results.

    fused_sums    (integer sum) * step + bias is rounded to float once, because one instruction computes it
    half_away     halves are rounded away from zero: 2.5 becomes 3; otherwise to the nearest even number: 2
    grid          grid(tensor_range, of_layer) returns the `Grid` of an activation; `of_layer` says that the layer that
                  computes the activation writes the integers. None: the grid follows from `Spec.asymmetric`
    ordered_taps  a depthwise layer in float starts with the bias, adds the taps of its kernel in order, and rounds
                  each sum to float once
    """

    fused_sums: bool = False
    half_away: bool = False
    grid: Callable[[TensorRange, bool], Grid] | None = None
    ordered_taps: bool = False


@dataclass(frozen=True)
class Spec:
    """The integer arithmetic of a target.

    operators         operators with integer kernels; their weights have one scale for each output channel
    asymmetric        activations are uint8 with a zero point; otherwise they are int8, symmetric around 0
    timed_converting  the profiler's time of a layer includes the conversion of its input to int8
    between           operators that compute on integers if all tensors around them are rounded, such as Add
    pads              for symmetric targets: layers can pad with other values than 0
    exception         returns the reason why a layer stays in float, or ""
    bits              returns the numbers of weight bits that a layer may have, the largest first; there are several if
                      the target has different kernels for them
    saturates         returns whether the kernel of a layer adds pairs of products in saturating 16 bits, on processors
                      where that is faster (see `core.processor`)
    arithmetic        the conversions between float and int8 around the sums, for the simulation
    """

    operators: tuple[str, ...]
    asymmetric: bool
    timed_converting: bool = False
    between: tuple[str, ...] = ()
    pads: bool = False
    exception: Callable[[Facts], str] = no_exception
    bits: Callable[[Facts], tuple[int, ...]] = eight_bits
    saturates: Callable[[Facts], bool] = never
    arithmetic: Arithmetic = Arithmetic()

    def runs(self, fact: Facts) -> bool:
        """Whether the target has integer arithmetic for a layer."""
        return fact.layer.operator in self.operators and not self.exception(fact)

    def weight_bits(self, fact: Facts, planned: int) -> int:
        """Bits of a layer's weights: as `planned`, but no more than the target allows."""
        return min(planned, self.bits(fact)[0])

    def exact_on(self, processor: Processor) -> Processor:
        """The kind of processor on which the sums of an artifact made for `processor` are exact.

        It is ANY for a target whose sums never saturate.
        """
        return ANY if self.saturates is never else processor

    def on(self, processor: Processor) -> Spec:
        """The arithmetic on one kind of processor: weights whose sums would saturate have at most EXACT_BITS bits."""
        if not processor.saturates:
            return self

        def bits(fact: Facts) -> tuple[int, ...]:
            offered = self.bits(fact)
            exact = tuple(dict.fromkeys(min(count, EXACT_BITS) for count in offered))  # (8, 6) becomes (7, 6)
            return exact if self.saturates(fact) else offered

        return replace(self, bits=bits)


def decide(plan: Plan, spec: Spec, model: onnx.ModelProto) -> dict[str, str]:
    """For each layer of the graph, by name: "" if it runs in int8 on the target, or the reason."""
    return {name: _reason(plan, spec, fact) for name, fact in facts(model).items()}


def _reason(plan: Plan, spec: Spec, fact: Facts) -> str:
    layer = plan.layers[fact.layer.name]
    if layer.keep_float:
        return layer.reason or "kept in float by the plan"
    if layer.operator not in spec.operators:
        return f"no int8 kernel for {layer.operator}"
    if plan.tensors[layer.input].threshold == 0:
        return "its input is always 0"
    return spec.exception(fact)
