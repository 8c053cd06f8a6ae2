"""Transposed convolutions as convolutions for their phases: the same numbers, to the last bit.

Weights and inputs are small integers, so that float sums are exact in any order.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, rewritten
from onnx import numpy_helper

from sandglass.core import host
from sandglass.core.processor import ANY
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.graph.shapes import free_sides
from sandglass.lowering.transposed_conv import can_be_split, layer_of, phase_taps, split_depthwise, split_late
from sandglass.quantization import make_plan
from sandglass.quantization.qdq import integers_flowing, quantize_dequantize
from sandglass.quantization.spec import Spec, pairs_products

CHANNELS = 3
PADS = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]


def integers(seed: int, *shape: int) -> np.ndarray:
    """Whole numbers from -8 to 8, float32."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def transposed(
    kernel: tuple[int, int], stride: int, rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int]
) -> onnx.ModelProto:
    """One depthwise transposed convolution with a bias; `rows` and `columns` are its padding before and after."""
    pads = f"[{rows[0]}, {columns[0]}, {rows[1]}, {columns[1]}]"
    text = f"""g (float[1, {CHANNELS}, {size[0]}, {size[1]}] x) => (float[N, C, H, W] y) {{
        y = ConvTranspose<group = {CHANNELS}, strides = [{stride}, {stride}], pads = {pads}>(x, w, b) }}"""
    return network(text, {"w": integers(1, CHANNELS, 1, *kernel), "b": integers(2, CHANNELS)})


