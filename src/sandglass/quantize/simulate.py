"""A plan on the graph, without a runtime: rounding as QuantizeLinear and DequantizeLinear around float arithmetic.

Its sums are float32 where a runtime's are integers, which are exact: results differ where a value lies on the edge
between two integers. What it does not show is arithmetic that saturates (int8 on x86 without VNNI).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from sandglass.graph.execute import GraphSession
from sandglass.graph.load import save_graph
from sandglass.quantize.plan import Plan
from sandglass.quantize.qdq import quantize_dequantize
from sandglass.quantize.repair import repaired_graph
from sandglass.quantize.spec import Spec


def simulate(graph: Path, plan: Plan, spec: Spec, threads: int | None = None) -> GraphSession:
    """A session that computes as a target with `spec` would under `plan`; its `run` takes the graph's inputs."""
    model = quantize_dequantize(repaired_graph(graph, plan, spec), plan, spec)
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "simulated.onnx"
        save_graph(model, path)
        return GraphSession(path, threads=threads, optimize=False)
