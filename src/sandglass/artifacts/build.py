"""One target's artifact: built, compared with the graph, and published with its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import LEAST_INT8_SHARE, load_artifact
from sandglass.artifacts.build_files import FLOAT, built, check_float
from sandglass.artifacts.build_key import build_key, made_before
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.manifest import write_manifest
from sandglass.artifacts.target import Outcome, Target
from sandglass.core import discover
from sandglass.core.errors import BackendError, BackendUnavailable, InputError, SandglassError, UnsupportedOperator
from sandglass.core.files import atomic_folder, sha256
from sandglass.core.host import own_version
from sandglass.core.progress import Say
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source


def able_backends(source: Source, reference: parity.Reference, apart_from: str) -> list[str]:
    """Names of the other runtimes installed here that build the float graph and agree with it."""
    others = [name for name in discover.names("backends") if name != apart_from]
    return [name for name in others if _deploys(name) and _is_able(name, source, reference)]


def _deploys(backend: str) -> bool:
    module = discover.load("backends", backend)
    return module.PURPOSE == "deploy" and FLOAT in module.PRECISIONS


def _is_able(backend: str, source: Source, reference: parity.Reference) -> bool:
    try:
        check_float(backend, source, reference)
    except SandglassError:
        return False
    return True


def reuse_artifact(
    target: Target,
    source: Source,
    plan: Plan | None,
    reference: parity.Reference,
    out: Path,
    force: bool,
    say: Say,
    shapes: Shapes,
) -> Outcome | None:
    """The artifact in `out` where an earlier run made it from the same inputs; None where it is to be built."""
    if force or not (out / target.folder).exists():
        return None
    try:
        version = discover.load("backends", target.backend).available()
    except BackendUnavailable:
        return None
    used = plan if target.precision == "int8" else None
    found = made_before(out / target.folder, build_key(target.folder, version, source, used, reference, shapes))
    if found is None:
        return None
    say(f"{target}: made before from the same inputs")
    if target.precision == FLOAT:
        reference.floats[target.backend, source.graph] = None  # it was checked when it was made
    return Outcome(target, found)


def build_artifact(
    target: Target,
    source: Source,
    plan: Plan | None,
    reference: parity.Reference,
    out: Path,
    force: bool,
    say: Say,
    shapes: Shapes = MappingProxyType({}),
) -> Outcome:
    """One target's artifact in `out`, compared with the graph; its Outcome carries the error where there is one."""
    used = plan if target.precision == "int8" else None
    given = replace(source, wide=reference.wide) if target.precision == "fp16" else source
    try:
        say(f"{target}: building")
        if target.precision == "fp16" and source.quantized:
            raise InputError("half precision is not written of a file that is quantized already",
                             "deploy it as it is, or use --dequantize")  # fmt: skip
        with atomic_folder(out / target.folder, force) as folder:
            parts = built(target.backend, given, target.precision, folder, used, reference)
            version = parts.pop("version")
            for name in parts["backend_notes"].get("float_layers", []):
                say(f"{target}: {name} stays in float32: half precision cannot hold its values")
            _note_integers(target, source, parts, say)
            fields = {
                "card": source.card.to_dict(),
                "backend": target.backend,
                "precision": target.precision,
                "inputs": {name: list(shape) for name, shape in reference.inputs.items()},
                "graph_sha256": sha256(source.graph),
                "checkpoint_sha256": sha256(source.weights) if source.weights else None,
                "plan_sha256": used.sha256 if used else None,
                "versions": {"sandglass": own_version(), target.backend: version},
                **_processor(target.backend, source, used),
                "build_key": build_key(target.folder, version, source, used, reference, shapes),
                **parts,
                **({"shapes": [[*size, images] for size, images in shapes.items()]} if shapes else {}),
            }
            write_manifest(folder, fields)
        say(f"{target}: {parts['check']['summary']}")
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


def _processor(backend: str, source: Source, plan: Plan | None) -> dict[str, str]:
    """What the manifest of an artifact with a plan says of the processors that its integer sums are exact on."""
    spec = discover.load("backends", backend).SPEC
    return {"processor": spec.exact_on(source.processor).name} if plan and spec else {}


def _note_integers(target: Target, source: Source, parts: dict[str, Any], say: Say) -> None:
    """Add to an artifact's check what its precision does not tell: how little is in int8, or that its file decided."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.work import integer_share

    check, notes = parts["check"], next((entry[2] for entry in parts.get("by_shape", ())), parts["backend_notes"])
    if source.quantized:
        check["quantized"] = True
        check["summary"] += "; the file is quantized already, and is deployed as it is"
    elif target.precision == "int8" and "layers" in notes:
        check["int8_share"] = share = integer_share(load_graph(source.graph), notes["layers"])
        if share < LEAST_INT8_SHARE:
            line = f"only {share:.1%} of the multiply-accumulates run in int8"
            check["summary"] += f"; {line}"
            say(f"{target}: warning: {line}")


def failed(target: Target, error: SandglassError, say: Say) -> Outcome:
    say(f"{target}: failed: {error}")
    return Outcome(target, error=error)
