"""Products of 8 by 8 bits as ONNX Runtime's CPU computes them: integers in, floats out, bias included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass, add_initializer

ZERO = "zero of bytes"


class OrtIntegers(GraphPass):
    """Puts MatMulIntegerToFloat where a MatMul reads both sides through DequantizeLinear.

    ONNX Runtime does so by itself for a value that one product reads, and for one without a bias.
    """

    domains = ("", "ai.onnx", ORT_DOMAIN)
    takes_subgraphs = True  # and leaves them as they are

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        found = [node for node in model.graph if node.op_type == "MatMul" and all(map(_integers, node.inputs))]
        if found:
            zero = add_initializer(model.graph, ir.Tensor(np.array(128, np.uint8), name=ZERO))
            for node in found:
                _lower(model.graph, node, zero)
            model.opset_imports.setdefault(ORT_DOMAIN, 1)
        for node in reversed(list(model.graph)):
            if node.op_type == "DequantizeLinear" and not any(v.uses() or v.is_graph_output() for v in node.outputs):
                model.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, modified=bool(found))


def _integers(value: ir.Value | None) -> ir.Node | None:
    """What makes numbers of 8-bit integers for a product's side, if it does."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or "block_size" in maker.attributes:
        return None
    stored = maker.inputs[0]
    return maker if stored is not None and stored.dtype in (ir.DataType.INT8, ir.DataType.UINT8) else None


def _lower(graph: ir.Graph, node: ir.Node, zero: ir.Value) -> None:
    """`zero`: that of bytes without a sign, which are what it takes on the left."""
    left, right = map(_integers, node.inputs)
    assert left is not None and right is not None and left.inputs[0] is not None
    rounding = left.inputs[0].producer()
    assert rounding is not None
    rounding.replace_input_with(2, zero)
    rounding.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    left.replace_input_with(2, zero)
    last, bias = node, None
    readers = list(node.outputs[0].uses())
    if len(readers) == 1 and readers[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        other = readers[0].node.inputs[1 - readers[0].idx]
        if other is not None and other.is_initializer() and other.shape is not None and len(other.shape) == 1:
            last, bias = readers[0].node, other
    inputs = [left.inputs[0], right.inputs[0], left.inputs[1], right.inputs[1], zero, None, bias]
    made = ir.node("MatMulIntegerToFloat", inputs[: 7 if bias else 5], domain=ORT_DOMAIN, name=node.name)
    made.outputs[0].type, made.outputs[0].shape = last.outputs[0].type, last.outputs[0].shape
    nodes = [node] if last is node else [last, node]
    ir.convenience.replace_nodes_and_values(graph, last, nodes, [made], [last.outputs[0]], [made.outputs[0]])
