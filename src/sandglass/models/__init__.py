"""The seam of models: one file is one architecture family in plain torch.nn. A model knows no task and no card.

A file whose name begins with an underscore holds what families share. Each other file is a `ModelModule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from sandglass.core import discover
from sandglass.core.sizes import Size

if TYPE_CHECKING:
    from torch import nn


class ModelModule(Protocol):
    """What a file in this folder defines."""

    @property
    def OUTPUTS(self) -> tuple[str, ...]:
        """Names of what the module returns, in order; they become the graph's outputs."""
        ...

    @property
    def TINY(self) -> Mapping[str, object]:
        """Arguments of a member small enough to be built, exported and run in a second."""
        ...

    @property
    def TINY_SIZE(self) -> Size:
        """A size (height, width) of images for it."""
        ...

    @property
    def build(self) -> Callable[..., nn.Module]:
        """Builds a member in evaluation mode.

        It takes images (N, 3, H, W) float32 and returns a tensor, or a tuple of them, batch first. The defaults of the
        arguments are a published member, and state-dict keys are those of its published checkpoint in OpenMMLab 1.x
        names.
        """
        ...


CONTRACT = ModelModule  # a plugin is compared with it


def load_model(name: str) -> ModelModule:
    """The architecture family `name`. Raises InputError that lists the known ones."""
    return cast(ModelModule, discover.load("models", name))
