"""Inspection: shares, scales, and where int8 is slower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import FLOAT, INT8, BuildNotes, LayerDecision, LayerRun, layer_note, read_notes
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.core.errors import ArtifactError, InputError
from sandglass.datasets import synthetic_people
from sandglass.deployment import deploy
from sandglass.measure.inspection import Inspection, inspect, quietest, scale_problem, summary
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card, Input
from sandglass.table.markdown import markdown
from sandglass.table.rows import inspection_rows


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The small graph on ONNX Runtime, by precision."""
    folder = tmp_path_factory.mktemp("pair")
    card = Card("small", "topdown-pose", Input((32, 24), (0, 0, 0), (1, 1, 1)), graph=save_graph(folder / "g.onnx"))
    people = Calibration(synthetic_people.load(limit=4, split="train"), size=4)
    outcomes = deploy(card, ["onnxruntime:fp32", "onnxruntime:int8"], folder / "out", calibration=people, quick=True)
    return {outcome.target.precision: outcome.artifact for outcome in outcomes if outcome.artifact}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), ""),
        ((0.02, 0.01, 0.03), ""),
        ((0.0, 0.01), "the scale of its input is dead: 0"),
        ((float("inf"), 0.01), "the scale of its input is infinite: inf"),
        ((0.02, float("inf"), 0.01), "1 of 2 channels have an infinite scale"),
        ((0.02, 0.0, 0.01, 0.01), "1 of 3 channels are dead: their weights are 0"),
        ((0.02, 1e-7, 0.01, 0.01), "1 of 3 channels are nearly dead"),
        ((5e4, 0.01), "its input is rounded in steps of 5.0e+04"),
    ],
)
def test_scales_that_are_wrong_are_named(steps: tuple[float, ...], expected: str) -> None:
    """Dead, infinite and absurd scales each read differently; sound ones are silent."""
    assert scale_problem(steps) == expected


def test_a_kernel_too_quick_for_the_clock_may_miss_a_round() -> None:
    """Each kernel has the least of its times, also of two that bear one name; one without a time stays without."""

    def run(name: str, milliseconds: float | None) -> LayerRun:
        return LayerRun(name, "Convolution", INT8, milliseconds=milliseconds)

    first = [run("a", 0.003), run("b", 0.001), run("b", 0.5), run("c", None)]
    second = [run("a", 0.002), run("b", 0.4), run("c", None)]
    third = [run("a", 0.004), run("b", 0.002), run("b", 0.3), run("c", None)]
    found = quietest([second, first, third])
    assert [(entry.name, entry.milliseconds) for entry in found] == [
        ("a", 0.002),
        ("b", 0.001),
        ("b", 0.3),
        ("c", None),
    ]


def test_note_follows_the_decision_or_the_runtime() -> None:
    """The plan's reason where it says float; the runtime's own choice where it says int8 and float is run."""
    notes = BuildNotes(
        layers={
            "a": LayerDecision(FLOAT, reason="it makes the output"),
            "b": LayerDecision(INT8, 8, "Winograd masked"),
            "c": LayerDecision(INT8, 7),
            "d": LayerDecision(INT8, 6, "Winograd"),
        }
    )
    assert layer_note(notes, "a", FLOAT) == "it makes the output"
    assert layer_note(notes, "b", INT8) == "Winograd masked"
    assert layer_note(notes, "c", INT8) == ""
    assert layer_note(notes, "c", FLOAT) == "int8 in the plan, but the runtime has no int8 kernel for it here"
    assert layer_note(notes, "d", INT8) == "6-bit weights, Winograd"
    assert layer_note(BuildNotes(), "c", FLOAT) == ""


