"""mmdeploy's deploy configs choose target and shape, and say what they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.cli.main import main
from sandglass.core import discover
from sandglass.core.errors import ConfigError
from sandglass.sources.card import Card, Input
from sandglass.sources.openmmlab.deploy import DeployConfig, read_deploy_config

# Written for these tests, with the structure, names and values of mmdeploy's configs.
BASES = {
    "onnx": "onnx_config = dict(type='onnx', export_params=True, keep_initializers_as_inputs=False, input_shape=None,"
    " save_file='end2end.onnx', input_names=['input'], output_names=['output'], optimize=True, opset_version={opset})",
    "static": "_base_ = ['./onnx.py']\ncodebase_config = dict(type='mmpose', task='PoseDetection')",
    "ncnn": "backend_config = dict(type='ncnn', precision='FP32', use_vulkan=False)",
    "openvino": "backend_config = dict(type='openvino')",
    "ascend": "backend_config = dict(type='ascend')",
}


def read(folder: Path, text: str, base: str = "ncnn", opset: int = 17) -> DeployConfig:
    """A deploy config over the bases of one backend."""
    for name, content in BASES.items():
        (folder / f"{name}.py").write_text(content.replace("{opset}", str(opset)))
    (folder / "deploy.py").write_text(f"_base_ = ['./static.py', './{base}.py']\n{text}\n")
    return read_deploy_config(folder / "deploy.py")


def card(task: str = "topdown-pose", size: tuple[int, int] = (256, 192)) -> Card:
    """A card of a task, for an input size."""
    return Card("it", task, Input(size, (0, 0, 0), (1, 1, 1)), "hourglass")


@pytest.mark.parametrize(
    ("text", "base", "target", "size"),
    [
        ("", "ncnn", "ncnn:fp32", None),
        ("onnx_config = dict(input_shape=[192, 256])", "ncnn", "ncnn:fp32", (256, 192)),
        ("backend_config = dict(precision='INT8')", "ncnn", "ncnn:int8", None),
        (
            "onnx_config = dict(input_shape=[192, 256])\n"
            "backend_config = dict(model_inputs=[dict(opt_shapes=dict(input=[1, 3, 256, 192]))])",
            "openvino", "openvino:fp32", (256, 192),
        ),
        (
            "backend_config = dict(model_inputs=[dict(input_shapes=dict(input=[1, 3, 224, 224]))])",
            "ascend", "ascend:fp16", (224, 224),
        ),
        (
            "backend_config = dict(model_inputs=[dict(input_shapes=dict(input=[-1, 3, -1, -1]))])",
            "ascend", "ascend:fp16", None,
        ),
    ],
)  # fmt: skip
def test_target_and_shape(text: str, base: str, target: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    """Backend, precision and input shape are read from wherever they are said, bases first."""
    found = read(tmp_path, text, base)
    assert (found.target, found.size, found.notes, found.dynamic) == (target, size, (), ())
    assert found.applied(card(size=size or (256, 192))).input.size == (size or (256, 192))


def test_notes_say_what_is_decided_otherwise(tmp_path: Path) -> None:
    """Opset, dynamic axes, output names, settings of the runtime and of calibration are told, one line each."""
    found = read(
        tmp_path,
        "onnx_config = dict(output_names=['simcc_x', 'simcc_y'],"
        " dynamic_axes={'input': {0: 'batch', 2: 'height', 3: 'width'}})\n"
        "backend_config = dict(common_config=dict(fp16_mode=True), model_inputs=[dict(dynamic_dims=[(1, 640, 640)])])\n"
        "calib_config = dict(create_calib=True, calib_file='a.h5')",
        opset=11,
    )
    assert found.dynamic == ("batch", "height", "width")
    assert [line.partition(" is not used")[0] for line in found.notes if "is not used" in line] == [
        "opset_version 11",
        "dynamic height and width",
        "output_names simcc_x, simcc_y",
        "backend_config.common_config",
        "backend_config.model_inputs.dynamic_dims",
        "calib_config",
    ]
    assert len(found.notes) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend_config = dict(type='tensorrt', common_config=dict(fp16_mode=True))", "has no backend 'tensorrt'"),
        ("backend_config = dict(precision='INT4')", "ncnn has no precision 'int4'"),
        ("backend_config = dict(use_vulkan=True)", "use_vulkan is not supported"),
        ("backend_config = dict(convert_to='mlprogram')", "backend_config.convert_to is not supported"),
        ("codebase_config = dict(task='TextRecognition')", "deploys TextRecognition, which Sandglass lacks"),
        ("codebase_config = dict(model_type='sdk')", "model_type is 'sdk'"),
        ("codebase_config = dict(post_processing=dict(top=3))", "codebase_config.post_processing is not supported"),
        ("partition_config = dict(type='two_stage')", "partition_config is not supported"),
        ("onnx_config = dict(input_shape=192)", "onnx_config.input_shape is 192"),
        (
            "onnx_config = dict(input_shape=[192, 256])\n"
            "backend_config = dict(model_inputs=[dict(opt_shapes=dict(input=[1, 3, 192, 256]))])",
            "contradicts itself: onnx_config.input_shape says 256x192 and backend_config.model_inputs.opt_shapes says",
        ),
        ("backend_config = dict(model_inputs=3)", "is not of the form of a deploy config"),
        ("import os", "deploy.py:2: an import is refused"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """A backend, precision, task or setting that Sandglass lacks, and shapes that disagree, are named."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_config_that_is_a_part_is_refused(tmp_path: Path) -> None:
    """The config of a backend alone deploys nothing."""
    (tmp_path / "a.py").write_text(BASES["ncnn"])
    with pytest.raises(ConfigError, match="has no backend_config and codebase_config"):
        read_deploy_config(tmp_path / "a.py")


