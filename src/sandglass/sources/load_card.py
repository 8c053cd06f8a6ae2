"""Load model cards: by the name of a zoo model, from a TOML file, or from an OpenMMLab config."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from sandglass.core.errors import CardError
from sandglass.core.toml_files import read_toml
from sandglass.sources.card import HELP, Card, zoo


def load_card(source: str | Path) -> Card:
    """Load the card of a zoo model (its name), a model card (`.toml` path), or an OpenMMLab config (`.py` path).

    Raises CardError if there is no such model or file, if the file is not TOML, and if a field is missing, unknown or
    of the wrong type. Raises ConfigError for a config that cannot become a card.
    """
    path = zoo().get(str(source), Path(source))
    if path.suffix == ".py":
        from sandglass.sources.openmmlab.cards import config_card

        return config_card(path)
    if path.suffix != ".toml":
        similar = get_close_matches(str(source), zoo(), n=4, cutoff=0.5)
        question = f"did you mean {', '.join(similar)}? " if similar else ""
        raise CardError(
            f"{source} is not a zoo model, a model card (.toml), an OpenMMLab config (.py) or an artifact",
            f"{question}`sandglass models` lists the zoo models",
        )
    data = read_toml(path, "model card", CardError, HELP)
    return Card.from_dict(data, str(path), path.parent)
