"""A factor and a term before convolutions, one number for all channels, folded into weights and biases.

PaddleOCR's networks have one of each after every activation. s * h + b is s * (h + b / s): convolutions that alone read
it take the factor into their weights, and where none of them pads the term into their biases. A padded one reads zeros
that no term was added to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.io import drop_unread, number, readers
from sandglass.graph.layers import add_to_bias, fact_of
from sandglass.graph.names import Names


def fold_affines_before(model: onnx.ModelProto) -> None:
    """Fold every Mul by a number, and the Add of one behind it, that convolutions alone read, in place.

    Nodes have names. Convolutions that share constants with other nodes stay as they are.
    """
    uses = Counter(name for node in model.graph.node for name in node.input)
    constants = {entry.name: entry for entry in model.graph.initializer}
    own = {name for name in constants if uses[name] == 1}
    kept = {value.name for value in model.graph.output}
    for node in model.graph.node:
        factor = _number(node, "Mul", constants)
        if not factor:
            continue
        following = readers(model, node.output[0])
        term = _number(following[0], "Add", constants) if len(following) == 1 else None
        made = [node.output[0], *(following[0].output if term is not None else ())]
        layers = readers(model, made[-1])
        if not layers or not kept.isdisjoint(made) or not all(_takes(layer, made[-1], own) for layer in layers):
            continue
        data = next(name for name in node.input if name not in constants)
        facts = [fact_of(layer, constants[layer.input[1]].dims) for layer in layers]
        stays = term is not None and any(any(fact.pads) or not fact.explicit for fact in facts)
        for layer, fact in zip(layers, facts, strict=True):
            weight = numpy_helper.to_array(constants[layer.input[1]])
            if term is not None and not stays:
                sums = weight.reshape(len(weight), -1).sum(1, dtype=np.float64)
                add_to_bias(model, layer, fact.channels, term * sums)
            constants[layer.input[1]].CopyFrom(numpy_helper.from_array(weight * np.float32(factor), layer.input[1]))
            layer.input[0] = made[-1] if stays else data
        if stays and term is not None:
            adding, shifted = following[0], Names(model).fresh(f"{following[0].name}.term")
            model.graph.initializer.append(numpy_helper.from_array(np.array(term / factor, np.float32), shifted))
            adding.input[:] = [data, shifted]
    drop_unread(model)


def _number(node: onnx.NodeProto, operator: str, constants: dict[str, onnx.TensorProto]) -> float | None:
    """The number that a node multiplies by or adds, all elements alike; None for another node."""
    given = [name for name in node.input if name in constants]
    return number(constants, given[0]) if node.op_type == operator and len(given) == 1 else None


def _takes(layer: onnx.NodeProto, tensor: str, own: Collection[str]) -> bool:
    """Whether a node is a convolution of the tensor by constants of its own."""
    known = layer.op_type == "Conv" and all(name in own for name in layer.input[1:] if name)
    return known and layer.input[0] == tensor