def test_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Another task, and another shape where a network was trained for one; other networks take the shape."""
    found = read(tmp_path, "onnx_config = dict(input_shape=[192, 256])")
    with pytest.raises(ConfigError, match=r"asks for an input of 256x192 .*, and it is made for 256x256"):
        found.applied(card(size=(256, 256)))
    with pytest.raises(ConfigError, match="deploys topdown-pose or bottomup-pose, and it is of classification"):
        found.applied(card("classification"))
    assert found.applied(card("bottomup-pose", (512, 512))).input.size == (256, 192)


def test_deploy_config_takes_the_place_of_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line takes one or the other, tells the notes, and deploys where the config says."""
    torch = pytest.importorskip("torch")
    read(tmp_path, "backend_config = dict(type='onnxruntime', precision='fp32')", opset=11)
    small = {"stage_channels": [8, 8, 12], "stage_blocks": [1, 1, 1], "stem_channels": 8, "feature_channels": 8}
    torch.save(discover.load("models", "hourglass").build(**small).state_dict(), tmp_path / "a.pth")
    arguments = "".join(f"{name} = {value}\n" for name, value in small.items())
    (tmp_path / "a.toml").write_text(
        f'name = "a"\ntask = "topdown-pose"\nmodel = "hourglass"\n[arguments]\n{arguments}'
        "[input]\nsize = [64, 48]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
    )
    command = [
        "deploy",
        str(tmp_path / "a.toml"),
        "--checkpoint",
        str(tmp_path / "a.pth"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--deploy-config", str(tmp_path / "deploy.py")]) == 0
    said = capsys.readouterr()
    assert "deploy.py: opset_version 11 is not used" in said.err
    assert (tmp_path / "o/onnxruntime-fp32/sandglass.json").is_file()
    assert main([*command, "--deploy-config", str(tmp_path / "deploy.py"), "--to", "ncnn"]) == 2
    assert "--deploy-config and --to exclude each other" in capsys.readouterr().err
