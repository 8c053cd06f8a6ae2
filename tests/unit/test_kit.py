"""Build kits: made here, run where there is no Sandglass, and collected to what any artifact gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from sandglass import deployment
from sandglass.artifacts import parity
from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.build_key import Samples
from sandglass.artifacts.target import Target
from sandglass.backends import load_backend
from sandglass.cli.main import main
from sandglass.core import discover
from sandglass.core.errors import ArtifactError, BackendError, DatasetError, InputError, ParityError
from sandglass.kit import collect
from sandglass.measure.evaluation import evaluate
from sandglass.sources.source import Source
from vendors import FOLDER, environment

MODEL = "hourglass-tiny-synthetic"
KITS = [name for name in discover.names("backends") if load_backend(name).CAPABILITIES.make_kit]


def people(limit: int = 4) -> Any:
    """A few synthetic images."""
    return discover.load("datasets", "synthetic-people").load(limit=limit)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of each vendor and an artifact, of the embedded model with flip-tested samples."""
    pytest.importorskip("torch")
    out = tmp_path_factory.mktemp("made")
    targets = [f"{name}:fp16" for name in KITS]
    outcomes = deployment.deploy(
        MODEL, [*targets, "onnxruntime:fp32"], out, soc="Ascend310P3", samples=Samples(people(), flip_test=True)
    )
    assert [outcome.kit for outcome in outcomes[:-1]] == [out / f"{name}-fp16" for name in KITS]
    return out


def on_host(kit: Path, scratch: Path, **more: str) -> None:
    """What its README says: compile and run the kit, on a host with the stand-ins and without Sandglass."""
    host = {**environment(scratch), **more}
    subprocess.run(["sh", "build.sh"], cwd=kit, env=host, check=True)
    subprocess.run([sys.executable, "run.py", "--seconds", "0.1"], cwd=kit, env=host, check=True, capture_output=True)


@pytest.fixture
def ready(made: Path, tmp_path: Path) -> Path:
    """A copy of one kit, not run yet."""
    shutil.copytree(made / f"{KITS[0]}-fp16", tmp_path / "kit")
    return tmp_path / "kit"


