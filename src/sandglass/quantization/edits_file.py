"""The arrays of a plan's edits, in a `.safetensors` file next to the plan.

The name of an array is its field, a colon, and the tensor or layer that it belongs to: `offsets:conv1.out`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sandglass.core.errors import PlanError
from sandglass.core.files import atomic_file
from sandglass.core.reading import MALFORMED, open_file
from sandglass.quantization.edits import KINDS, Edit

Fields = dict[str, dict[str, np.ndarray]]  # arrays by field and name


def arrays_of(edits: Sequence[Edit]) -> Fields:
    """The arrays of all edits by field and name."""
    fields: Fields = {}
    for edit in edits:
        fields |= {field: dict(arrays) for field, arrays in edit.arrays.items() if arrays}
    return fields


def arrays_hash(fields: Fields) -> str:
    """Hash of the names and values of arrays; "" if there are none."""
    arrays = _named(fields)
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name}|{value.dtype}|{value.shape}|".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest() if arrays else ""


def save_arrays(fields: Fields, path: Path) -> None:
    """Write arrays to a file, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(value) for name, value in _named(fields).items()}))


def load_arrays(path: Path) -> Fields:
    """Read arrays by field and name. Raises PlanError for a missing or incomplete file, or one of another format."""
    if not path.exists():
        raise PlanError(f"the plan needs {path}, which does not exist", "keep both files of a plan together")
    try:
        with open_file(path, PlanError):
            arrays = load_file(path)
    except (SafetensorError, *MALFORMED) as error:
        raise PlanError(f"cannot read the plan's arrays in {path}: {error}", "keep both files together") from error
    fields: Fields = {}
    for full_name, value in arrays.items():
        field, _, name = full_name.partition(":")
        fields.setdefault(field, {})[name] = value
    return fields


def edits_of(named: Sequence[tuple[str, Collection[str]]], arrays: Fields) -> tuple[Edit, ...]:
    """The edits with these kinds and names. Raises KeyError for an unknown kind or a missing array."""
    kinds = {kind.KIND: kind for kind in KINDS}
    edits = []
    for kind, names in named:
        fields = {field: {name: arrays[field][name] for name in names} for field in kinds[kind].FIELDS}
        edits.append(kinds[kind].of(tuple(names), fields))
    return tuple(edits)


def _named(fields: Fields) -> dict[str, np.ndarray]:
    return {f"{field}:{name}": value for field, values in fields.items() for name, value in values.items()}
