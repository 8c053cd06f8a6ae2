"""The default plan of a deployment: all repairs, and as few layers in float as the task needs.

Full int8 is simulated on the calibration images. If the task's agreement with the float network is too low, layers
return to float until it is high enough, first those with the most noise for their multiply-accumulates. This measures
no times on a runtime and needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory

from sandglass.core.errors import GraphError
from sandglass.core.progress import Say
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, spread
from sandglass.quantization import output_noise
from sandglass.quantization.output_noise import OutputNoise
from sandglass.quantization.plan import Plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.search.fidelity_check import INPUTS, MARGIN
from sandglass.search.inputs import SearchInputs
from sandglass.search.layer_costs import measure_noises
from sandglass.search.run import CHOICES, Run
from sandglass.search.trials import RepairedPlan, full_int8_plan, plan_with

# Inputs on which each layer is rounded alone, at most. They only order the layers; the agreement is measured on INPUTS.
ORDERING_INPUTS = 8
# Least signal-to-noise ratio at the outputs, in dB, if the task's agreement is undefined on all calibration images:
# noise of 1 % of the outputs' power is a correlation of 0.995. `artifacts.parity` publishes from 7 dB on, or 0.9.
LEAST_DECIBELS = 20.0


@dataclass(frozen=True)
class Agreement:
    """The agreement of a plan with the float network on the calibration images: `value` of a `measure`.

    `least` is the value that is needed.
    """

    measure: str
    value: float
    least: float

    @property
    def suffices(self) -> bool:
        """Whether the value is high enough."""
        return self.value >= self.least

    @property
    def text(self) -> str:
        """The measure, its value, and the value that is needed."""
        return f"{self.measure} to float {self.value:.4g} (at least {self.least:.4g})"


def default_plan(inputs: SearchInputs, say: Say) -> Plan:
    """The plan for the backend of the inputs and the processor of their source, from calibration images alone.

    Raises GraphError for the graph, and PlanError for activations that are not finite.
    """
    with TemporaryDirectory(dir=inputs.source.graph.parent) as scratch:
        run = Run.new(Path(scratch), say)
        inputs = without_predictions_of_another_task(inputs, say)
        return acceptable_plan(inputs, full_int8_plan(inputs, repair_names(), run), run)


def without_predictions_of_another_task(inputs: SearchInputs, say: Say) -> SearchInputs:
    """The same inputs, with `decodes` false if the task refuses the outputs of the graph.

    The noise at the outputs then decides in place of predictions, so that a network of any task can be deployed.
    """
    look = inputs.looks[0]
    outputs = GraphSession(inputs.source.graph).run(look.inputs)
    try:
        inputs.prediction(outputs, look)
    except GraphError as error:
        say(f"plan: {error.message}; noise at the outputs decides in place of predictions")
        return replace(inputs, decodes=False)
    return inputs


def acceptable_plan(inputs: SearchInputs, repaired: RepairedPlan, run: Run) -> Plan:
    """The repaired plan with layers in float until the agreement suffices.

    It must reach the task's least fidelity and the margin that a search keeps for other images.
    """
    agreement = _simulation(inputs)
    full = agreement(repaired.plan)
    run.say(f"plan: all {len(repaired.integer_layers)} layers in int8: {full.text}")
    if full.suffices or not repaired.integer_layers:
        return repaired.plan
    order = _layers_by_cost(inputs, repaired, run)
    run.left.expect(CHOICES, len(order).bit_length())

    def plan_without(count: int) -> Plan:
        reason = f"the error is too large: {full.text} with all layers in int8"
        return plan_with(inputs, repaired, {}, dict.fromkeys(order[:count], reason))

    def suffices(count: int) -> bool:
        result = agreement(plan_without(count))
        run.left.step(CHOICES)
        run.say(f"plan: {count} of {len(order)} layers in float: {result.text}")
        return result.suffices

    count = fewest(len(order), suffices)
    run.left.end(CHOICES)
    return plan_without(count)


def fewest(most: int, suffices: Callable[[int], bool]) -> int:
    """The least number from 1 to `most` that suffices, if all larger numbers do too; `most` itself is not tested."""
    low, high = 0, 1  # `low` does not suffice
    while high < most and not suffices(high):
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _layers_by_cost(inputs: SearchInputs, repaired: RepairedPlan, run: Run) -> list[str]:
    """The layers in int8, first those with the most noise for their multiply-accumulates."""
    bits = {name: inputs.spec.bits(inputs.layers[name])[0] for name in repaired.integer_layers}
    noises = measure_noises(inputs, repaired, list(bits.items()), run, ORDERING_INPUTS)
    return sorted(bits, key=lambda name: -noises[name, bits[name]].output / max(1, inputs.macs.get(name, 0)))


def _simulation(inputs: SearchInputs) -> Callable[[Plan], Agreement]:
    """A function that simulates a plan and returns its agreement with the float network.

    The measure is the task's first one, or the noise at the outputs if that is undefined.
    """
    looks = spread(inputs.looks, inputs_to_try(inputs.total_macs, INPUTS))
    feeds = [look.inputs for look in looks]
    expected = output_noise.run(GraphSession(inputs.source.graph), feeds)
    predictions, noise_of = inputs.predictions(expected, looks), OutputNoise.of(inputs.source.graph)
    least = inputs.task.LEAST_FIDELITY + MARGIN * (1 - inputs.task.LEAST_FIDELITY)

    def agreement(plan: Plan) -> Agreement:
        outputs = output_noise.run(simulate(inputs.source.graph, plan, inputs.spec), feeds)
        value = inputs.agreement(predictions, inputs.predictions(outputs, looks))
        if isnan(value):
            noise = output_noise.decibels(noise_of.noise(expected, outputs))
            return Agreement("signal-to-noise ratio in dB", noise, LEAST_DECIBELS)
        return Agreement(inputs.task.FIDELITY[0], value, least)

    return agreement
