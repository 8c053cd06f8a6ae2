"""The way through the house: card and checkpoint -> graph -> plan -> artifacts. Each stage is one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandglass.artifacts import parity
from sandglass.artifacts.build import BuildRequest, build_artifact, reuse_artifact
from sandglass.artifacts.build_files import FLOAT
from sandglass.artifacts.build_key import Samples, own_folder
from sandglass.artifacts.find_card import find_card
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.target import Outcome, Target
from sandglass.backends import Capabilities, load_backend, usable_backends
from sandglass.core.errors import (
    InputError,
)
from sandglass.core.processor import ANY, Processor
from sandglass.core.progress import Say
from sandglass.kit.build import build_kit, needs_kit
from sandglass.quantization.calibrated_plan import calibrated_plan, save_plan
from sandglass.quantization.calibration import Calibration, calibration_arrays
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
        able = ", ".join(name for name, backend in usable_backends().items() if backend.CAPABILITIES.tunes_kernels)
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
        made = None
        if integer and calibration and not ready.quantized:
            made = calibrated_plan(ready, calibration, inputs, plan, say)
        if made:
            save_plan(made, out / "plan.json", force)
        reference = parity.Reference(ready, inputs)
        request = BuildRequest(ready, made, reference, out, say, force, shapes)
        outcomes = {
            target: build_kit(target, ready, reference, samples, out, force, say)
            if needs_kit(target)
            else reuse_artifact(target, request) or build_artifact(target, request)
            for target in sorted(wanted, key=lambda target: target.precision != FLOAT)  # the others need to know it
        }
        return [outcomes[target] for target in wanted]


def _capabilities(backend: str) -> Capabilities:
    return load_backend(backend).CAPABILITIES
