"""The contract of repairs: the float network stays, noise does not grow, and a repair can be left out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from sandglass.backends import usable_backends
from sandglass.cli.conformance import members
from sandglass.cli.conformance.networks import network, normal
from sandglass.cli.conformance.plans import hash_of, unrounded
from sandglass.core import discover
from sandglass.core.processor import ANY
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan
from sandglass.quantization.edits import apply_edits
from sandglass.quantization.output_noise import integer_layers, noise, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import repaired_plan
from sandglass.quantization.repairs import bias_correction, load_repairs
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

REPAIRS = {repair.NAME: repair for repair in load_repairs()}
SEAM = "quantization/repairs"
NAMES = [discover.load(SEAM, name).NAME for name in members(SEAM)]
SAME = 1e-4  # of the largest output: what float rounding in a few layers may change
MARGIN = 1.2  # of the noise without a repair, 0.8 dB: a choice by a few images may be off by this much on others
SIZE = (1, 3, 16, 12)  # of the inputs
PLAIN = """g (float[1, 3, 16, 12] image) => (float[1, 6, 16, 12] y) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1) r1 = Relu(c1)
    c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2) r2 = Relu(c2)
    y = Conv(r2, w3, b3) }"""
DEPTHWISE = """g (float[1, 3, 16, 12] image) => (float[1, 6, 16, 12] y) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1) r1 = Clip(c1, zero, high)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(r1, wd, bd) r2 = Clip(d, zero, high)
    p = Conv(r2, wp, bp) e = Conv(p, we, be) r3 = Relu(e)
    y = Conv(r3, w3, b3) }"""
RESIDUAL = """g (float[1, 3, 16, 12] image) => (float[1, 6, 16, 12] y) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1) r1 = Relu(c1)
    c2 = Conv(r1, wr, bd) s = Add(r1, c2) c3 = Conv(s, wr) r3 = Relu(c3)
    t = Concat<axis = 1>(r1, r3) y = Conv(t, wt, b3) }"""
UNEVEN = np.geomspace(0.05, 1, 8, dtype=np.float32)  # ranges of channels
WEIGHTS: dict[str, np.ndarray] = {
    "w1": normal(1, 8, 3, 3, 3) * UNEVEN[:, None, None, None] / 3, "b1": normal(2, 8) * UNEVEN,
    "w2": normal(3, 8, 8, 3, 3) / 6, "b2": normal(4, 8), "w3": normal(5, 6, 8, 1, 1) / 3, "b3": normal(6, 6),
    "wd": normal(7, 8, 1, 3, 3) / 2, "bd": normal(8, 8), "wp": normal(9, 4, 8, 1, 1) / 3, "bp": normal(10, 4) * 3,
    "we": normal(11, 8, 4, 1, 1) / 2, "be": normal(12, 8), "wr": normal(13, 8, 8, 1, 1) / 3,
    "wt": normal(14, 6, 16, 1, 1) / 4, "zero": np.array(0.0), "high": np.array(20.0),
}  # fmt: skip
TEXTS = {"plain": PLAIN, "depthwise": DEPTHWISE, "residual": RESIDUAL, "pixels": PLAIN}


def images(net: str, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of a network: values of a normal distribution, or normalized bytes for `pixels`."""
    if net != "pixels":
        return [{"image": normal(seed + i, *SIZE)} for i in range(count)]
    random = np.random.default_rng(seed)
    pixels = [random.integers(0, 256, SIZE).astype(np.float32) for _ in range(count)]
    return [{"image": (values - np.float32(120)) / np.float32(58)} for values in pixels]


@cache
def graph(net: str) -> Path:
    """The file of a network."""
    path = Path(_FOLDER.name) / f"{net}.onnx"
    save_graph(network(TEXTS[net], WEIGHTS), path)
    return path


_FOLDER = TemporaryDirectory(prefix="sandglass-repairs-")


