"""A plan on the graph, without a runtime: rounding as QuantizeLinear and DequantizeLinear around float arithmetic.

Its sums are float32 where a runtime's are integers, which are exact: results differ where a value lies on the edge
between two integers. What it does not show is arithmetic that saturates (int8 on x86 without VNNI).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from sandglass.graph.execute import GraphSession
from sandglass.graph.load import load_graph, save_graph
from sandglass.quantize.plan import Plan
from sandglass.quantize.qdq import quantize_dequantize
from sandglass.quantize.repair import apply_repairs
from sandglass.quantize.spec import Spec, decide


def simulate(graph: Path, plan: Plan, spec: Spec, threads: int | None = None) -> GraphSession:
    """A session that computes as a target with `spec` would under `plan`; its `run` takes the graph's inputs."""
    model = load_graph(graph)
    integer = [name for name, reason in decide(plan, spec, model).items() if not reason]
    model = quantize_dequantize(apply_repairs(model, plan, integer), plan, spec)
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "simulated.onnx"
        save_graph(model, path)
        return GraphSession(path, threads=threads, optimize=False)
