"""What the command line says of OpenMMLab's configs: `--deploy-config` of `deploy`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sandglass.cli.options import say

if TYPE_CHECKING:
    from sandglass.sources.card import Card


def add_deploy_config(command: argparse.ArgumentParser) -> None:
    """Where to deploy to: `--to`, or a config of mmdeploy's that says it."""
    wanted = command.add_mutually_exclusive_group(required=True)
    wanted.add_argument(
        "--to", nargs="+", action="extend", metavar="BACKEND[:PRECISION]", dest="targets", help="may be repeated"
    )
    wanted.add_argument(
        "--deploy-config", type=Path, metavar="FILE.py", help="a deploy config of mmdeploy, in place of --to"
    )


def what_and_where(arguments: argparse.Namespace) -> tuple[str | Card, list[str]]:
    """The source and the targets. Raises ConfigError for a deploy config that does not fit the model."""
    if arguments.deploy_config is None:
        return arguments.source, list(arguments.targets)
    from sandglass.sources.load_card import load_card
    from sandglass.sources.openmmlab.deploy import read_deploy_config

    config = read_deploy_config(arguments.deploy_config)
    card = config.applied(load_card(arguments.source))
    for line in config.notes:
        say(f"{config.path.name}: {line}")
    say(f"{config.path.name}: deploying to {config.target}")
    return card, [config.target]
