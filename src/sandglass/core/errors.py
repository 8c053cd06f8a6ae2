"""Everything that Sandglass raises on purpose.

SandglassError
├── InputError            what the user gave cannot be used: exit code 2
│   ├── CardError         a model card that does not parse or names unknown things
│   ├── ConfigError       an OpenMMLab config that is not data, or of a model that Sandglass lacks
│   ├── CheckpointError   a weights file that is truncated, hostile or of another model
│   ├── GraphError        an ONNX file that is broken, dynamic or not supported
│   ├── DatasetError      images, annotations or detections
│   ├── PlanError         a quantization plan that does not fit its graph
│   ├── ArtifactError     an artifact folder that is missing, incomplete or changed
│   ├── BusyError         another run works in the same folder
│   └── FormatError       a foreign model file (ncnn) that does not parse
├── BackendError          a runtime refused or failed: exit code 2
│   ├── BackendUnavailable    its package is not installed here
│   ├── UnsupportedOperator   it lacks an operator of the graph
│   └── CrashError            its process crashed, hung, or met an error that nobody expected
├── PluginError           an installed package adds a member of a seam that cannot be used: exit code 2
├── BudgetError           no artifact keeps the accuracy that was asked for: exit code 2
└── ParityError           two stages that must agree do not: exit code 2
"""

from __future__ import annotations

import reprlib

LONGEST = 2000  # characters of a message


class SandglassError(Exception):
    """A failure that has a cause a user can act on.

    `message` names the file and the value and says what was expected; `fix` says what to do about it.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


def shown(value: object) -> str:
    """A value from a file as a short text, however large or deep it is."""
    return _SHORT.repr(value)


def one_line(text: str) -> str:
    """A text on one line of limited length: what a file says must not move a terminal's cursor or hide the rest."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxother = 3, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 6
_SHORT.maxstring = _SHORT.maxlong = 60


class InputError(SandglassError):
    """What the user gave cannot be used."""


class CardError(InputError):
    """A model card does not parse, lacks a field or names something unknown."""


class ConfigError(InputError):
    """An OpenMMLab config holds more than data, or describes what Sandglass lacks."""


class CheckpointError(InputError):
    """A weights file is truncated, hostile or belongs to another model."""


class GraphError(InputError):
    """An ONNX file is broken, has a dynamic shape or cannot be brought up."""


class DatasetError(InputError):
    """Images, annotations or detections cannot be used."""


class PlanError(InputError):
    """A quantization plan is malformed or does not fit its graph."""


class ArtifactError(InputError):
    """An artifact folder is missing, incomplete, changed, or in the way."""


class BusyError(InputError):
    """Another run works in the same folder, or writes the same file."""


class FormatError(InputError):
    """A model file of a foreign format does not parse."""


class BackendError(SandglassError):
    """A runtime refused or failed."""


class BackendUnavailable(BackendError):
    """A runtime's package is not installed here, or not for this processor."""


class UnsupportedOperator(BackendError):
    """A runtime lacks an operator that the graph uses."""


class CrashError(BackendError):
    """The process of a runtime crashed, was killed, took too long, or raised an error that nobody expected."""


class PluginError(SandglassError):
    """An installed package adds a member of a seam that cannot be used."""


class ParityError(SandglassError):
    """Two stages that must agree (module and graph, graph and artifact) do not."""


class BudgetError(SandglassError):
    """No int8 artifact was found that keeps the accuracy that was asked for."""
