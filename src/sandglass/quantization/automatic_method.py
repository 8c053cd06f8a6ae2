"""The threshold method that suits a network: the one that leaves the least noise at its outputs, by simulation.

No method is the best one everywhere. `mse` and `minmax` keep rare large values, and every other image pays for them
with coarse steps; `kl` clips them, and some networks need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sandglass.core.json_values import JsonObject
from sandglass.graph.io import load_graph
from sandglass.graph.layers import OPERATORS
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, layer_work, spread
from sandglass.quantization.make_plan import make_plans
from sandglass.quantization.output_noise import EXACT, Outputs, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.quantization.thresholds import METHODS

MOST_INPUTS = 16  # calibration inputs that each method is tried on: methods that matter differ by several dB there
# A plan serves every target, so that methods are tried on one with zero points and on one without.
TARGETS = tuple(Spec(OPERATORS, asymmetric=asymmetric) for asymmetric in (True, False))


def automatic_plan(graph: Path, batches: Sequence[np.ndarray | Outputs], calibration: JsonObject | None = None) -> Plan:
    """The plan of the method with the highest signal-to-noise ratio where all layers are in int8.

    The ratio is the mean in dB over the graph's outputs, over inputs spread over `batches`, and over TARGETS. Raises
    what `make_plan` raises.
    """
    plans, session = make_plans(graph, batches, METHODS, calibration), GraphSession(graph)
    work = sum(macs for macs, _ in layer_work(load_graph(graph)).values())
    chosen = spread(batches, inputs_to_try(work, MOST_INPUTS))
    tried = [batch if isinstance(batch, Mapping) else {session.input_names[0]: batch} for batch in chosen]
    expected = run(session, tried)

    def quality(plan: Plan) -> float:
        return float(np.mean([signal_to_noise(expected, run(simulate(graph, plan, spec), tried)) for spec in TARGETS]))

    return max(plans.values(), key=quality)


def signal_to_noise(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """Power of the outputs over the power of their change, in dB, the mean over outputs and inputs."""
    ratios = []
    for first, second in zip(expected, actual, strict=True):
        for name, values in first.items():
            power, change = (float((array.astype(np.float64) ** 2).sum()) for array in (values, values - second[name]))
            ratios.append(-10 * np.log10(max(change, EXACT * power) / power) if power else 0.0)
    return float(np.mean(ratios))