def split(model: onnx.ModelProto, late: bool = False) -> onnx.ModelProto:
    """A copy of a model that is split; it is a valid one."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    changed = rewritten(split_late if late else split_depthwise, copy)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def operators(model: onnx.ModelProto) -> list[str]:
    """Operators of the nodes, in order."""
    return [node.op_type for node in model.graph.node]


def assert_same(model: onnx.ModelProto, changed: onnx.ModelProto, folder: Path, size: tuple[int, ...]) -> None:
    """Both compute the same of an image of whole numbers."""
    found = []
    for number, one in enumerate((model, changed)):
        save_graph(one, folder / f"{number}.onnx")
        found.append(GraphSession(folder / f"{number}.onnx", optimize=False).run({"x": integers(3, *size)}))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        assert np.abs(expected).max() > 0
        np.testing.assert_array_equal(found[1][name], expected, name)


def computable(length: int, kernel: int, stride: int, pads: tuple[int, int]) -> bool:
    """By the definition: output o adds tap k times input (o + pad - k) / stride, which no convolution may crop."""
    made = (length - 1) * stride + kernel - sum(pads)
    if made % stride:
        return False
    for phase in range(stride):
        read = [[o + pads[0] - tap for tap in range(kernel) if (o + pads[0] - tap) % stride == 0]
                for o in range(phase, made, stride)]  # fmt: skip
        if not read[0] or min(read[0]) > 0 or max(read[-1]) < (length - 1) * stride:
            return False
    return True


@pytest.mark.parametrize(("kernel", "stride"), product((2, 3, 4, 5), (2, 3, 4)))
def test_split_gives_the_same_numbers(kernel: int, stride: int, tmp_path: Path) -> None:
    """For every padding and for sizes odd and even, rows unlike columns: split where it can be, and equal."""
    count = 0
    for number, (rows, columns) in enumerate(product(PADS, PADS)):
        size = ((1, 4), (3, 2), (5, 3), (4, 1))[number % 4]
        other = 2 + (kernel + number // 4) % 4 if number % 2 else kernel
        lengths = [(length - 1) * stride + one - sum(pads)
                   for length, one, pads in zip(size, (kernel, other), (rows, columns), strict=True)]  # fmt: skip
        if min(lengths) < 1:
            continue
        model = transposed((kernel, other), stride, rows, columns, size)
        changed = split(model)
        if not (computable(size[0], kernel, stride, rows) and computable(size[1], other, stride, columns)):
            assert changed.graph.node == model.graph.node
            continue
        assert operators(changed) == ["Conv"] * stride**2 + ["Concat", "DepthToSpace"]
        assert_same(model, changed, tmp_path, (1, CHANNELS, *size))
        count += 1
    assert (count > 0) == (kernel >= stride)


def test_usual_layers_can_be_split() -> None:
    """The kernels and paddings that double a size, as networks have them, and one that makes it fourfold."""
    assert [taps.taps for taps in phase_taps(4, 2, (1, 1)) or []] == [(3, 1), (2, 0)]
    for kernel, stride, pads in ((2, 2, (0, 0)), (3, 2, (0, 1)), (3, 2, (1, 0)), (4, 2, (1, 1)), (8, 4, (2, 2))):
        assert phase_taps(kernel, stride, pads) is not None
        assert computable(7, kernel, stride, pads)


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_phases_are_told_as_the_definition_has_them(length: int) -> None:
    """Whether an axis can be split, over all kernels, strides and paddings."""
    for kernel, stride, pads in product(range(1, 7), range(2, 5), product(range(3), range(3))):
        if (length - 1) * stride + kernel > sum(pads):
            found = phase_taps(kernel, stride, pads)
            assert (found is not None) == computable(length, kernel, stride, pads), (kernel, stride, pads)
            assert found is None or sorted(tap for phase in found for tap in phase.taps) == list(range(kernel))


STAYS = {
    "one group": ("y = ConvTranspose<strides = [2, 2]>(x, w)", (4, 4, 2, 2)),
    "groups of two": ("y = ConvTranspose<group = 2, strides = [2, 2]>(x, w)", (4, 2, 2, 2)),
    "two filters a channel": ("y = ConvTranspose<group = 4, strides = [2, 2]>(x, w)", (4, 2, 2, 2)),
    "no stride": ("y = ConvTranspose<group = 4>(x, w)", (4, 1, 2, 2)),
    "unequal strides": ("y = ConvTranspose<group = 4, strides = [2, 1]>(x, w)", (4, 1, 2, 2)),
    "odd output": ("y = ConvTranspose<group = 4, strides = [2, 2]>(x, w)", (4, 1, 3, 3)),
    "short kernel": ("y = ConvTranspose<group = 4, strides = [3, 3], pads = [0, 0, 2, 2]>(x, w)", (4, 1, 2, 2)),
    "output padding": ("y = ConvTranspose<group = 4, strides = [2, 2], output_padding = [1, 1]>(x, w)", (4, 1, 3, 3)),
    "holes": ("y = ConvTranspose<group = 4, strides = [2, 2], dilations = [3, 3]>(x, w)", (4, 1, 2, 2)),
    "padding by its name": ('y = ConvTranspose<group = 4, strides = [2, 2], auto_pad = "SAME_UPPER">(x, w)',
                            (4, 1, 2, 2)),
    "shape of the output": ("y = ConvTranspose<group = 4, strides = [2, 2], output_shape = [7, 7]>(x, w)",
                            (4, 1, 2, 2)),
    "computed weights": ("n = Neg(w) y = ConvTranspose<group = 4, strides = [2, 2]>(x, n)", (4, 1, 2, 2)),
    "depthwise, not transposed": ("y = Conv<group = 4, strides = [2, 2]>(x, w)", (4, 1, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_split_stays(name: str, tmp_path: Path) -> None:
    """Other layers, and depthwise ones whose phases no convolution computes, are as they were, and still run."""
    text, shape = STAYS[name]
    model = network(f"g (float[1, 4, 5, 5] x) => (float[N, C, H, W] y) {{ {text} }}", {"w": integers(1, *shape)})
    changed = split(model)
    assert changed.graph.node == model.graph.node
    assert_same(model, changed, tmp_path, (1, 4, 5, 5))


def test_unknown_sizes_are_split_too(tmp_path: Path) -> None:
    """How phases read does not depend on the size; a layer of another number of dimensions stays."""
    text = "g (float[1, 4, H, W] x) => (float[N, C, U, V] y) { y = ConvTranspose<group = 4, strides = [2, 2]>(x, w) }"
    model = network(text, {"w": integers(1, 4, 1, 2, 2)})
    changed = split(model)
    assert operators(changed) == ["Conv"] * 4 + ["Concat", "DepthToSpace"]
    assert_same(model, changed, tmp_path, (1, 4, 5, 3))
    line = "g (float[1, 4, 5] x) => (float[N, C, U] y) { y = ConvTranspose<group = 4, strides = [2]>(x, w) }"
    model = network(line, {"w": integers(1, 4, 1, 2)})
    assert split(model, late=True).graph.node == model.graph.node


UP = "ConvTranspose<group = 4, strides = [2, 2], pads = [1, 1, 1, 1]>"
CONSTANTS = {"w": integers(1, 4, 1, 4, 4), "b": integers(2, 4), "v": integers(4, 5, 4, 1, 1), "low": np.array(-9),
             "six": np.array(60), "half": np.array(4)}  # fmt: skip
# By name: text, what is done before the results interleave, and what follows.
FOLLOWED = {
    "relu": (f"t = {UP}(x, w, b) r = Relu(t) y = Conv(r, v)", ["Relu"], ["Conv"]),
    "clip": (f"t = {UP}(x, w) r = Clip(t, low, six) y = Conv(r, v)", ["Clip"], ["Conv"]),
    "rounding": (f"t = {UP}(x, w) q = QuantizeLinear(t, half) r = DequantizeLinear(q, half) y = Conv(r, v)",
                 ["QuantizeLinear", "DequantizeLinear"], ["Conv"]),
    "all of them": (
        f"t = {UP}(x, w) r = Relu(t) s = Clip(r, low, six) q = QuantizeLinear(s, half) d = DequantizeLinear(q, half) "
        "y = Conv(d, v)", ["Relu", "Clip", "QuantizeLinear", "DequantizeLinear"], ["Conv"]),
    "until several read": (f"t = {UP}(x, w) r = Relu(t) s = Clip(r, low, six) y = Add(r, s)",
                           ["Relu"], ["Clip", "Add"]),
    "nothing that several read": (f"t = {UP}(x, w) r = Relu(t) y = Add(r, t)", [], ["Relu", "Add"]),
    "the output": (f"t = {UP}(x, w) y = Relu(t)", ["Relu"], []),
    "another layer": (f"t = {UP}(x, w) y = Conv(t, v)", [], ["Conv"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_follows_alone_is_done_on_the_phases(name: str, tmp_path: Path) -> None:
    """A clamp and its rounding move before the interleaving, four times; nothing else does."""
    text, moved, after = FOLLOWED[name]
    model = network(f"g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) {{ {text} }}", CONSTANTS)
    changed = split(model)
    assert operators(changed) == ["Conv", *moved] * 4 + ["Concat", "DepthToSpace"] + after
    assert_same(model, changed, tmp_path, (1, 4, 5, 3))


def test_outputs_of_the_network_stay(tmp_path: Path) -> None:
    """A tensor that is an output too is made before what follows it."""
    text = f"g (float[1, 4, 5, 3] x) => (float[N, C, H, W] t, float[M, D, I, V] y) {{ t = {UP}(x, w) y = Relu(t) }}"
    model = network(text, {"w": CONSTANTS["w"]})
    changed = split(model)
    assert operators(changed) == ["Conv"] * 4 + ["Concat", "DepthToSpace", "Relu"]
    assert_same(model, changed, tmp_path, (1, 4, 5, 3))


def test_clamp_at_what_is_computed_later_stays(tmp_path: Path) -> None:
    """A Clip whose bound is made after the layer cannot move before it."""
    text = f"g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) {{ t = {UP}(x, w) n = Neg(six) y = Clip(t, n, six) }}"
    model = network(text, {"w": CONSTANTS["w"], "six": np.array(60)})
    assert_same(model, split(model), tmp_path, (1, 4, 5, 3))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two depthwise transposed convolutions after one another, with clamps."""
    text = f"""g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) {{ a = {UP}(x, w, b) r = Relu(a)
        c = {UP}(r, w) s = Clip(c, low, six) y = Conv(s, v) }}"""
    path = tmp_path_factory.mktemp("phases") / "g.onnx"
    save_graph(network(text, CONSTANTS), path)
    return path


