"""Names of what rewrites add: none that the graph has already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import normal
from onnx import helper, numpy_helper

import sandglass
from sandglass.backends import load_backend
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.names import Names, name_nodes
from sandglass.graph.session import GraphSession
from sandglass.graph.shapes import free_sides
from sandglass.lowering.half_precision import half_precision
from sandglass.lowering.transposed_conv import split_late
from sandglass.quantization import repaired_plan
from sandglass.quantization.make_plan import make_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.sources.bring_up import bring_up_file
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

PACKAGE = Path(sandglass.__file__).parent
FOLDERS = ("graph", "lowering", "sources/rewrites", "quantization", "backends")
STYLES = ("same", "none", "alike", "part")
# A null artifact computes nothing, and PyTorch runs zoo models, whose names are this project's own.
TARGETS = [
    (name, precision)
    for name in discover.names("backends")
    if name not in ("null", "pytorch")
    for precision in discover.load("backends", name).PRECISIONS
]
# Parts of names that the code puts together from a tuple of them.
PARTS = (
    "axes", "before", "biased", "clipped", "ends", "first", "floor", "gate", "half", "high", "image", "largest", "last",
    "low", "maximum", "minimum", "one", "over", "phase0", "phase1", "phases", "places", "product", "round", "rows",
    "scaled", "sign", "size", "spread", "starts", "step", "three", "wide",
)  # fmt: skip


def suffixes() -> list[str]:
    """What the code adds to the name of a tensor or a node after a dot: `PARTS`, and what the source says."""
    texts = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py")]
    named = {suffix for text in texts for suffix in re.findall(r'\{[^{}"]*\}\.([a-z_]+(?:\{\w+\})?)"', text)}
    numbered = {re.sub(r"\{\w+\}", str(i), suffix) for suffix in named for i in range(2)}
    return sorted(numbered.union(PARTS))


def hostile(style: str, names: Sequence[str] = ()) -> onnx.ModelProto:
    """A network in which nodes, tensors and weights bear names that rewrites would make of each other's.

    `style` says what nodes are called: "same" as their result, "none" at all, all "alike", or as a "part" of a layer.
    `names` are the suffixes of tensors' names, by default all `suffixes`.
    """
    constants: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], made: str, **attributes: object) -> str:
        name = {"same": made, "none": "", "alike": "node", "part": f"a.phase{len(nodes)}"}[style]
        nodes.append(helper.make_node(operator, inputs, [made], name, **attributes))
        return made

    def constant(name: str, values: np.ndarray) -> str:
        constants[name] = values.astype(np.float32)
        return name

    def layer(operator: str, source: str, name: str, *shape: int, **attributes: object) -> str:
        weight = constant(f"{name}.weight", normal(len(nodes), *shape) / np.sqrt(np.prod(shape[1:])))
        channels = shape[1] if operator == "ConvTranspose" else shape[0]
        return add(operator, [source, weight, constant(f"{name}.bias", normal(99, channels))], name, **attributes)

    made = layer("Conv", "image", "a", 8, 3, 3, 3, pads=[1, 1, 1, 1])
    made = add("Mul", [made, constant("a.scale", 1 + np.abs(normal(5, 8, 1, 1)))], "a.rounded")
    made = add("Relu", [made], "a.q")
    # A chain of nodes whose results have every name that a rewrite might make.
    one = {"kernel_shape": [1, 1], "strides": [1, 1]}  # a pooling that no simplification removes
    for suffix in names or suffixes():
        for base in ("image", "a.q", "b"):
            if f"{base}.{suffix}" not in {*constants, "b.weight", "b.bias"}:
                made = add("MaxPool", [made], f"{base}.{suffix}", **one)
    made = layer("ConvTranspose", made, "b", 8, 8, 4, 4, strides=[2, 2], pads=[1, 1, 1, 1])
    made = add("Relu", [made], "b.phase0.taps")
    layer("Conv", made, "image.scores", 5, 8, 1, 1)
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 16, 12])],
        [helper.make_tensor_value_info("image.scores", onnx.TensorProto.FLOAT, [1, 5, 32, 24])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the network, on the levels of a byte."""
    random = np.random.default_rng(seed)
    levels = (random.integers(0, 256, (1, 3, 16, 12)) for _ in range(count))
    return [{"image": ((level - 127) / 64).astype(np.float32)} for level in levels]


@pytest.fixture(scope="module", params=STYLES)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with few names, brought up; its nodes are called in each of the styles."""
    folder = tmp_path_factory.mktemp("small")
    onnx.save(hostile(request.param, ("rounded", "early", "half")), folder / "source.onnx")
    bring_up_file(folder / "source.onnx", folder / "graph.onnx", (16, 12))
    return folder / "graph.onnx"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, brought up."""
    folder = tmp_path_factory.mktemp("hostile")
    onnx.save(hostile("same"), folder / "source.onnx")
    bring_up_file(folder / "source.onnx", folder / "graph.onnx", (16, 12))
    return folder / "graph.onnx"


