"""Run a build kit on a host with the vendor's tools: write the outputs of all inputs to results/, then time the model.

    sh build.sh && python3 run.py

It needs Python 3.7 or newer, numpy, and the packages that runtime.py in this folder needs, but not Sandglass. After an
interruption, the same command continues with the missing files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Protocol

    class Model(Protocol):
        """The compiled model, as the runtime.py of a vendor's backend opens it."""

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            """Outputs by name, for the inputs of one image by name."""
            ...


HERE = Path(__file__).resolve().parent
INPUTS, RESULTS, PROBES = HERE / "inputs", HERE / "results", "probes.npz"
WARM_UP_SECONDS = 1.0


def main() -> int:
    options = argparse.ArgumentParser(description="Run and time the compiled model of this kit.")
    options.add_argument("--seconds", type=float, default=10.0, help="time of the timed runs, in seconds (default: 10)")
    options.add_argument("--device", type=int, default=0, help="number of the device (default: 0)")
    arguments = options.parse_args()
    kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    path = HERE / kit["model"]
    if not path.is_file():
        print(f"{path.name} is missing: compile the graph first, with `sh build.sh`", file=sys.stderr)
        return 2
    import runtime  # runtime.py of this kit, which opens the compiled model

    model = runtime.Model(path, list(kit["inputs"]), kit["outputs"], arguments.device)
    RESULTS.mkdir(exist_ok=True)
    drop_older_results(path)
    files = sorted(INPUTS.glob("*.npz"))
    for number, file in enumerate(files, 1):
        run_file(model, file)
        print(f"file {number} of {len(files)} done: {file.name}", flush=True)
    seconds = timed(model, arguments.seconds)
    report = {
        "kit": digest(HERE / "kit.json"),
        "model_sha256": digest(path),
        "model_bytes": path.stat().st_size,
        "runtime": runtime.version(),
        "host": {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()},
        "batch": 1,
        "seconds": seconds,
    }
    write(RESULTS / "timings.json", lambda stream: stream.write(json.dumps(report).encode("utf-8")))
    middle = sorted(seconds)[len(seconds) // 2]
    print(f"median of {len(seconds)} runs: {1e3 * middle:.3f} ms. Now copy the folder results/ back; see README.md.")
    return 0


def drop_older_results(path: Path) -> None:
    """Remove the results of another compiled model, so that results/ holds those of one model only."""
    marker = RESULTS / "model.sha256"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != digest(path):
        for file in [*RESULTS.glob("*.npz"), *RESULTS.glob("*.json")]:
            file.unlink()
        write(marker, lambda stream: stream.write(digest(path).encode("utf-8")))


def run_file(model: Model, file: Path) -> None:
    """Write the outputs for a file of inputs to the file of the same name in results/."""
    target = RESULTS / file.name
    if target.is_file():
        return
    rows = []  # type: list[dict[str, np.ndarray]]
    with np.load(file) as inputs:
        arrays = {name: inputs[name] for name in inputs.files}
    for row in range(len(next(iter(arrays.values())))):
        rows.append(model.run({name: array[row : row + 1] for name, array in arrays.items()}))
    outputs = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
    write(target, lambda stream: np.savez(stream, **outputs))  # type: ignore[arg-type]


def timed(model: Model, limit: float) -> list[float]:
    """Seconds of each run of one image, for `limit` seconds after a warm-up. Inputs and outputs are in host memory."""
    with np.load(INPUTS / PROBES) as inputs:
        image = {name: inputs[name][:1] for name in inputs.files}
    run_for(model, image, min(limit, WARM_UP_SECONDS))
    return run_for(model, image, limit)


def run_for(model: Model, image: dict[str, np.ndarray], limit: float) -> list[float]:
    times = []  # type: list[float]
    end = time.perf_counter() + limit
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        model.run(image)
        times.append(time.perf_counter() - started)
    return times


def digest(path: Path) -> str:
    value = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            value.update(block)
    return value.hexdigest()


def write(path: Path, save: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name and rename it, so that `path` is complete or absent."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        save(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(str(part), str(path))


if __name__ == "__main__":
    sys.exit(main())
