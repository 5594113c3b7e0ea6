"""What each backend's graphs go through."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import graph, saved

from hsengines.errors import HSError
from hsengines.traits import backend_names
from hsexport.onnx.passes.graph_pass import PassError, apply
from hsexport.onnx.passes.prepare import prepare
from hsexport.onnx.passes.single_output_attention import SingleOutputAttention

SIGNATURE = "(float[1, 1, 4, 8] q) => (float[1, 1, 4, 8] y)"


def attention(outputs="y, k, v", inputs="q, q, q", signature=SIGNATURE):
    return graph(f"{outputs} = Attention({inputs})", signature)


def test_openvino_takes_a_graph_as_it_is():
    model = attention()
    before = ir.to_onnx_text(model)
    assert prepare(model, "openvino", "fp32") == (None, None)
    assert ir.to_onnx_text(model) == before


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_gets_attention_with_one_output(tmp_path, backend):
    model = attention()
    report, _ = prepare(model, backend, "bf16")
    saved(model, tmp_path / "m.onnx")
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert len(node.outputs) == 1 and node.outputs[0].dtype == ir.DataType.BFLOAT16
    assert (report.narrow, report.casts) == (1, 2)


def test_outputs_in_use_are_refused():
    model = attention(signature="(float[1, 1, 4, 8] q) => (float[1, 1, 4, 8] y, float[1, 1, 4, 8] k)")
    model.graph[0].name = "blocks.0/Attention"
    with pytest.raises(PassError, match=r"'blocks\.0/Attention' has its output 'k' in use"):
        apply(model, SingleOutputAttention())


def test_past_keys_are_refused():
    signature = "(float[1, 1, 4, 8] q, float[1, 1, 2, 8] p) => (float[1, 1, 4, 8] y)"
    with pytest.raises(PassError, match="takes past keys and values"):
        apply(attention(inputs="q, q, q, , p, p", signature=signature), SingleOutputAttention())


def test_every_backend_has_a_plan():
    for backend in backend_names():
        assert prepare(attention(), backend, "fp32") == (None, None)


def test_an_unknown_backend_and_halves_for_ort_cpu_are_refused():
    with pytest.raises(HSError, match="there is no backend 'npu'; choose one of ort-cpu"):
        prepare(attention(), "npu", "fp32")
    with pytest.raises(PassError, match="backend 'ort-cpu' runs fp32, not fp16"):
        prepare(attention(), "ort-cpu", "fp16")


def test_a_weight_is_kept_under_its_name():
    model = graph("y = MatMul(x, w)", "(float[2] x) => (float[3] y)", w=np.ones((2, 3), np.float32))
    prepare(model, "tensorrt-rtx", "fp16")
    assert list(model.graph.initializers) == ["w"]
