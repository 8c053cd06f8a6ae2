"""Run a graph: the float32 reference for all artifacts, and the source of calibration statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sandglass.core import host
from sandglass.core.errors import GraphError
from sandglass.graph.io import load_graph, save_graph

# The exceptions of onnxruntime have no common base class but Exception; these are the documented ones.
_state = onnxruntime.capi.onnxruntime_pybind11_state
RUNTIME_ERRORS = (
    _state.Fail, _state.InvalidArgument, _state.InvalidGraph, _state.InvalidProtobuf, _state.NotImplemented,
    _state.RuntimeException, _state.NoSuchFile, _state.EPFail,
)  # fmt: skip
NUMPY: Mapping[str, type[np.floating]] = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
# onnx's evaluator documents no exceptions; these come from numpy and from its own checks.
EVALUATOR_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Fusions that multiply weights by the scale of a layer's sums: weights that are integers would not stay integers.
FUSIONS = ("ConvMulFusion", "ConvAddFusion", "MatMulScaleFusion")


def lacks_kernel(error: GraphError) -> bool:
    """Whether a valid graph cannot run because ONNX Runtime has no kernel for one of its element types."""
    return isinstance(error.__cause__, _state.NotImplemented)


class GraphSession:
    """A graph on the CPU kernels of ONNX Runtime.

    path      the file of the graph; with `outputs` it may be a model, which is changed
    outputs   names of the tensors to return, in place of the graph's outputs; weights are then mapped from a temporary
              file, so that they are in memory once
    threads   threads of one run; by default all of this machine
    optimize  allow ONNX Runtime to change the graph; without it the nodes run as they are written
    fuse      allow it to change weights too
    exact     turn int8 weights into uint8 if sums of int8 saturate on this processor: slower, but exact

    Raises GraphError if the graph cannot run.
    """

    def __init__(
        self,
        path: Path | onnx.ModelProto,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        optimize: bool = True,
        fuse: bool = True,
        exact: bool = False,
    ) -> None:
        options = session_options(threads or host.threads())
        if exact and host.sums_saturate():
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle cores gather statistics
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            if outputs is None:
                disabled = () if fuse else FUSIONS
                self._session = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
                )
            else:
                self._session = _with_outputs(path, outputs, options)
        except RUNTIME_ERRORS as error:
            raise GraphError(f"{path} cannot be run: {str(error).splitlines()[0]}", "check the model") from error
        self.input_names = [value.name for value in self._session.get_inputs()]
        self.input_types = {value.name: NUMPY.get(value.type, np.float32) for value in self._session.get_inputs()}
        self.output_names = list(outputs) if outputs is not None else [v.name for v in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises GraphError for a missing input, or one with a wrong shape or type."""
        if missing := [name for name in self.input_names if name not in inputs]:
            raise GraphError(
                f"the graph needs the input {missing[0]}, but got {sorted(inputs)}", f"name the input {missing[0]}"
            )
        try:
            values = self._session.run(self.output_names, dict(inputs))
        except RUNTIME_ERRORS as error:
            raise GraphError(
                f"the graph failed on an input: {str(error).splitlines()[0]}", "check its shape"
            ) from error
        return dict(zip(self.output_names, values, strict=True))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The options of all sessions: the threads of one run, and no warnings. Defaults for all that changes results."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


def _with_outputs(
    path: Path | onnx.ModelProto, outputs: Sequence[str], options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """A session for the graph with other outputs. Optimizations that rename or fuse tensors are off."""
    model = load_graph(path) if isinstance(path, Path) else path
    computed = {name for node in model.graph.node for name in node.output}
    if unknown := [name for name in outputs if name not in computed]:
        raise GraphError(f"the graph computes no tensor {unknown[0]}", "name an output of one of its nodes")
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory(prefix="sandglass-") as folder:
        changed = Path(folder) / "graph.onnx"
        onnx.save(model, changed, save_as_external_data=True, location="weights.bin", size_threshold=1024)
        del model
        return onnxruntime.InferenceSession(str(changed), options, providers=["CPUExecutionProvider"])


def run_once(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model that is not in a file, by name. Raises GraphError if it cannot run."""
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "graph.onnx"
        save_graph(model, path)
        return GraphSession(path).run(inputs)


class ReferenceSession:
    """A graph on onnx's own evaluator, which supports all element types. It is slow: it computes with numpy."""

    def __init__(self, path: Path) -> None:
        self._evaluator = ReferenceEvaluator(str(path))
        types = zip(self._evaluator.input_names, self._evaluator.input_types, strict=True)
        self.input_types = {name: helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type) for name, kind in types}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises GraphError if the evaluator fails."""
        try:
            values = self._evaluator.run(None, dict(inputs))
        except EVALUATOR_ERRORS as error:
            raise GraphError(f"the graph failed on an input: {error}", "export it in float32") from error
        return dict(zip(self._evaluator.output_names, map(np.asarray, values), strict=True))
