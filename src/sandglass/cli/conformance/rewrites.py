"""The contract of rewrites: the network stays the same, and a second run changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sandglass.cli.conformance import members
from sandglass.cli.conformance.networks import network, normal
from sandglass.graph.io import save_graph, static_inputs
from sandglass.sources.agreement import LEAST_OF_QUANTIZED, compare
from sandglass.sources.bring_up import convert
from sandglass.sources.rewrites import of_stage, rewrites
from sandglass.sources.rewrites.single_image import fixed_batch

REWRITES = [name.replace("-", "_") for name in members("sources/rewrites")]
IMAGE, RESULT = "g (float[1, 4, 9, 6] x)", "(float[N, C, H, W] y)"
WEIGHTS = {
    "w": normal(1, 4, 4, 3, 3) / 6, "v": normal(2, 4, 4, 1, 1) / 2, "b": normal(3, 4), "two": np.array(2.0),
    "scale": 1 + np.abs(normal(4, 4, 1, 1)), "shift": normal(5, 4, 1, 1), "three": np.array(3.0),
    "zero": np.array(0.0), "six": np.array(6.0),
}  # fmt: skip
TEXTS = {
    "plain": "c = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Relu(c)",
    "automatic padding": "c = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (x, w, b) y = Relu(c)",
    "rounded up": "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x) y = Conv(p, v)",
    "averages": """y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1,
        count_include_pad = 1> (x)""",
    "scale after": "c = Conv(x, w, b) m = Mul(c, scale) a = Add(m, shift) y = Relu(a)",
    "scale before": "r = Relu(x) m = Mul(r, two) a = Add(m, three) y = Conv(a, v, b)",
    "two factors before": "m = Mul(x, two) n = Mul(m, three) y = Conv(n, v)",
    "term before padding": "m = Mul(x, two) a = Add(m, three) y = Conv <pads = [1, 1, 1, 1]> (a, w)",
    "hard swish": "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) d = Div(m, six) y = Conv(d, v)",
    "constant": "c = Constant <value = float {1.5}> () m = Mul(x, c) y = Conv(m, v)",
    "shared weights": "c = Conv(x, v) m = Mul(c, scale) d = Conv(m, v) y = Add(d, c)",
    "result read twice": "c = Conv(x, v) m = Mul(c, c) y = Mul(m, two)",
}  # fmt: skip
FILES = {
    "steps": """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4, 9, 6] x) => (float[1, 4, 5, 3] y)
        <int64[2] starts = {0, 0}, int64[2] ends = {9223372036854775807, 9223372036854775807}, int64[2] axes = {2, 3},
         int64[2] steps = {2, 2}> { r = Relu(x) s = Slice(r, starts, ends, axes, steps) y = Neg(s) }""",
    "weights among inputs": """<ir_version: 4, opset_import: ["" : 9]> g (float[1, 2] x, float[1, 2] w)
        => (float[1, 2] y) <float[1, 2] w = {1, 2}> { y = Add(x, w) }""",
    "removed attribute": """<ir_version: 4, opset_import: ["" : 8]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
        <float[1] s = {2}, float[1] b = {1}, float[1] m = {1}, float[1] v = {4}>
        { y = BatchNormalization <spatial = 1> (x, s, b, m, v) }""",
    "double": """<ir_version: 8, opset_import: ["" : 17]> g (double[1, 4] x) => (double[1, 4] y)
        <double[4] w = {1, 2, 3, 4}> { r = Cast <to = 11> (x) y = Add(r, w) }""",
    "batch": """<ir_version: 8, opset_import: ["" : 17]> g (float[4, 2, 3] x) => (float[4, 6] y)
        <int64[2] shape = {4, 6}, float[4, 1] terms = {5, 5, 5, 5}>
        { r = Reshape(x, shape) y = Add(r, terms) }""",
    "quantized": """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4] x) => (float[1, 4] y)
        <float s = {0.02}, uint8 z = {128}, float[4] w = {1, -1, 0.5, 2}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Mul(d, w) }""",
    "branch": """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
        <float[1, 1, 1, 1] w = {2}, float two = {2}, bool yes = {1}> {
            c = Conv(x, w)
            m = Mul(c, two)
            y = If(yes) <then_branch = t () => (float[1, 1, 2, 2] p) { p = Add(c, m) },
                         else_branch = f () => (float[1, 1, 2, 2] q) { q = Neg(m) }> }""",
}
NETWORKS = (*TEXTS, *FILES)


def model_of(name: str) -> onnx.ModelProto:
    """One of the networks. Nodes of a network of FILES have no names."""
    if name in FILES:
        return onnx.parser.parse_model(FILES[name])
    return network(f"{IMAGE} => {RESULT} {{ {TEXTS[name]} }}", WEIGHTS)


def before(rewrite: str, name: str) -> onnx.ModelProto:
    """A network as the rewrite gets it: after the earlier stages, and after the earlier rewrites of its stage."""
    model = model_of(name)
    for stage in ("exported", "converted", "simplified", "requested"):
        for other, member in of_stage(stage).items():
            if other == rewrite:
                return model
            if stage != "simplified" or rewrites()[rewrite].STAGE == "simplified":
                member.rewrite(model)
        if stage == "exported":
            model = convert(model)
    raise AssertionError(rewrite)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_network_stays_the_same(rewrite: str, name: str, tmp_path: Path) -> None:
    """The network computes the same for each image, and a second run changes nothing."""
    model = before(rewrite, name)
    images, original = fixed_batch(model), model.SerializeToString()
    save_graph(model, tmp_path / "before.onnx")
    rewrites()[rewrite].rewrite(model)
    once = model.SerializeToString()
    rewrites()[rewrite].rewrite(model)
    assert model.SerializeToString() == once
    if once != original:
        onnx.checker.check_model(model)
        save_graph(model, tmp_path / "after.onnx")
        least = LEAST_OF_QUANTIZED if rewrite == "dequantize" else None
        shapes = static_inputs(model)
        compare(tmp_path / "before.onnx", tmp_path / "after.onnx", shapes, images // fixed_batch(model), least)
