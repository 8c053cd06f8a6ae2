"""`sandglass models`, `doctor` and `fetch` for models and runtimes; `sandglass demo` for a run on embedded data."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from sandglass.cli.options import Output, Place
from sandglass.cli.output import Progress, say, show, write_result
from sandglass.cli.values import MINUTES

MINUTE = 60.0  # seconds
MEGABYTE = 1e6  # bytes


def models(*, output: Output = Output()) -> int:
    """List the models of the zoo with task, input size and published metrics."""
    from sandglass.sources.card import zoo
    from sandglass.sources.load_card import load_card
    from sandglass.table.rows import model_row

    cards = [load_card(name) for name in zoo()]
    show(output, [model_row(card) for card in cards])
    write_result(output, [card.to_dict() for card in cards])
    return 0


def doctor(*, output: Output = Output()) -> int:
    """List the backends that this machine can use, how to install the others, and the plugins."""
    from sandglass.core import host
    from sandglass.table.rows import doctor_row

    backends, plugins, machine = host.backends(), host.plugins(), host.describe()
    conditions = f"{machine['processor']}, {machine['threads']} threads, {' '.join(machine['instruction_sets'])}"
    show(output, [doctor_row(backend) for backend in backends], conditions, *([plugins] if plugins else []))
    write_result(output, {"backends": backends, "plugins": plugins, "host": machine})
    return 0


def fetch(
    model: Annotated[str, Parameter(metavar="MODEL")],
    /,
    *,
    mirror: Annotated[tuple[str, ...], Parameter(metavar="URL", allow_repeating=True)] = (),
    time_limit: Annotated[float, MINUTES] = 60.0,
    insecure: bool = False,
    output: Output = Output(),
) -> int:
    """Download the checkpoint of a zoo model into the cache, and verify its SHA-256.

    Parameters
    ----------
    model
        name of a zoo model, or a model card FILE.toml
    mirror
        URL of a folder that also has the file (default: only the addresses of the card); may be repeated
    time_limit
        time for all addresses together, in minutes (default: 60)
    insecure
        accept a card whose sha256 has too few digits to verify the file (default: refuse)
    """
    from sandglass.sources.fetch import fetch_card
    from sandglass.sources.load_card import load_card

    path = fetch_card(
        load_card(model),
        mirrors=mirror,
        progress=Progress(f"download {model}", "MB", MEGABYTE),
        insecure=insecure,
        seconds=MINUTE * time_limit,
    )
    show(output, str(path))
    write_result(output, {"model": model, "checkpoint": str(path)})
    return 0


def demo(*, place: Place, output: Output = Output()) -> int:
    """Deploy an embedded model to every installed runtime, and measure it on an embedded dataset."""
    from sandglass.cli.demo import run_demo

    result = run_demo(place.out, force=place.force, say=say, progress=Progress)
    show(output, result.rows, result.conditions)
    write_result(output, result.numbers)
    return 0 if result.complete else 2
