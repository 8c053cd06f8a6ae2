"""Write the build kit of a target as part of a deployment."""

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
    """Whether the target's vendor tools are not installed here, and its backend can make a build kit instead."""
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
    """Write one target's build kit to `out`. If this fails, the Outcome carries the error."""
    kit, key = out / target.folder, build_key(target.folder, "", source, None, reference, samples=samples)
    if not force and kit_made_before(kit, key):
        say(f"{target}: up to date, reused from {kit}")
        return Outcome(target, kit=kit)
    say(f"{target}: its vendor tools are not installed here; writing a build kit")
    try:
        make_kit(source, target.backend, target.precision, reference, kit, samples, force, key)
    except SandglassError as error:
        return failed(target, error, say)
    return Outcome(target, kit=kit)
