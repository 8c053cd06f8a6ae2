"""What a plan holds besides text: weights rounded by more than rounding, factors that even out channels and
offsets that centre them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sandglass.core.errors import PlanError
from sandglass.core.files import atomic_file
from sandglass.core.reading import MALFORMED, open_file


@dataclass(frozen=True)
class Rounded:
    """A layer's weights as integers: int8 in the weight's shape, float32 scales and biases one for each channel."""

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray

    @property
    def levels(self) -> int:
        """The largest magnitude among the integers."""
        return int(np.abs(self.integers.astype(np.int16)).max(initial=0))


@dataclass(frozen=True)
class Arrays:
    """By tensor `factors` that each channel is divided by and `offsets` then taken off it; `rounded` by layer."""

    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    offsets: Mapping[str, np.ndarray] = field(default_factory=dict)
    rounded: Mapping[str, Rounded] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of names and values; "" where there are none."""
        if not (self.factors or self.offsets or self.rounded):
            return ""
        digest = hashlib.sha256()
        for name, value in sorted(self._named().items()):
            digest.update(f"{name}|{value.dtype}|{value.shape}|".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write them, atomically."""
        with atomic_file(path) as temporary:
            temporary.write_bytes(save({name: np.ascontiguousarray(v) for name, v in self._named().items()}))

    @staticmethod
    def load(path: Path) -> Arrays:
        """Read them. Raises PlanError for a file that is missing, cut off or of another kind."""
        try:
            with open_file(path, PlanError):
                named = load_file(path)
        except (SafetensorError, *MALFORMED) as error:
            raise PlanError(f"cannot read the plan's arrays in {path}: {error}", "keep both files together") from error
        by_tensor: dict[str, dict[str, np.ndarray]] = {"factors": {}, "offsets": {}}
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, value in named.items():
            kind, _, owner = name.partition(":")
            if kind in by_tensor:
                by_tensor[kind][owner] = value
            else:
                parts.setdefault(owner, {})[kind] = value
        try:
            return Arrays(**by_tensor, rounded={layer: Rounded(**found) for layer, found in parts.items()})
        except TypeError as error:
            raise PlanError(f"{path} holds no plan's arrays: {error}", "make the plan again") from error

    def _named(self) -> dict[str, np.ndarray]:
        named = {f"factors:{tensor}": values for tensor, values in self.factors.items()}
        named |= {f"offsets:{tensor}": values for tensor, values in self.offsets.items()}
        for layer, entry in self.rounded.items():
            named |= {
                f"integers:{layer}": entry.integers,
                f"scales:{layer}": entry.scales,
                f"bias:{layer}": entry.bias,
            }
        return named
