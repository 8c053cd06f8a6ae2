"""The folder of one search: no other run works in it, and a killed search continues with the same arguments only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sandglass.artifacts.target import Target
from sandglass.core.errors import InputError
from sandglass.core.files import read_json, refuse_existing, sweep, write_json
from sandglass.core.locks import locked_folder

ARGUMENTS, FINISHED = "search.json", "finished"  # the file in the folder, and its field for a finished search


@contextmanager
def claimed_folder(out: Path, target: Target, arguments: Mapping[str, object], force: bool) -> Iterator[bool]:
    """Lock `out` for one search with `arguments`; yields whether an existing artifact may be replaced.

    It may be replaced with `force`, and if the same search was killed before its end. Raises BusyError if another run
    works in `out`, InputError if `out` holds a search with other arguments, and ArtifactError if it holds an artifact
    that may not be replaced.
    """
    with locked_folder(out):
        sweep(out)
        replace = force or _is_unfinished(out / ARGUMENTS, arguments)
        refuse_existing(out / target.folder, replace)
        write_json(out / ARGUMENTS, {**arguments, FINISHED: False})
        yield replace
        write_json(out / ARGUMENTS, {**arguments, FINISHED: True})


def _is_unfinished(path: Path, arguments: Mapping[str, object]) -> bool:
    """Whether the file `path` records an unfinished search with these `arguments`; False if there is no file."""
    if not path.exists():
        return False
    before = read_json(path, InputError)
    if not isinstance(before, dict):
        raise InputError(f"{path} does not hold the arguments of a search", "start again with --force")
    if changed := [name for name, value in arguments.items() if before.get(name) != value]:
        raise InputError(
            f"{path.parent} holds a search with other values of {', '.join(changed)}",
            "choose another folder, or start again with --force",
        )
    return not before.get(FINISHED, False)
