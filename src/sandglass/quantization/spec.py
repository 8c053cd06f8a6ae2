"""What a target can run in int8, and why not the rest. A backend states its Spec; the plan knows no target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sandglass.core.processor import ANY, Processor
from sandglass.graph.layers import Facts, facts
from sandglass.quantization.plan import Plan, TensorRange

EXACT_BITS = 7  # of weights whose products with 8 unsigned bits add up in pairs: 2 * 255 * 63 < 2 ** 15


def no_exception(layer: Facts) -> str:
    """Nothing stays in float for the target's sake."""
    return ""


def eight_bits(layer: Facts) -> tuple[int, ...]:
    """Weights have 8 bits."""
    return (8,)


def pairs_products(layer: Facts) -> bool:
    """Whether a fast x86 kernel adds pairs of a layer's products: not a depthwise one, which has one input a sum."""
    return not layer.channelwise


def never(layer: Facts) -> bool:
    """No layer's sums saturate on any processor."""
    return False


@dataclass(frozen=True)
class Grid:
    """The integers of an activation: value * factor + shift, rounded, limited to `first` and `last`, minus `zero`.

    `fused`: one instruction multiplies and adds, so that the result is rounded to float once.
    """

    factor: np.float32
    shift: np.float32 | None
    zero: int
    first: int
    last: int
    fused: bool = False


@dataclass(frozen=True)
class Arithmetic:
    """How a target gets from floats to integers and back, where its last bits depend on it.

    `fused_sums`: a sum times its step plus the bias is rounded to float once, as one instruction does. `half_away`:
    halves are rounded away from zero, not to even. `grid(range, of_layer)` returns the grid of an activation, where the
    target has one of its own; `of_layer` says that the layer before makes the integers. `ordered_taps`: depthwise
    layers in float start from the bias and add tap after tap, each rounded once.
    """

    fused_sums: bool = False
    half_away: bool = False
    grid: Callable[[TensorRange, bool], Grid] | None = None
    ordered_taps: bool = False


@dataclass(frozen=True)
class Spec:
    """Integer arithmetic of a target.

    `operators` have integer kernels with one scale for each output channel. `asymmetric` activations have a zero
    point (uint8), the others are signed bytes around zero; `pads` says of these that layers pad with any value.
    `timed_converting` says that layers are timed with the conversion of what they read, whoever made that. `between`
    names the operators that integers also flow through when everything around them is rounded. `exception` returns why
    a layer stays in float, or "". `bits` returns the numbers of weight bits that a layer may have, the largest first:
    several where the target has different kernels for them. `saturates` returns whether a layer's kernel adds pairs of
    products in saturating 16 bits on processors where that is faster (see `core.processor`). `arithmetic` is what a
    simulation does around the sums.
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
        """Bits of a layer's weights: as planned, or the most that the target's sums hold."""
        return min(planned, self.bits(fact)[0])

    def exact_on(self, processor: Processor) -> Processor:
        """The kind of processor that sums are exact on, of what is made for `processor`: any where none saturate."""
        return ANY if self.saturates is never else processor

    def on(self, processor: Processor) -> Spec:
        """The arithmetic on one kind of processor: weights have at most EXACT_BITS bits where sums would saturate."""
        if not processor.saturates:
            return self

        def bits(fact: Facts) -> tuple[int, ...]:
            offered = self.bits(fact)
            exact = tuple(dict.fromkeys(min(count, EXACT_BITS) for count in offered))
            return exact if self.saturates(fact) else offered

        return replace(self, bits=bits)


def decide(plan: Plan, spec: Spec, model: onnx.ModelProto) -> dict[str, str]:
    """For every layer of the graph "" where it runs in int8 on the target, else the reason why it stays in float."""
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
