"""Calibration, thresholds, plans and QDQ graphs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten
from hypothesis import given
from hypothesis import strategies as st

from sandglass.cli.conformance.networks import save_graph
from sandglass.core.errors import DatasetError, InputError, PlanError
from sandglass.core.processor import find_processor
from sandglass.graph import layers
from sandglass.graph.io import load_graph
from sandglass.graph.io import save_graph as save_model
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan, qdq, thresholds
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Spec, decide, pairs_products
from sandglass.quantization.statistics import BINS, TensorStatistics, gather

SPEC = Spec(("Conv",), asymmetric=True)


def statistics(*arrays: np.ndarray) -> TensorStatistics:
    """Statistics of a tensor over several batches."""
    found = TensorStatistics()
    for array in arrays:
        found.update(np.asarray(array, np.float32))
    return found


@given(
    st.lists(
        st.lists(st.integers(-1000000, 1000000).map(lambda v: v / 1024), min_size=1, max_size=30),
        min_size=1,
        max_size=5,
    )
)
def test_one_pass_counts_everything(batches: list[list[float]]) -> None:
    """Minimum and maximum are exact, and every value that is not zero is counted once, however the range grew."""
    values = np.concatenate([np.array(batch, np.float32) for batch in batches])
    found = statistics(*(np.array(batch, np.float32) for batch in batches))
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.counts.sum() == np.count_nonzero(values)
    assert found.counts.shape == (BINS,)


def test_range_that_grows_keeps_the_histogram() -> None:
    """Small values first and large ones later give nearly the histogram of all at once."""
    random = np.random.default_rng(0)
    small, large = random.normal(0, 0.1, 50000), random.normal(0, 3, 50000)
    grown, whole = statistics(small, large).histogram(64), statistics(np.concatenate([small, large])).histogram(64)
    assert np.abs(grown - whole).sum() / whole.sum() < 0.01


def test_values_that_are_not_finite_are_refused() -> None:
    """NaN and infinity are not quietly clipped."""
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            statistics(np.array([1.0, bad]))


def literal_divergences(normed: np.ndarray, tried: range) -> np.ndarray:
    """The definition of the KL method, bin by bin and level by level, as slow as it reads."""
    found = []
    for threshold in tried:
        clipped = normed[:threshold] + thresholds.KL_EPSILON
        clipped[-1] += normed[threshold:].sum()
        bins, width = np.arange(threshold), threshold / thresholds.LEVELS
        levelled = np.full(threshold, thresholds.KL_EPSILON)
        for level in range(thresholds.LEVELS):
            start, end = level * width, (level + 1) * width
            share = np.clip(np.minimum(bins + 1, end) - np.maximum(bins, start), 0, 1)
            levelled += share * (share @ normed[:threshold]) / width
        found.append((clipped * np.log(clipped / levelled)).sum())
    return np.array(found)


@pytest.mark.parametrize("kind", ["laplace", "normal", "student", "few values", "spikes"])
def test_kl_is_the_definition(kind: str) -> None:
    """Divergences at every threshold, and so the chosen one, are those of a literal reading of the definition."""
    random = np.random.default_rng(1)
    values = {
        "laplace": lambda: random.laplace(size=20000),
        "normal": lambda: random.normal(size=20000),
        "student": lambda: random.standard_t(3, 20000),
        "few values": lambda: random.normal(size=300) ** 3,
        "spikes": lambda: random.choice([0.1, 0.5, 0.51, 1.0, 7.0], 1000),
    }[kind]()
    histogram = statistics(values).histogram(512)
    normed = histogram / histogram.sum()
    expected = literal_divergences(normed, range(thresholds.LEVELS, 512))
    np.testing.assert_allclose(thresholds.kl_divergences(normed), expected, rtol=1e-9, atol=1e-12)
    assert thresholds.kl(histogram) == thresholds.LEVELS + int(expected.argmin()) + 0.5


def test_kl_tries_every_threshold() -> None:
    """A rough histogram has many local minima: the one that a search in steps of eight would miss is found."""
    histogram = np.histogram(np.abs(np.random.default_rng(0).normal(size=300)) ** 3, thresholds.KL_BINS)[0].astype(
        float
    )
    found = thresholds.kl_divergences(histogram / histogram.sum())
    assert len(found) == thresholds.KL_BINS - thresholds.LEVELS
    assert found[int(thresholds.kl(histogram)) - thresholds.LEVELS] == found.min()
    assert int(found.argmin()) % 8 != 0


def test_methods_order_as_their_definitions_say() -> None:
    """For a long-tailed tensor minmax keeps the outlier, and the other methods clip it."""
    values = np.concatenate([np.random.default_rng(0).normal(size=200000), [40.0]])
    found = statistics(values)
    assert thresholds.threshold(found, "minmax") == pytest.approx(40)
    for method in ("kl", "percentile"):
        assert 1.5 < thresholds.threshold(found, method) < 10, method
    # One value in 200 000 at forty deviations costs mse more than rounding all others coarsely: it meets halfway.
    assert 10 < thresholds.threshold(found, "mse") < 30


def test_mse_threshold_beats_its_neighbours() -> None:
    """Rounding with the chosen threshold has less error than with half or double."""
    values = np.random.default_rng(0).laplace(size=50000)
    best = thresholds.threshold(statistics(values), "mse")

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(((np.clip(np.round(values / step), -127, 127) * step - values) ** 2).mean())

    assert error(best) < min(error(best / 2), error(best * 2))


def test_peaks_that_nothing_averages_are_kept() -> None:
    """Rare large values, which kl clips to an eighth, keep most of their size where no layer reads them."""
    random = np.random.default_rng(0)
    body = np.abs(random.standard_normal(200_000))
    peaked = statistics(np.concatenate([body, random.uniform(10, 40, 40)]))
    assert thresholds.threshold(peaked, "kl") < 6
    assert thresholds.threshold(peaked, "kl", averaged=False) == thresholds.threshold(peaked, "mse") > 25
    plain = statistics(body)
    assert thresholds.threshold(plain, "kl", averaged=False) == thresholds.threshold(plain, "kl")


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "AveragePool<kernel_shape = [16, 16]>"])
@pytest.mark.parametrize("layer", [False, True])
def test_what_a_mean_is_taken_of_is_not_clipped(tmp_path: Path, operator: str, layer: bool) -> None:
    """Its rounding errors average out and clipping does not, unless a layer reads the tensor as well."""
    text = f"c = Conv(x, w) r = Relu(c) y = {operator}(r) {'z = Conv(r, v)' if layer else ''}"
    outputs = "float[N, C, H, W] y" + (", float[M, D, I, V] z" if layer else "")
    constants = {"w": np.eye(4).reshape(4, 4, 1, 1), "v": np.eye(4).reshape(4, 4, 1, 1)}
    save_model(network(f"g (float[1, 4, 64, 64] x) => ({outputs}) {{ {text} }}", constants), tmp_path / "g.onnx")
    found = make_plan.make_plan(tmp_path / "g.onnx", [{"x": normal(1, 1, 4, 64, 64)}], "kl").tensors["r"]
    assert (found.threshold < found.maximum) is layer


def test_zero_tensor_has_no_threshold() -> None:
    """A tensor that is always 0 gives 0 for every method, not NaN."""
    for method in thresholds.METHODS:
        assert thresholds.threshold(statistics(np.zeros(10)), method) == 0


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return save_graph(tmp_path_factory.mktemp("quantize") / "small.onnx")


@pytest.fixture(scope="module")
def batches() -> list[dict[str, np.ndarray]]:
    """Eight inputs."""
    random = np.random.default_rng(0)
    return [{"image": random.standard_normal((1, 3, 32, 24)).astype(np.float32)} for _ in range(8)]


@pytest.fixture(scope="module")
def plan(graph: Path, batches: list[dict[str, np.ndarray]]) -> Plan:
    """Its plan."""
    return make_plan.make_plan(graph, batches, "kl")


def test_plan_reads_back_and_fits_its_graph(plan: Plan, graph: Path, tmp_path: Path) -> None:
    """A saved plan is the same plan, and passes the check against its graph."""
    plan.save(tmp_path / "plan.json")
    again = make_plan.load_plan(tmp_path / "plan.json", graph)
    assert again == plan
    assert again.sha256 == plan.sha256
    assert list(plan.layers) == ["first", "depthwise", "pointwise", "three", "last"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(graph="0" * 64), "is for the graph 000000000000"),
        (lambda d: d["layers"].pop("three"), "differ in the layer three"),
        (lambda d: d["tensors"].pop("r1"), "has no range for its input r1"),
        (lambda d: d["tensors"]["r1"].update(threshold=float("nan")), "expected finite numbers"),
        (lambda d: d["tensors"]["r1"].update(threshold=0), "tensors.r1: the threshold is 0"),
        (
            lambda d: d["layers"]["three"].update(weight_bits=5),
            "three.weight_bits is 5, expected one of 6, 7, 8",
        ),
        (lambda d: d["layers"]["three"].update(bits=5), "unknown field 'layers.three.bits'"),
        (
            lambda d: d["layers"]["three"].update(keep_float="false"),
            "three.keep_float is 'false', expected bool",
        ),
        (lambda d: d["layers"]["three"].update(input="r1"), "three has input 'r1' in the plan and 'c3' in the graph"),
        (lambda d: d["layers"]["three"].update(weight="w9"), "three has weight 'w9' in the plan and 'w4' in the graph"),
        (lambda d: d["tensors"].update(ghost={"minimum": 0, "maximum": 1, "threshold": 1}), "range for ghost"),
        (lambda d: d["tensors"]["r1"].update(minimum=99.5), "tensors.r1: the minimum 99.5 is above the maximum"),
        (lambda d: d["tensors"]["r1"].update(threshold=True), "tensors.r1.threshold is True, expected float"),
        (lambda d: d.update(calibration="x"), "calibration is 'x', expected table"),
        (lambda d: d.update(format=9), "format is 9, expected 2"),
    ],
)
def test_plan_that_does_not_fit_is_refused(
    plan: Plan, graph: Path, tmp_path: Path, change: object, message: str
) -> None:
    """An edited plan with a mistake is refused, naming the layer or tensor and the value."""
    data = json.loads(plan.to_json())
    change(data)  # type: ignore[operator]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message):
        make_plan.load_plan(tmp_path / "plan.json", graph)


def test_empty_calibration_set_is_refused(graph: Path) -> None:
    """No batch, no ranges."""
    with pytest.raises(DatasetError, match="calibration set is empty"):
        gather(graph, ["image"], [])


def test_nan_activation_is_named(graph: Path) -> None:
    """A calibration input that makes NaN is refused, naming the first such tensor and the sample."""
    image = np.ones((1, 3, 32, 24), np.float32)
    with pytest.raises(PlanError, match="tensor c1 is NaN or infinite on calibration sample 1"):
        gather(graph, ["c1", "c2"], [{"image": image}, {"image": image * np.nan}])
    with pytest.raises(PlanError, match="tensor image is NaN"):
        gather(graph, ["image", "c1"], [{"image": image * np.nan}])


def test_tensors_of_integers_are_left_out(tmp_path: Path) -> None:
    """A graph with an ArgMax inside is calibrated: its integers get no range, all floats do."""
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    helper = onnx.helper
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("ArgMax", ["c"], ["places"], "argmax", axis=1),
        helper.make_node("Cast", ["places"], ["y"], "cast", to=onnx.TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8]), helper.make_tensor_value_info("y", 1, [1, 1, 6, 6])]
    body = helper.make_graph(nodes, "g", values[:1], values[1:], [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    sample = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert list(make_plan.make_plan(tmp_path / "a.onnx", [{"x": sample}], "minmax").tensors) == ["x", "c", "y"]


def test_dead_layer_stays_in_float(graph: Path) -> None:
    """A layer whose input is 0 on every sample is left in float, with that as the reason."""
    plan = make_plan.make_plan(graph, [{"image": np.zeros((1, 3, 32, 24), np.float32)}], "kl")
    assert plan.layers["first"].keep_float
    assert "was 0 on every calibration sample" in plan.layers["first"].reason


def test_qdq_graph_rounds_and_stays_close(plan: Plan, graph: Path, tmp_path: Path, batches: list[dict]) -> None:
    """The QDQ graph is valid, stores weights as bytes, and its output stays within a few percent of float."""
    model = rewritten(qdq.quantize_dequantize, load_graph(graph), plan, SPEC)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "qdq.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 5
    assert kinds.count("DequantizeLinear") == 10
    assert sum(i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4 for i in model.graph.initializer) == 5
    expected = GraphSession(graph).run(batches[0])["heatmaps"]
    found = GraphSession(tmp_path / "qdq.onnx").run(batches[0])["heatmaps"]
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert 1e-5 < error < 0.05


def test_layer_kept_in_float_is_left_alone(plan: Plan, graph: Path) -> None:
    """An edited plan that keeps a layer in float leaves its weights as they are, and the reason is reported."""
    edited = dataclasses.replace(plan, layers={**plan.layers, "three": dataclasses.replace(
        plan.layers["three"], keep_float=True, reason="by hand")})  # fmt: skip
    assert decide(edited, SPEC, load_graph(graph))["three"] == "by hand"
    model = rewritten(qdq.quantize_dequantize, load_graph(graph), edited, SPEC)
    assert "w4" in {initializer.name for initializer in model.graph.initializer}
    assert "w3" not in {initializer.name for initializer in model.graph.initializer}


def test_tensor_without_a_range_is_not_rounded(plan: Plan, graph: Path) -> None:
    """Taking the range of a sum out of the plan leaves the sum unrounded, where the target would round it."""
    flowing = dataclasses.replace(SPEC, between=("Add", "Resize"))
    edited = dataclasses.replace(plan, tensors={name: r for name, r in plan.tensors.items() if name != "r3"})
    rounded = {
        name: {n.name for n in rewritten(qdq.quantize_dequantize, load_graph(graph), given, flowing).graph.node}
        for name, given in (("all", plan), ("edited", edited))
    }
    assert rounded["all"] - rounded["edited"] == {"r3.quantize", "r3.dequantize"}


def test_target_limits_weight_bits(plan: Plan, graph: Path) -> None:
    """Where sums saturate the largest weight of every channel is 63, but for the depthwise layer, whose do not."""
    spec = dataclasses.replace(SPEC, saturates=pairs_products)
    for processor, dense in (("any", 63), ("x86-avx2", 63), ("x86-vnni", 127), ("arm-dotprod", 127)):
        model = rewritten(qdq.quantize_dequantize, load_graph(graph), plan, spec.on(find_processor(processor)))
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if ".weight.q" in i.name}
        largest = {name: np.abs(w).reshape(len(w), -1).max(1) for name, w in weights.items()}
        for name, found in largest.items():
            assert set(found) == {127 if "depthwise" in name else dense}, (processor, name)
        assert len(largest) == 5


def test_processors_are_found_by_name() -> None:
    """A processor has a whole name and a short one; any other name is refused with those that are known."""
    assert find_processor("vnni") is find_processor("x86-vnni")
    with pytest.raises(InputError, match="unknown processor 'z80'"):
        find_processor("z80")


def test_weights_get_a_scale_for_each_channel() -> None:
    """Each output channel's largest weight becomes the largest integer, and a channel of zeros divides nothing by 0."""
    weight = np.array([[1.0, -2.0], [0.0, 0.0], [0.25, 0.5]], np.float32)
    scales = qdq.weight_scales(weight, 0)
    np.testing.assert_allclose(np.abs(weight / scales[:, None]).max(1), [127, 0, 127], rtol=1e-6)
    assert (qdq.weight_scales(weight, 0, bits=6) / scales)[0] == pytest.approx(127 / 31)


def test_facts_tell_what_targets_ask(graph: Path) -> None:
    """Depthwise and output-making layers are told from the others."""
    found = layers.facts(load_graph(graph))
    assert [name for name, fact in found.items() if fact.depthwise] == ["depthwise"]
    assert [name for name, fact in found.items() if fact.makes_output] == ["last"]
    assert found["first"].stride == (2, 2)
