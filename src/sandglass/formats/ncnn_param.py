"""ncnn's `.param` text file. Parts that are not changed are written back byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sandglass.core.errors import FormatError
from sandglass.core.reading import read_bytes

MAGIC = "7767517"
DAMAGED = "the file is truncated or was edited; convert the model again"
ARRAY = 23300  # array parameter k has the key -(23300 + k)


@dataclass
class Layer:
    """One line of the file. `text` is the line; `set` changes a parameter in it.

    `bottoms` and `tops` are the names of the input and output blobs.
    """

    text: str
    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: dict[int, str]

    def integer(self, key: int, default: int) -> int:
        """An integer parameter, or `default` if it is not set. Raises FormatError for another value."""
        value = self.parameters.get(key, str(default))
        try:
            return int(value)
        except ValueError as error:
            raise FormatError(f"layer {self.name}: parameter {key} is {value!r}, expected an integer") from error

    def number(self, key: int) -> float:
        """A number parameter, or 0 if it is not set. Raises FormatError for another value."""
        value = self.parameters.get(key, "0")
        try:
            return float(value)
        except ValueError as error:
            raise FormatError(f"layer {self.name}: parameter {key} is {value!r}, expected a number") from error

    def set(self, key: int, value: int | float) -> None:
        """Set a parameter. A new one is added at the end. A float is written in exponent form, as ncnn expects."""
        written = f"{value:e}" if isinstance(value, float) else str(value)
        if key in self.parameters:
            self.text = re.sub(rf"(?<=\s){key}=\S+", f"{key}={written}", self.text)
        else:
            body = self.text.rstrip()
            self.text = f"{body} {key}={written}{self.text[len(body) :]}"
        self.parameters[key] = written


@dataclass
class Param:
    """A `.param` file: its two header lines and its layers."""

    header: tuple[str, str]
    layers: list[Layer]

    def text(self) -> str:
        """The text of the file."""
        return "".join([*self.header, *(layer.text for layer in self.layers)])


def read_param(path: Path) -> Param:
    """Read a `.param` file. Raises FormatError, with the number of the line, if it is malformed."""
    try:
        return parse_param(read_bytes(path, FormatError).decode(), str(path))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text", "give a text .param file; .param.bin is not supported") from error


def parse_param(text: str, where: str = "param") -> Param:
    """Parse the text of a `.param` file. `where` names the file in errors. Raises FormatError if it is malformed."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if len(lines) < 2 or lines[0].strip() != MAGIC:
        raise FormatError(f"{where} does not start with {MAGIC}", "give an ncnn .param file")
    layers = [_parse(line, f"{where}, line {number}") for number, line in enumerate(lines[2:], 3) if line.strip()]
    counts = lines[1].split()
    blobs = sum(len(layer.tops) for layer in layers)
    if counts != [str(len(layers)), str(blobs)]:
        raise FormatError(f"{where} has {len(layers)} layers and {blobs} blobs, but its header says "
                          f"{' and '.join(counts)}", DAMAGED)  # fmt: skip
    return Param((lines[0], lines[1]), layers)


def _parse(line: str, where: str) -> Layer:
    words = line.split()
    try:
        kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
        blobs, rest = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
        pairs = [word.split("=", 1) for word in rest]
        parameters = {int(key): value for key, value in pairs}
    except (IndexError, ValueError) as error:
        raise FormatError(f"{where}: {line.strip()!r} is not a layer", DAMAGED) from error
    if len(blobs) != inputs + outputs or min(inputs, outputs) < 0:
        raise FormatError(f"{where}: {name} has fewer blobs than its line says", DAMAGED)
    return Layer(line, kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), parameters)
