"""Channels get the share of a tensor's range that the network's output gains by, and nothing is clipped unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import network, normal

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import channel_links, repaired_plan
from sandglass.quantization.output_noise import noise, run
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.repairs import equalize_by_outputs
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

# Channels of r reach as far as those of the input. What is read of channel 1 counts negatively in front of a ReLU.
TEXT = """g (float[1, 4, 12, 10] x) => (float[1, 3, 12, 10] y) {
    c = Conv(x, w1)
    r = Relu(c)
    d = Conv(r, w2, b2)
    s = Relu(d)
    y = Conv(s, w3) }"""
PEAK = 60.0


def graph(folder: Path, text: str = TEXT) -> Path:
    """The network, with weights of its own for each channel of r."""
    second = 0.3 * normal(1, 6, 4, 1, 1)
    second[:, 1] = -np.abs(second[:, 1]) - 0.1
    second[:, 3] = np.abs(second[:, 3]) + 0.1
    weights = {
        "w1": np.eye(4, dtype=np.float32)[:, :, None, None], "w2": second, "b2": normal(2, 6),
        "w3": normal(3, 3, 6, 1, 1), "zero": np.float32(0), "high": np.float32(1e4),
    }  # fmt: skip
    save_graph(network(text, weights), folder / "g.onnx")
    return folder / "g.onnx"


def images(count: int, peaked: tuple[int, ...] = (1, 3)) -> list[dict[str, np.ndarray]]:
    """All channels reach 8, but for number 2, a quarter of that, and the peaks of others."""
    found = []
    for i in range(count):
        image = np.random.default_rng(i).uniform(0, 8, (1, 4, 12, 10)).astype(np.float32)
        image[:, 2] /= 4
        for channel in peaked:
            image[0, channel, i % 12, (i + channel) % 10] = PEAK
        found.append({"x": image})
    return found


def links(path: Path) -> list[channel_links.Link]:
    """What can be scaled there."""
    return channel_links.links(load_graph(path))


def shares(path: Path, threshold: float, batches: list[dict[str, np.ndarray]]) -> dict[str, equalize_by_outputs.Shares]:
    """New shares where r is clipped at a threshold."""
    seen = {"r": TensorRange(0.0, PEAK, threshold), "s": TensorRange(0.0, 20.0, 20.0)}
    return equalize_by_outputs.choose(path, links(path), seen, {"r": True, "s": True}, batches)


def test_channels_are_as_wide_as_the_output_needs(tmp_path: Path) -> None:
    """Half of the way to where each would be alone: a peak that a ReLU takes away needs no range, another does."""
    found = shares(graph(tmp_path), 8.0, images(8))["r"]
    widths = found.factors * found.wider
    np.testing.assert_allclose(widths[:3], [1, 1, 0.5], rtol=1e-5)
    assert widths[3] == found.wider == pytest.approx(2**0.5)


def test_even_channels_stay_as_they_are(tmp_path: Path) -> None:
    """What gains less than a tenth is left alone."""
    even = [{"x": np.random.default_rng(i).uniform(0, 8, (1, 4, 12, 10)).astype(np.float32)} for i in range(8)]
    assert "r" not in shares(graph(tmp_path), 8.0, even)


def test_what_no_gradient_was_taken_for_is_not_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that was small on the inputs that were probed, and not on others, keeps its range."""
    monkeypatch.setattr(equalize_by_outputs, "_inputs_to_probe", lambda graph: 4)
    batches = images(8)
    assert shares(graph(tmp_path), 8.0, batches)["r"].factors[2] < 0.5
    for batch in batches[1::2]:  # every other one is probed
        batch["x"][:, 2] *= 4
    found = shares(graph(tmp_path), 8.0, batches)
    assert "r" not in found or found["r"].factors[2] * found["r"].wider == pytest.approx(1)


def test_large_networks_are_probed_on_few_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the work allows, and some at least."""
    path = graph(tmp_path)
    assert equalize_by_outputs._inputs_to_probe(path) > 1000
    monkeypatch.setattr(equalize_by_outputs, "WORK", 1.0)
    assert equalize_by_outputs._inputs_to_probe(path) == equalize_by_outputs.FEWEST


def test_parts_that_fit_in_memory_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are looked at in turn where there is no room for all."""
    path = graph(tmp_path)
    together = shares(path, 8.0, images(6))
    monkeypatch.setattr(equalize_by_outputs, "BYTES", 1)
    apart = shares(path, 8.0, images(6))
    assert together.keys() == apart.keys()
    for name, found in together.items():
        np.testing.assert_array_equal(found.factors, apart[name].factors)


@pytest.mark.parametrize(
    ("before", "after"),
    [("r = Relu(c)", "r = Clip(c, zero, high)"), ("y = Conv(s, w3)", "t = Conv(s, w3) y = Softplus(t)")],
    ids=["a Clip would move", "no gradient"],
)
def test_some_are_left_alone(before: str, after: str, tmp_path: Path) -> None:
    """Where a Clip would have to move, and where an operator's adjoint is not known."""
    path = graph(tmp_path, TEXT.replace(before, after))
    assert links(path)
    assert "r" not in shares(path, 8.0, images(8))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_plan_with_it_is_better_on_other_images(asymmetric: bool, tmp_path: Path) -> None:
    """The whole network in int8, with and without, where one channel has peaks that no output sees."""
    path, spec = graph(tmp_path), Spec(("Conv",), asymmetric=asymmetric)
    held_out = images(32, (1,))[8:]
    expected, noises = run(GraphSession(path), held_out), []
    for name in ((), ("equalize by outputs",)):
        chosen = ("equalize", *name, "output thresholds", "compensated rounding", "bias correction")
        plan, _ = repaired_plan.repaired_plan(path, images(8, (1,)), spec, tmp_path, "kl", chosen)
        noises.append(noise(expected, run(simulate(path, plan, spec), held_out)))
    assert noises[1] < 0.9 * noises[0]
