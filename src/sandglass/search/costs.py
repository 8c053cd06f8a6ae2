"""What layers cost in float and in int8: milliseconds, noise, and conversions where the two meet. Data only."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerVariant:
    """One way to run a layer in int8: what it costs where all other layers are in float.

    `bits` are those of its weights. `noise` is the power of the error at the network's outputs over the power of the
    outputs, on a typical input; `local` is the same at the layer's own output, over all inputs. `fidelity` is the
    agreement with the float network, 0 to 1.
    """

    bits: int
    milliseconds: float
    noise: float
    local: float = 0.0
    fidelity: float = 1.0

    def total(self, price: float) -> float:
        """Milliseconds, with noise at `price`, in milliseconds for noise as strong as the outputs."""
        return self.milliseconds + price * self.noise


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs in float and in each of its int8 variants; `macs` are its multiply-accumulates."""

    name: str
    float_ms: float
    variants: tuple[LayerVariant, ...]
    macs: int = 0

    def variant(self, bits: int) -> LayerVariant:
        """The variant whose weights have `bits` bits; raises KeyError without one."""
        return {variant.bits: variant for variant in self.variants}[bits]


@dataclass(frozen=True)
class Boundary:
    """A tensor that is converted where int8 layers and float layers meet.

    `makers` are the layers whose integers it can be made of: it holds integers where all of them are in int8, and never
    without makers. `readers` are the layers that read it. Float readers convert integers only if `both_ways`.
    """

    makers: frozenset[str]
    readers: frozenset[str]
    both_ways: bool

    def is_crossed(self, integer: Container[str]) -> bool:
        """Whether the tensor is converted, `integer` being the layers in int8."""
        if self.makers and all(name in integer for name in self.makers):
            return self.both_ways and any(name not in integer for name in self.readers)
        return any(name in integer for name in self.readers)


@dataclass(frozen=True)
class Conversion:
    """What converting the tensor at a boundary takes, in milliseconds."""

    boundary: Boundary
    milliseconds: float


Assignment = dict[str, LayerVariant]  # by name, the layers in int8; all others are in float


@dataclass(frozen=True)
class CostModel:
    """What a search adds up: the costs of layers and conversions, and the milliseconds of the whole float network."""

    layers: tuple[LayerCost, ...]
    conversions: tuple[Conversion, ...]
    float_ms: float

    def saved_ms(self, assignment: Mapping[str, LayerVariant]) -> float:
        """Milliseconds that an assignment saves over all layers in float; negative where it is slower."""
        gain = sum(
            layer.float_ms - assignment[layer.name].milliseconds for layer in self.layers if layer.name in assignment
        )
        return gain - sum(entry.milliseconds for entry in self.conversions if entry.boundary.is_crossed(assignment))

    def assignment(self, bits: Mapping[str, int]) -> Assignment:
        """The layers in `bits`, each as the variant with that number of weight bits."""
        return {layer.name: layer.variant(bits[layer.name]) for layer in self.layers if layer.name in bits}

    def share(self, integer: Container[str]) -> float:
        """Share of the multiply-accumulates of these layers that the layers in `integer` have, 0 to 1."""
        macs = sum(layer.macs for layer in self.layers if layer.name in integer)
        return macs / max(1, sum(layer.macs for layer in self.layers))

    def by_work(self) -> CostModel:
        """The same with times in proportion to multiply-accumulates and int8 twice as fast, for another processor."""
        layers = []
        for layer in self.layers:
            float_ms = self._ms_per_mac * layer.macs
            variants = tuple(replace(variant, milliseconds=float_ms / 2) for variant in layer.variants)
            layers.append(replace(layer, float_ms=float_ms, variants=variants))
        return CostModel(tuple(layers), (), self.float_ms)

    def with_bonus(self, bonus: float) -> CostModel:
        """The same where int8 saves a layer, besides its own time, `bonus` of the average time of its work in float."""
        each = bonus * self._ms_per_mac
        layers = (replace(layer, float_ms=layer.float_ms + each * layer.macs) for layer in self.layers)
        return replace(self, layers=tuple(layers))

    @property
    def _ms_per_mac(self) -> float:
        """Milliseconds of one multiply-accumulate in float, on average."""
        return self.float_ms / max(1, sum(layer.macs for layer in self.layers))
