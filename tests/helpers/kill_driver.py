"""Runs the command line for each line on standard input, `SECONDS<tab>ARGUMENT<tab>...`, and kills it after SECONDS.

Each run is a fork of this process, which saves the seconds that importing takes; 0 seconds let it come to its end.
Answers with the exit code, or the negative signal, and the seconds that the run took. Times that a search measures are
replaced by constants: they are a machine's, and another time is another search.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import onnxruntime
from sandglass.cli import main as command_line
from sandglass.datasets import synthetic_people  # noqa: F401
from sandglass.measure import benchmarking
from sandglass.quantization import make_plan, qdq  # noqa: F401
from sandglass.search import quantize
from sandglass.sources import (
    bring_up,  # noqa: F401
)
from sandglass.table import markdown  # noqa: F401
from sandglass.tasks import topdown_pose  # noqa: F401

FLOAT_SECONDS, INT8_SECONDS = 0.002, 0.001


class ConstantTimes:
    """In place of a clock: the same times for all layers, and for all artifacts of a precision."""

    seconds = 0.0

    def layers(self, artifact: Artifact) -> dict[str, float]:
        """Milliseconds of each layer that the plan decides on; none for a float artifact."""
        return dict.fromkeys(artifact.files()[1].layers or {}, 1e3 * INT8_SECONDS)

    def paired_layers(self, artifact: Artifact, base: Artifact) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds in float and in int8."""
        int8_ms = self.layers(artifact)
        return dict.fromkeys(int8_ms, 1e3 * FLOAT_SECONDS), int8_ms

    def whole_runs(self, artifacts: Sequence[Artifact], say: Any) -> list[benchmarking.Speed]:
        """Speeds of whole runs."""
        seconds = [FLOAT_SECONDS if artifact.precision == "fp32" else INT8_SECONDS for artifact in artifacts]
        return [benchmarking.speed(a, [spent], 10.0, 1, 1) for a, spent in zip(artifacts, seconds, strict=True)]


def run(seconds: float, arguments: list[str]) -> int:
    """Exit code or negative signal of a run that is killed after `seconds`."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
        os._exit(command_line.main(arguments))
    end = time.monotonic() + seconds
    while seconds and time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.001)
    else:
        if seconds:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Answer each line."""
    onnxruntime.available()
    quantize.quantize = partial(quantize.quantize, timer=ConstantTimes())  # type: ignore[assignment]
    for line in sys.stdin:
        seconds, *arguments = line.rstrip("\n").split("\t")
        started = time.monotonic()
        print(run(float(seconds), arguments), time.monotonic() - started, flush=True)


if __name__ == "__main__":
    main()