@pytest.fixture(scope="module")
def run(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kit that was run."""
    scratch = tmp_path_factory.mktemp("run")
    shutil.copytree(made / f"{KITS[0]}-fp16", scratch / "kit")
    on_host(scratch / "kit", scratch)
    return scratch / "kit"


@pytest.fixture
def back(run: Path, tmp_path: Path) -> Path:
    """A copy of a kit that was run."""
    shutil.copytree(run, tmp_path / "kit")
    return tmp_path / "kit"


@pytest.mark.parametrize("name", KITS)
def test_what_comes_back_scores_as_the_same_outputs_here(name: str, made: Path, tmp_path: Path) -> None:
    """A host without Sandglass gives outputs that collect to the metrics and predictions of `evaluate`."""
    shutil.copytree(made / f"{name}-fp16", tmp_path / "kit")
    on_host(tmp_path / "kit", tmp_path)
    kit = collect.load_kit(tmp_path / "kit")
    assert collect.agreement(kit).relative_difference < 1e-6
    found = collect.evaluation(kit, people())
    expected = evaluate(load_artifact(made / "onnxruntime-fp32"), people(), flip_test=True)
    assert found.metrics == expected.metrics
    for mine, other in zip(found.predictions, expected.predictions, strict=True):
        np.testing.assert_allclose(mine["keypoints"], other["keypoints"], atol=1e-3)
    speed = kit.speed()
    assert 0 < speed.minimum <= speed.median <= speed.p99
    assert kit.size == (tmp_path / "kit/graph.onnx").stat().st_size
    assert found.to_dict()["origin"]["backend_version"] == kit.version()
    assert kit.speed_dict()["host"] == kit.report.host


def test_same_command_keeps_the_kit(made: Path, tmp_path: Path) -> None:
    """With what is in it by then; other samples make another kit, which does not take its place."""
    name = f"{KITS[0]}-fp16"
    shutil.copytree(made / name, tmp_path / name)
    (tmp_path / name / "results").mkdir()

    def again(limit: int) -> deployment.Outcome:
        samples = Samples(people(limit), flip_test=True)
        (outcome,) = deployment.deploy(MODEL, [f"{KITS[0]}:fp16"], tmp_path, soc="Ascend310P3", samples=samples)
        return outcome

    assert again(4).kit == tmp_path / name
    assert (tmp_path / name / "results").is_dir()
    assert "exists already" in str(again(3).error)


def test_half_precision_outputs_are_read(ready: Path, tmp_path: Path) -> None:
    """A device that gives float16 is understood, and agrees with the graph to half precision."""
    on_host(ready, tmp_path, FAKE_ACL_HALF="1")
    agreed = collect.agreement(collect.load_kit(ready))
    assert 1e-6 < agreed.relative_difference < 1e-3


@pytest.mark.slow
def test_command_line_from_kit_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """deploy, the host, and collect follow one another, and the table has the change against the float artifact."""
    pytest.importorskip("torch")
    out, data = tmp_path / "out", ["--dataset", "synthetic-people", "--limit", "3"]
    targets = ["ascend:fp16", "onnxruntime:fp32"]
    assert main(["deploy", MODEL, "--to", *targets, "--soc", "Ascend910B", "--out", str(out), *data]) == 0
    assert "sandglass collect" in capsys.readouterr().out
    assert "--soc_version=Ascend910B" in (out / "ascend-fp16/build.sh").read_text()
    on_host(out / "ascend-fp16", tmp_path)
    arguments = ["--against", str(out / "onnxruntime-fp32"), "--json", str(tmp_path / "r.json")]
    assert main(["collect", str(out / "ascend-fp16"), *data, *arguments]) == 0
    told = capsys.readouterr().out
    assert told.count(f"| {MODEL} |") == 3
    assert "acl 1.2.3" in told
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["evaluations"][0]["metrics"] == found["evaluations"][1]["metrics"]
    assert found["evaluations"][1]["change"]["AP"]["value"] == 0
    assert found["speed"]["latency_ms"]["median"] > 0


@pytest.mark.parametrize("options", [["--images", "x"], ["--limit", "3"], ["--flip-test"]])
def test_samples_without_their_dataset_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that say which samples a kit takes need the dataset's name."""
    command = ["deploy", MODEL, "--to", "igie", "--out", str(tmp_path / "out"), *options]
    assert main(command) == 2
    assert "the options for evaluation samples need --dataset" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run_goes_on_where_it_was_broken_off(back: Path, tmp_path: Path) -> None:
    """A second run keeps whole files and makes the missing ones; another compiled model starts anew."""
    results = back / "results"
    times = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    (results / "00000.npz").unlink()
    on_host(back, tmp_path)
    again = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    assert again.keys() == times.keys()
    assert again["probes.npz"] == times["probes.npz"]
    assert again["00000.npz"] > times["00000.npz"]
    (results / "model.sha256").write_text("of another model")
    on_host(back, tmp_path)
    assert (results / "probes.npz").stat().st_mtime_ns > times["probes.npz"]


def test_run_says_that_the_graph_is_to_be_compiled(ready: Path, tmp_path: Path) -> None:
    """run.py without a compiled model is one line."""
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=ready, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "model.om is missing: compile the graph first, with `sh build.sh`\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda results: shutil.rmtree(results), "has no folder results: the kit was not run yet"),
        (lambda results: (results / "00000.npz").unlink(), r"results lacks 00000.npz \(of 3 files"),
        (
            lambda results: [path.unlink() for path in results.glob("*.npz")],
            r"lacks probes.npz and 1 more \(of 3",
        ),
        (lambda results: (results / "timings.json").write_text("{"), "timings.json is not JSON"),
        (lambda results: (results / "timings.json").write_text("{}"), "timings.json: the field 'kit' is missing"),
        (lambda results: _edit(results / "timings.json", kit="0"), "has the results of another kit"),
        (
            lambda results: _edit(results / "timings.json", seconds=[]),
            "seconds is \\[\\], expected list of length >= 1",
        ),
        (
            lambda results: _edit(results / "timings.json", seconds=[1, -1.0]),
            "seconds\\[1\\] is -1.0, expected float > 0",
        ),
        (lambda results: _cut(results / "probes.npz"), "probes.npz is not a complete .npz file"),
        (lambda results: _resave(results / "00000.npz", lambda a: a[:-1]), "expected \\["),
        (lambda results: _resave(results / "probes.npz", lambda a: a[:, :, 1:]), "expected \\["),
    ],
)
def test_kit_brought_back_incomplete_is_told(damage: Any, message: str, back: Path) -> None:
    """What is missing, cut off, of another kit or of another shape is named in one line."""
    damage(back / "results")
    with pytest.raises(ArtifactError, match=message) as caught:
        kit = collect.load_kit(back)
        collect.agreement(kit)
        collect.evaluation(kit, people())
    assert caught.value.fix


def _edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _resave(path: Path, change: Any) -> None:
    with np.load(path) as content:
        arrays = {name: change(content[name]) for name in content.files}
    np.savez(path, **arrays)


def test_outputs_of_another_network_are_refused(back: Path) -> None:
    """Outputs that do not agree with the graph are not scored."""
    _resave(back / "results/probes.npz", lambda a: -a)
    with pytest.raises(ParityError, match="relative difference to the graph"):
        collect.agreement(collect.load_kit(back))


def test_other_samples_are_refused(back: Path, made: Path) -> None:
    """A dataset that is not the kit's is told by what the kit holds; a kit without samples says so."""
    kit = collect.load_kit(back)
    with pytest.raises(DatasetError, match="was made with other samples: dataset: synthetic-people"):
        collect.evaluation(kit, people(3))
    bare = replace(kit, kit=structs.replace(kit.kit, samples=None))
    with pytest.raises(DatasetError, match="has no evaluation samples"):
        collect.evaluation(bare, people())


