"""The seam of runtimes: one file is one backend. A backend never imports a task.

A backend is a module that defines what the protocol `Backend` says. Its last lines assign the module to a variable of
that type, where mypy compares the two. `load_backend` finds it because its file is in this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np

from sandglass.backends._notes import FLOAT, INT8, ArithmeticName, BuildNotes, LayerDecision, N, layer_note, read_notes
from sandglass.core import discover
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.quantization.plan import Plan
    from sandglass.quantization.spec import Spec

__all__ = [
    "DEFAULTS",
    "FLOAT",
    "INT8",
    "PROFILED_RUNS",
    "ArithmeticName",
    "Arrays",
    "Backend",
    "BuildNotes",
    "Capabilities",
    "LayerDecision",
    "LayerRun",
    "OfferedSettings",
    "Recipe",
    "Session",
    "SettingValue",
    "Settings",
    "all_settings",
    "layer_note",
    "load_backend",
    "read_notes",
    "usable_backends",
]

Arrays = Mapping[str, np.ndarray]
SettingValue = bool | int | str
Settings = Mapping[str, SettingValue]
OfferedSettings = Mapping[str, tuple[SettingValue, ...]]
DEFAULTS: Settings = MappingProxyType({})
PROFILED_RUNS = 8


@dataclass(frozen=True)
class LayerRun:
    """One operation as a runtime executes it.

    `name` is the graph's layer where it can be matched, else the runtime's own name; `operator` is the runtime's name
    of what it does; `arithmetic` is INT8 or FLOAT. `macs` are multiply-accumulates for one image, 0 for an operation
    without weights, and `terms` how many of them make one output. `milliseconds` is None where the runtime has no
    timer. `note` says why it runs as it does. `steps` are the sizes of one integer step: of its input (first), then of
    each channel of its weights, where they are rounded.
    """

    name: str
    operator: str
    arithmetic: ArithmeticName
    macs: int = 0
    milliseconds: float | None = None
    note: str = ""
    steps: tuple[float, ...] = ()
    terms: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled and run on a host that has a vendor's tools.

    `command` is a line of shell that makes `model` from the files in the kit's folder; `runtime` is a file that needs
    only the vendor's tools and numpy, and defines `version()` and `Model(path, inputs, outputs, device)`; `needs` says
    what the host must have. `inputs` and `outputs` are the graph's shapes by name.
    """

    command: str
    model: str
    runtime: Path
    needs: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do beyond building, opening and listing layers.

    `dynamic_shapes`: one build serves every input size; where `source.shapes` is not empty, `build` leaves the sides
    open that the graph has fixed. Without it each shape is built by itself.
    `runs_graphs`: it builds any ONNX graph that has operators of its runtime. Without it, only models of the zoo.
    `tunes_kernels`: `build` may measure kernels for `source.tune_seconds`.
    `computes`: outputs are results, which are compared with the graph's.
    `compiles_for_soc`: an example of a processor's name where the compiler needs one in `source.soc`, else None.
    `make_kit(source, precision, folder)`: for a compiler or device that is often on another host. Where `available`
    raises, it writes into `folder` what the compiler there reads.
    """

    dynamic_shapes: bool = False
    runs_graphs: bool = True
    tunes_kernels: bool = False
    computes: bool = True
    compiles_for_soc: str | None = None
    make_kit: Callable[[Source, str, Path], Recipe] | None = None


class Session(Protocol):
    """A loaded artifact."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by the graph's names, float32, batch first, for inputs by the graph's names, NCHW float32."""
        ...


class Backend(Protocol[N]):
    """What a file in this folder defines; `N` is the type of its notes."""

    @property
    def INSTALL(self) -> str:
        """The command that installs what it needs."""
        ...

    @property
    def PRECISIONS(self) -> tuple[str, ...]:
        """The precisions that it can write, for example ("fp32", "int8")."""
        ...

    @property
    def PURPOSE(self) -> Literal["deploy", "test"]:
        """Either "deploy" for a runtime that users ship, "test" for one that only serves development."""
        ...

    @property
    def SPEC(self) -> Spec | None:
        """Its integer arithmetic; None where it writes no int8."""
        ...

    @property
    def SETTINGS(self) -> OfferedSettings:
        """What a user may set on this runtime besides threads: by name its values, the first one the default.

        "streams" is how many images of a batch are in flight at once, on threads that they share.
        """
        ...

    @property
    def CAPABILITIES(self) -> Capabilities:
        """What it can do besides."""
        ...

    @property
    def Notes(self) -> type[N]:
        """The type of what `build` returns, `open` needs, and the artifact's manifest keeps as JSON."""
        ...

    def available(self) -> str:
        """The version of the runtime. Raises BackendUnavailable, with the command that installs it."""
        ...

    def build(self, source: Source, precision: str, folder: Path, plan: Plan | None) -> N:
        """Write the runtime's files into `folder`, for int8 by `plan`.

        Raises UnsupportedOperator, or another BackendError, where the runtime cannot build the graph.
        """
        ...

    def open(self, folder: Path, notes: N, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> Session:
        """Load the files in `folder`. `settings` maps names in SETTINGS to one of their values.

        `callers` threads may call the session's `run` at once, each call computing on `threads` cores. Raises
        BackendError for files that the runtime cannot load.
        """
        ...

    def layers(self, folder: Path, notes: N, threads: int, inputs: Arrays) -> list[LayerRun]:
        """What the runtime executes, in order, measured on one image `inputs`, under default settings."""
        ...


CONTRACT = Backend  # a plugin is compared with it


def load_backend(name: str) -> Backend[BuildNotes]:
    """The backend `name`. Raises InputError that lists the known ones, and PluginError for a broken plugin."""
    return cast("Backend[BuildNotes]", discover.load("backends", name))


def usable_backends() -> dict[str, Backend[BuildNotes]]:
    """Every backend by name; broken plugins are left out."""
    return {name: cast("Backend[BuildNotes]", module) for name, module in discover.load_usable("backends").items()}


def all_settings(offered: OfferedSettings, settings: Settings) -> dict[str, SettingValue]:
    """The value of every setting that a backend offers, its default where `settings` does not name it."""
    return {name: settings.get(name, values[0]) for name, values in offered.items()}
