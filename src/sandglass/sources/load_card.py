"""Cards by name or file: the zoo, TOML files, and configs of OpenMMLab."""

from __future__ import annotations

from pathlib import Path

from sandglass.core.errors import CardError
from sandglass.core.toml_files import read_toml
from sandglass.sources.card import HELP, Card, zoo


def load_card(source: str | Path) -> Card:
    """Read a card from a zoo name, a `.toml` path, or an OpenMMLab config, a `.py` path.

    Raises CardError when there is none, it is not TOML, a field is missing, unknown or of the wrong type, and
    ConfigError for a config that does not make a card.
    """
    path = zoo().get(str(source), Path(source))
    if path.suffix == ".py":
        from sandglass.sources.openmmlab.cards import config_card

        return config_card(path)
    if path.suffix != ".toml":
        raise CardError(
            f"{source} is neither a zoo model nor a .toml model card nor a .py config of OpenMMLab",
            f"zoo models: {', '.join(zoo()) or 'none'}",
        )
    data = read_toml(path, "model card", CardError, HELP)
    return Card.from_dict(data, str(path), path.parent)
