"""What becomes half, what stays fp32, and where the casts go."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import cast_precision, dtypes, graph, name_nodes, saved

from hsexport.networks.network import Fp32Rule
from hsexport.onnx.graph_files import save_graph
from hsexport.onnx.passes.cast_precision import NO_HALF
from hsexport.onnx.passes.graph_pass import PassError


def mlp():
    body = "a = MatMul(x, w) b = Relu(a) y = MatMul(b, w)"
    model = graph(body, "(float[n, 2] x) => (float[n, 2] y)", w=np.eye(2, dtype=np.float32))
    return name_nodes(model, "blocks.0/MatMul", "blocks.0/Relu", "blocks.1/MatMul")


def test_all_nodes_half_and_signature_fp32(tmp_path):
    model = mlp()
    report = cast_precision(model, "fp16")
    saved(model, tmp_path / "m.onnx")
    assert set(dtypes(model).values()) == {"FLOAT16"}
    assert [value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["FLOAT", "FLOAT"]
    assert (report.narrow, report.wide, report.casts, report.narrow_names) == (3, 0, 2, set())
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_an_fp32_block_stays_and_is_counted(tmp_path):
    model = mlp()
    report = cast_precision(
        model, "bf16", rules=[Fp32Rule("one", modules=("blocks.1",)), Fp32Rule("none", operators=("Sin",))]
    )
    saved(model, tmp_path / "m.onnx")
    assert dtypes(model) == {"blocks.0/MatMul": "BFLOAT16", "blocks.0/Relu": "BFLOAT16", "blocks.1/MatMul": "FLOAT"}
    assert [(use.name, use.nodes) for use in report.held] == [("one", 1), ("none", 0)]
    weights = {name: value.dtype.name for name, value in model.graph.initializers.items()}
    assert weights == {"w": "BFLOAT16", "w.fp32": "FLOAT"}  # read by both kinds
    assert [node.name for node in model.graph if node.op_type == "Cast"] == ["Cast", "blocks.0/Cast"]


def test_narrow_tensors_change_their_type(tmp_path):
    model = mlp()
    report = cast_precision(model, "fp16", narrow_tensors=("[xy]",))
    saved(model, tmp_path / "m.onnx")
    assert [value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["FLOAT16", "FLOAT16"]
    assert (report.casts, report.narrow_names) == (0, {"x", "y"})


def test_a_value_read_twice_in_one_type_is_cast_once(tmp_path):
    model = graph("a = Neg(x) b = Abs(x) y = Add(a, b)", "(float[2] x) => (float[2] y)")
    assert cast_precision(model, "fp16").casts == 2
    saved(model, tmp_path / "m.onnx")


def test_an_output_that_is_read_inside_keeps_its_name(tmp_path):
    model = graph("a = Neg(x) y = Abs(a)", "(float[2] x) => (float[2] a, float[2] y)")
    cast_precision(model, "fp16", narrow_tensors=("a",), rules=[Fp32Rule("neg", operators=("Neg",))])
    saved(model, tmp_path / "m.onnx")
    assert [(value.name, value.dtype.name) for value in model.graph.outputs] == [("a", "FLOAT16"), ("y", "FLOAT")]


def test_integers_scales_and_operators_without_halves_stay(tmp_path):
    body = """
        shape = Shape(x)
        rows = Cast <to = 1> (k)
        range = Range(zero, rows, one)
        big = Resize <mode = "nearest"> (x, , scales)
        small = Shape(big)
        both = Add(shape, small)
        summed = ReduceSum(range)
        y = Mul(big, summed)
    """
    one, scales = np.float32(1), np.array([1, 1, 2, 2], np.float32)
    signature = "(float[1, 1, h, w] x, int64 k) => (float[1, 1, a, b] y, int64[4] both)"
    model = graph(body, signature, zero=np.float32(0), one=one, scales=scales)
    for node in model.graph:
        node.name = node.op_type
    report = cast_precision(model, "fp16")
    saved(model, tmp_path / "m.onnx")
    found = dtypes(model)
    assert (found["Range"], found["Resize"], found["Add"]) == ("FLOAT", "FLOAT16", "INT64")
    assert model.graph.initializers["scales"].dtype == ir.DataType.FLOAT
    assert [(use.name, use.nodes) for use in report.held] == [(NO_HALF, 1)]


def test_constants_become_weights(tmp_path):
    body = (
        "c = Constant <value_float = 0.5> () a = Mul(x, c) s = ConstantOfShape <value = float[1] {1}> (n) y = Add(a, s)"
    )
    model = graph(body, "(float[2] x) => (float[2] y)", n=np.array([2]))
    cast_precision(model, "bf16")
    saved(model, tmp_path / "m.onnx")
    assert {node.op_type for node in model.graph} == {"Cast", "Mul", "ConstantOfShape", "Add"}
    assert model.graph.initializers["c"].dtype == ir.DataType.BFLOAT16


def test_a_cast_to_fp32_becomes_one_to_half(tmp_path):
    model = graph("f = Cast <to = 1> (i) y = Mul(f, x)", "(float[2] x, int32[2] i) => (float[2] y)")
    cast_precision(model, "fp16")
    saved(model, tmp_path / "m.onnx")
    assert next(n for n in model.graph if n.outputs[0].name == "f").attributes["to"].as_int() == ir.DataType.FLOAT16


def weighted(values):
    return graph("y = Add(x, w)", "(float[2] x) => (float[2] y)", w=np.array(values, np.float32))


def test_a_weight_beyond_fp16_is_named_when_it_is_saved(tmp_path):
    model = weighted([1, -7e4])
    cast_precision(model, "fp16")
    with pytest.raises(PassError, match=r"tensor 'w' holds -7e\+04, beyond the reach of float16; keep the module"):
        save_graph(model, tmp_path / "m.onnx")


def test_it_fits_bf16_or_an_fp32_block(tmp_path):
    for precision, rules in (("bf16", ()), ("fp16", (Fp32Rule("all"),))):
        model = weighted([1, -7e4])
        cast_precision(model, precision, rules=rules)
        saved(model, tmp_path / f"{precision}.onnx")


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504.0), ("bf16", 3.3895314e38)])
def test_fp32s_lowest_number_becomes_halfs_and_infinity_stays(precision, largest):
    model = weighted([np.finfo(np.float32).min, np.inf])
    cast_precision(model, precision)
    low, infinite = model.graph.initializers["w"].const_value.numpy().astype(np.float64)
    assert low == pytest.approx(-largest) and infinite == np.inf


@pytest.mark.parametrize("network", ["large", "text_encoder", "text_encoder_3", "vae_decoder"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_real_networks_cast_and_check(tiny_onnx, tiny_networks, tmp_path, network, precision):
    model = tiny_onnx(network)
    before = set(model.graph.initializers)
    report = cast_precision(model, precision, ("past_*", "present_*"), tiny_networks[network].fp32_rules(precision))
    saved(model, tmp_path / f"{network}.onnx")
    kinds = {node.op_type: node.outputs[0].dtype for node in model.graph if "Normalization" in node.op_type}
    assert set(kinds.values()) == {ir.DataType.FLOAT}
    products = [n for n in model.graph if n.op_type in ("Attention", "Conv") or n.name.endswith("SelfAttention/MatMul")]
    assert products and all(n.outputs[0].dtype not in (None, ir.DataType.FLOAT) for n in products)
    assert before <= set(model.graph.initializers)  # refit needs the names
    assert report.wide < report.narrow
    slots = 4 + 3 if network == "large" else 0  # of image tokens and of text
    assert len(report.narrow_names) == 4 * slots  # past and present, keys and values


def test_only_fp32_graphs_are_cast():
    model = graph("a = Cast <to = 11> (x) b = Neg(a) y = Cast <to = 1> (b)", "(float[2] x) => (float[2] y)")
    name_nodes(model, "Cast", "Neg", "Cast_2")
    with pytest.raises(PassError, match="output of node 'Cast' is double, expected float32"):
        cast_precision(model, "fp16")


@pytest.mark.parametrize(
    ("body", "signature", "message"),
    [
        ("y = Neg(x)", "(float[2] x) => (float[2] y, float[2] x)", "output 'x' is handed through"),
        ("y = com.other.Neg(x)", "(float[2] x) => (float[2] y)", "com.other.Neg, expected plain ONNX"),
    ],
)
def test_preconditions(body, signature, message):
    imports = '"" : 23, "com.other" : 1'
    text = f"<ir_version: 10, opset_import: [{imports}]> tested {signature} {{ {body} }}"
    with pytest.raises(PassError, match=message):
        cast_precision(ir.from_onnx_text(text), "fp16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(PassError, match="precision int8 is no half precision; choose fp16 or bf16"):
        cast_precision(mlp(), "int8")
