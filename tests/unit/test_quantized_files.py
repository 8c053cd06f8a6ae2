"""Files that are quantized already: kept as they are, taken back to float, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import normal
from onnx import helper, numpy_helper

from sandglass.core.errors import GraphError, InputError
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph
from sandglass.graph.session import GraphSession
from sandglass.sources.bring_up import bring_up_file
from sandglass.sources.card import Card, Input
from sandglass.sources.prepare import prepared_source
from sandglass.sources.quantized import is_quantized, own_grids
from sandglass.sources.rewrites.dequantize import rewrite

FORMS = ("pairs", "weights", "operators", "dynamic")
STEP, ZERO = np.array(0.02, np.float32), np.array(114, np.uint8)


def quantized(form: str) -> onnx.ModelProto:
    """Two convolutions whose ReLU is the range of their rounding, in one of the FORMS."""
    constants: dict[str, np.ndarray] = {
        "s0": STEP,
        "z0": ZERO,
        "s1": np.array(0.03, np.float32),
        "zero": np.array(0, np.uint8),
    }
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, list(outputs), f"{operator}_{len(nodes)}", **attributes))
        return outputs[0]

    def weight(name: str, *shape: int) -> list[str]:
        """Integers, scales and zero points of a layer's weights; all layers share the zero point."""
        values = normal(len(name), *shape) / np.sqrt(np.prod(shape[1:]))
        scales = (np.abs(values).max(axis=(1, 2, 3)) / 63).astype(np.float32)
        one = np.float32(np.abs(values).max() / 63)
        per_channel = form in ("pairs", "weights", "operators")
        step = scales[:, None, None, None] if per_channel else one
        constants[name] = np.round(values / step).astype(np.int8)
        constants[f"{name}s"] = scales if per_channel else one
        constants["wz"] = np.zeros(shape[0], np.int8) if per_channel else np.array(0, np.int8)
        return [name, f"{name}s", "wz"]

    def layer(source: str, index: int) -> str:
        name, pads = f"{'w' * index}", {"pads": [1, 1, 1, 1]}
        channels = (4, 3 if index == 1 else 4, 3, 3)
        integers = weight(name, *channels)
        if form == "dynamic":
            add("DynamicQuantizeLinear", [source], f"q{index}", f"qs{index}", f"qz{index}")
            add("ConvInteger", [f"q{index}", name, f"qz{index}"], f"i{index}", **pads)
            add("Cast", [f"i{index}"], f"c{index}", to=onnx.TensorProto.FLOAT)
            add("Mul", [f"qs{index}", f"{name}s"], f"m{index}")
            add("Mul", [f"c{index}", f"m{index}"], f"y{index}")
            return add("Relu", [f"y{index}"], f"r{index}")
        if form == "operators":
            grids = ["s0", "z0"] if index == 1 else ["s1", "zero"]
            return add("QLinearConv", [source, *grids, *integers, "s1", "zero"], f"q{index}", **pads)
        add("DequantizeLinear", integers, f"d{index}", axis=0)
        made = add("Conv", [source, f"d{index}"], f"y{index}", **pads)
        if form == "weights":
            return add("Relu", [made], f"r{index}")
        add("QuantizeLinear", [made, "s1", "zero"], f"q{index}")
        return add("DequantizeLinear", [f"q{index}", "s1", "zero"], f"r{index}")

    made = "image"
    if form in ("pairs", "operators"):
        made = add("QuantizeLinear", ["image", "s0", "z0"], "q0")
    if form == "pairs":
        made = add("DequantizeLinear", ["q0", "s0", "z0"], "r0")
    made = layer(layer(made, 1), 2)
    if form == "operators":
        made = add("DequantizeLinear", [made, "s1", "zero"], "r2")
    add("GlobalAveragePool", [made], "y")
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4, 1, 1])],
        [numpy_helper.from_array(values, name) for name, values in constants.items() if _is_read(nodes, name)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _is_read(nodes: list[onnx.NodeProto], name: str) -> bool:
    return any(name in node.input for node in nodes)


@pytest.fixture(params=FORMS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A quantized file."""
    onnx.save(quantized(request.param), tmp_path / "quantized.onnx")
    return tmp_path / "quantized.onnx"


def card(file: Path) -> Card:
    """A card over a file."""
    return Card("q", "classification", Input((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=file)


def test_quantized_file_stays_as_it_is(file: Path, tmp_path: Path) -> None:
    """Its operators are kept, its shapes are fixed, and it computes the same to the bit."""
    assert bring_up_file(file, tmp_path / "out.onnx", (8, 8), "keep")
    before, after = load_graph(file), load_graph(tmp_path / "out.onnx")
    assert [node.op_type for node in before.graph.node] == [node.op_type for node in after.graph.node]
    image = {"image": normal(1, 1, 3, 8, 8)}
    np.testing.assert_array_equal(
        GraphSession(file).run(image)["y"], GraphSession(tmp_path / "out.onnx").run(image)["y"]
    )


def test_quantized_file_is_taken_back_to_float(file: Path, tmp_path: Path) -> None:
    """No integers are left, and what the range of a rounding cut off is still cut off."""
    assert not bring_up_file(file, tmp_path / "out.onnx", (8, 8), "float")
    model = load_graph(tmp_path / "out.onnx")
    assert not is_quantized(model)
    assert {node.op_type for node in model.graph.node} <= {"Clip", "Conv", "GlobalAveragePool", "Mul", "Relu"}
    for seed in range(3):
        image = {"image": normal(seed, 1, 3, 8, 8)}
        expected, found = (GraphSession(path).run(image)["y"] for path in (file, tmp_path / "out.onnx"))
        assert np.abs(expected - found).max() < 0.02 * np.abs(expected).max()


def test_plan_needs_a_float_model(file: Path) -> None:
    """Who would quantize it once more is told so, and how to get a float model."""
    with (
        pytest.raises(GraphError, match=r"quantized.onnx is quantized already.*--dequantize"),
        prepared_source(card(file), None),
    ):
        pass


def test_deploy_writes_it_as_it_is_and_says_so(file: Path, tmp_path: Path) -> None:
    """Without calibration: there is nothing to calibrate. The table says what the precision does not."""
    said: list[str] = []
    first, second = deploy(card(file), ["onnxruntime:int8", "onnxruntime:fp16"], tmp_path / "out", say=said.append)
    assert first.artifact is not None, first.error
    assert first.artifact.precision_note == "quantized already"
    assert first.artifact.manifest.check.correlation == pytest.approx(1)
    assert any("quantized already" in line for line in said)
    assert second.artifact is None
    assert "--dequantize" in str(second.error)


def test_deploy_takes_it_back_to_float(file: Path, tmp_path: Path) -> None:
    """Then it is a float model like others, which needs calibration to be quantized."""
    (outcome,) = deploy(card(file), ["onnxruntime:fp32"], tmp_path / "out", dequantize=True)
    assert outcome.artifact is not None, outcome.error
    assert outcome.artifact.precision_note == ""
    with pytest.raises(InputError, match="needs calibration"):
        deploy(card(file), ["onnxruntime:int8"], tmp_path / "int8", dequantize=True)


def test_weights_share_no_zero_point() -> None:
    """ONNX Runtime rewrites signed weights on some processors, and does not load a graph in which two share theirs."""
    model = quantized("pairs")
    own_grids(model)
    read = [
        node.input[2] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0][0] == "w"
    ]
    assert len(read) == len({*read}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scale", "reads q0 with another scale"),
        ("operator", "cannot be converted to float"),
        ("computed", "at run time"),
    ],
)
def test_what_has_no_float_form_is_named(change: str, message: str) -> None:
    """Integers read on another grid, integers that are computed with, and scales that are not constant."""
    model = quantized("pairs")
    first, second = model.graph.node[:2]
    if change == "scale":
        second.input[1] = "s1"
    elif change == "operator":
        model.graph.node.insert(1, helper.make_node("BitShift", ["q0", "z0"], ["b"], "shift", direction="LEFT"))
    else:
        first.input[1] = "image"
    with pytest.raises(GraphError, match=message):
        rewrite(model)
