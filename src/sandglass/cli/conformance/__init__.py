"""`sandglass conformance`: the contract of each seam as tests, also for a plugin of another package.

Each other file here is a module of pytest, with the tests of one seam. The command runs them on one member; the tests
of this project run them on all.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sandglass.core import discover
from sandglass.core.distribution import install_command
from sandglass.core.errors import InputError
from sandglass.core.plugins import missing_names

MEMBER = "SANDGLASS_MEMBER"  # environment variable: the one member to test
SEAMS = {seam.rpartition("/")[2]: seam for seam in discover.SEAMS}
Seam = Literal["backends", "datasets", "models", "repairs", "rewrites", "tasks"]


def conformance(
    seam: Annotated[Seam, Parameter(metavar="SEAM")], name: Annotated[str, Parameter(metavar="NAME")], /
) -> int:
    """Test a member of a seam, also one of another package, against its contract; needs pytest.

    Parameters
    ----------
    seam
        kind of the member
    name
        name of the member: of its file, with hyphens, or of its entry point
    """
    for package, command in needs(seam).items():
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the conformance tests of {seam} need {package}", command)
    check_usable(seam, name)
    import pytest

    os.environ[MEMBER] = name
    tests = str(Path(__file__).with_name(f"{seam}.py"))
    markers = "markers=slow: takes long"
    return 2 if pytest.main([tests, "--no-header", "-p", "no:cacheprovider", "-o", markers, "-o", "addopts="]) else 0


def needs(seam: Seam) -> dict[str, str]:
    """The packages that the tests of a seam need, and the commands that install them."""
    torch = {"torch": install_command("torch")} if seam == "models" else {}
    return {"pytest": "pip install pytest", **torch}


def check_usable(seam: Seam, name: str) -> None:
    """Raise an error for a member that cannot be loaded or is incomplete, and for a runtime that is not installed."""
    member = discover.load(SEAMS[seam], name)
    contract = discover.contract(SEAMS[seam])
    if missing := missing_names(member, contract):
        raise InputError(f"{member.__name__} lacks {', '.join(missing)}",
                         f"define the names of the protocol {contract.__name__} in {contract.__module__}")  # fmt: skip
    if seam == "backends" and not member.CAPABILITIES.make_kit:  # a kit is made without the runtime
        member.available()


def members(seam: str) -> list[str]:
    """The names of the members to test: the member that the command names, or all members of the seam."""
    chosen = os.environ.get(MEMBER)
    return [chosen] if chosen else discover.names(seam)