@pytest.mark.parametrize("between", [(), ("Add",)], ids=["inputs rounded", "integers flow"])
def test_int8_weights_are_split_behind_their_scales(between: tuple[str, ...], graph: Path, tmp_path: Path) -> None:
    """A graph with rounding nodes: integers are taken apart, scales shared, and every layer stays in int8."""
    spec = Spec(("Conv", "ConvTranspose"), asymmetric=True, between=between)
    plan = make_plan.make_plan(graph, [{"x": integers(3 + i, 1, 4, 5, 3)} for i in range(4)], "minmax")
    model = rewritten(quantize_dequantize, load_graph(graph), plan, spec)
    changed = split(model)
    stored = {entry.name: entry for entry in changed.graph.initializer}
    rounding = {node.output[0]: node for node in changed.graph.node if node.op_type == "DequantizeLinear"}
    parts = [node for node in changed.graph.node if node.op_type == "Conv" and layer_of(node.name) in ("a", "c")]
    assert len(parts) == 8
    for part in parts:
        maker = rounding[part.input[1]]
        taps = numpy_helper.to_array(stored[maker.input[0]])
        assert (taps.dtype, taps.shape) == (np.int8, (4, 1, 2, 2))
        assert maker.input[1] == f"{layer_of(part.name)}.weight.scale"
    save_graph(model, tmp_path / "before.onnx")
    save_graph(changed, tmp_path / "after.onnx")
    expected, found = (
        GraphSession(tmp_path / f"{name}.onnx", optimize=False).run({"x": integers(9, 1, 4, 5, 3)})["y"]
        for name in ("before", "after")
    )
    # Scales are no whole numbers: a sum on the edge between two integers may round the other way.
    step = float(np.abs(CONSTANTS["v"]).sum(1).max()) * plan.tensors["s"].threshold / 255
    assert np.abs(found - expected).max() <= 2 * step
    assert np.mean(found != expected) < 0.1
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999


