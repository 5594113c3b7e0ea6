"""Every pass says in one line what it is, which node it cannot do with, and what it left undone."""

import onnx_ir as ir
import pytest
from onnx_graphs import graph

from hsexport.onnx.passes.cast_back import CastBack
from hsexport.onnx.passes.cast_precision import CastPrecision
from hsexport.onnx.passes.graph_pass import PassError, apply
from hsexport.onnx.passes.strip_metadata import StripMetadata

IF = "y = If(c) <then_branch = t () => (float[1] a) { a = Neg(x) }, else_branch = e () => (float[1] b) { b = Abs(x) }>"


def sums():
    return graph("a = Neg(x) y = Abs(a)", "(float[2] x) => (float[2] y)")


@pytest.mark.parametrize("cast", [CastPrecision("fp16"), CastBack("fp16")])
def test_an_unmet_condition_names_pass_and_node_whatever_ran_before(cast):
    model = graph(IF, "(bool c, float[1] x) => (float[1] y)")
    model.graph[0].name = "blocks.0/If"
    with pytest.raises(PassError, match=rf"^{type(cast).__name__}: node 'blocks\.0/If' \(If\) has a subgraph"):
        apply(model, StripMetadata(), cast)


@pytest.mark.parametrize(
    ("cast", "spoil", "words"),
    [
        (CastPrecision("fp16"), lambda graph: graph.outputs[0], "CastPrecision: 'y' is float16, expected float"),
        (CastBack("fp16"), lambda graph: graph[0].outputs[0], "CastBack: '.*' is still float16"),
    ],
)
def test_a_type_that_is_left_is_told(monkeypatch, cast, spoil, words):
    def spoilt(model):
        spoil(model.graph).type = ir.TensorType(ir.DataType.FLOAT16)
        return ir.passes.PassResult(model, modified=True)

    monkeypatch.setattr(cast, "call", spoilt)
    with pytest.raises(PassError, match=words):
        apply(sums(), cast)


def test_what_another_pass_raises_is_ours():
    class Foreign(ir.passes.InPlacePass):
        def call(self, model):
            raise ValueError("no such node")

    with pytest.raises(PassError, match=r"Foreign.*no such node"):
        apply(sums(), Foreign())
