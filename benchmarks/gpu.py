"""Images per second on a CUDA device beside the floor that counted operations and bytes set.

    python benchmarks/gpu.py [--models hrnet-w32-coco-256x192 hourglass52-coco-256x256] [--batches 1 8 32 128 256]
                             [--mode graph compile] [--device cpu] [--out gpu.json]

Random weights, half precision, channels last; one run of the network is captured as a CUDA graph, or compiled by
torch.compile, and replayed. The floor is the larger of two times: multiply-accumulates at the matrix rate measured here
(bf16, 8192 x 8192), and bytes at the copy rate measured here. Bytes are the weights once, and for every layer what it
reads and writes; all else is taken as fused. With `--device cpu` the script itself can be tried, in float32 and eager.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from random_weights import random_weights

from sandglass.backends.pytorch import capture
from sandglass.core.files import write_json
from sandglass.graph.io import load_graph
from sandglass.graph.layers import OPERATORS
from sandglass.graph.work import layer_work
from sandglass.sources.export import build_module, export_graph, read_weights
from sandglass.sources.load_card import load_card
from sandglass.table.markdown import markdown

MODELS = ("hrnet-w32-coco-256x192", "hourglass52-coco-256x256")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 20
SIDE = 8192
COPIED = 1 << 30


@dataclass(frozen=True)
class Work:
    """Of one network: multiply-accumulates and bytes of results for one image, bytes of weights for a batch."""

    macs: int
    result_bytes: int
    weight_bytes: int

    def floor(self, batch: int, flops: float, bandwidth: float) -> float:
        """Seconds of a batch that no schedule can undercut."""
        moved = batch * self.result_bytes + self.weight_bytes
        return max(2 * batch * self.macs / flops, moved / bandwidth)


def work_of(model: onnx.ModelProto, size: int) -> Work:
    """Counted on the graph, with `size` bytes for each value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
              for value in (*graph.value_info, *graph.input, *graph.output)}  # fmt: skip
    layers = [node for node in graph.node if node.op_type in OPERATORS]
    moved = sum(shapes.get(node.input[0], 0) + shapes.get(node.output[0], 0) for node in layers)
    weights = sum(prod(entry.dims) for entry in graph.initializer)
    return Work(sum(macs for macs, _ in layer_work(model).values()), size * moved, size * weights)


def seconds(run: Callable[[], object], device: str, rounds: int = ROUNDS) -> float:
    """Median time of one call, after three that do not count."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


def rates(device: str) -> tuple[float, float]:
    """Operations and bytes per second: a product of bf16 matrices, and a copy, which reads and writes."""
    side, count = (SIDE, COPIED) if device == "cuda" else (SIDE // 8, COPIED // 8)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    flops = 2 * side**3 / seconds(lambda: left @ right, device)
    return flops, 2 * count / seconds(lambda: target.copy_(source), device)


def runner(module: Any, shape: tuple[int, ...], mode: str, device: str) -> Callable[[], Any]:
    """One inference of a batch that lies on the device."""
    dtype = next(module.parameters()).dtype
    batch = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    if device != "cuda":
        return lambda: module(batch)
    if mode == "compile":
        compiled = torch.compile(module, mode="max-autotune")
        return lambda: compiled(batch)
    return capture(module, batch)[0].replay


def measure(name: str, arguments: argparse.Namespace, flops: float, bandwidth: float) -> list[dict[str, Any]]:
    """A row for each way to run it and each batch."""
    card, device = load_card(name), arguments.device
    dtype = torch.float16 if device == "cuda" else torch.float32
    with TemporaryDirectory() as scratch:
        random_weights(card, Path(scratch) / "random.pth")
        state = read_weights(card, Path(scratch) / "random.pth", Path(scratch) / "weights.safetensors")
        export_graph(card, state, Path(scratch) / "graph.onnx")
        work = work_of(load_graph(Path(scratch) / "graph.onnx"), dtype.itemsize)
    module = build_module(card)
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    module = module.eval().to(device, dtype).to(memory_format=torch.channels_last)
    rows = []
    for mode in arguments.mode if device == "cuda" else ["eager"]:
        for batch in arguments.batches:
            spent = seconds(runner(module, (batch, 3, *card.input.size), mode, device), device)
            floor = work.floor(batch, flops, bandwidth)
            rows.append({"model": name, "mode": mode, "batch": batch, "images_per_second": batch / spent,
                         "floor_images_per_second": batch / floor, "of_floor": floor / spent,
                         "of_matrix_rate": 2 * batch * work.macs / spent / flops})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--mode", nargs="+", choices=["graph", "compile"], default=["graph", "compile"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    with torch.inference_mode():
        flops, bandwidth = rates(arguments.device)
        rows = [row for name in arguments.models for row in measure(name, arguments, flops, bandwidth)]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    write_json(arguments.out, {"device": device, "torch": torch.__version__, "flops": flops,
                               "bytes_per_second": bandwidth, "rows": rows})  # fmt: skip
    print(f"{device}: {flops / 1e12:.1f} TFLOP/s in bf16, {bandwidth / 1e9:.0f} GB/s copied\n")
    print(markdown([{key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()}
                    for row in rows]))  # fmt: skip


if __name__ == "__main__":
    main()
