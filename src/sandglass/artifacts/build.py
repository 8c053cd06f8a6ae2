"""Build the artifact of one target, compare it with the graph, and publish it with its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from sandglass.artifacts.artifact import LEAST_INT8_SHARE, load_artifact
from sandglass.artifacts.build_files import FLOAT, Build, build_files, check_float
from sandglass.artifacts.build_key import build_key, reusable_artifact
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.manifest import Check, write_manifest
from sandglass.artifacts.parity import Reference
from sandglass.artifacts.target import Outcome, Target
from sandglass.backends import INT8, Backend, BuildNotes, load_backend, usable_backends
from sandglass.core import discover
from sandglass.core.errors import BackendError, BackendUnavailable, InputError, SandglassError, UnsupportedOperator
from sandglass.core.files import atomic_folder, sha256
from sandglass.core.host import own_version
from sandglass.core.progress import Say
from sandglass.core.records import to_data
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source


@dataclass(frozen=True)
class BuildRequest:
    """The inputs of a build: what all targets of one run are built from.

    Artifacts go to the folder `out`. `plan` is for int8 targets only. `reference` holds the outputs of the graph.
    `force` replaces existing artifacts. `say` reports progress. `shapes` are the input shapes, if there are several.
    """

    source: Source
    plan: Plan | None
    reference: Reference
    out: Path
    say: Say
    force: bool = False
    shapes: Shapes = field(default_factory=dict)

    def plan_for(self, target: Target) -> Plan | None:
        """The plan for an int8 target; None for other precisions."""
        return self.plan if target.precision == "int8" else None

    def key(self, target: Target, version: str) -> str:
        """The build key of a target's artifact when `version` of its runtime builds it."""
        version = " ".join([version, *discover.package_of("backends", target.backend).values()])
        return build_key(target.folder, version, self.source, self.plan_for(target), self.reference, self.shapes)


def able_backends(source: Source, reference: Reference, apart_from: str) -> list[str]:
    """Names of the installed backends, without `apart_from`, that build the float graph and compute it correctly."""
    others = [name for name, backend in usable_backends().items() if name != apart_from and _deploys(backend)]
    return [name for name in others if _is_able(name, source, reference)]


def _deploys(backend: Backend[BuildNotes]) -> bool:
    return backend.PURPOSE == "deploy" and FLOAT in backend.PRECISIONS


def _is_able(backend: str, source: Source, reference: Reference) -> bool:
    try:
        check_float(backend, source, reference)
    except SandglassError:
        return False
    return True


def reuse_artifact(target: Target, request: BuildRequest) -> Outcome | None:
    """The artifact that an earlier run built from the same inputs, or None if it must be built."""
    folder = request.out / target.folder
    if request.force or not folder.exists():
        return None
    try:
        version = load_backend(target.backend).available()
    except BackendUnavailable:
        return None
    artifact = reusable_artifact(folder, request.key(target, version))
    if artifact is None:
        return None
    request.say(f"{target}: up to date, reused from {folder}")
    if target.precision == FLOAT:  # it was compared with the graph when it was built
        request.reference.floats[target.backend, request.source.graph] = None
    return Outcome(target, artifact)


