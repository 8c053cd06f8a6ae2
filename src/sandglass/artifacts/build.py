"""One target's artifact: built, compared with the graph, and published with its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from sandglass.artifacts.artifact import LEAST_INT8_SHARE, load_artifact
from sandglass.artifacts.build_files import FLOAT, Build, build_files, check_float
from sandglass.artifacts.build_key import build_key, made_before
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
    """What artifacts are made from, and the folder `out` that they go to.

    `plan` is for int8 targets. `force` replaces artifacts that are there, and `say` reports the progress.
    """

    source: Source
    plan: Plan | None
    reference: Reference
    out: Path
    say: Say
    force: bool = False
    shapes: Shapes = field(default_factory=dict)

    def plan_for(self, target: Target) -> Plan | None:
        """The plan that a target is built with."""
        return self.plan if target.precision == "int8" else None

    def key(self, target: Target, version: str) -> str:
        """The build key of a target's artifact, built by this version of its runtime."""
        version = " ".join([version, *discover.package_of("backends", target.backend).values()])
        return build_key(target.folder, version, self.source, self.plan_for(target), self.reference, self.shapes)


def able_backends(source: Source, reference: Reference, apart_from: str) -> list[str]:
    """Names of the other runtimes installed here that build the float graph and agree with it."""
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
    """The artifact that an earlier run made from the same inputs; None where it is to be built."""
    folder = request.out / target.folder
    if request.force or not folder.exists():
        return None
    try:
        version = load_backend(target.backend).available()
    except BackendUnavailable:
        return None
    artifact = made_before(folder, request.key(target, version))
    if artifact is None:
        return None
    request.say(f"{target}: made before from the same inputs")
    if target.precision == FLOAT:  # it was checked when it was made
        request.reference.floats[target.backend, request.source.graph] = None
    return Outcome(target, artifact)


def build_artifact(target: Target, request: BuildRequest) -> Outcome:
    """One target's artifact, compared with the graph; its Outcome carries the error where there is one."""
    source, reference, out, say = request.source, request.reference, request.out, request.say
    ready = replace(source, wide=reference.wide) if target.precision == "fp16" else source
    try:
        say(f"{target}: building")
        if target.precision == "fp16" and source.quantized:
            raise InputError("half precision is not written of a file that is quantized already",
                             "deploy it as it is, or use --dequantize")  # fmt: skip
        with atomic_folder(out / target.folder, request.force) as folder:
            plan = request.plan_for(target)
            build = build_files(target.backend, ready, target.precision, folder, plan, reference)
            for name in build.notes.float_layers or ():
                say(f"{target}: {name} stays in float32: half precision cannot hold its values")
            check = _check(target, source, build, say)
            write_manifest(folder, _manifest_fields(target, request, build, check))
        say(f"{target}: {check.summary}")
        return Outcome(target, load_artifact(out / target.folder))
    except UnsupportedOperator as error:
        able = ", ".join(able_backends(source, reference, target.backend))
        fix = f"backends that run this graph: {able}" if able else "no other backend that is installed runs this graph"
        fix += "; --dequantize takes it back to float" if source.quantized else ""
        return failed(target, UnsupportedOperator(error.message, fix), say)
    except SandglassError as error:
        return failed(target, error, say)
    except OSError as error:  # a full disk, say
        return failed(target, BackendError(str(error), "make room, or check the permissions"), say)


def _manifest_fields(target: Target, request: BuildRequest, build: Build, check: Check) -> dict[str, object]:
    """What an artifact's manifest says, apart from its format, files and seal."""
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
    """The manifest's field for the processors that the integer sums of an artifact with a plan are exact on."""
    spec = load_backend(backend).SPEC
    return {"processor": spec.exact_on(source.processor).name} if plan and spec else {}


def _shapes(shapes: Shapes) -> dict[str, object]:
    """The manifest's field for input shapes, where there are several."""
    return {"shapes": [[*size, images] for size, images in shapes.items()]} if shapes else {}


def _notes(build: Build) -> dict[str, object]:
    """The manifest's fields for the notes of a build."""
    by_shape = [[*size, to_data(notes)] for size, notes in build.by_shape.items()]
    return {"backend_notes": to_data(build.notes), **({"by_shape": by_shape} if by_shape else {})}


def _check(target: Target, source: Source, build: Build, say: Say) -> Check:
    """The build's check, with the share of work in int8, or the remark that the file was quantized before."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.work import integer_share

    check, decisions = build.check, build.first_notes.layers
    if source.quantized:
        remark = "the file is quantized already, and is deployed as it is"
        return msgspec.structs.replace(check, quantized=True, summary=f"{check.summary}; {remark}")
    if target.precision != "int8" or decisions is None:
        return check
    integer = {name for name, decision in decisions.items() if decision.arithmetic == INT8}
    share = integer_share(load_graph(source.graph), integer)
    if share >= LEAST_INT8_SHARE:
        return msgspec.structs.replace(check, int8_share=share)
    remark = f"only {share:.1%} of the multiply-accumulates run in int8"
    say(f"{target}: warning: {remark}")
    return msgspec.structs.replace(check, int8_share=share, summary=f"{check.summary}; {remark}")


def failed(target: Target, error: SandglassError, say: Say) -> Outcome:
    """The outcome of a target that failed, which `say` reports."""
    say(f"{target}: failed: {error}")
    return Outcome(target, error=error)