def test_fresh_names_are_not_taken() -> None:
    """A name is given once; one that the graph has, or that begins one of its names, is not given."""
    names = Names(hostile("same"))
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_2"
    assert names.fresh("new") == "new_3"
    assert names.fresh("a.rounded") == "a.rounded_2"
    assert names.fresh("b.phase0.taps") == "b.phase0.taps_2"
    assert names.fresh("image") == "image_2"


def test_names_in_branches_are_taken() -> None:
    """A tensor of a branch has its name for itself."""
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["x.rounded"])], "branch", [], [])
    node = helper.make_node("If", ["c"], ["y"], "", then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert Names(model).fresh("x.rounded") == "x.rounded_2"


@pytest.mark.parametrize("style", STYLES)
def test_nodes_get_names_of_their_own(style: str) -> None:
    """Each has one, none has what names the parts of a layer in it, and names that served stay."""
    model = hostile(style)
    before = [node.name for node in model.graph.node]
    name_nodes(model, reserved=".phase")
    after = [node.name for node in model.graph.node]
    assert all(after)
    assert len(set(after)) == len(after)
    assert not any(".phase" in name for name in after)
    if style == "same":
        assert all(old == new for old, new in zip(before, after, strict=True) if ".phase" not in old)


@pytest.mark.parametrize("style", ["none", "alike", "part"])
def test_graph_comes_up_whatever_its_nodes_are_called(style: str, tmp_path: Path) -> None:
    """ONNX Runtime refuses repeated names of nodes, which mean nothing; the graph is compared all the same."""
    onnx.save(hostile(style), tmp_path / "source.onnx")
    bring_up_file(tmp_path / "source.onnx", tmp_path / "graph.onnx", (16, 12))
    names = [node.name for node in load_graph(tmp_path / "graph.onnx").graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rewrite", ["half", "split", "free"])
def test_rewritten_graph_computes_the_same(graph: Path, rewrite: str) -> None:
    """Rewrites of the float graph add no name that is there."""
    (feed,) = images(1, 0)
    expected = GraphSession(graph).run(feed)["image.scores"]
    model = load_graph(graph)
    if rewrite == "half":
        half_precision(model, {"a.q"})
    elif rewrite == "split":
        split_late(model)
    else:
        free_sides(model)
    onnx.checker.check_model(model)
    path = graph.parent / f"{rewrite}.onnx"
    save_graph(model, path)
    np.testing.assert_allclose(GraphSession(path).run(feed)["image.scores"], expected, atol=2e-2)


@pytest.mark.parametrize("repaired", [False, True], ids=["plain", "repaired"])
@pytest.mark.parametrize("name", [n for n in discover.names("backends") if discover.load("backends", n).SPEC])
def test_int8_artifact_and_simulation_agree_with_the_graph(
    graph: Path, name: str, repaired: bool, tmp_path: Path
) -> None:
    """Names are in nobody's way from the plan to the artifact, with repairs and without."""
    backend = discover.load("backends", name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    repairs = repair_names() if repaired else ()
    plan, _ = repaired_plan.repaired_plan(graph, images(4, 1), backend.SPEC, tmp_path, "minmax", repairs)
    model = repaired_plan.repaired(graph, plan, backend.SPEC)
    save_graph(model, tmp_path / "repaired.onnx")
    card = Card("hostile", "topdown-pose", Input((16, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=graph)
    (tmp_path / "out").mkdir()
    notes = backend.build(Source(card, tmp_path / "repaired.onnx"), "int8", tmp_path / "out", plan)
    sessions = [backend.open(tmp_path / "out", notes, 1), simulate(graph, plan, backend.SPEC)]
    for feed in images(2, 2):
        expected = GraphSession(graph).run(feed)["image.scores"].ravel()
        for session in sessions:
            assert np.corrcoef(expected, session.run(feed)["image.scores"].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("name", "precision"), TARGETS)
def test_every_target_takes_any_names(small: Path, name: str, precision: str, tmp_path: Path) -> None:
    """Nodes that share the name of a tensor, have none, or all the same one; tensors called as rounded ones."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    plan = make_plan(small, images(2, 1), "minmax") if precision == "int8" else None
    card = Card("hostile", "topdown-pose", Input((16, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=small)
    notes = backend.build(Source(card, small), precision, tmp_path, plan)
    (feed,) = images(1, 2)
    expected = GraphSession(small).run(feed)["image.scores"].ravel()
    result = backend.open(tmp_path, notes, 1).run(feed)["image.scores"].ravel()
    assert np.corrcoef(expected, result)[0, 1] > 0.99
