"""Run a compiled engine (.so) on an Iluvatar accelerator with the TVM that comes with the vendor's software.

A build kit contains a copy of this file. It needs that TVM, numpy and Python 3.7 or newer, but not Sandglass.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import tvm
from tvm.contrib import graph_executor

TARGET = {"model": "MR", "options": "-libs=cudnn,cublas,ixinfer"}


def version() -> str:
    """The version of TVM."""
    return f"tvm {tvm.__version__}"


class Model:
    """A loaded engine, whose outputs are in the graph's order.

    `inputs` are the graph's input names, and `outputs` maps output names to shapes. Several threads may call `run`; the
    calls run one after the other.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: dict[str, tuple[int, ...]], device: int = 0) -> None:
        self.lock, self.inputs, self.outputs = threading.Lock(), list(inputs), dict(outputs)
        self.device = tvm.device(tvm.target.iluvatar(**TARGET).kind.name, device)
        self.module = graph_executor.GraphModule(tvm.runtime.load_module(str(path))["default"](self.device))
        if self.module.get_num_outputs() != len(self.outputs):
            raise RuntimeError(f"{path} has {self.module.get_num_outputs()} outputs, expected {len(self.outputs)}")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, float32, for one image {input: (1, 3, H, W) float32}."""
        with self.lock:
            for name in self.inputs:
                self.module.set_input(name, tvm.nd.array(np.ascontiguousarray(inputs[name], np.float32), self.device))
            self.module.run()
            outputs = {}
            for i, (name, shape) in enumerate(self.outputs.items()):
                outputs[name] = self.module.get_output(i).asnumpy().astype(np.float32).reshape(shape)
            return outputs
