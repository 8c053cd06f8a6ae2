"""The costs of layers in float and in int8: milliseconds, noise, and the conversions between them. Data only.

Example of conversions: conv1 and conv3 run in int8, conv2 in float.

    image -- conv1 -- a -- conv2 -- b -- conv3 -- output
             int8          float         int8

The image is converted to int8, `a` to float, and `b` to int8: three boundaries are crossed. If conv2 ran in int8 too,
only the first one would be crossed.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerVariant:
    """One way to run a layer in int8, with its costs while all other layers are in float.

    `bits` is the number of bits of its weights. `noise` is the power of the error at the network's outputs over the
    power of the outputs, on a typical input; `local` is the same at the output of the layer, over all inputs.
    `fidelity` is the agreement with the float network, 0 to 1.
    """

    bits: int
    milliseconds: float
    noise: float
    local: float = 0.0
    fidelity: float = 1.0

    def total(self, price: float) -> float:
        """The time plus the noise times its `price`, in milliseconds.

        The price is in milliseconds for noise with the power of the outputs. With 50 ms, noise of 0.01 costs 0.5 ms.
        """
        return self.milliseconds + price * self.noise


@dataclass(frozen=True)
class LayerCost:
    """The costs of one layer in float and in each of its int8 variants; `macs` is its multiply-accumulates."""

    name: str
    float_ms: float
    variants: tuple[LayerVariant, ...]
    macs: int = 0

    def variant(self, bits: int) -> LayerVariant:
        """The variant whose weights have `bits` bits. Raises KeyError if there is none."""
        return {variant.bits: variant for variant in self.variants}[bits]


@dataclass(frozen=True)
class Boundary:
    """A tensor that is converted where int8 layers and float layers meet.

    `makers` are the layers from whose integers the tensor is computed: it holds integers if all of them are in int8. A
    boundary without makers never holds integers. `readers` are the layers that read the tensor. `both_ways` says that a
    reader in float has to convert integers back.
    """

    makers: frozenset[str]
    readers: frozenset[str]
    both_ways: bool

    def is_crossed(self, integer: Container[str]) -> bool:
        """Whether the tensor is converted if the layers in `integer` run in int8."""
        if self.makers and all(name in integer for name in self.makers):  # it holds integers
            return self.both_ways and any(name not in integer for name in self.readers)
        return any(name in integer for name in self.readers)  # it holds floats


@dataclass(frozen=True)
class Conversion:
    """The time for converting the tensor at a boundary, in milliseconds."""

    boundary: Boundary
    milliseconds: float


Assignment = dict[str, LayerVariant]  # by name, the layers in int8; all others are in float


@dataclass(frozen=True)
class CostModel:
    """The costs of all layers and conversions, and the milliseconds of the whole float network."""

    layers: tuple[LayerCost, ...]
    conversions: tuple[Conversion, ...]
    float_ms: float

    def saved_ms(self, assignment: Mapping[str, LayerVariant]) -> float:
        """Milliseconds that an assignment saves compared with all layers in float; negative if it is slower."""
        gain = sum(
            layer.float_ms - assignment[layer.name].milliseconds for layer in self.layers if layer.name in assignment
        )
        # A tensor is converted once for all its readers: conversions do not belong to single layers.
        return gain - sum(entry.milliseconds for entry in self.conversions if entry.boundary.is_crossed(assignment))

    def assignment(self, bits: Mapping[str, int]) -> Assignment:
        """The layers in `bits`, each as the variant with that number of weight bits."""
        return {layer.name: layer.variant(bits[layer.name]) for layer in self.layers if layer.name in bits}

    def share(self, integer: Container[str]) -> float:
        """Share of the multiply-accumulates of all `layers` that belong to the layers in `integer`, 0 to 1."""
        macs = sum(layer.macs for layer in self.layers if layer.name in integer)
        return macs / max(1, sum(layer.macs for layer in self.layers))

    def by_work(self) -> CostModel:
        """The model for an unknown processor: times in proportion to multiply-accumulates, and int8 twice as fast."""
        layers = []
        for layer in self.layers:
            float_ms = self._ms_per_mac * layer.macs
            variants = tuple(replace(variant, milliseconds=float_ms / 2) for variant in layer.variants)
            layers.append(replace(layer, float_ms=float_ms, variants=variants))
        return CostModel(tuple(layers), (), self.float_ms)

    def with_bonus(self, bonus: float) -> CostModel:
        """The model in which int8 saves more: `bonus` times the average time in float of the layer's work."""
        bonus_per_mac = bonus * self._ms_per_mac
        layers = (replace(layer, float_ms=layer.float_ms + bonus_per_mac * layer.macs) for layer in self.layers)
        return replace(self, layers=tuple(layers))

    @property
    def _ms_per_mac(self) -> float:
        """Milliseconds of one multiply-accumulate in float, on average."""
        return self.float_ms / max(1, sum(layer.macs for layer in self.layers))
