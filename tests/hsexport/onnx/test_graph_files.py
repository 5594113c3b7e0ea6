import os

import numpy as np
import onnx_ir as ir
import pytest

from hsexport.onnx.graph_files import load_graph


@pytest.fixture
def saved(tmp_path):
    """A graph with weights of several types and shapes beside it, under two hard links each."""
    weights = {
        "halves": np.arange(300, dtype=np.float16).reshape(3, 100),
        "wide": np.linspace(0, 1, 400, dtype=np.float32),
        "none": np.empty((0, 4), np.float32),
    }
    inputs = [ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))]
    initializers = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in weights.items()]
    graph = ir.Graph(inputs, [], nodes=[], initializers=initializers, opset_imports={"": 23}, name="weights")
    file = tmp_path / "graph.onnx"
    ir.save(ir.Model(graph, ir_version=10), file, external_data="graph.onnx.data", size_threshold_bytes=0)
    os.link(tmp_path / "graph.onnx.data", tmp_path / "linked.data")
    return file, weights


def test_weights_under_several_hard_links_are_read_as_they_were_written(saved):
    file, weights = saved
    found = load_graph(file).graph.initializers
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name].const_value.numpy(), array)
        assert found[name].const_value.numpy().dtype == array.dtype


def test_onnx_ir_itself_refuses_them(saved):
    """The reason for `load_graph`; should this fail some day, it can go."""
    file, _ = saved
    with pytest.raises(ValueError, match="multiple hard links"):
        ir.load(file).graph.initializers["wide"].const_value.numpy()
