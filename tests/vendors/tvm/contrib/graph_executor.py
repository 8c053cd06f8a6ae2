"""TVM's executor of a whole graph, over ONNX Runtime."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class GraphModule:
    def __init__(self, session: Any) -> None:
        self.session, self.feeds, self.values = session, {}, []

    def get_num_outputs(self) -> int:
        return len(self.session.get_outputs())

    def set_input(self, name: str, values: np.ndarray) -> None:
        assert values.dtype == np.float32
        self.feeds[name] = values

    def run(self) -> None:
        self.values = self.session.run(None, self.feeds)

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(asnumpy=lambda: self.values[index])
