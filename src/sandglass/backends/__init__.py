"""The seam of runtimes: each file in this folder is one backend. A backend never imports a task.

A backend is a module that implements the protocol `Backend`. Its last lines assign the module to a variable of this
type, so that mypy compares the two. `load_backend` finds it without any registration.
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

    `name` is the graph's name of the layer if it is known, otherwise the runtime's own name. `operator` is the name of
    the operation in the runtime. `arithmetic` is INT8 or FLOAT. `macs` are the multiply-accumulates for one image (0
    without weights), and `terms` are those for one element of the output. `milliseconds` is None if the runtime has no
    timer. `note` gives the reason for the arithmetic. `steps` are scales: of the quantized input, then of each channel
    of the quantized weights; empty in float.
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
    """Instructions for compiling and running a model on a host with a vendor's tools.

    `command` is a shell command that writes the file `model` from the files in the kit's folder. `runtime` is a Python
    file that needs only the vendor's tools and numpy, and defines `version()` and `Model(path, inputs, outputs,
    device)`. `needs` lists what the host must have. `inputs` and `outputs` are the graph's shapes by name.
    """

    command: str
    model: str
    runtime: Path
    needs: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Capabilities:
    """The optional abilities of a backend.

    `dynamic_shapes`: one build serves all input sizes. If `source.shapes` is not empty, `build` makes height and width
    dynamic. Without this ability, each shape is built separately.
    `runs_graphs`: the backend builds any ONNX graph with supported operators. Without it, only models of the zoo.
    `tunes_kernels`: `build` may search for fast kernels for `source.tune_seconds`.
    `computes`: outputs are real results and are compared with those of the graph.
    `compiles_for_soc`: an example of a processor's name if the compiler needs one in `source.soc`, otherwise None.
    `make_kit(source, precision, folder)`: for a compiler or a device that is often on another host. It is called if
    `available` raises, and writes the input files of that compiler to `folder`.
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
        """Run a batch. Inputs are NCHW float32, and outputs float32 with the batch first, both by the graph's names."""
        ...


class Backend(Protocol[N]):
    """The protocol of the files in this folder. `N` is the type of a backend's notes."""

    @property
    def INSTALL(self) -> str:
        """The command that installs the runtime."""
        ...

    @property
    def PRECISIONS(self) -> tuple[str, ...]:
        """The precisions that the backend can write, for example ("fp32", "int8"). The first one is the default."""
        ...

    @property
    def PURPOSE(self) -> Literal["deploy", "test"]:
        """The purpose: "deploy" for a runtime that users ship, "test" for one that only serves development."""
        ...

    @property
    def SPEC(self) -> Spec | None:
        """The integer arithmetic of the runtime; None for a backend without int8."""
        ...

    @property
    def SETTINGS(self) -> OfferedSettings:
        """The settings of the runtime except threads: the possible values by name; the first value is the default.

        "streams" is the number of images of a batch that run at the same time and share the threads.
        """
        ...

    @property
    def CAPABILITIES(self) -> Capabilities:
        """The optional abilities of the backend."""
        ...

    @property
    def Notes(self) -> type[N]:
        """The type of the notes that `build` returns and `open` needs. The artifact's manifest keeps them as JSON."""
        ...

    def available(self) -> str:
        """The version of the runtime. Raises BackendUnavailable, with the install command, if it is not installed."""
        ...

    def build(self, source: Source, precision: str, folder: Path, plan: Plan | None) -> N:
        """Write the runtime's files to `folder`. `plan` is the quantization plan for int8, otherwise None.

        Raises UnsupportedOperator, or another BackendError, if the runtime cannot build the graph.
        """
        ...

    def open(self, folder: Path, notes: N, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> Session:
        """Load the files in `folder`. `settings` maps names in SETTINGS to one of their values.

        Up to `callers` threads may call `run` of the session at the same time; each call uses `threads` cores. Raises
        BackendError for files that the runtime cannot load.
        """
        ...

    def layers(self, folder: Path, notes: N, threads: int, inputs: Arrays) -> list[LayerRun]:
        """The operations that the runtime executes, in order, measured on one image `inputs` with default settings."""
        ...


CONTRACT = Backend  # a plugin is compared with it


def load_backend(name: str) -> Backend[BuildNotes]:
    """The backend `name`. Raises InputError for an unknown name, and PluginError for a broken plugin."""
    return cast("Backend[BuildNotes]", discover.load("backends", name))


def usable_backends() -> dict[str, Backend[BuildNotes]]:
    """Every backend by name; broken plugins are left out."""
    return {name: cast("Backend[BuildNotes]", module) for name, module in discover.load_usable("backends").items()}


def all_settings(offered: OfferedSettings, settings: Settings) -> dict[str, SettingValue]:
    """The values of all settings that a backend offers: those in `settings`, otherwise the defaults."""
    return {name: settings.get(name, values[0]) for name, values in offered.items()}
