"""Parts of a split layer, as a runtime tells them, are one layer again."""

from __future__ import annotations

from sandglass.backends import FLOAT, INT8, LayerRun
from sandglass.backends._parts import join_parts


def test_parts_are_one_layer() -> None:
    """Times and work add up where the first part runs, with what joins the results; others stay, also of one name."""
    runs = [
        LayerRun("first", "Conv", INT8, 10, 1.0),
        LayerRun("copy", "Copy", FLOAT, 0, 0.5),
        LayerRun("up.phase0", "Conv", INT8, 3, 0.25, "why", (0.5,), 4),
        LayerRun("copy", "Copy", FLOAT, 0, 0.5),
        LayerRun("up.phase1", "Conv", INT8, 2, 0.5),
        LayerRun("up.phases", "Concat", FLOAT, 0, 0.125),
        LayerRun("last", "Conv", FLOAT, 1, None),
        LayerRun("swished", "Conv", INT8, 4, 0.5),
        LayerRun("swished.phase.product", "Mul", INT8, 0, 0.25),
        LayerRun("swished", "Transpose", FLOAT, 0, 0.25),
    ]
    assert join_parts(runs) == [
        runs[0],
        runs[1],
        LayerRun("up", "Conv", INT8, 5, 0.875, "why", (0.5,), 4),
        runs[3],
        runs[6],
        LayerRun("swished", "Conv", INT8, 4, 0.75),
        runs[9],
    ]
