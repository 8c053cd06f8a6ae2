"""A source on the bench for one backend: its repaired plan, artifacts made of it, and what its layers cost and gain."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.artifacts import build, parity
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.target import Target
from sandglass.core import discover
from sandglass.core.errors import InputError
from sandglass.core.progress import Say, TimeLeft
from sandglass.core.resume import Journal
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import Facts, facts
from sandglass.graph.work import inputs_to_try, layer_work, spread
from sandglass.measure.benchmarking import undisturbed
from sandglass.measure.inspection import inspect
from sandglass.quantization.calibration import Calibration, calibration_looks, drawn
from sandglass.quantization.layer_data import Material
from sandglass.quantization.plan import Plan
from sandglass.quantization.plan_arrays import Rounded
from sandglass.quantization.repairs import split_channels
from sandglass.search import conversions
from sandglass.search.costs import Cost, Crossing, Way, saved
from sandglass.search.timing import Timed, scaled, splitting, two_numbers
from sandglass.sources.source import Source

SENSITIVITY_SAMPLES = 24  # the most inputs that each layer is tried on
PLAN_SAMPLES = 128  # the most inputs that a whole plan is tried on
MOVED_CLIPS = 0.8  # of the noise without them: what they have to leave, or less
TIMED_SECONDS = 3.0
TIMED = 5  # artifacts
PLANS, LAYERS, TIMES = "plans", "layers", "times"  # stages


class Workbench:
    """A source with its repaired plan for one backend, and what is made and measured of it."""

    def __init__(
        self,
        source: Source,
        backend: str,
        calibration: Calibration,
        repairs: Sequence[str],
        say: Say,
        left: TimeLeft | None = None,
    ) -> None:
        from sandglass.graph.session import GraphSession
        from sandglass.quantization.output_noise import run

        self.left = left or TimeLeft()
        self.source, self.backend, self.say = source, backend, self.left.saying(say)
        self.task = discover.load("tasks", source.card.task)
        self.spec = discover.load("backends", backend).SPEC.on(source.processor)
        inputs, others = calibration_looks(source.card, calibration)
        arrays = [array for array, _ in inputs]
        self.reference = parity.Reference(source, arrays)
        name = next(iter(self.reference.inputs))
        self.batches = [{name: array} for array in arrays]
        self.looks = [({name: array}, meta) for array, meta in (*inputs, *others)]
        self.probed = spread(self.looks, inputs_to_try(sum(self.macs.values()), SENSITIVITY_SAMPLES))
        self.probes = [batch for batch, _ in self.probed]
        self.expected = run(GraphSession(source.graph), self.probes)
        self.plan, self.material = self._best_plan(calibration, repairs)

    def _best_plan(self, calibration: Calibration, repairs: Sequence[str]) -> tuple[Plan, Material]:
        """The plan with the repairs, or with less equalization where that leaves less noise.

        Even channels help activations and hurt weights: which weighs more depends on the network. Clips that move
        change it for inputs that were not seen, and have to bring more than a little. What the plan without
        equalization clips tells how far channels reach that are to be even.
        """
        from sandglass.graph.session import GraphSession
        from sandglass.quantization import output_noise, repaired_plan
        from sandglass.quantization.automatic_method import automatic_plan
        from sandglass.quantization.simulate import simulate
        from sandglass.quantization.thresholds import AUTO

        graph, told, method = self.source.graph, drawn(calibration, len(self.batches)), calibration.method
        if method == AUTO:
            method = automatic_plan(graph, self.batches).method
        tried = spread(self.batches, inputs_to_try(sum(self.macs.values()), PLAN_SAMPLES))
        expected = output_noise.run(GraphSession(graph), tried)

        def made(chosen: Sequence[str], uneven: Plan | None = None) -> tuple[float, Plan, Material]:
            plan, material = repaired_plan.repaired_plan(
                graph, self.batches, self.spec, graph.parent, method, chosen, told, self.say, uneven
            )
            session, started = simulate(graph, plan, self.spec), time.monotonic()
            level = output_noise.noise(expected, output_noise.run(session, tried))
            self.left.measured((time.monotonic() - started) / len(tried))
            self.left.step(PLANS)
            self.say(f"repair: {', '.join(chosen) or 'none'}: {output_noise.decibels(level):.1f} dB at the output")
            return level, plan, material

        surest, *others = repaired_plan.choices(graph, self.spec, repairs)
        self.left.expect(PLANS, 1 + len(others))
        best = made(surest)
        _, uneven, _ = best
        for chosen in others:
            found = made(chosen, uneven)
            if found[0] < best[0] * (MOVED_CLIPS if repaired_plan.CLIPS in chosen else 1.0):
                best = found
        return best[1:]

    def tried(self, folder: Path, plan: Plan) -> Artifact:
        """The artifact for a plan that is to be measured, however far it is from float."""
        return self._made(folder, plan, self.reference.lenient())

    def make(self, folder: Path, plan: Plan | None) -> Artifact:
        """The artifact for a plan, or the float one, in `folder`; raises what stopped it."""
        return self._made(folder, plan, self.reference)

    def _made(self, folder: Path, plan: Plan | None, reference: parity.Reference) -> Artifact:
        target = Target(self.backend, "int8" if plan else "fp32")
        made = build.build_artifact(target, self.source, plan, reference, folder, True, self.say)
        if made.artifact is None:
            raise made.error or InputError(f"{target} was not made")
        return made.artifact

    def planned(self, bits: Mapping[str, int], reasons: Mapping[str, str]) -> Plan:
        """The plan with each layer in `bits` rounded to so many, and those in `reasons` in float for their reason."""
        from sandglass.quantization.output_noise import without

        plan, known = self.plan, self._facts
        effective = {name: self.spec.weight_bits(known[name], plan.layers[name].weight_bits) for name in bits}
        changed = {name: count for name, count in bits.items() if count != effective[name]}
        layers = plan.layers | {name: replace(plan.layers[name], weight_bits=count) for name, count in changed.items()}
        rounded = {**plan.arrays.rounded}
        for name, count in changed.items():
            if name in rounded:
                rounded[name] = self._rounded(name, count)
        return without(replace(plan, layers=layers, arrays=replace(plan.arrays, rounded=rounded)), reasons)

    @cache  # noqa: B019 - a workbench lives as long as its search
    def _rounded(self, name: str, bits: int) -> Rounded:
        return self.material.round(self.plan, name, bits, self.plan.repairs)

    def costs(self, folder: Path, full: Artifact, base: Artifact) -> list[Cost]:
        """What each layer that `full` runs in int8 costs and gains, in each of its ways.

        Noise is simulated, time read from the runtime's clock. The simulations are journaled: a run that was killed
        goes on where it stopped. Artifacts of further ways are made in `folder`.
        """
        ways = {name: self.spec.bits(self._facts[name]) for name in self.integer_layers}
        noises = self._noises([(name, bits) for name, given in ways.items() for bits in given])
        floating, widest = self._times(full, base)
        times = {(name, given[0]): widest.get(name, 0.0) for name, given in ways.items()}
        for bits in {bits for given in ways.values() for bits in given[1:]}:
            narrower = {name: bits for name, given in ways.items() if bits in given[1:]}
            _, found = self._times(self.tried(folder / f"{bits}-bit", self.planned(narrower, {})), base)
            times |= {(name, bits): found.get(name, 0.0) for name in narrower}
        return [
            Cost(
                name,
                floating.get(name, 0.0),
                tuple(Way(bits, times[name, bits], *noises[name, bits]) for bits in ways[name]),
                self.macs.get(name, 0),
            )
            for name in ways
        ]

    def _noises(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[float, float, float]]:
        """For layers rounded alone to so many bits: noise at the network's output, at their own, and fidelity."""
        from sandglass.quantization import output_noise
        from sandglass.quantization.simulate import simulate

        graph = self.source.graph
        journal = Journal({"alone": self.plan.sha256, "graph": self.plan.graph, "ways": [list(way) for way in wanted]})
        with journal:
            self.left.expect(LAYERS, len(wanted) - len(journal.done), runs=len(self.probes))
            first = self._predictions(self.expected)
            for i, (name, bits) in enumerate(wanted):
                if i in journal.done:
                    continue
                plan = self.planned({name: bits}, {})
                found = output_noise.run(simulate(graph, output_noise.only(plan, [name]), self.spec), self.probes)
                agreed = [self.task.agreement(a, b) for a, b in zip(first, self._predictions(found), strict=True)]
                kept = float(np.nanmean([entry[self.task.FIDELITY[0]] for entry in agreed]))
                local = self.material.local_noise(plan, name) if name in self.material.rows else 0.0
                journal.append({i: [output_noise.changes(self.expected, found).tolist(), local, kept]})
                told = output_noise.decibels(output_noise.noise(self.expected, found))
                self.left.step(LAYERS)
                self.say(f"sensitivity: {len(journal.done)}/{len(wanted)} {name}: {told:.1f} dB")
        changed = np.array([journal.done[i][0] for i in range(len(wanted))])
        first_ways = [i for i, (name, _) in enumerate(wanted) if name not in dict(wanted[:i])]
        noises = output_noise.layer_noises(changed, output_noise.powers(self.expected), first_ways)
        measured = {way: (float(noises[i]), *journal.done[i][1:]) for i, way in enumerate(wanted)}
        journal.close()
        return measured

    def _times(self, artifact: Artifact, base: Artifact) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds of each layer with weights in the float artifact and in this one."""
        seen = inspect(artifact, threads=1, against=base)  # quieter than all, and in the same proportions
        return seen.float_times(), seen.layer_times()

    def timed(self, folder: Path, costs: Sequence[Cost], full: Artifact, base: Artifact) -> Timed:
        """The costs with times that add up to what whole runs take, and what converting int8 and float costs.

        No profiler tells conversions apart, and its own times are too long or too short. Two numbers mend both:
        a factor for all layers and a time for an element converted. Where layers are timed converting that time is a
        part of theirs, and below 0 where it was timed too long. The two follow from what the float artifact takes,
        `full`, and three with half of the layers in int8: every other one, which converts the most, and the first and
        the last ones, which convert the least.
        """
        found = conversions.crossings(load_graph(self.source.graph), self.spec, self.integer_layers)
        costs, twice = self._with_splits(folder, costs, base)
        middle = len(costs) // 2
        every, *halves = (
            {cost.name: cost.ways[0] for cost in part} for part in (costs, costs[::2], costs[:middle], costs[middle:])
        )
        tried = []
        for number, chosen in enumerate(halves):
            rest = {name: "in float for its time" for name in every if name not in chosen}
            tried.append(self.tried(folder / f"half{number}", self.planned({}, rest)))
        speeds = undisturbed([base, full, *tried], seconds=TIMED_SECONDS, say=self.say)
        self.left.step(TIMES)
        whole, *others = (speed.median for speed in speeds)
        gains = [saved(costs, twice, chosen) for chosen in (every, *halves)]
        counts = [sum(e.milliseconds for e in found if e.crossed(chosen)) for chosen in (every, *halves)]
        seen = [whole - other for other in others]
        factor, price = two_numbers(gains, counts, seen, -np.inf if self.spec.timed_converting else 0.0)
        self.say(
            f"search: float takes {whole:.2f} ms, full int8 {others[0]:.2f}; times of layers count {factor:.2f}-fold, "
            f"converting a million elements {1e6 * price:+.2f} ms"
        )
        twice = [replace(entry, milliseconds=factor * entry.milliseconds) for entry in twice]
        between = [replace(entry, milliseconds=price * entry.milliseconds) for entry in found]
        if not self.spec.timed_converting:
            return Timed([scaled(cost, factor) for cost in costs], [*between, *twice], whole)
        own = {name: entry.milliseconds for entry in between for name in entry.readers}
        return Timed([scaled(cost, factor, own[cost.name]) for cost in costs], twice, whole)

    def _with_splits(self, folder: Path, costs: Sequence[Cost], base: Artifact) -> tuple[list[Cost], list[Crossing]]:
        """The costs, and what channels that stand there twice cost the layers around them that stay in float."""
        model = load_graph(self.source.graph)
        around = split_channels.links_of(model, self.plan.split)
        if not around:
            return list(costs), []
        graph = folder / "split.onnx"
        save_graph(split_channels.split(model, self.plan.split), graph)
        target = Target(self.backend, "fp32")
        source = replace(self.source, graph=graph)
        made = build.build_artifact(target, source, None, self.reference, folder / "split", True, self.say)
        if made.artifact is None:
            raise made.error or InputError(f"{target} was not made")
        twice, once = (inspect(artifact, threads=1).layer_times() for artifact in (made.artifact, base))
        return splitting(costs, around, {name: twice[name] - once[name] for name in twice.keys() & once.keys()})

    @cached_property
    def integer_layers(self) -> list[str]:
        """Layers that the backend runs in int8 under the plan, in the graph's order."""
        from sandglass.quantization.output_noise import integer_layers

        return integer_layers(self.source.graph, self.plan, self.spec)

    def decoded(self, outputs: Mapping[str, np.ndarray], meta: Any) -> Any:
        """The prediction that one input's outputs are."""
        return self.task.decode(outputs, [meta], self.source.card)[0]

    def _predictions(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> list[Any]:
        return [self.decoded(found, meta) for found, (_, meta) in zip(outputs, self.probed, strict=True)]

    @cached_property
    def _facts(self) -> dict[str, Facts]:
        return facts(load_graph(self.source.graph))

    def share(self, integer: Iterable[str]) -> float:
        """Share of the multiply-accumulates that the layers in `integer` have, 0 to 1."""
        return sum(self.macs.get(name, 0) for name in integer) / max(1, sum(self.macs.values()))

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each layer for one image."""
        return {name: macs for name, (macs, _) in layer_work(load_graph(self.source.graph)).items()}
