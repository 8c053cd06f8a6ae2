"""The way through the house: card and checkpoint -> graph -> plan -> artifacts. Each stage is one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandglass.artifacts import parity
from sandglass.artifacts.build import BuildRequest, build_artifact, failed, reuse_artifact
from sandglass.artifacts.build_files import FLOAT, check_float
from sandglass.artifacts.build_key import Samples, own_folder
from sandglass.artifacts.find_card import find_card
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.plan_file import kept_plan, plan_path, save_plan
from sandglass.artifacts.target import Outcome, Target
from sandglass.backends import Capabilities, load_backend
from sandglass.core import discover
from sandglass.core.errors import InputError, SandglassError
from sandglass.core.files import sha256
from sandglass.core.host import own_version
from sandglass.core.processor import ANY, Processor
from sandglass.core.progress import Say
from sandglass.core.sizes import Size
from sandglass.kit.build import build_kit, needs_kit
from sandglass.quantization.calibrated_plan import calibrated_plan
from sandglass.quantization.calibration import Calibration, calibration_arrays
from sandglass.quantization.make_plan import load_plan
from sandglass.quantization.plan import Plan
from sandglass.search.default_plan import default_plan
from sandglass.sources.card import Card
from sandglass.sources.prepare import is_quantized, prepared_source

if TYPE_CHECKING:
    from sandglass.sources.bring_up import Quantized
from sandglass.tasks import check_dataset, load_task


def deploy(
    source: str | Path | Card,
    targets: Sequence[str],
    out: Path,
    *,
    checkpoint: Path | None = None,
    ema: bool = False,
    calibration: Calibration | None = None,
    plan: Path | None = None,
    quick: bool = False,
    tune_minutes: float = 0.0,
    soc: str = "",
    samples: Samples | None = None,
    shapes: Shapes = MappingProxyType({}),
    processor: Processor = ANY,
    dequantize: bool = False,
    force: bool = False,
    say: Say = lambda line: None,
) -> list[Outcome]:
    """Write one artifact folder `out/BACKEND-PRECISION` for each target, and for int8 `out/BACKEND-int8.plan.json`.

    `source` is a zoo model's name, a card's path, a float artifact's folder (see `find_card`) or a Card; `ema` takes
    the averaged weights of the checkpoint. A target that fails, or whose runtime crashes or hangs, does not stop the
    others: its Outcome carries the error. Raises a SandglassError for what concerns all of them (card, checkpoint,
    calibration, plan), and BusyError where another run works in `out`. An artifact that is there already is kept where
    it was made from the same inputs, so that the same call goes on with one that was killed; any other is refused, and
    `force` replaces both. Where a vendor's tools are not here, the folder is a build kit for a host that has them;
    `soc` names its processor, and the inputs of `samples` are taken along. Runtimes that compile their kernels may
    measure which are the fastest on this machine, for `tune_minutes` each.
    The plan of an int8 target is made for it from the calibration images (see `search.default_plan`), read from the
    file `plan`, or with `quick` the same for all targets: ranges and thresholds alone, in seconds. `processor` is the
    kind of processor that int8 artifacts are for: the default is exact on all of them, with weights of 7 bits where 8
    would saturate on some.
    A file that is quantized already is deployed as it is, or taken back to float first with `dequantize`.
    With `shapes` (see `artifacts.input_shapes`) an artifact takes images of many sizes, each in the smallest shape that
    holds it.
    """
    card = source if isinstance(source, Card) else find_card(source)
    for data in (calibration, samples):
        if data is not None:
            check_dataset(load_task(card.task), data.dataset)
    wanted = list(dict.fromkeys(Target.parse(target) for target in targets))
    integer = [target for target in wanted if target.precision == "int8"]
    if integer and calibration is None and (dequantize or not is_quantized(card)):
        raise InputError(f"{integer[0]} needs calibration images", "give --calibration and --calibration-annotations")
    if tune_minutes and not any(_capabilities(target.backend).tunes_kernels for target in wanted):
        able = ", ".join(name for name in discover.names("backends") if _capabilities(name).tunes_kernels)
        raise InputError(f"{wanted[0].backend} compiles no kernels that could be tuned",
                         f"leave out --tune-minutes, or deploy to {able}")  # fmt: skip
    if soc and not any(_capabilities(target.backend).compiles_for_soc for target in wanted):
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
        shape = next(iter(shapes), None)
        reference = parity.Reference(ready, inputs)
        request = BuildRequest(ready, None, reference, out, say, force, shapes)
        shared = None
        if integer and calibration and not ready.quantized and (quick or plan is not None):
            shared = load_plan(plan, ready.graph) if plan else calibrated_plan(ready, calibration, inputs, say)
            for target in integer:
                save_plan(shared, plan_path(out, target), force)

        def build(target: Target) -> Outcome:
            if needs_kit(target):
                return build_kit(target, ready, reference, samples, out, force, say)
            if target not in integer or ready.quantized or calibration is None:
                return reuse_artifact(target, request) or build_artifact(target, request)
            try:
                planned = replace(request, plan=shared or _plan(target, request, calibration, shape))
            except SandglassError as error:
                return failed(target, error, say)
            return reuse_artifact(target, planned) or build_artifact(target, planned)

        # Float artifacts come first: int8 ones are built only where the same runtime's float one agrees with the graph.
        outcomes = {target: build(target) for target in sorted(wanted, key=lambda target: target.precision != FLOAT)}
        return [outcomes[target] for target in wanted]


def _plan(target: Target, request: BuildRequest, calibration: Calibration, shape: Size | None) -> Plan:
    """The default plan of an int8 target, from the file next to its artifact where the same call made it before."""
    source, data = request.source, calibration.dataset.fingerprint
    made_from = {
        "target": str(target),
        "version": own_version(),
        "graph": sha256(source.graph),
        "calibration": [data, calibration.size, calibration.method, calibration.seed],
        "shape": shape,
        "processor": source.processor.name,
    }

    def make() -> Plan:
        check_float(target.backend, source, request.reference)  # no time goes into the plan of a runtime that fails
        return default_plan(source, target.backend, calibration, lambda line: request.say(f"{target}: {line}"), shape)

    return kept_plan(plan_path(request.out, target), made_from, request.force, make)


def _capabilities(backend: str) -> Capabilities:
    return load_backend(backend).CAPABILITIES
