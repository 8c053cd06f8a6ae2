"""Narrow tensors are written twice, half a step apart, and the network stays what it was."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from graphs import network, normal
from plans import unrounded

from sandglass.backends import ncnn, onnxruntime, openvino
from sandglass.core.compare import correlation
from sandglass.core.processor import ANY
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan, repaired_plan
from sandglass.quantization.channel_offsets import offset_tensors
from sandglass.quantization.edits import SplitChannels, apply_edits
from sandglass.quantization.output_noise import noise, only, run, without
from sandglass.quantization.plan import Plan
from sandglass.quantization.qdq import activation_scale
from sandglass.quantization.repairs import repair_names, split_channels
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

# p and s are narrow and linear, and s is a sum; x, r, t, v are wide, or behind a ReLU.
BOTTLENECKS = """g (float[1, 8, 12, 10] x) => (float[1, 3, 12, 10] y) {
    c = Conv(x, w1, b1)
    r = Relu(c)
    p = Conv(r, w2)
    d = Conv(p, w3, b3)
    t = Relu(d)
    q = Conv(t, w4, b4)
    s = Add(p, q)
    e = Conv(s, w5, b5)
    v = Relu(e)
    y = Conv(v, w6) }"""
SIZES = [(24, 8), (4, 24), (24, 4), (4, 24), (24, 4), (3, 24)]
SPECS = {"asymmetric": Spec(("Conv",), asymmetric=True), "symmetric": Spec(("Conv",), asymmetric=False)}
RUNTIMES = (ncnn, onnxruntime, openvino)


def weights() -> dict[str, np.ndarray]:
    """Weights and biases of that network."""
    found = {f"w{i}": normal(i, *size, 1, 1) / size[1] ** 0.5 for i, size in enumerate(SIZES, 1)}
    return found | {f"b{i}": normal(10 + i, size[0]) / 4 for i, size in enumerate(SIZES, 1)}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network."""
    path = tmp_path_factory.mktemp("split") / "g.onnx"
    save_graph(network(BOTTLENECKS, weights()), path)
    return path


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Its inputs."""
    return [{"x": normal(seed + i, 1, 8, 12, 10)} for i in range(count)]


def planned(graph: Path, spec: Spec, scratch: Path, *left_out: str) -> Plan:
    """Its plan, with all repairs but some."""
    chosen = [name for name in repair_names() if name not in left_out]
    return repaired_plan.repaired_plan(graph, images(12), spec, scratch, "minmax", chosen)[0]


def found_in(model: onnx.ModelProto) -> tuple[str, ...]:
    """What is split where all layers run in int8."""
    return split_channels.narrow_tensors(model, offset_tensors(model, set(facts(model))).linear)


def test_network_with_split_channels_is_the_same(graph: Path) -> None:
    """Each channel stands in the tensor twice, and the output is that of before."""
    model = load_graph(graph)
    assert found_in(model) == ("p",)
    changed = SplitChannels(("p",)).apply(model, {"d", "e"})
    onnx.checker.check_model(changed, full_check=True)
    for inputs in images(3, 100):
        values, before = (GraphSession(g, outputs=["p", "s", "y"]).run(inputs) for g in (changed, load_graph(graph)))
        for name in ("p", "s"):
            np.testing.assert_allclose(values[name], np.tile(before[name], (1, 2, 1, 1)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(values["y"], before["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        ("q = Conv(t, w4, b4)", "q = Conv<group = 4>(t, w7)"),
        ("e = Conv(s, w5, b5)", "e = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s, w8)"),
        ("s = Add(p, q)", "m = Mul(p, q) s = Add(p, m)"),
        ("(float[1, 3, 12, 10] y)", "(float[1, 3, 12, 10] y, float[1, 4, 12, 10] s)"),
    ],
)
def test_what_others_make_or_read_is_not_split(change: tuple[str, str]) -> None:
    """Nor what a padded layer reads, whose zeros would be off, or what is an output."""
    more = {"w7": normal(7, 4, 6, 1, 1), "w8": normal(8, 24, 4, 3, 3)}
    assert found_in(network(BOTTLENECKS.replace(*change), weights() | more)) == ()


def test_wide_tensors_are_not_split(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs time is left as it is."""
    monkeypatch.setattr(split_channels, "NARROW", 3)
    assert found_in(load_graph(graph)) == ()


