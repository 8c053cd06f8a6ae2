"""TVM's kernels: transposed convolutions, odd channels, several outputs, and the search for tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import network, normal

from sandglass.backends import _tvm_import, _tvm_kernels, _tvm_search
from sandglass.backends._tvm_kernels import Registers, Tile, tiles
from sandglass.core import discover, host
from sandglass.core.errors import BackendError, BackendUnavailable, InputError, UnsupportedOperator
from sandglass.deployment import deploy
from sandglass.graph.session import GraphSession
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

CARD = Card("small", "topdown-pose", Input((9, 7), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=Path("small.onnx"))
IMAGE = normal(0, 1, 3, 9, 7)
# Strides that divide the kernel and that do not, groups, a depthwise one, holes, unequal padding, more than the image.
TRANSPOSED = {
    "usual": ("strides = [2, 2], pads = [1, 1, 1, 1]", (8, 6, 4, 4)),
    "odd": ("strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]", (8, 5, 3, 3)),
    "wide": ("strides = [3, 2], pads = [0, 1, 2, 1]", (8, 4, 5, 3)),
    "sparse": ("strides = [3, 3]", (8, 4, 2, 2)),
    "grouped": ("strides = [2, 2], group = 2", (8, 3, 2, 2)),
    "depthwise": ("strides = [2, 2], pads = [1, 1, 1, 1], group = 8", (8, 1, 4, 4)),
    "holes": ("strides = [2, 1], dilations = [2, 3]", (8, 4, 3, 2)),
}
PARTS = """g (float[1, 3, 9, 7] image) => (float[1, 17, 9, 7] heads, float[1, 8, 4, 3] pooled, float[1, 6] scores,
                                         float[1, 4, 18, 14] up) {
    c = Conv<pads = [1, 1, 1, 1]>(image, wc, bc) low = Constant<value = float {0.0}>()
    high = Constant<value = float {6.0}>() r = Clip(c, low, high) heads = Conv(r, wh, bh)
    pooled = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(r)
    mean = GlobalAveragePool(r) flat = Flatten(mean) sums = Gemm(flat, wg) scores = Softmax<axis = 1>(sums)
    narrow = Conv<strides = [1, 1]>(r, wn) s = Sigmoid(narrow) both = Mul(narrow, s)
    up = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(both, , scales) }"""
WEIGHTS = {"wc": normal(1, 8, 3, 3, 3), "bc": normal(2, 8), "wh": normal(3, 17, 8, 1, 1), "bh": normal(4, 17),
           "wg": normal(5, 8, 6), "wn": normal(6, 4, 8, 1, 1), "scales": np.array([1, 1, 2, 2])}  # fmt: skip


@pytest.fixture
def backend() -> Any:
    """The backend, where TVM is installed."""
    found = discover.load("backends", "tvm")
    try:
        found.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(model: onnx.ModelProto, folder: Path) -> Source:
    """The graph as what artifacts are made from."""
    onnx.save(model, folder / "graph.onnx")
    return Source(CARD, folder / "graph.onnx")


def transposed() -> onnx.ModelProto:
    """One transposed convolution of each kind over the same convolution."""
    nodes, outputs = ["c = Conv<pads = [1, 1, 1, 1]>(image, wc, bc)"], []
    weights = {"wc": WEIGHTS["wc"], "bc": WEIGHTS["bc"]}
    for i, (name, (attributes, shape)) in enumerate(TRANSPOSED.items()):
        nodes.append(f"{name} = ConvTranspose<{attributes}>(c, w_{name})")
        weights[f"w_{name}"] = normal(i, *shape)
        outputs.append(f"float[1, C{i}, H{i}, W{i}] {name}")
    model = network(f"g (float[1, 3, 9, 7] image) => ({', '.join(outputs)}) {{ {' '.join(nodes)} }}", weights)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in TRANSPOSED)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("model", [transposed(), network(PARTS, WEIGHTS)], ids=["transposed", "parts"])
def test_operators_compute_what_the_graph_says(backend: Any, model: onnx.ModelProto, tmp_path: Path) -> None:
    """Outputs equal ONNX Runtime's to 1e-5 of their largest value, whatever the tile cannot hold."""
    source = save(model, tmp_path)
    notes = backend.build(source, "fp32", tmp_path, None)
    expected = GraphSession(source.graph).run({"image": IMAGE})
    found = backend.open(tmp_path, notes, 2).run({"image": IMAGE})
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, atol=1e-5 * np.abs(values).max(), err_msg=name)


def test_threads_are_those_asked_for(backend: Any, tmp_path: Path) -> None:
    """Sessions beside each other on one thread keep their counts; TVM alone would take half the cores."""
    import tvm

    source = save(network(PARTS, WEIGHTS), tmp_path)
    notes = backend.build(source, "fp32", tmp_path, None)
    for threads in (1, 2, 1):
        backend.open(tmp_path, notes, threads).run({"image": IMAGE})
        assert tvm.get_global_func("runtime.NumThreads")() == threads


