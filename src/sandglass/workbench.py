"""A source on the bench for one backend: its repaired plan, artifacts made of it, and what its layers cost and gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sandglass import discover, host, parity, pipeline
from sandglass.artifact import Artifact
from sandglass.backends import Source
from sandglass.errors import InputError
from sandglass.evaluation import infer
from sandglass.inspection import inspect
from sandglass.journal import Journal
from sandglass.pipeline import Calibration, Say, Target
from sandglass.quantize.plan import Plan
from sandglass.quantize.repair import Material
from sandglass.quantize.search import Cost

SENSITIVITY_SAMPLES = 12


class Workbench:
    """A source with its repaired plan for one backend, and what is made and measured of it."""

    def __init__(
        self, source: Source, backend: str, calibration: Calibration, repairs: Sequence[str], say: Say
    ) -> None:
        from sandglass.graph.execute import GraphSession
        from sandglass.quantize.sensitivity import run

        self.source, self.backend, self.say = source, backend, say
        self.task = discover.load("tasks", source.card.task)
        self.spec = discover.load("backends", backend).SPEC
        inputs = pipeline.calibration_inputs(source.card, calibration)
        arrays = [array for array, _ in inputs]
        self.metas = [meta for _, meta in inputs[:SENSITIVITY_SAMPLES]]
        self.reference = parity.Reference(source, arrays)
        name = next(iter(self.reference.inputs))
        self.batches = [{name: array} for array in arrays]
        self.probes = self.batches[:SENSITIVITY_SAMPLES]
        self.expected = run(GraphSession(source.graph), self.probes)
        self.plan, self.material = self._best_plan(calibration, repairs)

    def _best_plan(self, calibration: Calibration, repairs: Sequence[str]) -> tuple[Plan, Material]:
        """The plan with the repairs, or without equalization where that leaves less noise.

        Even channels help activations and hurt weights: which weighs more depends on the network.
        """
        from sandglass.quantize import repair, sensitivity
        from sandglass.quantize.simulate import simulate

        graph, batches, drawn = self.source.graph, self.probes, pipeline.drawn(calibration, len(self.batches))
        without = [name for name in repairs if name != repair.EQUALIZE]
        found: list[tuple[float, Plan, Material]] = []
        for chosen in [list(repairs)] + ([without] if len(without) < len(repairs) else []):
            plan, material = repair.repaired_plan(
                graph, self.batches, self.spec, graph.parent, calibration.method, chosen, drawn, self.say
            )
            noise = sensitivity.noise(self.expected, sensitivity.run(simulate(graph, plan, self.spec), batches))
            self.say(f"repair: {', '.join(chosen) or 'none'}: {sensitivity.decibels(noise):.1f} dB at the output")
            found.append((noise, plan, material))
        _, plan, material = min(found, key=lambda entry: entry[0])
        return plan, material

    def make(self, folder: Path, plan: Plan | None) -> Artifact:
        """The artifact for a plan, or the float one, in `folder`; raises what stopped it."""
        target = Target(self.backend, "int8" if plan else "fp32")
        made = pipeline.build_artifact(target, self.source, plan, self.reference, folder, True, self.say)
        if made.artifact is None:
            raise made.error or InputError(f"{target} was not made")
        return made.artifact

    def costs(self, full: Artifact, base: Artifact) -> list[Cost]:
        """What each layer that `full` runs in int8 costs and gains: noise by simulation, time by the runtime's clock.

        The simulations are journaled: a run that was killed goes on where it stopped.
        """
        from sandglass.quantize import sensitivity

        graph, plan = self.source.graph, self.plan
        layers = sensitivity.integer_layers(graph, plan, self.spec)
        journal = Journal({"alone": plan.sha256, "graph": plan.graph, "backend": self.backend})
        todo = [name for i, name in enumerate(layers) if i not in journal.done]
        first = self._decoded(self.expected)
        for name, found in sensitivity.alone(graph, plan, self.spec, self.probes, todo):
            power = sensitivity.noise(self.expected, found)
            agreed = [self.task.agreement(a, b) for a, b in zip(first, self._decoded(found), strict=True)]
            kept = float(np.nanmean([entry[self.task.FIDELITY[0]] for entry in agreed]))
            journal.append({layers.index(name): [power, kept]})
            self.say(f"sensitivity: {len(journal.done)}/{len(layers)} {name}: {sensitivity.decibels(power):.1f} dB")
        measured = {name: journal.done[i] for i, name in enumerate(layers)}
        journal.close()
        seen = inspect(full, threads=1, against=base)
        integer = {run.name: run.milliseconds or 0.0 for run in seen.runs if run.macs}
        floating = seen.float_times()
        return [
            Cost(
                name,
                measured[name][0],
                floating.get(name, 0.0),
                integer.get(name, 0.0),
                self.macs.get(name, 0),
                self.material.local_noise(plan, name) if name in self.material.rows else 0.0,
                measured[name][1],
            )
            for name in layers
        ]

    def _decoded(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> list[Any]:
        return [
            self.task.decode(found, [meta], self.source.card)[0]
            for found, meta in zip(outputs, self.metas, strict=True)
        ]

    def simulated(self, plan: Plan, artifact: Artifact, dataset: Any) -> list[Any]:
        """Predictions for every sample of a dataset, in order, under a plan that no artifact is built for."""
        from sandglass.quantize.simulate import simulate

        session, samples = simulate(self.source.graph, plan, self.spec, threads=1), self.task.samples(dataset)
        found: dict[int, Any] = {}
        for part in infer(self.task, artifact, session, dataset, samples, workers=host.threads()):
            found |= part
        return [found[sample.index] for sample in samples]

    def integer_share(self, plan: Plan) -> float:
        """Share of the multiply-accumulates that run in int8 under a plan, 0 to 1."""
        from sandglass.quantize.sensitivity import integer_layers

        integer = integer_layers(self.source.graph, plan, self.spec)
        return sum(self.macs.get(name, 0) for name in integer) / max(1, sum(self.macs.values()))

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each layer for one image."""
        from sandglass.graph.load import load_graph
        from sandglass.graph.work import layer_work

        return {name: macs for name, (macs, _) in layer_work(load_graph(self.source.graph)).items()}
