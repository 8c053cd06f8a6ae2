"""Convert a graph to ncnn's `model.param` and `model.bin` with pnnx, the converter of ncnn."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendError, BackendUnavailable, UnsupportedOperator
from sandglass.core.process import ending, run_program

if TYPE_CHECKING:
    from sandglass.formats.ncnn_param import Param

INSTALL = install_command("ncnn")
PARAM, BIN, LOG = "model.param", "model.bin", "pnnx.log"
MOST_LETTERS = 240  # letters of pnnx's output in an error message


def pnnx() -> str | None:
    """The path of the converter: the program in its Python package, otherwise the one on PATH; None without both.

    The script of the Python package is not used, because it imports PyTorch first.
    """
    package = importlib.util.find_spec("pnnx")
    folders = package.submodule_search_locations or [] if package else []
    programs = (Path(folder) / name for folder in folders for name in ("pnnx", "pnnx.exe"))
    return next((str(program) for program in programs if program.is_file()), None) or shutil.which("pnnx")


def convert(graph: Path, folder: Path, any_size: bool = False) -> None:
    """Convert the graph to fp32 `model.param` and `model.bin` in `folder`. `pnnx.log` has the output of pnnx.

    With `any_size`, the result does not depend on the size of the graph's input. Raises BackendError if pnnx fails,
    dies or takes too long, and UnsupportedOperator for an operator that ncnn lacks.
    """
    from sandglass.backends._ncnn_lowering import lower
    from sandglass.graph.io import load_graph, save_graph

    program = pnnx()
    if program is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    with TemporaryDirectory(prefix="sandglass-") as scratch:  # pnnx also writes four more copies of the weights
        lower(model := load_graph(graph), any_size)
        save_graph(model, Path(scratch) / "graph.onnx")
        command = [program, "graph.onnx", "fp16=0", f"ncnnparam={folder / PARAM}", f"ncnnbin={folder / BIN}"]
        result = run_program(command, Path(scratch))
    (folder / LOG).write_text(result.stdout + result.stderr, encoding="utf-8")
    if result.returncode or not (folder / BIN).is_file():
        how = _ending(result.returncode, folder)
        raise BackendError(f"pnnx, which converts graphs for ncnn, {how}", "choose another backend")


def _ending(code: int, folder: Path) -> str:
    """The way pnnx ended without a result, as the end of a sentence: its error, or its exit code or signal."""
    lines = (folder / LOG).read_text(errors="replace").splitlines()
    errors = [line for line in lines if "failed" in line or "error" in line.lower()]
    if errors:
        reason = re.sub(r"\x1b\[[\d;]*m|/\S+:\d+ .*\) (?=\w)", "", errors[-1])  # removes colors and C++ file names
        return f"failed: {reason[:MOST_LETTERS]}"
    return ending(code)


def refuse_unknown(param: Param, converted: Path) -> None:
    """Raise UnsupportedOperator, with the operator's parameters, if the model has operators that ncnn lacks."""
    import ncnn

    unknown = {layer.name: layer.kind for layer in param.layers if ncnn.layer_to_index(layer.kind) < 0}
    if not unknown:
        return
    name, kind = min(unknown.items())
    log = (converted / LOG).read_text(errors="replace")
    parameters = re.findall(rf"^ignore {re.escape(kind)} {re.escape(name)} param (.*)$", log, re.MULTILINE)
    others = sorted({_plain(other) for other in unknown.values()} - {_plain(kind)})
    raise UnsupportedOperator(
        f"ncnn lacks the operator {_plain(kind)}"
        + (f" with {', '.join(parameters)}" if parameters else "")
        + (f", and {', '.join(others)}" if others else ""),
        "choose another backend",
    )


def _plain(kind: str) -> str:
    """The name of an operator without the name of its library."""
    return re.split(r"[.:]+", kind)[-1]