def test_foreign_operator_is_named_with_the_runtimes_that_have_it(backend: Any, tmp_path: Path) -> None:
    """One clear line, before anything is compiled."""
    text = """g (float[1, 3, 9, 7] image) => (float[1, 3, 9, 7] y) {
        y = LpNormalization<axis = 1, p = 2>(image) }"""
    onnx.save(network(text, {}), tmp_path / "small.onnx")
    card = Card("small", "topdown-pose", CARD.input, graph=tmp_path / "small.onnx")
    (outcome,) = deploy(card, ["tvm:fp32"], tmp_path / "out")
    assert isinstance(outcome.error, UnsupportedOperator)
    assert "TVM lacks" in outcome.error.message
    assert "LpNormalization" in outcome.error.message
    assert "onnxruntime" in outcome.error.fix


def test_library_of_another_processor_is_refused(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first unknown instruction would end the process."""
    source = save(network(PARTS, WEIGHTS), tmp_path)
    notes = backend.build(source, "fp32", tmp_path, None)
    with pytest.raises(BackendError, match="compiled for a processor with avx9"):
        backend.open(tmp_path, {**notes, "instruction_sets": [*host.instruction_sets(), "avx9"]}, 1)
    (tmp_path / "model.so").write_bytes(b"no library")
    with pytest.raises(BackendError, match="cannot be loaded"):
        backend.open(tmp_path, notes, 1)


def test_no_compiler_is_told(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and what to install."""
    from tvm.support import cc

    monkeypatch.setattr(cc, "get_cc", lambda: None)
    with pytest.raises(BackendError, match="C compiler"):
        backend.build(save(network(PARTS, WEIGHTS), tmp_path), "fp32", tmp_path, None)


def test_killed_search_goes_on_where_it_was(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """What was measured is on disk, is not measured again, and is used without a search too."""
    target = backend.host_target()
    model = network(PARTS, WEIGHTS)
    source = save(model, tmp_path)
    module, long = _tvm_import.kernels(model, target), Source(CARD, source.graph, tune_seconds=1e6)
    measured: list[Any] = []

    def fastest(function: Any, *_: Any) -> Tile | None:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(function)
        return ([None, *_tvm_kernels.tile_space(function, have)])[-1]

    have = _tvm_kernels.registers(target)
    monkeypatch.setattr(_tvm_search, "_fastest", fastest)
    with pytest.raises(KeyboardInterrupt):
        _tvm_search.best_tiles(module, target, long)
    (journal,) = (cache / "tvm").iterdir()
    with journal.open("a") as stream:
        stream.write("[7, [1,")  # a kill in the middle of a line
    measured[:] = [None]
    with pytest.raises(KeyboardInterrupt):
        _tvm_search.best_tiles(module, target, long)
    assert len(journal.read_text().splitlines()) == 3, "two of the first run and one of the second"
    found = _tvm_search.best_tiles(module, target, source)
    kernels = {variable.name_hint: function for variable, function in _tvm_kernels.functions(module)}
    assert found == {name: _tvm_kernels.tile_space(kernels[name], have)[-1] for name in found}
    assert len(found) == 3
    notes = backend.build(source, "fp32", tmp_path, None)
    assert notes.tuned_kernels == 3
    expected = GraphSession(source.graph).run({"image": IMAGE})["heads"]
    actual = backend.open(tmp_path, notes, 1).run({"image": IMAGE})["heads"]
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_search_measures_and_stops_in_time(backend: Any, tmp_path: Path, cache: Path) -> None:
    """A budget that is over after the first kernel leaves the others as they are ranked."""
    target = backend.host_target()
    model = network(PARTS, WEIGHTS)
    source = save(model, tmp_path)
    module = _tvm_import.kernels(model, target)
    found = _tvm_search.best_tiles(module, target, Source(CARD, source.graph, tune_seconds=1e-3))
    ((name, tile),) = found.items()
    kernels = {variable.name_hint: function for variable, function in _tvm_kernels.functions(module)}
    assert tile in _tvm_kernels.tile_space(kernels[name], _tvm_kernels.registers(target))
    assert _tvm_search.best_tiles(module, target, source) == found


def test_tuning_is_refused_where_nothing_compiles(tmp_path: Path) -> None:
    """The runtimes that tune are named."""
    with pytest.raises(InputError, match="onnxruntime has no kernels to tune") as caught:
        deploy("hourglass-tiny-synthetic", ["onnxruntime"], tmp_path, tune_minutes=1)
    assert "tvm" in caught.value.fix


def test_tiles_fit_the_registers() -> None:
    """Lanes are a power of two that divides the channels; fewest loads for a product come first."""
    have = Registers(16, 24)
    assert tiles(48, 128, have)[0] == Tile(6, 4, 16)
    assert tiles(4, 12, have)[0] == Tile(4, 3, 4)
    assert tiles(1, 17, have) == [Tile(1, 17, 1), Tile(1, 1, 1)]
    for tile in tiles(48, 80, have):
        assert tile.pixels * tile.vectors <= have.results
        assert 48 % tile.pixels == 80 % (tile.vectors * tile.lanes) == 0
