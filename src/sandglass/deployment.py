"""`deploy()` calls the stages in order: card and checkpoint -> graph -> plan -> artifacts. A stage is one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandglass.artifacts import parity
from sandglass.artifacts.build import BuildRequest, build_artifact, failed, reuse_artifact
from sandglass.artifacts.build_files import FLOAT, check_float
from sandglass.artifacts.build_key import Samples, own_folder
from sandglass.artifacts.find_card import find_card
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.plan_file import load_or_make_plan, plan_path, save_plan
from sandglass.artifacts.target import Outcome, Target
from sandglass.backends import Capabilities, load_backend, usable_backends
from sandglass.core.errors import InputError, SandglassError
from sandglass.core.files import sha256
from sandglass.core.host import own_version
from sandglass.core.processor import ANY, Processor
from sandglass.core.progress import Say
from sandglass.core.sizes import Size
from sandglass.kit.build import build_kit, needs_kit
from sandglass.quantization.calibrated_plan import calibrated_plan
from sandglass.quantization.calibration import Calibration, Look, calibration_arrays, calibration_looks
from sandglass.quantization.make_plan import load_plan
from sandglass.quantization.plan import Plan
from sandglass.search.default_plan import default_plan
from sandglass.search.inputs import search_inputs
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
    """Write the artifact folder `out/BACKEND-PRECISION` for each target, and for int8 `out/BACKEND-int8.plan.json`.

    Returns one Outcome for each target, in the order of `targets`. A target that fails, or whose runtime crashes or
    hangs, does not stop the others: its Outcome carries the error.

    `source` is the name of a zoo model, the path of a card, the folder of a float artifact (see `find_card`) or a Card.
    `targets` are texts such as "ncnn:int8". `checkpoint` replaces the card's; `ema` selects its averaged weights.
    `calibration` is needed for int8: each target gets its own plan, with repairs, from these images (see
    `search.default_plan`). With `quick`, all targets share one plan with ranges and thresholds only, which takes
    seconds. With the file `plan`, all targets use the plan in this file.
    `processor` is the kind of processor that int8 artifacts are for. The default gives exact sums on all of them, with
    weights of 7 bits where 8 bits would saturate on some.
    A file that is quantized already is deployed unchanged; with `dequantize` it is converted to float first.
    With `shapes` (see `artifacts.input_shapes`) an artifact takes images of many sizes, each in the smallest shape that
    holds it.
    Runtimes that compile their kernels search for the fastest ones on this machine, `tune_minutes` for each target.
    For a target whose vendor tools are not installed here, the folder is a build kit for a host that has them; `soc`
    names the processor to compile for, and the kit contains the inputs of `samples`.

    An artifact that an earlier call wrote from the same inputs is reused, so a killed call can be repeated and
    continues. Any other existing folder is refused. `force` builds and replaces in both cases. `say` gets lines of
    progress.

    Raises a SandglassError for a problem that concerns all targets (card, checkpoint, calibration, plan), and BusyError
    if another run works in `out`.
    """
    card = source if isinstance(source, Card) else find_card(source)
    for data in (calibration, samples):
        if data is not None:
            check_dataset(load_task(card.task), data.dataset)
    unique = list(dict.fromkeys(Target.parse(target) for target in targets))
    integer = [target for target in unique if target.precision == "int8"]
    if integer and calibration is None and (dequantize or not is_quantized(card)):
        raise InputError(f"{integer[0]} needs calibration images", "give --calibration DIR, a folder of images")
    _refuse_useless_options(unique, tune_minutes, soc, samples, shapes)
    quantized: Quantized = "float" if dequantize else "keep"
    with (
        own_folder(out, [out / target.folder for target in unique], card, force),
        prepared_source(card, checkpoint, say, tuple(shapes), quantized=quantized, ema=ema) as graph,
    ):
        ready = replace(graph, soc=soc, tune_seconds=60 * tune_minutes, processor=processor)
        shape = next(iter(shapes), None)
        inputs = calibration_arrays(card, calibration, shape) if calibration else []
        if ready.quantized and plan is not None:
            raise InputError(f"{card.name} is quantized already, so {plan} does not apply to it",
                             "use --dequantize, or leave out --plan")  # fmt: skip
        reference = parity.Reference(ready, inputs)
        request = BuildRequest(ready, None, reference, out, say, force, shapes)
        shared = None
        if integer and calibration and not ready.quantized and (quick or plan is not None):
            shared = load_plan(plan, ready.graph) if plan else calibrated_plan(ready, calibration, inputs, say)
            for target in integer:
                save_plan(shared, plan_path(out, target), force)

        @cache
        def looks() -> tuple[list[Look], list[Look]]:
            return calibration_looks(card, calibration, shape) if calibration else ([], [])

        def build(target: Target) -> Outcome:
            if needs_kit(target):
                return build_kit(target, ready, reference, samples, out, force, say)
            if target not in integer or ready.quantized or calibration is None:
                return reuse_artifact(target, request) or build_artifact(target, request)
            try:
                planned = replace(request, plan=shared or _plan(target, request, calibration, shape, looks))
            except SandglassError as error:
                return failed(target, error, say)
            return reuse_artifact(target, planned) or build_artifact(target, planned)

        # Float artifacts come first: an int8 one is built only if the float one of its runtime agrees with the graph.
        outcomes = {target: build(target) for target in sorted(unique, key=lambda target: target.precision != FLOAT)}
        return [outcomes[target] for target in unique]


def _refuse_useless_options(
    unique: Sequence[Target], tune_minutes: float, soc: str, samples: Samples | None, shapes: Shapes
) -> None:
    """Raise InputError for an option that has an effect on none of the targets."""
    if tune_minutes and not any(_capabilities(target.backend).tunes_kernels for target in unique):
        able = ", ".join(name for name, backend in usable_backends().items() if backend.CAPABILITIES.tunes_kernels)
        raise InputError(f"{unique[0].backend} has no kernels to tune",
                         f"leave out --tune-minutes, or deploy to {able}")  # fmt: skip
    if soc and not any(_capabilities(target.backend).compiles_for_soc for target in unique):
        raise InputError(f"--soc {soc} has no effect: no target is compiled for a named processor", "leave out --soc")
    if samples and not any(map(needs_kit, unique)):
        raise InputError("--dataset has no effect: evaluation samples are for build kits, and no target makes one",
                         "leave out --dataset")  # fmt: skip
    if shapes and (kits := [target for target in unique if needs_kit(target)]):
        raise InputError(f"{kits[0]} makes a build kit, which has a single input shape",
                         "leave out --shapes and --shapes-from")  # fmt: skip


def _plan(
    target: Target,
    request: BuildRequest,
    calibration: Calibration,
    shape: Size | None,
    looks: Callable[[], tuple[list[Look], list[Look]]],
) -> Plan:
    """The default plan of an int8 target. If an earlier call stored it next to its artifact, it is read from there.

    `looks` reads the calibration images when a plan is made for the first time.
    """
    source, data = request.source, calibration.dataset.fingerprint
    made_from = {
        "target": str(target),
        "version": own_version(),
        "card": source.card.to_dict(),
        "graph": sha256(source.graph),
        "calibration": [data, calibration.size, calibration.method, calibration.seed],
        "shape": shape,
        "processor": source.processor.name,
    }

    def make() -> Plan:
        check_float(target.backend, source, request.reference)  # a runtime that fails needs no plan
        inputs = search_inputs(source, target.backend, calibration, looks(), request.reference)
        return default_plan(inputs, lambda line: request.say(f"{target}: {line}"))

    return load_or_make_plan(plan_path(request.out, target), made_from, request.force, make)


def _capabilities(backend: str) -> Capabilities:
    return load_backend(backend).CAPABILITIES
