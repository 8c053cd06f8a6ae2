"""The way through the house: card and checkpoint -> graph -> plan -> artifacts. Each stage is one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sandglass import discover, parity
from sandglass.artifact import LEAST_INT8_SHARE, Artifact, load_artifact
from sandglass.backends import Source
from sandglass.build_key import build_key, kit_made_before, made_before, own_folder
from sandglass.building import FLOAT, built, check_float
from sandglass.calibration import Calibration, calibration_arrays, drawn
from sandglass.card import Card
from sandglass.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailable,
    InputError,
    PlanError,
    SandglassError,
    UnsupportedOperator,
)
from sandglass.files import atomic_folder, sha256
from sandglass.host import own_version
from sandglass.kit.make import Samples, make_kit
from sandglass.manifest import BUILD_KEY, write_manifest
from sandglass.quantize.plan import Plan
from sandglass.quantize.processor import ANY, Processor
from sandglass.shapes import Shapes
from sandglass.sources import Say, find_card, is_quantized, prepared_source

if TYPE_CHECKING:
    from sandglass.graph.bring_up import Quantized
from sandglass.tasks import check_dataset


@dataclass(frozen=True)
class Target:
    """A backend and a precision, written `ncnn:int8`."""

    backend: str
    precision: str

    @staticmethod
    def parse(text: str) -> Target:
        """Read `BACKEND[:PRECISION]`; raises InputError listing the known ones."""
        name, _, precision = text.partition(":")
        known = discover.load("backends", name).PRECISIONS
        precision = precision or known[0]
        if precision not in known:
            raise InputError(f"unknown precision {precision!r} for {name}", f"known: {', '.join(known)}")
        return Target(name, precision)

    @property
    def folder(self) -> str:
        """Name of its artifact's folder."""
        return f"{self.backend}-{self.precision}"

    def __str__(self) -> str:
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True)
class Outcome:
    """What became of one target: its artifact, or a build kit for another host, or the error that stopped it."""

    target: Target
    artifact: Artifact | None = None
    error: SandglassError | None = None
    kit: Path | None = None


def deploy(
    source: str | Path | Card,
    targets: Sequence[str],
    out: Path,
    *,
    checkpoint: Path | None = None,
    ema: bool = False,
    calibration: Calibration | None = None,
    plan: Path | None = None,
    tune_minutes: float = 0.0,
    soc: str = "",
    samples: Samples | None = None,
    shapes: Shapes = MappingProxyType({}),
    processor: Processor = ANY,
    dequantize: bool = False,
    force: bool = False,
    say: Say = lambda line: None,
) -> list[Outcome]:
    """Write one artifact folder `out/BACKEND-PRECISION` for each target, and `out/plan.json` where one is int8.

    `source` is a zoo model's name, a card's path, a float artifact's folder (see `find_card`) or a Card; `ema` takes
    the averaged weights of the checkpoint. A target that fails, or whose runtime crashes or hangs, does not stop the
    others: its Outcome carries the error. Raises a SandglassError for what concerns all of them (card, checkpoint,
    calibration, plan), and BusyError where another run works in `out`. An artifact that is there already is kept where
    it was made from the same inputs, so that the same call goes on with one that was killed; any other is refused, and
    `force` replaces both. Where a vendor's tools are not here, the folder is a build kit for a host that has them;
    `soc` names its processor, and the inputs of `samples` are taken along. Runtimes that compile their kernels may
    measure which are the fastest on this machine, for `tune_minutes` each.
    `processor` is the kind of processor that int8 artifacts are for: the default is exact on all of them, with weights
    of 7 bits where 8 would saturate on some.
    A file that is quantized already is deployed as it is, or taken back to float first with `dequantize`.
    With `shapes` (see `sandglass.shapes`) an artifact takes images of many sizes, each in the smallest shape that
    holds it.
    """
    card = source if isinstance(source, Card) else find_card(source)
    for data in (calibration, samples):
        if data is not None:
            check_dataset(discover.load("tasks", card.task), data.dataset)
    wanted = list(dict.fromkeys(Target.parse(target) for target in targets))
    integer = [target for target in wanted if target.precision == "int8"]
    if integer and calibration is None and (dequantize or not is_quantized(card)):
        raise InputError(f"{integer[0]} needs calibration images", "give --calibration and --calibration-annotations")
    if tune_minutes and not any(_tunes(target.backend) for target in wanted):
        able = ", ".join(name for name in discover.names("backends") if _tunes(name))
        raise InputError(f"{wanted[0].backend} compiles no kernels that could be tuned",
                         f"leave out --tune-minutes, or deploy to {able}")  # fmt: skip
    if soc and not any(hasattr(discover.load("backends", target.backend), "SOC") for target in wanted):
        raise InputError(f"no target is compiled for one processor, and {soc} was named", "leave out --soc")
    if samples and not any(map(needs_kit, wanted)):
        raise InputError(
            "no target makes a build kit, and evaluation samples were given for one", "leave out --dataset"
        )
    if shapes and (kits := [target for target in wanted if needs_kit(target)]):
        raise InputError(f"{kits[0]} makes a build kit, which takes one input shape", "leave the shapes out")
    quantized: Quantized = "float" if dequantize else "keep"
    with (
        own_folder(out, [out / target.folder for target in wanted], card, force),
        prepared_source(card, checkpoint, say, tuple(shapes), quantized=quantized, ema=ema) as graph,
    ):
        ready = replace(graph, soc=soc, tune_seconds=60 * tune_minutes, processor=processor)
        inputs = calibration_arrays(card, calibration, next(iter(shapes), None)) if calibration else []
        if ready.quantized and plan is not None:
            raise InputError(f"{card.name} is quantized already, and {plan} would quantize it", "use --dequantize")
        made = None
        if integer and calibration and not ready.quantized:
            made = make_plan(ready, calibration, inputs, plan, say)
        if made:
            _save_plan(made, out / "plan.json", force)
        reference = parity.Reference(ready, inputs)
        outcomes = {
            target: build_kit(target, ready, reference, samples, out, force, say)
            if needs_kit(target)
            else _made_before(target, ready, made, reference, out, force, say, shapes)
            or build_artifact(target, ready, made, reference, out, force, say, shapes)
            for target in sorted(wanted, key=lambda target: target.precision != FLOAT)  # the others need to know it
        }
        return [outcomes[target] for target in wanted]


