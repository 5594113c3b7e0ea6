"""Where blocks end."""

from onnx_graphs import graph, name_nodes

from hsexport.onnx.passes.expose_blocks import ExposeBlocks
from hsexport.onnx.passes.graph_pass import apply


def exposed(model):
    """Names of the new outputs by block."""
    blocks = ExposeBlocks()
    apply(model, blocks)
    return blocks.outputs


def test_mmdit_blocks_end_in_their_streams(tiny_onnx):
    model = tiny_onnx("large")
    before = len(model.graph.outputs)
    names = exposed(model)
    assert list(names) == [
        "transformer_blocks.0",
        "transformer_blocks.0/2",
        "transformer_blocks.1",
        "transformer_blocks.1/2",
        "transformer_blocks.2",
    ]
    assert [value.name for value in model.graph.outputs[before:]] == list(names.values())
    assert all(value.producer().op_type == "Add" for value in model.graph.outputs[before:])


def test_values_that_go_on_inside_the_block_are_no_ends():
    body = "a = Neg(x) b = Abs(a) c = Neg(a) y = Add(b, c)"
    model = graph(body, "(float[2] x) => (float[2] y)")
    name_nodes(model, "blocks.0/Neg", "blocks.0/Abs", "blocks.1/Neg", "blocks.1/Add")
    # `a` leaves block 0, but block 0 goes on with it.
    assert exposed(model) == {"blocks.0": "b", "blocks.1": "y"}
    assert [value.name for value in model.graph.outputs] == ["y", "b"]


def test_a_graph_without_blocks_has_no_ends():
    assert exposed(graph("y = Neg(x)", "(float[2] x) => (float[2] y)")) == {}
