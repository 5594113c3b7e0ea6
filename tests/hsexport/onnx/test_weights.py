"""Weights that stay in their checkpoint: taken out of a graph, put back, and referred to instead of copied."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import cast_precision
from safetensors.numpy import save_file

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import read_headers
from hsexport.checkpoints.weights import Weights, changed, stored
from hsexport.onnx.graph_files import load_graph, save_graph
from hsexport.onnx.weights import attach_weights, detach_weights, is_placeholder, place_weights

WEIGHT = np.linspace(-2, 2, 600, dtype=np.float32).reshape(20, 30)


def files_of_weights(onnx):
    """A graph's own file of weights, then those it refers to."""
    return [*onnx.parent.glob(f"{onnx.name}.data"), *sorted(onnx.parent.glob(f"{onnx.name}.*.safetensors"))]


def checkpoint(folder, dtype):
    folder.mkdir()
    save_file({"w": WEIGHT.astype(dtype)}, folder / "model.safetensors")
    headers = read_headers(folder)
    return Weights(folder, {"w": stored(headers["w"])}, headers)


def product():
    """X (1, 30) times w transposed, its weight filled with anything."""
    x = ir.Value(name="x", shape=ir.Shape([1, 30]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", const_value=ir.tensor(np.zeros((20, 30), np.float32), name="w"))
    node = ir.node("Gemm", [x, w], {"transB": 1}, name="layer/Gemm")
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape([1, 20])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 23}, name="product")
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def hollow(tmp_path):
    """The graph as the export stage leaves it, read again."""
    model = product()
    detach_weights(model, {"w"})
    place_weights(model)
    save_graph(model, tmp_path / "product.onnx")
    return load_graph(tmp_path / "product.onnx")


def test_hollow_graph_has_shapes_and_no_numbers(hollow, tmp_path):
    value = hollow.graph.initializers["w"]
    assert is_placeholder(value.const_value) and value.const_value.shape == (20, 30)
    assert [file.name for file in tmp_path.iterdir()] == ["product.onnx"]
    assert (tmp_path / "product.onnx").stat().st_size < WEIGHT.nbytes


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_attached_weight_is_fp32_whatever_the_checkpoint_has(hollow, tmp_path, dtype):
    attach_weights(hollow, checkpoint(tmp_path / "c", dtype))
    found = hollow.graph.initializers["w"].const_value.numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, WEIGHT.astype(dtype).astype(np.float32))


def test_graph_in_the_checkpoints_own_type_refers_to_its_file(hollow, tmp_path):
    attach_weights(hollow, checkpoint(tmp_path / "c", ml_dtypes.bfloat16))
    cast_precision(hollow, "bf16")
    out = tmp_path / "out"
    out.mkdir()
    save_graph(hollow, out / "product.onnx", refer=True)
    (linked,) = files_of_weights(out / "product.onnx")
    assert linked.name == "product.onnx.0.safetensors"
    assert linked.samefile(tmp_path / "c" / "model.safetensors")
    found = load_graph(out / "product.onnx").graph.initializers["w"].const_value
    assert found.dtype == ir.DataType.BFLOAT16
    np.testing.assert_array_equal(found.numpy(), WEIGHT.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("stored", "precision", "refer"),
    [(np.float16, "bf16", True), (np.float16, "fp16", False), (np.float32, "fp16", True)],
)
def test_graph_of_another_type_or_to_be_shipped_holds_one_copy(hollow, tmp_path, stored, precision, refer):
    attach_weights(hollow, checkpoint(tmp_path / "c", stored))
    cast_precision(hollow, precision)
    out = tmp_path / "out"
    out.mkdir()
    save_graph(hollow, out / "product.onnx", refer=refer)
    (data,) = files_of_weights(out / "product.onnx")
    assert data.name == "product.onnx.data" and data.stat().st_size == WEIGHT.size * 2
    half = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}[precision]
    found = load_graph(out / "product.onnx").graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(found, WEIGHT.astype(stored).astype(np.float32).astype(half))


def test_changed_weight_is_written_not_referred_to(hollow, tmp_path):
    weights = checkpoint(tmp_path / "c", np.float16)
    doubled = changed(weights["w"], (20, 30), lambda array: array * 2)
    attach_weights(hollow, Weights(weights.folder, {"w": doubled}, weights.sources))
    cast_precision(hollow, "fp16")
    save_graph(hollow, tmp_path / "out.onnx", refer=True)
    assert [file.name for file in files_of_weights(tmp_path / "out.onnx")] == ["out.onnx.data"]
    found = load_graph(tmp_path / "out.onnx").graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(found, WEIGHT.astype(np.float16) * 2)


def test_saving_leaves_the_graph_in_memory_as_it_was(hollow, tmp_path):
    attach_weights(hollow, checkpoint(tmp_path / "c", np.float32))
    before = hollow.graph.initializers["w"].const_value
    save_graph(hollow, tmp_path / "out.onnx")
    assert hollow.graph.initializers["w"].const_value is before


def test_bytes_are_told_as_they_are_written(hollow, tmp_path):
    told = []
    attach_weights(hollow, checkpoint(tmp_path / "c", np.float32))
    save_graph(hollow, tmp_path / "out.onnx", on_bytes=lambda done, total: told.append((done, total)))
    assert told == [(WEIGHT.nbytes, WEIGHT.nbytes)]


def test_checkpoint_of_another_graph_is_refused_by_tensor(hollow, tmp_path):
    weights = checkpoint(tmp_path / "c", np.float32)
    with pytest.raises(PairError, match="lacks w"):
        attach_weights(hollow, Weights(tmp_path / "c", {}, weights.sources))
    other = changed(weights["w"], (30, 20), np.transpose)
    with pytest.raises(PairError, match="w has another shape"):
        attach_weights(hollow, Weights(tmp_path / "c", {"w": other}, weights.sources))


def test_weight_of_integers_is_refused_by_file(tmp_path):
    save_file({"w": np.zeros(8, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(PairError, match=r"model\.safetensors: tensor w is I8, expected one of .*; quantised"):
        stored(read_headers(tmp_path)["w"]).read()


def test_fp8_is_read_as_fp32_and_written_not_referred_to(hollow, tmp_path):
    weights = checkpoint(tmp_path / "c", ml_dtypes.float8_e4m3fn)
    assert weights["w"].stored is None and weights["w"].quantised.kind == "fp8"
    attach_weights(hollow, weights)
    save_graph(hollow, tmp_path / "out.onnx", refer=True)
    assert [file.name for file in files_of_weights(tmp_path / "out.onnx")] == ["out.onnx.data"]
    found = load_graph(tmp_path / "out.onnx").graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(found, WEIGHT.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_digest_follows_the_numbers_and_what_else_decides_them(tmp_path):
    first, again = checkpoint(tmp_path / "a", np.float32), checkpoint(tmp_path / "b", np.float32)
    assert first.digest == again.digest != checkpoint(tmp_path / "c", np.float16).digest
    assert Weights(first.folder, first.tensors, first.sources, ("adapter",)).digest != first.digest
