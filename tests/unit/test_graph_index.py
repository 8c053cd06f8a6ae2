"""A graph with edges: what it says of a graph, and that edits keep it right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import network
from onnx import helper, numpy_helper

from sandglass.core.errors import GraphError
from sandglass.graph.index import GraphIndex

TEXT = "g (float[1, 4] x) => (float[1, 4] y, float[1, 4] b) { a = Relu(x) b = Add(a, one) c = Mul(b, b) y = Add(c, a) }"
CHAIN = 5000  # nodes; a search through all of them for each node would take minutes


def graph_index() -> GraphIndex:
    """A network in which `a` has two readers, `c` has one, and `b` is an output that one node reads twice."""
    return GraphIndex(network(TEXT, {"one": np.ones(1)}))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def node_of(graph: GraphIndex, tensor: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    node = graph.producer(tensor)
    assert node is not None
    return node


def test_edges() -> None:
    graph = graph_index()
    assert graph.producer("x") is None
    assert graph.producer("one") is None
    assert node_of(graph, "b").op_type == "Add"
    assert graph.producer("b", "Mul", "Relu") is None
    assert [node.name for node in graph.consumers("a")] == ["b", "y"]
    assert graph.only_consumer("a") is None
    assert graph.only_consumer("b") is None  # an output too
    only = graph.only_consumer("c", "Add")
    assert only is not None
    assert only.name == "y"
    assert graph.only_consumer("c", "Mul") is None
    assert graph.read_once("c")
    assert not graph.read_once("b")


def test_constants() -> None:
    graph = graph_index()
    assert graph.number("one") == 1
    assert graph.number("x") is None
    name = graph.add_constant("one", np.arange(3))
    assert name == "one_2"
    assert graph.number(name) is None
    np.testing.assert_array_equal(graph.value(name), np.arange(3))
    assert graph.fresh("one") == "one_3"
    graph.set_constant(name, np.array(7.0))
    assert graph.number(name) == 7


def test_what_a_branch_reads_is_read() -> None:
    """The node with the branch is a consumer."""
    branch = helper.make_graph([helper.make_node("Relu", ["a"], ["r"])], "branch", [], [])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("Neg", ["a"], ["n"], "n"),
        helper.make_node("If", ["n"], ["y"], "y", then_branch=branch, else_branch=branch),
    ]
    graph = GraphIndex(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert [node.name for node in graph.consumers("a")] == ["n", "y"]


def test_replaced_nodes_are_in_their_place() -> None:
    """Edges follow, unread nodes and weights go, and shapes are removed."""
    model = onnx.shape_inference.infer_shapes(network(TEXT, {"one": np.ones(1)}))
    with GraphIndex(model) as graph:
        new = [helper.make_node("Neg", ["a"], ["n"], "n"), helper.make_node("Abs", ["n"], ["b"], "b")]
        graph.replace(node_of(graph, "b"), new)
        assert node_of(graph, "b") is new[1]
        assert graph.only_consumer("n") is new[1]
        assert not graph.consumers("one")
    onnx.checker.check_model(model)
    assert operators(model) == ["Relu", "Neg", "Abs", "Mul", "Add"]
    assert not model.graph.initializer
    assert not model.graph.value_info


def test_moved_node() -> None:
    """A node that was removed may be inserted elsewhere, and inputs and outputs may be renamed."""
    model = network("g (float[4] x) => (float[4] y) { a = Relu(x) b = Neg(a) y = Abs(b) }", {})
    with GraphIndex(model) as graph:
        moved = node_of(graph, "b")
        graph.remove(moved)
        graph.insert_before(node_of(graph, "a"), [moved])
        graph.set_input(moved, 0, "x")
        graph.set_input(node_of(graph, "a"), 0, "b")
        graph.set_output(node_of(graph, "a"), 0, "c")
        graph.set_input(node_of(graph, "y"), 0, "c")
    onnx.checker.check_model(model)
    assert operators(model) == ["Neg", "Relu", "Abs"]


def test_iteration_leaves_out_what_was_added_or_removed() -> None:
    seen = []
    with graph_index() as graph:
        for node in graph:
            seen.append(node.name)
            if node.name == "b":
                graph.remove(node_of(graph, "c"))
                graph.replace(node, [helper.make_node("Neg", ["a"], ["b"], "new")])
                graph.set_input(node_of(graph, "y"), 0, "b")
    assert seen == ["a", "b", "y"]


def test_unchanged_model_stays_as_it_is() -> None:
    """Also nodes that lead nowhere, and shapes."""
    model = onnx.shape_inference.infer_shapes(network(TEXT.replace("b = Add", "d = Neg(a) b = Add"), {"one": [1.0]}))
    before = model.SerializeToString()
    with GraphIndex(model) as graph:
        list(graph)
    assert model.SerializeToString() == before


def test_failed_edit_leaves_the_nodes() -> None:
    model = network(TEXT, {"one": np.ones(1)})

    def edit() -> None:
        with GraphIndex(model) as graph:
            graph.remove(node_of(graph, "b"))
            raise GraphError("no", "no")

    with pytest.raises(GraphError):
        edit()
    assert operators(model) == ["Relu", "Add", "Mul", "Add"]


@pytest.mark.parametrize("name", ["a", "one"])
def test_tensor_has_one_producer(name: str) -> None:
    """A node that makes a tensor that is there is refused."""
    graph = graph_index()
    with pytest.raises(GraphError, match=f"the tensor {name} twice"):
        graph.insert_before(None, [helper.make_node("Relu", ["x"], [name], "new")])
    nodes = [helper.make_node("Relu", ["x"], ["one"]) for _ in range(2)]
    with pytest.raises(GraphError, match="the tensor one twice"):
        GraphIndex(helper.make_model(helper.make_graph(nodes, "g", [], [])))


def test_long_chains_are_edited_in_linear_time() -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(CHAIN)]
    value = numpy_helper.from_array(np.ones(1, np.float32), "one")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("t0", f"t{CHAIN}")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [value]))
    with GraphIndex(model) as graph:
        for node in graph:
            if graph.only_consumer(node.output[0], "Relu") is not None:
                inner = graph.fresh(f"{node.output[0]}.one")
                first = helper.make_node("Add", [node.input[0], "one"], [inner], inner)
                graph.replace(node, [first, helper.make_node("Neg", [inner], [node.output[0]], node.name)])
    onnx.checker.check_model(model)
    assert len(model.graph.node) == 2 * CHAIN - 1
