"""Remove attributes that later opsets do not have, because the version converter refuses them."""

from __future__ import annotations

import onnx

from sandglass.core.errors import GraphError
from sandglass.sources.rewrites import Stage

STAGE: Stage = "exported"
AFTER: tuple[str, ...] = ()
REMOVED = {
    "BatchNormalization": ("spatial", "is_test", "consumed_inputs"),
    "Dropout": ("is_test",),
}


def rewrite(model: onnx.ModelProto) -> None:
    """Remove these attributes, in place. Raises GraphError with the name of the node if one has an effect."""
    ranks = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if attribute.name not in REMOVED.get(node.op_type, ()):
                continue
            if not _harmless(node, attribute, ranks):
                raise GraphError(
                    f"{node.op_type} {node.name!r} has {attribute.name}={attribute.i}, which newer opsets lack",
                    "export the model with a newer opset",
                )
            node.attribute.remove(attribute)


def _harmless(node: onnx.NodeProto, attribute: onnx.AttributeProto, ranks: dict[str, int]) -> bool:
    if attribute.name == "spatial":
        # 0 means a scale for each pixel. MXNet wrote 0 with a scale for each channel, which means the same as 1.
        return attribute.i == 1 or ranks.get(node.input[1]) == 1
    return attribute.name == "consumed_inputs" or attribute.i == 1
