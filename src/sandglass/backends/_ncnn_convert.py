"""A graph as ncnn's `model.param` and `model.bin`, by pnnx, ncnn's converter."""

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
MOST_LETTERS = 240  # of what pnnx prints, in a message


def pnnx() -> str | None:
    """The converter's program: the one in its Python package, whose script would import PyTorch first, or another."""
    package = importlib.util.find_spec("pnnx")
    folders = package.submodule_search_locations or [] if package else []
    programs = (Path(folder) / name for folder in folders for name in ("pnnx", "pnnx.exe"))
    return next((str(program) for program in programs if program.is_file()), None) or shutil.which("pnnx")


def convert(graph: Path, folder: Path, any_size: bool = False) -> None:
    """Write the graph as fp32 `model.param` and `model.bin` into `folder`, by pnnx, with what it said in `pnnx.log`.

    With `any_size` nothing of the result may depend on the size of the graph's input. Raises BackendError where pnnx
    fails, dies or takes too long, and UnsupportedOperator for what ncnn lacks.
    """
    from sandglass.backends._ncnn_lowering import lower
    from sandglass.graph.io import load_graph, save_graph

    program = pnnx()
    if program is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    with TemporaryDirectory(prefix="sandglass-") as scratch:  # pnnx leaves four more copies of the weights
        lower(model := load_graph(graph), any_size)
        save_graph(model, Path(scratch) / "graph.onnx")
        command = [program, "graph.onnx", "fp16=0", f"ncnnparam={folder / PARAM}", f"ncnnbin={folder / BIN}"]
        result = run_program(command, Path(scratch))
    (folder / LOG).write_text(result.stdout + result.stderr, encoding="utf-8")
    if result.returncode or not (folder / BIN).is_file():
        how = _ending(result.returncode, folder)
        raise BackendError(f"pnnx, which converts graphs for ncnn, {how}", "choose another backend")


def _ending(code: int, folder: Path) -> str:
    """How pnnx ended without a result: by which signal, or with which error."""
    lines = (folder / LOG).read_text(errors="replace").splitlines()
    errors = [line for line in lines if "failed" in line or "error" in line.lower()]
    if errors:
        reason = re.sub(r"\x1b\[[\d;]*m|/\S+:\d+ .*\) (?=\w)", "", errors[-1])  # colours, and places in C++ files
        return f"failed: {reason[:MOST_LETTERS]}"
    return ending(code)


def refuse_unknown(param: Param, converted: Path) -> None:
    """Raise UnsupportedOperator where pnnx left operators that ncnn does not have, with what pnnx knew of them."""
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
    """The name of an operator without that of its library."""
    return re.split(r"[.:]+", kind)[-1]
