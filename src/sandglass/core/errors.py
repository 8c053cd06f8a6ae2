"""The errors that Sandglass raises. With all of them, a command ends with exit code 2.

SandglassError
├── InputError            an input of the user cannot be used
│   ├── CardError         a model card does not parse, or names something unknown
│   ├── ConfigError       an OpenMMLab config is not plain data, or describes a model that Sandglass does not support
│   ├── CheckpointError   a weights file is truncated, malicious, or belongs to another model
│   ├── GraphError        an ONNX file is damaged, has a dynamic shape, or is not supported
│   ├── DatasetError      images, annotations or detections cannot be used
│   ├── PlanError         a quantization plan is malformed, or does not fit its graph
│   ├── ArtifactError     an artifact folder is missing, incomplete or changed, or a result already exists
│   ├── BusyError         another run works in the same folder
│   └── FormatError       a model file of another program (ncnn) does not parse
├── BackendError          a runtime refused or failed
│   ├── BackendUnavailable    its package is not installed here
│   ├── UnsupportedOperator   it does not support an operator of the graph
│   └── CrashError            its process crashed, hung, or raised an unexpected error
├── PluginError           a member that an installed package adds cannot be used
├── BudgetError           the search found no artifact within the budget
└── ParityError           the outputs of two stages differ too much
"""

from __future__ import annotations

import reprlib

LONGEST = 2000  # characters of a message; a longer one is shortened in its middle


class SandglassError(Exception):
    """An error that the user can fix.

    `message` says what is wrong: the file, the value, and the expected value. `fix` says what to do.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


def shown(value: object) -> str:
    """A value from a file as a short text; a large or deep value is shortened."""
    return _SHORT.repr(value)


def one_line(text: str) -> str:
    """A text as one line of limited length, with control characters escaped.

    A text from a file could otherwise move the terminal's cursor and hide the rest of the message.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxother = 3, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 6
_SHORT.maxstring = _SHORT.maxlong = 60


class InputError(SandglassError):
    """An input of the user cannot be used."""


class CardError(InputError):
    """A model card does not parse, lacks a field or names something unknown."""


class ConfigError(InputError):
    """An OpenMMLab config is not plain data, or describes a model that Sandglass does not support."""


class CheckpointError(InputError):
    """A weights file is truncated, malicious, or belongs to another model."""


class GraphError(InputError):
    """An ONNX file is damaged, has a dynamic shape, or is not supported."""


class DatasetError(InputError):
    """Images, annotations or detections cannot be used."""


class PlanError(InputError):
    """A quantization plan is malformed or does not fit its graph."""


class ArtifactError(InputError):
    """An artifact folder is missing, incomplete or changed, or a result already exists."""


class BusyError(InputError):
    """Another run works in the same folder, or writes the same file."""


class FormatError(InputError):
    """A model file of another program does not parse."""


class BackendError(SandglassError):
    """A runtime refused or failed."""


class BackendUnavailable(BackendError):
    """A runtime's package is not installed here, or not for this processor."""


class UnsupportedOperator(BackendError):
    """A runtime does not support an operator of the graph."""


class CrashError(BackendError):
    """The process of a runtime crashed, was killed, took too long, or raised an unexpected error."""


class PluginError(SandglassError):
    """An installed package adds a member of a seam that cannot be used."""


class ParityError(SandglassError):
    """The outputs of two stages (module and graph, or graph and artifact) differ too much."""


class BudgetError(SandglassError):
    """The search found no int8 artifact within the budget."""
