"""The seam of runtimes: one file is one backend. A backend never imports a task.

Each file defines, at module level:

    INSTALL      the command that installs what it needs
    PRECISIONS   what it can write, e.g. ("fp32", "int8")
    PURPOSE      "deploy" for a runtime that users ship, "test" for one that only serves development
    SPEC         quantize.spec.Spec of its integer arithmetic, or None
    SETTINGS     what a user may turn on this runtime besides threads: by name its values, the first one the default.
                 "streams" is how many images of a batch are in flight at once, on threads that they share
    available()  -> version; raises BackendUnavailable with the command to type
    build(source, precision, folder, plan) -> notes
                 writes its files into `folder`; the JSON-able notes are kept in the artifact's manifest
    open(folder, notes, threads, settings={}, callers=1) -> Session
                 `settings` maps names in SETTINGS to one of their values; `callers` threads may call its `run` at
                 once, each call computing on `threads` cores
    layers(folder, notes, threads, inputs) -> [LayerRun]
                 what the runtime executes, in order, measured on one image `inputs`, under default settings

A backend that serves any input size with the same files may define

    DYNAMIC      True: where `source.shapes` is not empty, `build` leaves the sides open that the graph has fixed.
                 Others build a graph for each shape

A backend whose compiler or device is often on another host may define also

    kit(source, precision, folder) -> Recipe
                 where `available` raises: writes into `folder` what the compiler there reads
    SOC          an example of a processor's name, where the compiler compiles for one: it is `source.soc`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from sandglass.core import discover
from sandglass.core.parallel import waited
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.quantization.plan import Plan
    from sandglass.quantization.spec import Spec

Arrays = Mapping[str, np.ndarray]
Setting = bool | int | str
Settings = Mapping[str, Setting]
DEFAULTS: Settings = MappingProxyType({})
INT8, FLOAT = "int8", "float"
PROFILED_RUNS = 8


@dataclass(frozen=True)
class LayerRun:
    """One operation as a runtime executes it.

    `name` is the graph's layer where it can be matched, else the runtime's own name; `operator` is the runtime's name
    of what it does; `arithmetic` is INT8 or FLOAT. `macs` are multiply-accumulates for one image, 0 for what has no
    weights, and `terms` how many of them make one output. `milliseconds` is None where the runtime cannot tell. `note`
    says why it runs as it does. `steps` are the sizes of one integer step: of its input (first), then of each channel
    of its weights, where they are rounded.
    """

    name: str
    operator: str
    arithmetic: str
    macs: int = 0
    milliseconds: float | None = None
    note: str = ""
    steps: tuple[float, ...] = ()
    terms: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled and run on a host that has a vendor's tools.

    `command` is a line of shell that makes `model` from what is in the kit's folder; `runtime` is a file that needs
    only the vendor's tools and numpy, and defines `version()` and `Model(path, inputs, outputs, device)`; `needs` says
    what the host must have. `notes` hold the graph's `inputs` and `outputs` as shapes by name.
    """

    command: str
    model: str
    runtime: Path
    needs: str
    notes: Mapping[str, Any]


class Session(Protocol):
    """A loaded artifact."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by the graph's names, float32, batch first, for inputs by the graph's names, NCHW float32."""
        ...


class Backend(Protocol):
    """What a file in this folder defines (see the module docstring)."""

    INSTALL: str
    PRECISIONS: tuple[str, ...]
    PURPOSE: str
    SPEC: Spec | None
    SETTINGS: Mapping[str, tuple[Setting, ...]]

    @staticmethod
    def available() -> str: ...

    @staticmethod
    def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> dict[str, Any]: ...

    @staticmethod
    def open(
        folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS, callers: int = 1
    ) -> Session: ...

    @staticmethod
    def layers(folder: Path, notes: Mapping[str, Any], threads: int, inputs: Arrays) -> list[LayerRun]: ...


def load_backend(name: str) -> Backend:
    """The backend `name`. Raises InputError that lists the known ones."""
    return cast(Backend, discover.load("backends", name))


def run_by_one(
    run: Callable[[Arrays], dict[str, np.ndarray]], inputs: Arrays, pool: Executor | None = None
) -> dict[str, np.ndarray]:
    """Run a batch through a runtime that takes one image at a time, and stack the outputs.

    With `pool` images are in flight at once, as many as it has threads; `run` must then be safe to call from several.
    """
    count = len(next(iter(inputs.values())))
    images = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
    if pool and count > 1:
        parts = [waited(future, "an image") for future in [pool.submit(run, image) for image in images]]
    else:
        parts = [run(image) for image in images]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def chosen(offered: Mapping[str, tuple[Setting, ...]], settings: Settings) -> dict[str, Any]:
    """Every setting that a backend offers, with its default where `settings` is silent."""
    return {name: settings.get(name, values[0]) for name, values in offered.items()}


def way(notes: Mapping[str, Any], name: str, arithmetic: str) -> str:
    """Why a layer runs as it does: the plan's word, or that the runtime itself chose otherwise."""
    planned = str(notes.get("layers", {}).get(name, ""))
    if planned.startswith("int8") and arithmetic == FLOAT:
        return "the plan says int8, the runtime has no such kernel here"
    return planned.partition(": " if planned.startswith("float") else ", ")[2]
