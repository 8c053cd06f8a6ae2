"""The noise that rounding adds to the outputs of a network: of the whole network, and of single layers."""

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

EXACT = 1e-12  # noise of outputs that differ in the last bits only
Outputs = Mapping[str, np.ndarray]
Batches = Sequence[Outputs]


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with all layers in float except those in `names`."""
    layers = {
        name: layer if name in names else replace(layer, keep_float=True, reason="left out")
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan with the layers in `reasons` in float, each with its reason."""
    layers = {
        name: replace(layer, keep_float=True, reason=reasons[name]) if name in reasons else layer
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def integer_layers(graph: Path, plan: Plan, spec: Spec) -> list[str]:
    """The layers that a target with `spec` runs in int8 under `plan`, in the graph's order."""
    return [name for name, reason in decide(plan, spec, load_graph(graph)).items() if not reason]


def run(session: GraphSession, batches: Batches) -> list[Outputs]:
    """The outputs of each batch, by name."""
    return [session.run(batch) for batch in batches]


@dataclass(frozen=True)
class OutputNoise:
    """The noise of a network's outputs: for each part, the power of its change over its power."""

    parts: tuple[OutputPart, ...]

    @staticmethod
    def of(graph: Path) -> OutputNoise:
        """The noise of the outputs of the network in the file `graph`."""
        return OutputNoise(output_parts(load_graph(graph)))

    def ratios(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> np.ndarray:
        """The power of the change over the power of the expected values, (inputs, parts) float64.

        NaN for a part whose expected values are all 0.
        """
        return np.array([
            [_ratio(part.values(first), part.values(second)) for part in self.parts]
            for first, second in zip(expected, actual, strict=True)
        ])  # fmt: skip

    def changes(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> np.ndarray:
        """The mean of the ratios over the parts for which they are not NaN, (inputs,) float64; 0 if there are none."""
        ratios = self.ratios(expected, actual)
        counts = np.isfinite(ratios).sum(axis=1)  # (inputs,)
        return np.asarray(np.nansum(ratios, axis=1) / np.maximum(counts, 1))

    def noise(self, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
        """The geometric mean of the ratios over inputs and parts; 0 if all parts are 0.

        Noise has a long tail. In a sum of powers, the few inputs with clipped peaks would outweigh all others. In an
        arithmetic mean of ratios, images in which a detector has nothing to detect would.
        """
        ratios = self.ratios(expected, actual)
        finite = ratios[np.isfinite(ratios)]
        return float(np.exp(np.log(np.maximum(finite, EXACT)).mean())) if len(finite) else 0.0


def noise(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """The noise of outputs without their graph, each as one part; see `OutputNoise.noise`."""
    return OutputNoise(whole_outputs(expected[0])).noise(expected, actual)


def _ratio(expected: np.ndarray, actual: np.ndarray) -> float:
    power = float((expected**2).sum())
    return float(((actual - expected) ** 2).sum()) / power if power else float("nan")


def layer_noises(changed: np.ndarray, full: Sequence[int]) -> np.ndarray:
    """The noise that each variant of a layer adds to the whole network, (variants,).

    `changed` (variants, inputs) has the change by each variant alone (see `OutputNoise.changes`). The rows in `full`
    are a network with all layers in int8: the sum of these changes is nearly the change by all layers together. Each
    variant gets its mean share of this sum, so that all inputs have the same weight.

    Example: two layers, whose changes are 0.03 and 0.01 on one input, and 0.30 and 0.10 on another. The sums are 0.04
    and 0.40, with the geometric mean 0.126. The layers have 3/4 and 1/4 of it, on both inputs.

        >>> layer_noises(np.array([[0.03, 0.30], [0.01, 0.10]]), full=[0, 1]).round(3)
        array([0.095, 0.032])
    """
    together = changed[list(full)].sum(axis=0)  # (inputs,): nearly the change by all layers in int8
    used = together > 0
    if not used.any():
        return np.zeros(len(changed))
    # The noise of the network is the geometric mean over inputs of these sums. The mean shares of all layers add up to
    # 1, so that their noises add up to the noise of the network.
    typical = np.exp(np.log(together[used]).mean())
    return np.asarray(typical * (changed[:, used] / together[used]).mean(axis=1))


def decibels(power: float) -> float:
    """The signal-to-noise ratio in dB, from noise over signal: 0.01 gives 20 dB."""
    return -10 * float(np.log10(max(power, EXACT)))