def test_input_that_was_not_recorded_is_refused(back: Path) -> None:
    """A kit answers for its own inputs only."""
    with pytest.raises(ArtifactError, match="has no output for one of the inputs"):
        collect.load_kit(back).open().run({"input": np.zeros((1, 3, 160, 128), np.float32)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["onnxruntime"], "soc": "Ascend310P3"}, "--soc Ascend310P3 has no effect"),
        ({"targets": ["onnxruntime"], "samples": True}, "--dataset has no effect"),
    ],
)
def test_options_that_no_target_uses_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Nothing that was asked for is left out silently."""
    samples = Samples(people()) if options.get("samples") else None
    with pytest.raises(InputError, match=message):
        deployment.deploy(MODEL, options["targets"], tmp_path / "out", soc=options.get("soc", ""), samples=samples)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("soc", ["", "310P3", "Ascend310P3; rm -rf /"])
def test_processor_that_is_none_is_refused(soc: str, made: Path, tmp_path: Path) -> None:
    """A processor's name goes into a shell script: only names are taken, and the error says what one is."""
    reference = load_artifact(made / "onnxruntime-fp32")
    source = Source(reference.card, made / "ascend-fp16/graph.onnx", soc=soc)
    outcome = deployment.build_kit(
        Target("ascend", "fp16"), source, parity.Reference(source, []), None, tmp_path / "out", False, lambda line: None
    )
    assert "the name of a processor such as Ascend310P3" in str(outcome.error)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This very host has the vendors' tools."""
    host = environment(tmp_path)
    monkeypatch.setenv("PATH", host["PATH"])
    monkeypatch.syspath_prepend(str(FOLDER))
    own = ("acl", "tvm", "sandglass.backends._acl", "sandglass.backends._graph_executor")
    for name in [module for module in sys.modules if module.startswith(own)]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [module for module in sys.modules if module.startswith(own)]:
        del sys.modules[name]


@pytest.mark.parametrize("name", KITS)
def test_tools_that_are_here_are_run(name: str, made: Path, tools: None, tmp_path: Path) -> None:
    """Where a vendor's tools are on PATH the target is an artifact like any other."""
    (outcome,) = deployment.deploy(
        MODEL, [f"{name}:fp16"], tmp_path / "out", soc="Ascend310P3" if name == "ascend" else ""
    )
    assert outcome.error is None
    artifact = load_artifact(tmp_path / "out" / f"{name}-fp16")
    assert len(artifact.manifest.files) == 1
    found, expected = evaluate(artifact, people()), evaluate(load_artifact(made / "onnxruntime-fp32"), people())
    assert found.metrics == expected.metrics
    layers = load_backend(name).layers(*artifact.files(), 1, artifact.noise())
    assert sum(layer.macs for layer in layers) > 1e6


@pytest.mark.parametrize(
    ("script", "said"), [("echo E10001: unknown soc >&2; exit 1", "E10001: unknown soc"), ("", "exit code 0")]
)
def test_compiler_that_fails_is_told_by_its_last_line(
    script: str, said: str, made: Path, tools: None, tmp_path: Path
) -> None:
    """A compiler that fails, or says nothing and writes nothing, is an error with what it said."""
    from sandglass.backends import ascend

    (tmp_path / "bin/atc").write_text(f"#!/bin/sh\n{script}\n")
    card = load_artifact(made / "onnxruntime-fp32").card
    with pytest.raises(BackendError, match=f"atc failed: {said}"):
        ascend.build(Source(card, made / "ascend-fp16/graph.onnx", soc="Ascend310P3"), "fp16", tmp_path, None)


def test_provider_of_onnxruntime_is_used_without_the_compiler(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime with CANN runs the graph itself, in half precision, and may not fall back to the processor."""
    import onnxruntime

    from sandglass.backends import ascend

    asked: list[Any] = []
    whole = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: list[Any], **_: Any) -> Any:
        asked.append((providers, options.get_session_config_entry("session.disable_cpu_ep_fallback")))
        return whole(path, providers=["CPUExecutionProvider"])

    reference = load_artifact(made / "onnxruntime-fp32")
    image = reference.noise(2)
    expected = reference.open(1).run(image)["heatmaps"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ascend.PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert "with CANN" in ascend.available()
    notes = ascend.build(Source(reference.card, made / "ascend-fp16/graph.onnx"), "fp16", tmp_path, None)
    found = ascend.open(tmp_path, notes, 1).run(image)["heatmaps"]
    assert asked == [([(ascend.PROVIDER, {"precision_mode": "force_fp16"})], "1")]
    np.testing.assert_allclose(found, expected, atol=1e-5)