def targets() -> dict[str, Spec]:
    """The integer arithmetic of every backend with int8, for any processor."""
    return {name: backend.SPEC.on(ANY) for name, backend in usable_backends().items() if backend.SPEC is not None}


TARGETS = targets()
SYMMETRIC, ASYMMETRIC = (
    next(name for name, spec in TARGETS.items() if spec.asymmetric is zero_point) for zero_point in (False, True)
)


@cache
def planned(net: str, target: str, repairs: tuple[str, ...]) -> Plan:
    """The plan of a network with these repairs."""
    with TemporaryDirectory() as scratch:
        batches = images(net, 16, 0)
        return repaired_plan(graph(net), batches, TARGETS[target], Path(scratch), "minmax", repairs)[0]


@cache
def simulated_noise(net: str, target: str, repairs: tuple[str, ...]) -> float:
    """The noise of the plan with these repairs, on other images than those of its calibration."""
    batches = images(net, 8, 1000)
    plan = planned(net, target, repairs)
    return noise(run(GraphSession(graph(net)), batches), run(simulate(graph(net), plan, TARGETS[target]), batches))


def test_contract() -> None:
    """Names are unique, and each repair has a source, steps and a docstring."""
    repairs = load_repairs()
    assert len(REPAIRS) == len(repairs) >= 5
    for repair in repairs:
        assert repair.NAME.strip().lower() == repair.NAME
        assert "-" not in repair.NAME  # the command line writes spaces as hyphens
        assert repair.SOURCE
        assert repair.STEPS
        assert repair.__doc__


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_float_network_is_unchanged(name: str, target: str) -> None:
    """The edits of the repair keep the outputs of the float network if no weights are rounded."""
    for net in TEXTS:
        plan = unrounded(planned(net, target, (name,)))
        model = apply_edits(load_graph(graph(net)), plan.edits, plan.layers)
        with TemporaryDirectory() as folder:
            save_graph(model, Path(folder) / "edited.onnx")
            edited = GraphSession(Path(folder) / "edited.onnx")
            for batch in images(net, 3, 2000):
                expected, found = (session.run(batch)["y"] for session in (GraphSession(graph(net)), edited))
                np.testing.assert_allclose(found, expected, atol=SAME * float(np.abs(expected).max()), err_msg=net)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_noise_does_not_grow(name: str, target: str) -> None:
    """A repair leaves about as much noise as there is without it, or less: the mean in dB over the networks.

    Both plans correct biases, because a repair may leave a constant error in each channel to the bias correction.
    """
    base = tuple({bias_correction.NAME} - {name})
    ratios = [simulated_noise(net, target, (*base, name)) / simulated_noise(net, target, base) for net in TEXTS]
    assert np.exp(np.mean(np.log(ratios))) < MARGIN, dict(zip(TEXTS, ratios, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_repair_can_be_left_out(name: str, tmp_path: Path) -> None:
    """A plan without it names the other repairs, survives its file, and has layers in int8."""
    rest = tuple(other for other in REPAIRS if other != name)
    for net, target in (("depthwise", SYMMETRIC), ("pixels", ASYMMETRIC)):
        plan = planned(net, target, rest)
        assert plan.repairs == rest
        assert loaded(plan, net, tmp_path).sha256 == plan.sha256
        assert integer_layers(graph(net), plan, TARGETS[target])


def loaded(plan: Plan, net: str, folder: Path) -> Plan:
    """The plan, saved and read again."""
    plan.save(folder / "plan.json")
    return make_plan.load_plan(folder / "plan.json", graph(net))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_plan_survives_save_and_load(name: str, target: str, tmp_path: Path) -> None:
    """For every target, a plan that is saved and read again has the same arrays, edits and repairs."""
    for net in TEXTS:
        plan = planned(net, target, (name,))
        again = loaded(plan, net, tmp_path)
        assert name in again.repairs
        assert [(edit.KIND, edit.names) for edit in again.edits] == [(edit.KIND, edit.names) for edit in plan.edits]
        assert hash_of(again) == hash_of(plan)
        assert again.sha256 == plan.sha256
