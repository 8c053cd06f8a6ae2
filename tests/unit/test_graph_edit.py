"""What is done to graphs when they are read and changed."""

from __future__ import annotations

import onnx

from sandglass.graph.edit import drop_unread


def test_what_leads_nowhere_is_dropped() -> None:
    """Nodes behind no output go, and their weights; what only a branch reads stays."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, bool c) => (float[2] y)
        <float[2] used = {1, 2}, float[2] inner = {3, 4},
         float[2] unused = {5, 6}, float[2] dead = {7, 8}> {
            a = Add(x, used)
            d = Add(x, dead)
            e = Neg(d)
            k = Neg(inner)
            y = If(c) <then_branch = t () => (float[2] p) { p = Add(a, k) },
                       else_branch = f () => (float[2] q) { q = Neg(a) }>
        }""")
    drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.output[0] for node in model.graph.node] == ["a", "k", "y"]
    assert [entry.name for entry in model.graph.initializer] == ["used", "inner"]
