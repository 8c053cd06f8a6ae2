"""The costs of each layer: its noise when it alone is in int8, by simulation, and its times, by the profiler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.core.resume import Journal
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, spread
from sandglass.quantization import output_noise
from sandglass.quantization.output_noise import OutputNoise
from sandglass.quantization.simulate import simulate
from sandglass.search.costs import LayerCost, LayerVariant
from sandglass.search.inputs import Arrays, Look, SearchInputs
from sandglass.search.run import LAYERS, Run
from sandglass.search.trials import RepairedPlan, build_trial, plan_with

# Inputs on which each layer is rounded alone, at most. It bounds the longest stage of a search: a simulation on all of
# them for each variant of each layer. `inputs_to_try` chooses fewer for a large network.
SENSITIVITY_SAMPLES = 24

Variant = tuple[str, int]  # a layer's name and the bits of its weights


@dataclass(frozen=True)
class Noise:
    """The error when one layer alone is rounded.

    `output` is the power of the error at the network's outputs over the power of the outputs. `local` is the same at
    the output of the layer. `fidelity` is the agreement with the float network, 0 to 1.
    """

    output: float
    local: float
    fidelity: float


def measure_layer_costs(
    inputs: SearchInputs, repaired: RepairedPlan, full: Artifact, base: Artifact, run: Run
) -> list[LayerCost]:
    """The noise and the times of each layer that `full` runs in int8, in each of its variants, in the graph's order.

    `full` has all layers in int8 with their most bits, and `base` is the float artifact. Variants with fewer bits are
    timed in artifacts of their own.
    """
    bits = {name: inputs.spec.bits(inputs.layers[name]) for name in repaired.integer_layers}  # largest number first
    variants = [(name, count) for name in bits for count in bits[name]]
    noises = measure_noises(inputs, repaired, variants, run, SENSITIVITY_SAMPLES)
    float_ms, int8_ms = run.timer.paired_layers(full, base)
    times = {(name, bits[name][0]): int8_ms.get(name, 0.0) for name in bits}
    for count in {count for counts in bits.values() for count in counts[1:]}:
        narrower = {name: count for name in bits if count in bits[name][1:]}
        plan = plan_with(inputs, repaired, narrower, {})
        artifact = build_trial(inputs, plan, run.scratch / f"{count}-bit", run.say)
        _, int8_ms = run.timer.paired_layers(artifact, base)
        times |= {(name, count): int8_ms.get(name, 0.0) for name in narrower}

    def variant(name: str, count: int) -> LayerVariant:
        noise = noises[name, count]
        return LayerVariant(count, times[name, count], noise.output, noise.local, noise.fidelity)

    return [
        LayerCost(
            name,
            float_ms.get(name, 0.0),
            tuple(variant(name, count) for count in bits[name]),
            inputs.macs.get(name, 0),
        )
        for name in bits
    ]


def measure_noises(
    inputs: SearchInputs, repaired: RepairedPlan, variants: Sequence[Variant], run: Run, most_looks: int
) -> dict[Variant, Noise]:
    """The noise of each variant of a layer that alone is in int8, on at most `most_looks` looks.

    Finished simulations are written to a journal, so that a run that was killed can continue.
    """
    looks = spread(inputs.looks, inputs_to_try(inputs.total_macs, most_looks))
    session, started = GraphSession(inputs.source.graph), time.monotonic()
    expected = output_noise.run(session, [look.inputs for look in looks])
    run.left.measured((time.monotonic() - started) / len(looks))
    predictions, measure = inputs.predictions(expected, looks), OutputNoise.of(inputs.source.graph)
    plan = repaired.plan
    key = {"alone": plan.sha256, "graph": plan.graph, "ways": [list(one) for one in variants], "looks": len(looks)}
    journal = Journal[tuple[list[float], float, float]](key)  # changes of the outputs by look, local noise, fidelity
    with journal:
        run.left.expect(LAYERS, len(variants) - len(journal.done), runs=len(looks))
        for number, (name, bits) in enumerate(variants):
            if number in journal.done:
                continue
            outputs, local = _outputs_with_one(inputs, repaired, name, bits, looks)
            fidelity = inputs.agreement(predictions, inputs.predictions(outputs, looks))
            journal.append({number: (measure.changes(expected, outputs).tolist(), local, fidelity)})
            decibels = output_noise.decibels(measure.noise(expected, outputs))
            run.left.step(LAYERS)
            run.say(f"sensitivity: {len(journal.done)}/{len(variants)} {name}: {decibels:.1f} dB")
    rows = [journal.done[number] for number in range(len(variants))]
    changes = np.array([change for change, _, _ in rows])  # (variants, looks)
    first_of_layer = [i for i, (name, _) in enumerate(variants) if name not in dict(variants[:i])]
    # The first variants of all layers together are full int8: the noises are shares of its noise.
    noises = output_noise.layer_noises(changes, first_of_layer)  # (variants,)
    journal.close()
    return {
        variant: Noise(float(noise), local, fidelity)
        for variant, noise, (_, local, fidelity) in zip(variants, noises, rows, strict=True)
    }


def _outputs_with_one(
    inputs: SearchInputs, repaired: RepairedPlan, name: str, bits: int, looks: Sequence[Look]
) -> tuple[list[Arrays], float]:
    """The network's outputs for each look with one layer in int8, and the noise at the output of that layer."""
    plan = plan_with(inputs, repaired, {name: bits}, {})
    session = simulate(inputs.source.graph, output_noise.only(plan, [name]), inputs.spec)
    data = repaired.layer_data
    local = data.local_noise(plan, name) if name in data.rows else 0.0
    return output_noise.run(session, [look.inputs for look in looks]), local
