"""Each rule trips over the graph it is about, and over none that is sound."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import graph

from hsexport.onnx.lint.rules import lint

VECTOR = "(float[4] x) => (float[4] y)"
HEADS = "(float[1, 1, 4, 8] q) => (float[1, 1, 4, 8] y)"
GPU = ("tensorrt", "tensorrt-rtx", "ort-cuda")
IF = "y = If(c) <then_branch = t () => (float[4] a) { a = Neg(x) }, else_branch = e () => (float[4] b) { b = Abs(x) }>"


def text(body, signature, imports='"" : 23'):
    return ir.from_onnx_text(f"<ir_version: 10, opset_import: [{imports}]> tested {signature} {{ {body} }}")


def top_k(count):
    k = {"k": np.array([count])} if count else {}
    signature = (
        "(float[9999] x) => (float[n] y, int64[n] i)" if count else "(float[9999] x, int64[1] k) => (float[n] y)"
    )
    return graph("y, i = TopK(x, k)", signature, **k)


def gather_nd(dtype):
    # The checker would refuse int32 before ONNX Runtime does.
    return text("y = GatherND(x, i)", f"(float[4] x, {dtype}[2, 1] i) => (float[2] y)")


def found(model, backend="tensorrt-rtx", precision="fp16"):
    return {(finding.rule, finding.refused) for finding in lint(model, backend, precision)}


def test_a_sound_graph_has_no_findings():
    model = graph("a = Attention(q, q, q) y = Neg(a)", HEADS)
    assert (
        lint(model, "tensorrt-rtx", "fp16") == [] == lint(model, "ort-cpu", "fp32") == lint(model, "ort-cuda", "bf16")
    )


@pytest.mark.parametrize(("outputs", "refused"), [("y", False), ("y, k", True)])
def test_attention_outputs(outputs, refused):
    signature = f"(float[1, 1, 4, 8] q) => ({', '.join(f'float[1, 1, 4, 8] {o}' for o in outputs.split(', '))})"
    model = graph("y, k = Attention(q, q, q)", signature)
    assert (("attention-outputs", True) in found(model)) == refused
    assert found(model, "ort-cuda") == set()


def test_attention_in_fp32():
    model = graph("y = Attention(q, q, q)", HEADS)
    assert found(model, precision="fp32") == {("attention-fp32", True)}
    assert found(model, precision="bf16") == found(model, "ort-cpu", "fp32") == set()


@pytest.mark.parametrize(("count", "expected"), [(3840, set()), (3841, {("top-k", True)}), (None, {("top-k", False)})])
def test_top_k(count, expected):
    assert found(top_k(count)) == expected
    assert found(top_k(count), "ort-cuda") == set()


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        ("y = NonZero(x)", "(float[4] x) => (int64[1, n] y)"),
        ("y = Compress(x, c)", "(float[4] x, bool[4] c) => (float[n] y)"),
        ("y = Unique(x)", "(float[4] x) => (float[n] y)"),
        ("y = NonMaxSuppression(b, s)", "(float[1, 4, 4] b, float[1, 1, 4] s) => (int64[n, 3] y)"),
    ],
)
def test_data_dependent_shapes(body, signature):
    model = graph(body, signature)
    assert [found(model, backend) for backend in GPU] == [{("data-dependent-shape", True)}] * 3
    assert found(model, "ort-cpu", "fp32") == set()


def test_gather_nd_indices():
    assert (
        found(gather_nd("int32"), "ort-cpu", "fp32")
        == found(gather_nd("int32"), "ort-cuda")
        == {("gather-nd-indices", True)}
    )
    assert found(gather_nd("int64"), "ort-cpu", "fp32") == found(gather_nd("int32")) == set()


def test_bf16_inside_a_graph_for_the_cpu():
    model = graph("a = Cast <to = 16> (x) b = Neg(a) y = Cast <to = 1> (b)", VECTOR)
    assert found(model, "ort-cpu", "fp32") == {("bf16-on-cpu", True)}
    assert len(lint(model, "ort-cpu", "fp32")) == 1 and found(model, "ort-cuda", "bf16") == set()


def test_foreign_domains():
    assert found(text("y = com.other.Neg(x)", VECTOR, '"" : 23, "com.other" : 1')) == {("foreign-domain", True)}
    assert found(text("y = ai.onnx.Neg(x)", VECTOR, '"ai.onnx" : 23')) == set()


def test_float64_is_refused_by_tensorrt_and_slow_elsewhere():
    model = graph("a = Cast <to = 11> (x) y = Cast <to = 1> (a)", VECTOR)
    assert found(model) == {("float64", True)}
    assert found(model, "ort-cpu", "fp32") == {("float64", False)}


@pytest.mark.parametrize("body", ["y = Identity(x)", "c = Constant <value_float = 1.0> () y = Add(x, c)"])
def test_leftovers_are_advice(body):
    assert found(graph(body, VECTOR)) == {("leftover", False)}


def test_control_flow():
    model = graph(IF, "(bool c, float[4] x) => (float[4] y)")
    assert found(model) == {("control-flow", True)}
    assert found(model, "ort-cpu", "fp32") == {("control-flow", False)}


def test_nodes_in_branches_are_seen():
    model = graph(IF.replace("Neg", "Identity"), "(bool c, float[4] x) => (float[4] y)")
    assert found(model) == {("control-flow", True), ("leftover", False)}


def test_refusals_come_first_and_read_as_one_line():
    model = graph("a = Identity(q) y = Attention(a, a, a)", HEADS)
    model.graph[1].name = "blocks.0/Attention"
    findings = lint(model, "tensorrt-rtx", "fp32")
    assert [finding.refused for finding in findings] == [True, False]
    expected = "node 'blocks.0/Attention': an Attention in fp32, for which TensorRT-RTX has no kernel; build with"
    assert str(findings[0]).startswith(expected)
