"""The noise that rounding adds to the outputs of a network, as a whole and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sandglass.graph.io import load_graph
from sandglass.graph.output_parts import OutputPart, output_parts, whole_outputs
from sandglass.graph.session import GraphSession
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Spec, decide

EXACT = 1e-12  # noise of what is equal but for the last bits
Outputs = Mapping[str, np.ndarray]
Batches = Sequence[Outputs]


def only(plan: Plan, kept: Sequence[str]) -> Plan:
    """The plan with every layer in float but those in `kept`."""
    layers = {
        name: layer if name in kept else replace(layer, keep_float=True, reason="left out")
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan with the layers in `reasons` in float, each for its reason."""
    layers = {
        name: replace(layer, keep_float=True, reason=reasons[name]) if name in reasons else layer
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def integer_layers(graph: Path, plan: Plan, spec: Spec) -> list[str]:
    """Layers that a target with `spec` runs in int8 under `plan`, in the graph's order."""
    return [name for name, reason in decide(plan, spec, load_graph(graph)).items() if not reason]


def run(session: GraphSession, batches: Batches) -> list[Outputs]:
    """Outputs by name for each batch."""
    return [session.run(batch) for batch in batches]


@dataclass(frozen=True)
class OutputNoise:
    """The noise of a network's outputs: the power of their change over their own power, for each part by itself."""

    parts: tuple[OutputPart, ...]

    @staticmethod
    def of(graph: Path) -> OutputNoise:
        """The noise of the outputs of the network in the file `graph`."""
        return OutputNoise(output_parts(load_graph(graph)))

    def ratios(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> np.ndarray:
        """Power of the change over the power of the expected values, (inputs, parts) float64; NaN for a part of 0."""
        return np.array([
            [_ratio(part.values(first), part.values(second)) for part in self.parts]
            for first, second in zip(expected, actual, strict=True)
        ])  # fmt: skip

    def changes(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> np.ndarray:
        """The mean of the ratios over the parts that are not 0, (inputs,) float64; 0 without any."""
        ratios = self.ratios(expected, actual)
        counts = np.isfinite(ratios).sum(axis=1)  # (inputs,)
        return np.asarray(np.nansum(ratios, axis=1) / np.maximum(counts, 1))

    def noise(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
        """The geometric mean of the ratios over inputs and parts; 0 if all parts are 0.

        Noise has a long tail: in a sum, the few inputs whose peaks are clipped would outweigh all others; in a mean of
        ratios, a detector's output for an image in which there is nothing to detect.
        """
        ratios = self.ratios(expected, actual)
        known = ratios[np.isfinite(ratios)]
        return float(np.exp(np.log(np.maximum(known, EXACT)).mean())) if len(known) else 0.0


def noise(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """`OutputNoise.noise` of outputs as they are, each of them one part."""
    return OutputNoise(whole_outputs(expected[0])).noise(expected, actual)


def _ratio(expected: np.ndarray, actual: np.ndarray) -> float:
    power = float((expected**2).sum())
    return float(((actual - expected) ** 2).sum()) / power if power else float("nan")


def layer_noises(changed: np.ndarray, full: Sequence[int]) -> np.ndarray:
    """What each variant of a layer adds to the noise of the whole network, (variants,).

    `changed` (variants, inputs) holds the change that each variant makes alone (see `OutputNoise.changes`). The rows in
    `full` make up a network with all layers in int8: the changes of single layers add up nearly to that of all. On each
    input the share of a variant in this sum counts, so that no input counts for more than another.
    """
    together = changed[list(full)].sum(axis=0)  # (inputs,): of a network that is all in int8, nearly
    used = together > 0
    if not used.any():
        return np.zeros(len(changed))
    # noise = geometric mean over inputs of the sum of all layers' changes. A layer's part of it is the mean of its
    # share in that sum, so that the parts of all layers add up to the noise.
    typical = np.exp(np.log(together[used]).mean())
    return np.asarray(typical * (changed[:, used] / together[used]).mean(axis=1))


def decibels(power: float) -> float:
    """Signal over noise in dB, from noise over signal."""
    return -10 * float(np.log10(max(power, EXACT)))
