"""Weights in few bits inside a graph: what stands there, what it computes, and what backends make of it."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import graph, name_nodes, run

from hsengines.errors import EngineBuildError
from hsengines.ort.cpu import OrtCpuBackend
from hsengines.screening import weights_made_anew
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.weights import UNQUANTIZED
from hsexport.onnx.graph_files import load_graph, save_graph
from hsexport.onnx.passes.cast_precision import CastPrecision
from hsexport.onnx.passes.dequantise import Dequantise
from hsexport.onnx.passes.graph_pass import apply
from hsexport.onnx.passes.ort_quantised import OrtIntegers
from hsexport.onnx.passes.quantise import Quantise, Storage

rng = np.random.default_rng(0)
FIRST, SECOND, THIRD = (rng.standard_normal(shape).astype(np.float32) / 8 for shape in ((64, 64), (64, 128), (40, 64)))
BIAS = rng.standard_normal(64).astype(np.float32)
X = rng.standard_normal((5, 64)).astype(np.float32)


def model():
    """Two products that read one value, a Gemm of rows and a MatMul of columns, and a third in rows of 64."""
    made = graph(
        "a = Gemm<transB=1>(x, first, bias) b = MatMul(x, second) c = Gemm<transB=1>(a, third)",
        "(float[M, 64] x) => (float[M, 40] c, float[M, 128] b)",
        first=FIRST,
        second=SECOND,
        third=THIRD,
        bias=BIAS,
    )
    return name_nodes(made, "blocks.0.first/Gemm", "blocks.0.second/MatMul", "last/Gemm")


def storage(format, **more):
    return Storage(lambda module: (format, ""), **more)


def quantise(format, **more):
    made, quantised = model(), Quantise(storage(format, **more))
    apply(made, quantised)
    return made, quantised


def operators(made):
    return [node.op_type for node in made.graph]


@pytest.fixture
def in_floats(monkeypatch):
    """Whatever this CPU multiplies faster: products of integers round what they are given, too."""
    monkeypatch.setattr("hsengines.ort.session.multiplies_bytes", lambda: False)


@pytest.mark.usefixtures("in_floats")
@pytest.mark.parametrize(("format", "worst"), [("int8", 0.02), ("int4", 0.2), ("fp8", 0.06)])
def test_graph_computes_with_what_its_weights_stand_for(tmp_path, format, worst):
    exact = run(model(), tmp_path / "exact.onnx", {"x": X})
    made, quantised = quantise(format)
    found = run(made, tmp_path / "few.onnx", {"x": X})
    assert quantised.stored == {format: 3}
    assert 0 < max(np.abs(found[n] - exact[n]).max() / np.abs(exact[n]).max() for n in exact) < worst
    apply(made, Dequantise())
    assert "DequantizeLinear" not in operators(made)
    back = run(made, tmp_path / "back.onnx", {"x": X})
    assert all(np.abs(found[n] - back[n]).max() < 1e-5 for n in exact)


@pytest.mark.parametrize(("format", "share"), [("int8", 0.30), ("int4", 0.20)])
def test_file_is_as_small_as_the_format(tmp_path, format, share):
    save_graph(model(), tmp_path / "exact.onnx")
    save_graph(quantise(format)[0], tmp_path / "few.onnx")
    exact, few = ((tmp_path / f"{name}.onnx.data").stat().st_size for name in ("exact", "few"))
    assert few < share * exact


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_products_of_integers_lie_beside_those_of_floats(tmp_path, monkeypatch, format):
    made, _ = quantise(format)
    found = []
    for bytes_at_once in (False, True):
        monkeypatch.setattr("hsengines.ort.session.multiplies_bytes", lambda now=bytes_at_once: now)
        found.append(run(made, tmp_path / f"{bytes_at_once}.onnx", {"x": X}))
    for floats, integers in zip(*(each.values() for each in found), strict=True):
        assert np.abs(floats - integers).max() < 0.03 * np.abs(floats).max()


@pytest.mark.usefixtures("in_floats")
def test_graph_is_read_back_as_it_was_written(tmp_path):
    made, _ = quantise("int4")
    expected = run(made, tmp_path / "few.onnx", {"x": X})
    again = load_graph(tmp_path / "few.onnx")
    apply(again, Dequantise())
    found = run(again, tmp_path / "again.onnx", {"x": X})
    assert all(np.abs(found[n] - expected[n]).max() < 1e-5 for n in expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_cast_makes_scales_half_and_changes_no_weight(precision):
    made, _ = quantise("int8", scale_type=ir.DataType[{"fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]].numpy())
    before = made.graph.initializers["first.scale"].const_value.numpy()
    apply(made, CastPrecision(precision))
    after = made.graph.initializers["first.scale"].const_value
    assert after.dtype == {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}[precision]
    assert (after.numpy().astype(np.float32) == before).all()
    wide = [n.name for n in made.graph if n.op_type == "DequantizeLinear" and n.outputs[0].dtype == ir.DataType.FLOAT]
    assert wide == []


@pytest.mark.parametrize(("format", "kind"), [("int8-full", ir.DataType.INT8), ("fp8", ir.DataType.FLOAT8E4M3FN)])
def test_activations_are_rounded_once_for_all_that_read_them_and_only_where_measured(tmp_path, format, kind):
    exact = run(model(), tmp_path / "exact.onnx", {"x": X})
    made, quantised = quantise(format, largest={"first": np.abs(X).max(), "second": np.abs(X).max()})
    assert operators(made).count("QuantizeLinear") == 1
    assert quantised.measured == 2
    rounding = next(node for node in made.graph if node.op_type == "QuantizeLinear")
    assert rounding.outputs[0].dtype == kind
    apply(made, Dequantise())  # ONNX Runtime would take a product of two fp8 sides for one of bytes
    found = run(made, tmp_path / "few.onnx", {"x": X})
    assert 0 < max(np.abs(found[n] - exact[n]).max() / np.abs(exact[n]).max() for n in exact) < 0.1


def test_modules_have_formats_of_their_own_and_what_is_kept_says_why():
    formats = {"first": ("int8", "asked for"), "second": (UNQUANTIZED, "a rule"), "third": ("int4", "")}
    quantised = Quantise(Storage(formats.__getitem__))
    apply(model(), quantised)
    assert quantised.stored == {"int8": 1, UNQUANTIZED: 1, "int4": 1}
    assert quantised.kept == {("int8", "asked for"): 1, (UNQUANTIZED, "a rule"): 1}


def test_matrices_that_are_narrow_or_that_no_block_divides_are_told():
    narrow = graph("y = MatMul(x, w)", "(float[M, 64] x) => (float[M, 8] y)", w=np.ones((64, 8), np.float32))
    odd = graph("y = MatMul(x, w)", "(float[M, 40] x) => (float[M, 64] y)", w=np.ones((40, 64), np.float32))
    for made, expected in ((narrow, (UNQUANTIZED, "narrow")), (odd, ("int8", "no block of int4"))):
        quantised = Quantise(storage("int4"))
        apply(made, quantised)
        ((format, reason),) = quantised.kept
        assert format == expected[0]
        assert reason.startswith(expected[1])


def test_weight_that_something_else_reads_too_stays():
    tied = graph(
        "y = MatMul(x, w) z = Gather(w, i)",
        "(float[M, 64] x, int64[K] i) => (float[M, 64] y, z)",
        w=np.eye(64, dtype="f4"),
    )
    quantised = Quantise(storage("int8"))
    apply(tied, quantised)
    assert not quantised.stored


SPEC = EngineSpec(
    "few",
    (TensorSpec("x", "float32", ("M", 64)),),
    (TensorSpec("c", "float32", ("M", 40)), TensorSpec("b", "float32", ("M", 128))),
)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_onnx_runtime_takes_plain_products_and_refuses_to_make_whole_weights_anew(tmp_path, format):
    made, _ = quantise(format, products_with_bias=False)
    assert "Gemm" not in operators(made)
    save_graph(made, tmp_path / "few.onnx")
    OrtCpuBackend()._try(tmp_path / "few.onnx", SPEC, None)
    other, _ = quantise(format)
    save_graph(other, tmp_path / "other.onnx")
    assert list(weights_made_anew(tmp_path / "other.onnx"))
    with pytest.raises(
        EngineBuildError, match=f"numbers of all of weight '(first|third).{format}' in every step; leave"
    ):
        OrtCpuBackend()._try(tmp_path / "other.onnx", SPEC, None)


def test_products_of_bytes_become_onnx_runtimes_own(tmp_path):
    exact = run(model(), tmp_path / "exact.onnx", {"x": X})
    widest = {n: np.abs(a).max() for n, a in exact.items()}
    largest = {"first": np.abs(X).max(), "second": np.abs(X).max(), "third": np.abs(X @ FIRST.T + BIAS).max()}
    made, _ = quantise("int8-full", products_with_bias=False, largest=largest)
    apply(made, OrtIntegers())
    assert operators(made).count("MatMulIntegerToFloat") == 3
    assert "DequantizeLinear" not in operators(made)
    assert "Add" not in operators(made)
    save_graph(made, tmp_path / "few.onnx")
    backend = OrtCpuBackend()
    backend._try(tmp_path / "few.onnx", SPEC, None)
    device = backend.device()
    engine = backend.load(tmp_path / "few.onnx", SPEC, device)
    out = {"c": device.empty((5, 40), "float32"), "b": device.empty((5, 128), "float32")}
    engine.bind({"x": device.upload(X)}, out).enqueue()
    assert max(np.abs(out[n].read() - exact[n]).max() / widest[n] for n in exact) < 0.05
    device.close()
