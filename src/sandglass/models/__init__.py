"""The seam of models: each file is one family of architectures in plain torch.nn, without tasks and cards.

A file whose name begins with an underscore holds parts that families share. Each other file is a `ModelModule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from sandglass.core import discover
from sandglass.core.sizes import Size

if TYPE_CHECKING:
    from torch import nn


class ModelModule(Protocol):
    """The protocol of a file in this folder."""

    @property
    def OUTPUTS(self) -> tuple[str, ...]:
        """Names of the tensors that the module returns, in order; they become the outputs of the graph."""
        ...

    @property
    def TINY(self) -> Mapping[str, object]:
        """Arguments of a member that is small enough to be built, exported and run in a second."""
        ...

    @property
    def TINY_SIZE(self) -> Size:
        """A size (height, width) of images for the tiny member."""
        ...

    @property
    def build(self) -> Callable[..., nn.Module]:
        """Builds a member of the family in evaluation mode.

        The module takes images (N, 3, H, W) float32 and returns one tensor or a tuple of tensors, batch first. The
        default arguments give a published member. The state-dict keys are those of its published checkpoint, with the
        names of OpenMMLab 1.x.
        """
        ...


CONTRACT = ModelModule  # a plugin is compared with it


def load_model(name: str) -> ModelModule:
    """The family `name`. Raises InputError for an unknown name; the error lists the known ones."""
    return cast(ModelModule, discover.load("models", name))
