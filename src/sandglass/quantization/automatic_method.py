"""The threshold method for a network: the one with the least noise at its outputs, by simulation.

No method is best for all networks. `mse` and `minmax` keep rare large values, which makes the steps coarse for all
other images. `kl` clips these values, but some networks need them.
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

MOST_INPUTS = 16  # calibration inputs for each method, at most: important differences are several dB, and 16 show them
# A plan without repairs serves all targets: methods are tested for a target with zero points and for one without.
TARGETS = tuple(Spec(OPERATORS, asymmetric=asymmetric) for asymmetric in (True, False))


def automatic_plan(graph: Path, batches: Sequence[np.ndarray | Outputs], calibration: JsonObject | None = None) -> Plan:
    """The plan of the method with the least noise at the outputs if all layers are in int8.

    The noise in dB is the mean over the parts of the outputs, over inputs spread evenly over `batches`, and over
    TARGETS. `batches` and `calibration` are those of `make_plan`, and so are the errors.
    """
    plans, session = make_plans(graph, batches, METHODS, calibration), GraphSession(graph)
    work = sum(macs for macs, _ in layer_work(load_graph(graph)).values())
    chosen = spread(batches, inputs_to_try(work, MOST_INPUTS))
    inputs = [batch if isinstance(batch, Mapping) else {session.input_names[0]: batch} for batch in chosen]
    expected, measure = run(session, inputs), OutputNoise.of(graph)

    def noise_of(plan: Plan) -> float:
        noises = [measure.noise(expected, run(simulate(graph, plan, spec), inputs)) for spec in TARGETS]
        return float(np.mean([-decibels(noise) for noise in noises]))

    return min(plans.values(), key=noise_of)
