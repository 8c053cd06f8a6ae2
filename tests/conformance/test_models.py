"""Every file in models/, and every card of the zoo, is tested here because it exists."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from references import names, reference

from sandglass.cli.conformance.models import *  # noqa: F403 - the tests of the contract
from sandglass.cli.conformance.models import outputs, shapes, torch
from sandglass.core import discover
from sandglass.sources.card import ZOO, zoo
from sandglass.sources.load_card import load_card

CARDS = [name for name in zoo() if load_card(name).model]


@pytest.mark.parametrize("name", CARDS)
def test_zoo_model_gives_what_its_task_decodes(name: str) -> None:
    """The architecture takes the card's arguments and input, and the card's task decodes outputs of its shapes."""
    card = load_card(name)
    task = discover.load("tasks", card.task)
    dataset = discover.load("datasets", task.DATASET).load(limit=1)
    sample = task.samples(dataset)[0]
    array, meta = task.prepare(dataset.read(sample.image_id), sample, card)
    with torch.device("meta"):
        module = discover.load("models", card.model).build(**card.arguments)
        result = outputs(card, module(torch.empty(1, *array.shape)))
    zeros = {output: np.zeros(value.shape, np.float32) for output, value in result.items()}
    assert len(task.decode(zeros, [meta], card)) == 1


@pytest.mark.parametrize("name", CARDS)
def test_zoo_checkpoint_is_named_with_its_hash(name: str) -> None:
    """A zoo card says where trained weights are: in the package, or at addresses with at least 8 digits of a hash."""
    checkpoint = load_card(name).checkpoint
    assert checkpoint is not None
    if not (ZOO / checkpoint.file).is_file():
        assert checkpoint.urls
        assert len(checkpoint.sha256) >= 8


@pytest.mark.parametrize("name", names("state"))
def test_keys_are_those_on_record(name: str) -> None:
    """Keys and shapes of a zoo model are what they were: published checkpoints go on loading."""
    table, found = reference(name, "state"), shapes(load_card(name))
    assert len(found) == table["keys"]
    assert hashlib.sha256(json.dumps(list(found.items())).encode()).hexdigest().startswith(table["sha256"])
