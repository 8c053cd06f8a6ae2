"""Edits of the float network: changes that a plan stores and that `apply` makes.

    ShiftChannels   offsets subtracted from channels
    ReadBytes       inputs of the graph as bytes
    SetWeights      weights on a grid of integers, and their biases

After all but the last the network computes the same, up to float rounding. A plan's edits are in a normal form: at most
one edit of each kind, in the order above. So a weight is rounded to float32 once for each kind of edit, even if several
repairs contributed to it, and a layer in float has nearly the weights of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx

from sandglass.quantization.edits.read_bytes import ReadBytes
from sandglass.quantization.edits.set_weights import Rounded, SetWeights
from sandglass.quantization.edits.shift_channels import ShiftChannels

__all__ = ["KINDS", "Edit", "ReadBytes", "Rounded", "SetWeights", "ShiftChannels",
           "add_edit", "apply_edits"]  # fmt: skip


class Edit(Protocol):
    """A change of the float network.

    `KIND` is its name in a plan's file, and `FIELDS` are the names of its arrays there: each field holds one array for
    each of `names`, which are tensors or layers. `RENAMES` says that layers read tensors of new names after the edit;
    the plan then has the ranges of these tensors.
    """

    KIND: ClassVar[str]
    FIELDS: ClassVar[tuple[str, ...]]
    RENAMES: ClassVar[bool]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors or layers that the edit changes."""
        ...

    @property
    def arrays(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """The edit's arrays by field and name."""
        ...

    @staticmethod
    def of(names: Sequence[str], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> Edit:
        """The edit of `names` with arrays by field and name, as a plan's file has them."""
        ...

    def then(self, other: Any) -> Edit:
        """This edit and another one of the same kind as one edit."""
        ...

    def apply(self, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
        """The edited network, in which `layers` run in int8 and all others in float; the model is changed."""
        ...


KINDS: tuple[type[Edit], ...] = (ShiftChannels, ReadBytes, SetWeights)


def add_edit(edits: Iterable[Edit], new: Edit) -> tuple[Edit, ...]:
    """`edits` followed by a `new` one, in normal form; `edits` are in normal form."""
    by_kind = {type(edit): edit for edit in edits}
    before = by_kind.get(type(new))
    by_kind[type(new)] = before.then(new) if before else new
    return tuple(by_kind[kind] for kind in KINDS if kind in by_kind)


def apply_edits(model: onnx.ModelProto, edits: Iterable[Edit], layers: Collection[str]) -> onnx.ModelProto:
    """The float network after all `edits`, in order, in which `layers` run in int8; the model is changed.

    Raises KeyError for an edit of a layer that the model does not have.
    """
    for edit in edits:
        model = edit.apply(model, layers)
    return model
