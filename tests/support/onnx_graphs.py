"""Small ONNX graphs written as text, and running them on ONNX Runtime's CPU provider."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from hsengines.ort.cpu import run_graph
from hsexport.onnx.graph_files import save_graph
from hsexport.onnx.passes.cast_precision import CastPrecision
from hsexport.onnx.passes.graph_pass import apply


def graph(body: str, signature: str, **arrays) -> ir.Model:
    """A checked opset-23 model: `signature` is "(inputs) => (outputs)"; `arrays` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> tested {signature} {{ {body} }}')
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    return ir.from_proto(proto)


def name_nodes(model: ir.Model, *names: str) -> ir.Model:
    for node, name in zip(model.graph, names, strict=True):
        node.name = name
    return model


def cast_precision(model: ir.Model, precision: str, *arguments, **keywords) -> CastPrecision:
    """The pass, after it went over the model."""
    cast = CastPrecision(precision, *arguments, **keywords)
    apply(model, cast)
    return cast


def saved(model: ir.Model, path) -> str:
    """Writes a model, weights beside it, and has it checked: types, shapes, inference."""
    save_graph(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return str(path)


def run(model: ir.Model, path, feed) -> dict[str, np.ndarray]:
    return run_graph(Path(saved(model, path)), feed)


def dtypes(model: ir.Model) -> dict[str, str]:
    """Node name to the type of its first output, casts left out."""
    return {node.name: node.outputs[0].dtype.name for node in model.graph if node.op_type != "Cast"}
