"""The public face of the package."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import sandglass

HEAVY = ("torch", "onnxruntime", "openvino", "ncnn", "pnnx", "tvm", "onnx", "cv2", "numpy")


def test_public_names_exist_and_are_sorted() -> None:
    """Everything in __all__ loads, and __all__ is all there is."""
    assert sandglass.__all__ == sorted(sandglass.__all__)
    for name in sandglass.__all__:
        assert callable(getattr(sandglass, name)), name
    assert set(sandglass._HOMES) == set(sandglass.__all__)


def test_functions_are_not_hidden_by_their_modules() -> None:
    """Importing the module `search.quantize` does not replace the function `sandglass.quantize`."""
    for name in ("quantize", "sensitivity", "collect", "deploy", "deploy_all"):
        module = importlib.import_module(f"sandglass.{sandglass._HOMES[name]}")
        assert getattr(sandglass, name) is getattr(module, name)
        assert inspect.isfunction(getattr(sandglass, name))


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not public is not there."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = sandglass.nothing


@pytest.mark.parametrize("code", ["import sandglass", "from sandglass.cli.main import main; main(['--help'])"])
def test_light_start(code: str) -> None:
    """Importing the package or printing help loads neither PyTorch nor a runtime."""
    script = f"import sys; {code}; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")


def test_runs_as_a_module() -> None:
    """`python -m sandglass` is the command line: its help, and exit code 2 for what it does not know."""
    command = [sys.executable, "-m", "sandglass"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    assert helped.stdout.startswith("Usage: sandglass")
    assert subprocess.run([*command, "nothing"], capture_output=True).returncode == 2
