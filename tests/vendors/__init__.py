"""Stand-ins for vendors' tools and packages, so that build kits can be run and collected where there is no device.

Compiled by the stand-ins, a model is its ONNX file: what a kit brings back is what ONNX Runtime computes.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
# A compiler copies the graph to where it is told.
PROGRAMS = {
    "atc": 'for a in "$@"; do case $a in --model=*) m=${a#*=};; --output=*) o=${a#*=};; esac; done; cp "$m" "$o.om"\n',
    "igie-exec": "while [ $# -gt 0 ]; do case $1 in --model_path) m=$2;; --engine_path) o=$2;; esac; shift; done\n"
    'cp "$m" "$o"\n',
}


def environment(folder: Path) -> dict[str, str]:
    """The environment of a host that has the stand-ins and no Sandglass; programs are written into `folder`."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, script in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\nset -e\n{script}")
        (programs / name).chmod(0o755)
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "sandglass.py").write_text("raise ImportError('this host has no sandglass')\n")
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": f"{hidden}{os.pathsep}{FOLDER}"}
    return {**os.environ, **paths}
