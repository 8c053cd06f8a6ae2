"""Every file in sources/rewrites is tested here because it exists: by the contract, and each on a network for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sandglass.cli.conformance.networks import network
from sandglass.cli.conformance.rewrites import *  # noqa: F403 - the tests of the contract
from sandglass.cli.conformance.rewrites import IMAGE, NETWORKS, RESULT, REWRITES, WEIGHTS, before
from sandglass.sources.rewrites import of_stage, rewrites


@pytest.mark.parametrize("rewrite", REWRITES)
def test_some_network_is_rewritten(rewrite: str) -> None:
    """A rewrite that finds nothing in any network is not tested: add a network for it."""
    for name in NETWORKS:
        model = before(rewrite, name)
        original = model.SerializeToString()
        rewrites()[rewrite].rewrite(model)
        if model.SerializeToString() != original:
            return
    pytest.fail(f"no network of this file has anything for {rewrite}")


def test_sparse_weights_stay() -> None:
    """A weight that is stored as its few values is read by a rewrite as any tensor that is computed."""
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    model = network(f"{IMAGE} => {RESULT} {{ c = Conv(x, w) m = Mul(c, two) y = Conv(m, v) }}",
                    {key: value for key, value in WEIGHTS.items() if key != "v"})  # fmt: skip
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "v_indices")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4, 4, 1, 1]))
    for entry in of_stage("simplified").values():
        entry.rewrite(model)
    assert [entry.values.name for entry in model.graph.sparse_initializer] == ["v"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
