"""The contract of models: the smallest member of each family is built, loaded and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from sandglass.cli.conformance import members
from sandglass.core import discover
from sandglass.core.errors import CheckpointError
from sandglass.core.json_values import JsonObject
from sandglass.models import ModelModule, load_model
from sandglass.sources.card import Card, Input
from sandglass.sources.checkpoint import RENAMES

torch = pytest.importorskip("torch")

MODELS = members("models")
RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def tiny(name: str) -> Card:
    """A card of the smallest member of a family."""
    family = load_model(name)
    task, arguments = discover.own_names("tasks")[0], cast(JsonObject, family.TINY)
    return Card(f"tiny-{name}", task, Input(family.TINY_SIZE, *RGB), name, arguments)


def family_of(card: Card) -> ModelModule:
    """The family of a card's model."""
    assert card.model is not None
    return load_model(card.model)


def shapes(card: Card) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of the state dict, in order; the module takes no memory."""
    with torch.device("meta"):
        module = family_of(card).build(**card.arguments)
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.fixture(params=MODELS)
def card(request: pytest.FixtureRequest) -> Card:
    """Each family's smallest member."""
    return tiny(request.param)


def trained(card: Card) -> dict[str, Any]:
    """A state dict whose means and variances differ from those of a new module."""
    torch.manual_seed(0)
    state = family_of(card).build(**card.arguments).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return state


def outputs(card: Card, result: Any) -> dict[str, Any]:
    """The result of a module by the names of its outputs."""
    tensors = result if isinstance(result, tuple | list) else (result,)
    return dict(zip(family_of(card).OUTPUTS, tensors, strict=True))


def test_build_is_ready_and_repeats(card: Card) -> None:
    """A module is in evaluation mode, computes a batch like single images, and has the same keys each time."""
    family = family_of(card)
    module = family.build(**card.arguments)
    assert not module.training
    assert list(module.state_dict()) == list(shapes(card))
    images = torch.randn(2, 3, *card.input.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = outputs(card, module(images))
        alone = [outputs(card, module(image[None])) for image in images]
    for name, value in together.items():
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("renamed", [False, True], ids=["new", "old"])
def test_checkpoints_of_both_generations_load(card: Card, renamed: bool, tmp_path: Path) -> None:
    """A checkpoint with the names of OpenMMLab 1.x or 0.x gives the same weights."""
    from sandglass.sources.export import read_weights

    state = trained(card)
    older = {new: pattern.removeprefix("^").replace("\\.", ".") for pattern, new in RENAMES if new}
    names = {key: next((o + key[len(n) :] for n, o in older.items() if key.startswith(n)), key) for key in state}
    content = {(f"module.{names[key]}" if renamed else key): value for key, value in state.items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": content}, tmp_path / "a.pth")
    read = read_weights(card, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert list(read) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(read[key], value.numpy(), err_msg=key)


def test_another_models_checkpoint_is_refused_with_all_that_differs(card: Card, tmp_path: Path) -> None:
    """The error names a missing key, an unexpected key and one of another shape, and no file is written."""
    from sandglass.sources.export import read_weights

    state = trained(card)
    first, *_, last = (key for key in state if key.endswith("weight"))
    del state[first]
    state[last] = torch.zeros(*state[last].shape, 2)
    state["unknown"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        read_weights(card, tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert f"1 missing ({first})" in caught.value.message
    assert "1 unexpected (unknown)" in caught.value.message
    assert f"1 wrongly shaped ({last} [" in caught.value.message
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
def test_export_is_static_and_equal_to_the_module(card: Card, tmp_path: Path) -> None:
    """The graph has the outputs of the family, fixed shapes and no BatchNorm, and computes the same as the module."""
    from sandglass.graph.io import load_graph, static_inputs, static_outputs
    from sandglass.sources.export import TOLERANCE, export_graph

    state = {key: value.numpy() for key, value in trained(card).items()}
    report = export_graph(card, state, tmp_path / "graph.onnx")
    assert report.difference <= TOLERANCE
    model = load_graph(tmp_path / "graph.onnx")
    assert static_inputs(model) == {"input": (1, 3, *card.input.size)}
    assert tuple(static_outputs(model)) == family_of(card).OUTPUTS
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