def test_parts_have_the_layers_name(graph: Path) -> None:
    """Convolutions of the phases tell the layer that they are parts of; other names are their own."""
    changed = split(load_graph(graph))
    parts = [layer_of(node.name) for node in changed.graph.node if node.op_type == "Conv"]
    assert parts == ["a"] * 4 + ["c"] * 4 + ["y"]
    names = [node.name for node in changed.graph.node]
    assert len(set(names)) == len(names)
    assert layer_of("blocks.0/conv.1") == "blocks.0/conv.1"


DENSE = "ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>"
INTEGERS = ["Transpose"] * 4 + ["Concat"] * 3 + ["Reshape", "Transpose"]
LATE = {
    "dense": (f"t = {DENSE}(x, u, b) y = Relu(t)", ["Relu"], ["Concat", "DepthToSpace"], []),
    "1x1 layers": (f"t = {UP}(x, w, b) r = Relu(t) y = Conv(r, p)", ["Relu", "Conv"], ["Concat", "DepthToSpace"], []),
    "wider 1x1 layers": (f"t = {UP}(x, w) r = Relu(t) y = Conv(r, v)", ["Relu"], ["Concat", "DepthToSpace"], ["Conv"]),
    "3x3 layers": (f"t = {UP}(x, w) y = Conv<pads = [1, 1, 1, 1]>(t, k)", [], ["Concat", "DepthToSpace"], ["Conv"]),
    "strides": (f"t = {UP}(x, w) y = Conv<strides = [2, 2]>(t, p)", [], ["Concat", "DepthToSpace"], ["Conv"]),
    "integers": (f"t = {UP}(x, w) q = QuantizeLinear(t, half) d = DequantizeLinear(q, half) y = Conv(d, v)",
                 ["QuantizeLinear"], INTEGERS, ["DequantizeLinear", "Conv"]),
    "integers for a 1x1 layer": (
        f"t = {UP}(x, w) q = QuantizeLinear(t, half) d = DequantizeLinear(q, half) c = Conv(d, p) "
        "e = QuantizeLinear(c, many) f = DequantizeLinear(e, many) y = Conv(f, narrow)",
        ["QuantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear"], INTEGERS, ["DequantizeLinear", "Conv"]),
}  # fmt: skip
MORE = CONSTANTS | {"u": integers(5, 4, 4, 4, 4), "p": integers(6, 3, 4, 1, 1), "k": integers(7, 4, 4, 3, 3),
                    "many": np.array(64), "narrow": integers(8, 5, 3, 1, 1)}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_late_results_interleave_after_what_is_done_pixel_by_pixel(name: str, tmp_path: Path) -> None:
    """1x1 layers that make no more channels are done four times, integers interleave pixel by pixel; numbers stay."""
    text, moved, joins, after = LATE[name]
    model = network(f"g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) {{ {text} }}", MORE)
    changed = split(model, late=True)
    assert operators(changed) == ["Conv", *moved] * 4 + joins + after
    assert_same(model, changed, tmp_path, (1, 4, 5, 3))
    assert {entry.name for entry in changed.graph.initializer} == {
        part
        for node in changed.graph.node
        for part in node.input
        if part in {e.name for e in changed.graph.initializer}
    }


