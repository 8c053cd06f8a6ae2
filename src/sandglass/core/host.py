"""The machine: its processor, threads and versions, which are the conditions of a measurement."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TypedDict

from sandglass.core import discover, distribution
from sandglass.core.errors import BackendUnavailable, PluginError


def threads() -> int:
    """The number of logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """The average number of running threads on this machine in the last minute; 0 if the system does not provide it."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def processor() -> str:
    """The name of the processor, or its architecture if the system does not provide a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def instruction_sets() -> list[str]:
    """The vector extensions that affect integer arithmetic (only on x86; empty elsewhere)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if name in flags]


def half_arithmetic() -> bool:
    """Whether this processor has fp16 arithmetic: x86 with AVX512-FP16 or AMX-FP16, ARM with its fp16 extension."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return platform.machine().lower() == "arm64"  # a processor by Apple
    return bool(words & {"avx512_fp16", "amx_fp16", "asimdhp"})


def sums_saturate() -> bool:
    """Whether int8 kernels here add pairs of uint8 x int8 products in 16 bits with saturation: x86 without VNNI or AMX.

    The sum of two products of 255 * 127 exceeds 16 bits; with 7-bit weights no sum does. If the instruction sets are
    unknown, the answer is yes. This may cost speed or one bit, but never gives a wrong sum.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386", "x86"):
        return False
    return not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(instruction_sets())


def multiplies_signed() -> bool:
    """Whether int8 kernels here support signed activations in addition to unsigned ones: x86 with AMX."""
    return "amx_int8" in instruction_sets()


class Host(TypedDict):
    """Processor, threads, system and Python."""

    processor: str
    instruction_sets: list[str]
    threads: int
    system: str
    python: str
    sandglass: str


def describe() -> Host:
    """The machine and the versions of Python and Sandglass, as JSON data."""
    return {
        "processor": processor(),
        "instruction_sets": instruction_sets(),
        "threads": threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sandglass": own_version(),
    }


def own_version() -> str:
    """The installed version of Sandglass, or "source" in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(distribution.NAME)
    except PackageNotFoundError:
        return "source"


def backends() -> list[dict[str, object]]:
    """One row for each backend: name, usable or not, version, precisions, purpose, and the command to install it.

    For a backend that is not usable, `version` holds the reason.
    """
    rows = []
    for name, backend in discover.load_usable("backends").items():
        try:
            version_text, usable = backend.available(), True
        except BackendUnavailable as error:
            version_text, usable = error.message, False
        rows.append(
            {
                "backend": name,
                "usable": usable,
                "version": version_text,
                "precisions": list(backend.PRECISIONS),
                "purpose": backend.PURPOSE,
                "install": backend.INSTALL,
            }
        )
    return rows


def plugins() -> list[dict[str, str]]:
    """One row for each member that another package adds: its seam, name and package, and why it cannot be used."""
    rows = []
    for seam in discover.SEAMS:
        for plugin in discover.plugins_of(seam):
            try:
                discover.load_plugin(seam, plugin)
                problem = ""
            except PluginError as error:
                problem = str(error)
            package = f"{plugin.package} {plugin.version}"
            rows.append({"group": plugin.group, "name": plugin.name, "package": package, "problem": problem})
    return rows


def command() -> str:
    """The command line of this process, with the program's name in place of its path."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
