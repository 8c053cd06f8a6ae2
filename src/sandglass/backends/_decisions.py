"""The decision for each layer, from a quantization plan."""

from __future__ import annotations

import onnx

from sandglass.backends import FLOAT, INT8, LayerDecision
from sandglass.graph.layers import facts
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Spec, decide


def layer_decisions(plan: Plan, spec: Spec, model: onnx.ModelProto) -> dict[str, LayerDecision]:
    """The decision for each layer of the graph on a target: int8 with its weight bits, or float with a reason."""
    known = facts(model)
    return {
        name: LayerDecision(FLOAT, reason=reason)
        if reason
        else LayerDecision(INT8, spec.weight_bits(known[name], plan.layers[name].weight_bits))
        for name, reason in decide(plan, spec, model).items()
    }
