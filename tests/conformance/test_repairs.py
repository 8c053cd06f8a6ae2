"""Every repair keeps its contract: the float network stays, noise does not grow, and it can be left out.

A file in the folder of repairs is tested because it is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from graphs import network, normal
from plans import hash_of, unrounded

import sandglass
from sandglass.core import discover
from sandglass.core.errors import InputError
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
WEIGHTS = {
    "w1": normal(1, 8, 3, 3, 3) * UNEVEN[:, None, None, None] / 3, "b1": normal(2, 8) * UNEVEN,
    "w2": normal(3, 8, 8, 3, 3) / 6, "b2": normal(4, 8), "w3": normal(5, 6, 8, 1, 1) / 3, "b3": normal(6, 6),
    "wd": normal(7, 8, 1, 3, 3) / 2, "bd": normal(8, 8), "wp": normal(9, 4, 8, 1, 1) / 3, "bp": normal(10, 4) * 3,
    "we": normal(11, 8, 4, 1, 1) / 2, "be": normal(12, 8), "wr": normal(13, 8, 8, 1, 1) / 3,
    "wt": normal(14, 6, 16, 1, 1) / 4, "zero": np.float32(0), "high": np.float32(20),
}  # fmt: skip
TEXTS = {"plain": PLAIN, "depthwise": DEPTHWISE, "residual": RESIDUAL, "pixels": PLAIN}


def images(net: str, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of a network: normal values, or for `pixels` bytes as a camera gives them, normalized."""
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
    """The integer arithmetic of every backend that has one, on any processor."""
    backends = {name: discover.load("backends", name) for name in discover.names("backends")}
    return {name: backend.SPEC.on(ANY) for name, backend in backends.items() if backend.SPEC is not None}


TARGETS = targets()


@cache
def planned(net: str, target: str, repairs: tuple[str, ...]) -> Plan:
    """The plan of a network with these repairs."""
    with TemporaryDirectory() as scratch:
        batches = images(net, 16, 0)
        return repaired_plan(graph(net), batches, TARGETS[target], Path(scratch), "minmax", repairs)[0]


@cache
def simulated_noise(net: str, target: str, repairs: tuple[str, ...]) -> float:
    """Noise of the plan with these repairs, on images that it was not made with."""
    batches = images(net, 8, 1000)
    plan = planned(net, target, repairs)
    return noise(run(GraphSession(graph(net)), batches), run(simulate(graph(net), plan, TARGETS[target]), batches))


def test_contract() -> None:
    """Names are unique; each repair says its source and takes steps."""
    repairs = load_repairs()
    assert len(REPAIRS) == len(repairs) >= 5
    for repair in repairs:
        assert repair.NAME.strip().lower() == repair.NAME
        assert "-" not in repair.NAME  # the command line writes spaces as hyphens
        assert repair.SOURCE
        assert repair.STEPS
        assert repair.__doc__


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REPAIRS)
def test_float_network_is_unchanged(name: str, target: str) -> None:
    """With the edits of the repair, but with weights that nothing rounded."""
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
@pytest.mark.parametrize("name", REPAIRS)
def test_noise_does_not_grow(name: str, target: str) -> None:
    """A repair leaves about as much noise or less: the mean in dB over the networks.

    Biases are corrected on both sides: a repair may leave a constant error in each channel to the correction.
    """
    base = tuple({bias_correction.NAME} - {name})
    ratios = [simulated_noise(net, target, (*base, name)) / simulated_noise(net, target, base) for net in TEXTS]
    assert np.exp(np.mean(np.log(ratios))) < MARGIN, dict(zip(TEXTS, ratios, strict=True))


@pytest.mark.parametrize("name", REPAIRS)
def test_repair_can_be_left_out(name: str, tmp_path: Path) -> None:
    """The plan without it is recorded so, survives its file, and runs."""
    rest = tuple(other for other in REPAIRS if other != name)
    for net, target in (("depthwise", "ncnn"), ("pixels", "openvino")):
        plan = planned(net, target, rest)
        assert plan.repairs == rest
        assert loaded(plan, net, tmp_path).sha256 == plan.sha256
        assert integer_layers(graph(net), plan, TARGETS[target])


def loaded(plan: Plan, net: str, folder: Path) -> Plan:
    """A plan after it was saved, read again and checked against its graph."""
    plan.save(folder / "plan.json")
    return make_plan.load_plan(folder / "plan.json", graph(net))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REPAIRS)
def test_plan_survives_save_and_load(name: str, target: str, tmp_path: Path) -> None:
    """For every target the repair's plan reads back, to the last bit of its arrays, and names the repair."""
    for net in TEXTS:
        plan = planned(net, target, (name,))
        again = loaded(plan, net, tmp_path)
        assert name in again.repairs
        assert [(edit.KIND, edit.names) for edit in again.edits] == [(edit.KIND, edit.names) for edit in plan.edits]
        assert hash_of(again) == hash_of(plan)
        assert again.sha256 == plan.sha256


NEW_REPAIR = '''"""Offsets of a hundredth: the float network is the same."""

import numpy as np

from sandglass.quantization.edits import ShiftChannels
from sandglass.quantization.repairs import NetworkStep

NAME, SOURCE = "new repair", "a test"


def _shift(state):
    offsets = {name: np.float32([0.01]) for name in state.network.offsets.linear}
    return state.with_edit(ShiftChannels(offsets))


STEPS = (NetworkStep(15, _shift),)
'''


def test_new_file_is_a_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder is found, in its place, and plans; no other file knows of it."""
    package = tmp_path / "sandglass"
    shutil.copytree(Path(sandglass.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "quantization" / "repairs" / "new_one.py").write_text(NEW_REPAIR)
    (package / "quantization" / "repairs" / "_helper.py").write_text("raise ImportError('not a repair')")
    script = f"""
from pathlib import Path
import numpy as np
from sandglass.quantization.repaired_plan import REPAIRS, repaired_plan
from sandglass.quantization.spec import Spec
batches = [{{"image": np.random.default_rng(i).standard_normal({SIZE}, np.float32)}} for i in range(2)]
spec = Spec(("Conv",), asymmetric=True)
graph, scratch = Path({str(graph("residual"))!r}), Path({str(tmp_path)!r})
plan, _ = repaired_plan(graph, batches, spec, scratch, "minmax", ["new repair"])
print(", ".join(REPAIRS))
print(plan.repairs, [edit.KIND for edit in plan.edits])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, plan = done.stdout.splitlines()
    assert names.split(", ")[0] == "new repair"  # its step has the lowest number
    assert plan == "('new repair',) ['shift channels']"


def test_unknown_repair_is_refused(tmp_path: Path) -> None:
    """A name that no file has, with those that there are."""
    with pytest.raises(InputError, match=r"unknown repair 'magic'.*known: "):
        repaired_plan(graph("plain"), images("plain", 1, 0), TARGETS["ncnn"], tmp_path, "minmax", ["magic"])