@pytest.mark.parametrize("name", SPECS)
def test_both_halves_together_have_half_the_step(name: str, graph: Path, tmp_path: Path) -> None:
    """What readers see is off by a quarter of a step at most, where one half alone is off by a half."""
    plan = planned(graph, SPECS[name], tmp_path)
    assert plan.split == ("p",)
    before = GraphSession(apply_edits(load_graph(graph), unrounded(plan).edits, plan.layers), outputs=["p", "s"]).run(
        images(1, 50)[0]
    )
    for tensor in ("p", "s"):
        step, _ = activation_scale(plan.tensors[tensor], SPECS[name].asymmetric)
        exact = before[tensor]
        rounded = np.round(exact / step) * step
        halves, whole = (np.abs(np.split(rounded - exact, 2, axis=1)[0]), np.add(*np.split(rounded - exact, 2, axis=1)))
        assert halves.max() > 0.45 * step
        assert np.abs(whole / 2).max() < 0.26 * step


@pytest.mark.parametrize("name", SPECS)
def test_splitting_leaves_less_noise_in_those_who_read(name: str, graph: Path, tmp_path: Path) -> None:
    """A reader alone in int8 has two thirds less of it: a bit more of its input, and of its weights together."""
    spec, held_out = SPECS[name], images(8, 1000)
    expected = run(GraphSession(graph), held_out)
    for layer in ("d", "e"):
        twice, once = (
            noise(expected, run(simulate(graph, only(planned(graph, spec, tmp_path, *out), [layer]), spec), held_out))
            for out in ((), ("split channels",))
        )
        assert twice < once / 3


def test_channels_stand_there_once_where_no_reader_is_in_int8(graph: Path, tmp_path: Path) -> None:
    """With its readers given back, the plan is the one without splitting: makers' integers, scales and all."""
    spec, reasons = SPECS["asymmetric"], {"d": "by hand", "e": "by hand"}
    plans = [planned(graph, spec, tmp_path, *out) for out in ((), ("split channels",))]
    model, used = repaired_plan.repaired(graph, without(plans[0], reasons), spec)
    _, expected = repaired_plan.repaired(graph, without(plans[1], reasons), spec)
    assert plans[0].split == ("p",)
    for layer in ("p", "q"):
        for field in ("integers", "scales"):
            np.testing.assert_array_equal(getattr(used.rounded[layer], field), getattr(expected.rounded[layer], field))
    assert next(entry.dims[0] for entry in model.graph.initializer if entry.name == "w2") == 4
    inputs = images(1, 70)[0]
    found, once = (simulate(graph, without(plan, reasons), spec).run(inputs)["y"] for plan in plans)
    np.testing.assert_allclose(found, once, rtol=1e-4, atol=1e-5)
    model, _ = repaired_plan.repaired(graph, without(plans[0], {"d": "by hand"}), spec)
    assert next(entry.dims[0] for entry in model.graph.initializer if entry.name == "w2") == 8


def test_plan_is_read_again(graph: Path, tmp_path: Path) -> None:
    """The file names what is split."""
    plan = planned(graph, SPECS["asymmetric"], tmp_path)
    plan.save(tmp_path / "plan.json")
    assert make_plan.load_plan(tmp_path / "plan.json", graph).split == ("p",)


@pytest.mark.parametrize("backend", RUNTIMES, ids=[backend.__name__.rpartition(".")[2] for backend in RUNTIMES])
def test_runtimes_compute_what_is_simulated(backend: ModuleType, graph: Path, tmp_path: Path) -> None:
    """Also where a maker or a reader is given back."""
    pytest.importorskip(backend.__name__.rpartition(".")[2])
    whole = planned(graph, backend.SPEC.on(ANY), tmp_path)
    card = Card("small", "topdown-pose", Input((12, 10), (0, 0, 0), (1, 1, 1)), graph=graph)
    for number, given_back in enumerate(((), ("p",), ("d",), ("d", "e"))):
        plan, folder = without(whole, dict.fromkeys(given_back, "by hand")), tmp_path / str(number)
        folder.mkdir()
        model, used = repaired_plan.repaired(graph, plan, backend.SPEC.on(ANY))
        save_graph(model, folder / "g.onnx")
        notes = backend.build(Source(card, folder / "g.onnx"), "int8", folder, used)
        session, simulated = backend.open(folder, notes, 1), simulate(graph, plan, backend.SPEC.on(ANY))
        found, expected = (np.stack([one.run(given)["y"] for given in images(4, 30)]) for one in (session, simulated))
        assert correlation(expected, found) > 0.9999, given_back