def test_decisions_that_were_written_as_text_are_read() -> None:
    """As manifests of version 0.1.0 have them."""
    texts = {"a": "float: no kernel, sadly", "b": "int8, Winograd masked", "c": "int8",
             "d": "int8, 6-bit weights, Winograd"}  # fmt: skip
    assert read_notes(BuildNotes, {"layers": texts}).layers == {
        "a": LayerDecision(FLOAT, reason="no kernel, sadly"),
        "b": LayerDecision(INT8, kernel="Winograd masked"),
        "c": LayerDecision(INT8),
        "d": LayerDecision(INT8, 6, "Winograd"),
    }
    with pytest.raises(ArtifactError, match=r"layers.*a"):
        read_notes(BuildNotes, {"layers": {"a": 3}})


def test_shares_and_what_is_slower(pair: dict[str, Artifact]) -> None:
    """Shares are of all work and all time; a layer is slower only beyond the noise, and the reason is told."""
    float_runs = (LayerRun("a", "Conv", FLOAT, 600, 1.0), LayerRun("b", "Conv", FLOAT, 300, 1.0))
    runs = (
        LayerRun("in", "Quantize", FLOAT, 0, 0.5),
        LayerRun("a", "QConv", INT8, 600, 0.5, terms=64),
        LayerRun("b", "QConv", INT8, 300, 2.0, terms=9),
        LayerRun("c", "Conv", FLOAT, 100, 1.0, "it makes the output"),
    )
    against = Inspection(pair["fp32"], float_runs, 1, 4.0)
    found = Inspection(pair["int8"], runs, 1, 5.0, against)
    assert found.integer_share == 0.9
    assert found.time_share(integer=True) == pytest.approx(2.5 / 4)
    assert list(found.slower()) == ["b"]
    assert "sum of only 9 products" in found.slower()["b"]
    lines = "\n".join(summary(found))
    assert "90.0 % of" in lines
    assert "1.25 times the latency of float" in lines
    assert "1 int8 layers are slower than in float; together they lose 1.00 ms" in lines
    untimed = Inspection(pair["int8"], (LayerRun("a", "QConv", INT8, 600),), 1, 5.0)
    assert untimed.time_share(integer=True) is None
    assert "does not report the times" in summary(untimed)[1]
    assert "| ms" not in markdown(inspection_rows(untimed))


def test_command_on_a_real_pair(pair: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All five layers run in int8, in the plan's order, and the JSON holds the same."""
    file = tmp_path / "layers.json"
    folders = [str(pair[precision].folder) for precision in ("int8", "fp32")]
    assert main(["inspect", folders[0], "--against", folders[1], "--threads", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "times the latency of float" in printed
    written = json.loads(file.read_text())
    layers = {layer["name"]: layer for layer in written["layers"] if layer["macs"]}
    assert [name for name, layer in layers.items() if layer["arithmetic"] == "int8"] == [
        "first", "depthwise", "pointwise", "three", "last",
    ]  # fmt: skip
    assert layers["three"]["float_milliseconds"] > 0
    assert written["int8_share_of_macs"] == 1


def test_backend_that_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No layers is an answer, not an error."""
    card = Card("small", "topdown-pose", Input((32, 24), (0, 0, 0), (1, 1, 1)), graph=save_graph(tmp_path / "g.onnx"))
    deploy(card, ["null"], tmp_path / "out")
    assert main(["inspect", str(tmp_path / "out/null-fp32")]) == 0
    assert "executes no layers" in capsys.readouterr().out


def test_float_to_compare_with_must_be_float_and_of_the_same_graph(
    pair: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two int8 artifacts, another graph, or no artifact: one line each."""
    with pytest.raises(InputError, match="expected fp32"):
        inspect(pair["fp32"], against=pair["int8"])
    other = Artifact(pair["fp32"].folder, replace(pair["fp32"].manifest, graph_sha256="1"), pair["fp32"].card)
    with pytest.raises(InputError, match="different graphs"):
        inspect(pair["int8"], against=other)
    assert main(["inspect", str(tmp_path)]) == 2
    assert "not an artifact" in capsys.readouterr().err