def build_artifact(target: Target, request: BuildRequest) -> Outcome:
    """Build one target's artifact and compare it with the graph. If this fails, the Outcome carries the error."""
    source, reference, out, say = request.source, request.reference, request.out, request.say
    ready = replace(source, wide=reference.wide) if target.precision == "fp16" else source
    try:
        say(f"{target}: building")
        if target.precision == "fp16" and source.quantized:
            raise InputError(f"{target}: {source.card.name} is quantized already and cannot be written in fp16",
                             "leave out this target, or use --dequantize")  # fmt: skip
        with atomic_folder(out / target.folder, request.force) as folder:
            plan = request.plan_for(target)
            build = build_files(target.backend, ready, target.precision, folder, plan, reference)
            for name in build.notes.float_layers or ():
                say(f"{target}: layer {name} stays in float32, because its values are too large for float16")
            check = _check(target, source, build, say)
            write_manifest(folder, _manifest_fields(target, request, build, check))
        say(f"{target}: {check.summary}")
        return Outcome(target, load_artifact(out / target.folder))
    except UnsupportedOperator as error:
        able = ", ".join(able_backends(source, reference, target.backend))
        fix = f"use a backend that runs this graph: {able}" if able else "no other installed backend runs this graph"
        fix += "; --dequantize converts it to float" if source.quantized else ""
        return failed(target, UnsupportedOperator(error.message, fix), say)
    except SandglassError as error:
        return failed(target, error, say)
    except OSError as error:  # for example a full disk
        return failed(target, BackendError(str(error), "free disk space, or check the permissions"), say)


def _manifest_fields(target: Target, request: BuildRequest, build: Build, check: Check) -> dict[str, object]:
    """The fields of an artifact's manifest, without format, files and seal."""
    source, plan = request.source, request.plan_for(target)
    return {
        "card": source.card.to_dict(),
        "backend": target.backend,
        "precision": target.precision,
        "inputs": {name: list(shape) for name, shape in request.reference.inputs.items()},
        "graph_sha256": sha256(source.graph),
        "checkpoint_sha256": sha256(source.weights) if source.weights else None,
        "plan_sha256": plan.sha256 if plan else None,
        "versions": _versions(target.backend, build),
        **_processor(target.backend, source, plan),
        "build_key": request.key(target, build.version),
        "check": to_data(check),
        **_notes(build),
        **_shapes(request.shapes),
    }


def _versions(backend: str, build: Build) -> dict[str, str]:
    """The versions of this package, of the runtime, and of the package that adds the backend."""
    return {"sandglass": own_version(), **discover.package_of("backends", backend), backend: build.version}


def _processor(backend: str, source: Source, plan: Plan | None) -> dict[str, str]:
    """The manifest's field for the processors on which the artifact's integer sums are exact; empty without a plan."""
    spec = load_backend(backend).SPEC
    return {"processor": spec.exact_on(source.processor).name} if plan and spec else {}


def _shapes(shapes: Shapes) -> dict[str, object]:
    """The manifest's field for input shapes; empty for a single shape."""
    return {"shapes": [[*size, images] for size, images in shapes.items()]} if shapes else {}


def _notes(build: Build) -> dict[str, object]:
    """The manifest's fields for the notes of a build."""
    by_shape = [[*size, to_data(notes)] for size, notes in build.by_shape.items()]
    return {"backend_notes": to_data(build.notes), **({"by_shape": by_shape} if by_shape else {})}


def _check(target: Target, source: Source, build: Build, say: Say) -> Check:
    """The build's check, plus the share of multiply-accumulates in int8, or a remark for a file quantized before."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.work import integer_share

    check, decisions = build.check, build.first_notes.layers
    if source.quantized:
        remark = "the file is quantized already and is deployed unchanged"
        return msgspec.structs.replace(check, quantized=True, summary=f"{check.summary}; {remark}")
    if target.precision != "int8" or decisions is None:
        return check
    integer = {name for name, decision in decisions.items() if decision.arithmetic == INT8}
    share = integer_share(load_graph(source.graph), integer)
    remark = f"{share:.1%} of the multiply-accumulates in int8, {len(decisions) - len(integer)} layers in float"
    if share < LEAST_INT8_SHARE:
        remark = f"only {remark}"
        say(f"{target}: warning: {remark}")
    return msgspec.structs.replace(check, int8_share=share, summary=f"{check.summary}; {remark}")


def failed(target: Target, error: SandglassError, say: Say) -> Outcome:
    """Report that a target failed, and return its outcome with the error."""
    say(f"{target}: failed: {error}")
    return Outcome(target, error=error)