def test_late_integers_of_open_sizes_interleave_by_depth_to_space(tmp_path: Path) -> None:
    """Where the size is left open the graph holds for another one."""
    text = f"t = {UP}(x, w) q = QuantizeLinear(t, half) d = DequantizeLinear(q, half) y = Conv(d, v)"
    model = network(f"g (float[1, 4, 6, 4] x) => (float[N, C, H, W] y) {{ {text} }}", CONSTANTS)
    free_sides(model)
    changed = split(model, late=True)
    assert operators(changed)[-4:] == ["Concat", "DepthToSpace", "DequantizeLinear", "Conv"]
    assert_same(model, changed, tmp_path, (1, 4, 5, 3))


def test_late_dense_layers_without_overlap_stay_in_float(tmp_path: Path) -> None:
    """Taps that do not overlap gain nothing in float; behind scales they are split, since integers need it."""
    text = "g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) { y = ConvTranspose<strides = [2, 2]>(x, u) }"
    model = network(text, {"u": integers(5, 4, 3, 2, 2)})
    assert operators(split(model, late=True)) == ["ConvTranspose"]
    save_graph(model, tmp_path / "g.onnx")
    plan = make_plan.make_plan(tmp_path / "g.onnx", [{"x": integers(3 + i, 1, 4, 5, 3)} for i in range(4)], "minmax")
    spec = Spec(("ConvTranspose",), asymmetric=True, between=("Add",))
    changed = split(rewritten(quantize_dequantize, load_graph(tmp_path / "g.onnx"), plan, spec), late=True)
    assert operators(changed).count("Conv") == 4
    stored = {entry.name: entry for entry in changed.graph.initializer}
    assert [list(stored[f"y.phase{i}.taps"].dims) for i in range(4)] == [[3, 4, 1, 1]] * 4


def test_integers_are_loaded_with_unsigned_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact session makes weights unsigned, each with its zero point, and refuses a graph that shares one.

    Weights for any processor give the same sums in both forms, on every processor.
    """
    spec = Spec(("Conv", "ConvTranspose"), asymmetric=True, between=("Add",), saturates=pairs_products).on(ANY)
    text = f"""g (float[1, 4, 5, 3] x) => (float[N, C, H, W] y) {{ a = {UP}(x, w, b) r = Relu(a) c = Conv(r, p)
        d = {DENSE}(c, u) y = Conv(d, v) }}"""
    values = {name: MORE[name] for name in "wb"} | {"p": integers(6, 4, 4, 1, 1), "u": MORE["u"], "v": MORE["v"]}
    save_graph(network(text, values), tmp_path / "g.onnx")
    inputs = [{"x": integers(3 + i, 1, 4, 5, 3)} for i in range(4)]
    plan = make_plan.make_plan(tmp_path / "g.onnx", inputs, "minmax")
    save_graph(rewritten(integers_flowing, load_graph(tmp_path / "g.onnx"), plan, spec), tmp_path / "int8.onnx")
    monkeypatch.setattr(host, "sums_saturate", lambda: True)
    found = [GraphSession(tmp_path / "int8.onnx", exact=exact).run(inputs[0])["y"] for exact in (False, True)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert np.corrcoef(found[0].ravel(), GraphSession(tmp_path / "g.onnx").run(inputs[0])["y"].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("name", STAYS)
def test_facts_tell_what_can_be_split(name: str) -> None:
    """The facts of a layer say of integer weights what the graph shows."""
    text, shape = STAYS[name]
    model = network(f"g (float[1, 4, 5, 5] x) => (float[N, C, H, W] y) {{ {text} }}", {"w": integers(1, *shape)})
    for fact in facts(model).values():
        if fact.layer.operator == "ConvTranspose":
            assert can_be_split(fact) == (name == "one group")