def _tunes(backend: str) -> bool:
    return getattr(discover.load("backends", backend), "TUNES", False)


def make_plan(
    source: Source, calibration: Calibration, samples: Sequence[np.ndarray], file: Path | None, say: Say
) -> Plan:
    """The quantization plan: read from `file` and checked against the graph, or computed from the calibration set."""
    from sandglass.quantize import automatic, make
    from sandglass.quantize.thresholds import AUTO

    if file is not None:
        return make.load_plan(file, source.graph)
    say(f"plan: reading activation ranges from {len(samples)} samples, method {calibration.method}")
    origin = drawn(calibration, len(samples))
    if calibration.method == AUTO:
        plan = automatic.automatic_plan(source.graph, samples, origin)
        say(f"plan: the method {plan.method} leaves the least noise at the outputs")
    else:
        plan = make.make_plan(source.graph, samples, calibration.method, origin)
    for layer in plan.layers.values():
        if layer.keep_float:
            say(f"plan: {layer.name} stays in float: {layer.reason}")
    return plan


def _save_plan(plan: Plan, path: Path, force: bool) -> None:
    """Write the plan; another one, which may be edited by hand, is not replaced unless forced."""
    if path.exists() and not force and not _holds(path, plan):
        raise ArtifactError(
            f"{path} exists already and is another plan", "give it as --plan, choose another folder, or use --force"
        )
    plan.save(path)


def _holds(path: Path, plan: Plan) -> bool:
    try:
        return Plan.load(path).sha256 == plan.sha256
    except PlanError:
        return False


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


def _made_before(
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
                BUILD_KEY: build_key(target.folder, version, source, used, reference, shapes),
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
        return _failed(target, UnsupportedOperator(error.message, fix), say)
    except SandglassError as error:
        return _failed(target, error, say)
    except OSError as error:  # a full disk, say
        return _failed(target, BackendError(str(error), "make room, or check the permissions"), say)


def _processor(backend: str, source: Source, plan: Plan | None) -> dict[str, str]:
    """What the manifest of an artifact with a plan says of the processors that its integer sums are exact on."""
    spec = discover.load("backends", backend).SPEC
    return {"processor": spec.exact_on(source.processor).name} if plan and spec else {}


def _note_integers(target: Target, source: Source, parts: dict[str, Any], say: Say) -> None:
    """Add to an artifact's check what its precision does not tell: how little is in int8, or that its file decided."""
    from sandglass.graph.load import load_graph
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


def needs_kit(target: Target) -> bool:
    """Whether the tools of a target are not here, and its backend can make a build kit for a host that has them."""
    backend = discover.load("backends", target.backend)
    if not hasattr(backend, "kit"):
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
        return _failed(target, error, say)
    return Outcome(target, kit=kit)


def _failed(target: Target, error: SandglassError, say: Say) -> Outcome:
    say(f"{target}: failed: {error}")
    return Outcome(target, error=error)
