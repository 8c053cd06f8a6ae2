"""Build kits as outcomes of a deployment."""

from __future__ import annotations

from pathlib import Path

from sandglass.artifacts import parity
from sandglass.artifacts.build import failed
from sandglass.artifacts.build_key import Samples, build_key, kit_made_before
from sandglass.artifacts.target import Outcome, Target
from sandglass.backends import load_backend
from sandglass.core.errors import BackendUnavailable, SandglassError
from sandglass.core.progress import Say
from sandglass.kit.make import make_kit
from sandglass.sources.source import Source


def needs_kit(target: Target) -> bool:
    """Whether the tools of a target are not here, and its backend can make a build kit for a host that has them."""
    backend = load_backend(target.backend)
    if backend.CAPABILITIES.make_kit is None:
        return False
    try:
        backend.available()
    except BackendUnavailable:
        return True
    return False


def build_kit(
    target: Target,
    source: Source,
    reference: parity.Reference,
    samples: Samples | None,
    out: Path,
    force: bool,
    say: Say,
) -> Outcome:
    """One target's build kit in `out`; its Outcome carries the error where there is one."""
    kit, made_from = out / target.folder, build_key(target.folder, "", source, None, reference, samples=samples)
    if not force and kit_made_before(kit, made_from):
        say(f"{target}: made before from the same inputs")
        return Outcome(target, kit=kit)
    say(f"{target}: its tools are not here: making a build kit")
    try:
        make_kit(source, target.backend, target.precision, reference, kit, samples, force, made_from)
    except SandglassError as error:
        return failed(target, error, say)
    return Outcome(target, kit=kit)
