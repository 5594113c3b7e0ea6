import onnx_ir as ir
import pytest

from hsengines.build import EngineFiles, Layer
from hsengines.errors import EngineBuildError
from hsengines.spec import EngineSpec
from hsexport.build.stages.compile import audit
from hsexport.build.stages.stage import Product
from hsexport.networks.network import Network


@pytest.fixture
def graph(tmp_path):
    """Y = cast(matmul(x, x)): an fp16 product behind an fp32 I/O signature."""
    x = ir.Value(name="x", shape=ir.Shape([4, 4]), type=ir.TensorType(ir.DataType.FLOAT16))
    product = ir.node("MatMul", [x, x], name="blocks.0/MatMul")
    product.outputs[0].dtype = ir.DataType.FLOAT16
    cast = ir.node("Cast", product.outputs, attributes={"to": ir.DataType.FLOAT.value}, name="blocks.0/Cast")
    cast.outputs[0].dtype = ir.DataType.FLOAT
    body = ir.Graph([x], cast.outputs, nodes=[product, cast], opset_imports={"": 23}, name="product")
    file = tmp_path / "product.onnx"
    ir.save(ir.Model(body, ir_version=10), file)
    spec = EngineSpec("product", (), ())
    return Product(Network(spec, lambda: None, {}), "fp16", {"graph": tmp_path})


def built(tmp_path, *layers):
    return EngineFiles(tmp_path / "product.engine", layers=layers, layers_of="engine")


def test_types_as_asked_for_are_counted(graph, tmp_path):
    found = audit(graph, built(tmp_path, Layer("blocks.0/MatMul", "MATRIX_MULTIPLY", ("float16",))))
    assert found == {"engine": {"float16": 1}}


def test_a_fused_layer_may_answer_in_the_type_of_any_of_its_nodes(graph, tmp_path):
    found = audit(graph, built(tmp_path, Layer("blocks.0/MatMul + blocks.0/Cast", "kgen", ("float32",))))
    assert found == {"engine": {"float32": 1}}


def test_another_type_is_refused_by_layer(graph, tmp_path):
    words = r"engine 'product', layer 'blocks.0/MatMul' was built in float32, its graph asks for float16"
    with pytest.raises(EngineBuildError, match=words):
        audit(graph, built(tmp_path, Layer("blocks.0/MatMul", "MATRIX_MULTIPLY", ("float32",))))


def test_layers_without_products_are_nobodys_business(graph, tmp_path):
    assert audit(graph, built(tmp_path, Layer("blocks.0/Cast", "CAST", ("int8",)))) == {}


def test_backend_that_keeps_the_graph_has_nothing_to_audit(graph, tmp_path):
    assert audit(graph, built(tmp_path)) == {}
