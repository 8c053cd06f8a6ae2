"""ONNX's own node tests that take an image: each backend is right, or refuses the node by its operator.

Inputs after the first become weights, as they are in networks.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

from sandglass.core import discover
from sandglass.core.errors import BackendError, BackendUnavailable
from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.sources.bring_up import convert, simplify
from sandglass.sources.rewrites import run_stage
from sandglass.sources.source import Source

# The modules of onnx whose cases have an image as their first input; importing all of them takes long.
MODULES = (
    "averagepool", "conv", "convtranspose", "deformconv", "globalaveragepool", "globalmaxpool", "gridsample",
    "instance_normalization", "lppool", "maxpool", "pad",
)  # fmt: skip
BACKENDS = [name for name in discover.names("backends") if discover.load("backends", name).PURPOSE == "deploy"]
# What no installed backend but ONNX Runtime has in any form, or that needs a package of its own.
LACKING = {"DeformConv", "LpPool"}
TOLERANCE = 1e-3
WITHOUT_GRAPHS = {"pytorch"}  # it runs modules, not graphs


@cache
def cases() -> dict[str, tuple[onnx.ModelProto, np.ndarray, list[np.ndarray]]]:
    """By name the graph with weights, the image, and the expected outputs."""
    for module in MODULES:
        import_module(f"{node_cases.__name__}.{module}")
    found = {}
    for case in node_cases._NodeTestCases:
        model, (inputs, outputs) = onnx.ModelProto.FromString(case.model.SerializeToString()), case.data_sets[0]
        (image, *weights), (first, *others) = inputs, model.graph.input
        if image.ndim == 4 and image.dtype == np.float32 and len(image) == 1 and len(model.graph.node) == 1:
            for value, weight in zip(others, weights, strict=True):
                model.graph.initializer.append(numpy_helper.from_array(weight, value.name))
            del model.graph.input[1:]
            assert first.name == model.graph.input[0].name
            found[case.name] = (model, image, outputs)
    return found


def brought_up(name: str, folder: Path) -> tuple[Path, str, np.ndarray, dict[str, np.ndarray]]:
    """The graph as artifacts are made from it, its operator, the image, and the expected outputs by name."""
    original, image, outputs = cases()[name]
    model = onnx.ModelProto.FromString(original.SerializeToString())
    operator = model.graph.node[0].op_type
    expected = {value.name: values for value, values in zip(model.graph.output, outputs, strict=True)}
    run_stage("exported", model)
    save_graph(simplify(convert(model)), folder / "graph.onnx")
    return folder / "graph.onnx", operator, image, expected


def agrees(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every output is the expected one."""
    assert set(found) == set(expected)
    for output, values in expected.items():
        assert found[output].shape == values.shape
        np.testing.assert_allclose(found[output], values, rtol=TOLERANCE, atol=TOLERANCE)


def opened(backend: ModuleType, graph: Path, folder: Path) -> tuple[Any, str]:
    """A session over an fp32 artifact of the graph, or None and why there is none."""
    try:
        notes = backend.build(Source(None, graph), "fp32", folder, None)  # type: ignore[arg-type]
    except BackendError as error:
        return None, error.message
    return backend.open(folder, notes, 1), ""


def test_there_are_cases() -> None:
    """They are found where onnx keeps them."""
    assert len(cases()) >= 59


@pytest.mark.parametrize("name", sorted(cases()))
def test_bring_up_keeps_the_result(name: str, tmp_path: Path) -> None:
    """The graph computes what the case expects."""
    graph, _, image, expected = brought_up(name, tmp_path)
    session = GraphSession(graph)
    agrees(session.run({session.input_names[0]: image}), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted({*BACKENDS} - WITHOUT_GRAPHS))
@pytest.mark.parametrize("name", sorted(cases()))
def test_a_backend_is_right_or_refuses_the_operator(name: str, backend: str, tmp_path: Path) -> None:
    """A refusal names the operator, and for what exists in other forms the attribute."""
    module = discover.load("backends", backend)
    try:
        module.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    graph, operator, image, expected = brought_up(name, tmp_path)
    (tmp_path / "out").mkdir()
    session, refusal = opened(module, graph, tmp_path / "out")
    if session is None:
        assert operator in refusal
        assert operator in LACKING or " with " in refusal
    else:
        (entry,) = onnx.load(graph).graph.input
        agrees(session.run({entry.name: image}), expected)
