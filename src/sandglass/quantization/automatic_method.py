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
from sandglass.quantization.output_noise import OutputNoise, Outputs, decibels, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.quantization.thresholds import METHODS

MOST_INPUTS = 16  # calibration inputs that each method is tried on: methods that matter differ by several dB there
# A plan serves every target, so that methods are tried on one with zero points and on one without.
TARGETS = tuple(Spec(OPERATORS, asymmetric=asymmetric) for asymmetric in (True, False))


def automatic_plan(graph: Path, batches: Sequence[np.ndarray | Outputs], calibration: JsonObject | None = None) -> Plan:
    """The plan of the method with the least noise at the outputs when all layers are in int8.

    The noise in dB is the mean over the parts of the outputs, inputs spread over `batches`, and TARGETS. Raises what
    `make_plan` raises.
    """
    plans, session = make_plans(graph, batches, METHODS, calibration), GraphSession(graph)
    work = sum(macs for macs, _ in layer_work(load_graph(graph)).values())
    chosen = spread(batches, inputs_to_try(work, MOST_INPUTS))
    tried = [batch if isinstance(batch, Mapping) else {session.input_names[0]: batch} for batch in chosen]
    expected = run(session, tried)

    measure = OutputNoise.of(graph)

    def noise_of(plan: Plan) -> float:
        noises = [measure.noise(expected, run(simulate(graph, plan, spec), tried)) for spec in TARGETS]
        return float(np.mean([-decibels(noise) for noise in noises]))

    return min(plans.values(), key=noise_of)
