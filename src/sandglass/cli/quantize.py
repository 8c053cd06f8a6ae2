"""`sandglass quantize` searches for the fastest int8 artifact; `sandglass sensitivity` measures each layer in int8."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sandglass.cli.inputs import load_images, required_calibration
from sandglass.cli.options import (
    BudgetOptions,
    CalibrationOptions,
    EvaluationOptions,
    Output,
    Place,
    ProcessorOptions,
    RepairOptions,
    Source,
    Target,
    Weights,
)
from sandglass.cli.output import say, show, write_result

if TYPE_CHECKING:
    from sandglass.search.quantize import Quantization


def quantize(
    source: Source,
    /,
    *,
    target: Target,
    place: Place,
    weights: Weights = Weights(),
    budget: BudgetOptions = BudgetOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    calibration: CalibrationOptions = CalibrationOptions(),
    processor: ProcessorOptions = ProcessorOptions(),
    repairs: RepairOptions = RepairOptions(),
    output: Output = Output(),
) -> int:
    """Search for the fastest int8 artifact within an accuracy budget.

    To continue after an interruption, run the same command again.
    """
    from sandglass.cli.layer_table import search_report
    from sandglass.search import quantize as search

    dataset = load_images(evaluation.data, source, evaluation)
    result = search.quantize(
        source,
        target,
        place.out,
        calibration=required_calibration(calibration, source),
        evaluation=dataset,
        checkpoint=weights.checkpoint,
        ema=weights.ema,
        max_drop=budget.max_drop,
        metric=budget.metric,
        min_fidelity=budget.min_fidelity,
        min_int8_share=budget.min_int8_share,
        without=repairs.without,
        gain=budget.gain,
        processor=processor.processor,
        best_effort=budget.best_effort,
        force=place.force,
        say=say,
    )
    show(output, *search_report(result))
    write_result(output, to_dict(result))
    return 0


def sensitivity(
    source: Source,
    /,
    *,
    target: Target,
    weights: Weights = Weights(),
    calibration: CalibrationOptions = CalibrationOptions(),
    processor: ProcessorOptions = ProcessorOptions(),
    repairs: RepairOptions = RepairOptions(),
    plot: Annotated[Path | None, Parameter(metavar="PNG")] = None,
    output: Output = Output(),
) -> int:
    """Measure the noise and the time of each layer in int8, with all other layers in float.

    Parameters
    ----------
    plot
        PNG file for a bar chart of the layers (default: none)
    """
    from sandglass.cli.layer_table import draw_costs, sensitivity_rows
    from sandglass.search import quantize as search
    from sandglass.vision.image import write_image

    costs = search.sensitivity(
        source,
        target,
        calibration=required_calibration(calibration, source),
        checkpoint=weights.checkpoint,
        ema=weights.ema,
        without=repairs.without,
        processor=processor.processor,
        say=say,
    )
    show(output, sensitivity_rows(costs))
    if plot:
        write_image(plot, draw_costs(costs))
    write_result(output, [asdict(cost) for cost in costs])
    return 0


def to_dict(result: Quantization) -> dict[str, object]:
    """The result as JSON data."""
    return {
        "artifact": str(result.artifact.folder),
        "met": result.met,
        "verdict": result.verdict,
        "int8_share_of_macs": result.integer_share,
        "expected": {"sure_fidelity": result.choice.fidelity, "milliseconds": result.expected_ms},
        "layers": [
            {**asdict(cost), "runs_in": "int8" if cost.name in result.choice.bits else "float",
             "weight_bits": result.choice.bits.get(cost.name),
             "because": result.choice.reasons.get(cost.name, "")}
            for cost in result.costs
        ],
        "evaluations": [evaluation.to_dict() for evaluation in result.evaluations],
        "changes": result.changes,
        "fidelity": result.agreements,
        "fidelity_check": asdict(result.fidelity),
        "speeds": [speed.to_dict() for speed in result.speeds],
    }  # fmt: skip
