"""Quantised weights as ONNX Runtime's CPU takes them: products without a bias, of integers too, and rows of tables."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass, add_initializer
from hsexport.onnx.passes.name_by_module import UniqueNames, module_path, node_name
from hsexport.onnx.weights import turned

ZERO = "zero of bytes"


class PlainProducts(GraphPass):
    """Takes every Gemm with one of `weights` apart; the weight, read by nobody else, lies turned afterwards."""

    domains = ("", "ai.onnx", ORT_DOMAIN)

    def __init__(self, weights: Collection[str]) -> None:
        self._weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        graph, names = model.graph, UniqueNames(node.name or "" for node in model.graph)
        found = [node for node in graph if node.op_type == "Gemm" and _multiplied(node).name in self._weights]
        for node in found:
            weight, path, out = _multiplied(node), module_path(node), node.outputs[0]
            assert weight.const_value is not None
            weight.const_value = turned(weight.const_value)
            weight.shape = weight.const_value.shape
            product = ir.node("MatMul", [node.inputs[0], weight], name=names.unique(node_name(path, "MatMul")))
            nodes = [product]
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                summed = [product.outputs[0], node.inputs[2]]
                nodes.append(ir.node("Add", summed, name=names.unique(node_name(path, "Add"))))
                product.outputs[0].name = f"{out.name}.product"
                product.outputs[0].type, product.outputs[0].shape = out.type, out.shape
            ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [out], [nodes[-1].outputs[0]])
        return ir.passes.PassResult(model, modified=bool(found))


def _multiplied(node: ir.Node) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight


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
                _lower_product(model.graph, node, zero)
            model.opset_imports.setdefault(ORT_DOMAIN, 1)
        _drop_unread(model.graph)
        return ir.passes.PassResult(model, modified=bool(found))


def _integers(value: ir.Value | None) -> ir.Node | None:
    """What makes numbers of 8-bit integers for a product's side, if it does."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or "block_size" in maker.attributes:
        return None
    stored = maker.inputs[0]
    return maker if stored is not None and stored.dtype in (ir.DataType.INT8, ir.DataType.UINT8) else None


def _lower_product(graph: ir.Graph, node: ir.Node, zero: ir.Value) -> None:
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


class OrtTables(GraphPass):
    """Turns DequantizeLinear and Gather round: ONNX Runtime would make numbers of all rows at every run."""

    domains = ("", "ai.onnx", ORT_DOMAIN)
    takes_subgraphs = True  # and leaves them as they are

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        graph, names = model.graph, UniqueNames(node.name or "" for node in model.graph)
        found = [node for node in graph if node.op_type == "Gather" and _made_of(node)]
        for node in found:
            _lower_table(graph, node, names)
        _drop_unread(graph)
        return ir.passes.PassResult(model, modified=bool(found))


def _made_of(node: ir.Node) -> ir.Node | None:
    """What makes numbers of the table that a node looks rows up in, if something does."""
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _lower_table(graph: ir.Graph, node: ir.Node, names: UniqueNames) -> None:
    made, out = _made_of(node), node.outputs[0]
    assert made is not None
    values, scale = made.inputs[:2]
    assert values is not None and scale is not None and scale.const_value is not None
    path, kind = module_path(node), scale.const_value.dtype

    def follow(operator: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int) -> ir.Value:
        new = ir.node(operator, inputs, attributes, name=names.unique(node_name(path, operator)))
        graph.insert_before(node, new)
        new.outputs[0].name, new.outputs[0].type = f"{new.name}.out", ir.TensorType(dtype)
        return new.outputs[0]

    rows = follow("Gather", [values, node.inputs[1]], ir.DataType.INT8, axis=0)  # type: ignore[list-item]
    scales = follow("Gather", [_column(graph, scale), node.inputs[1]], kind, axis=0)  # type: ignore[list-item]
    numbers = follow("Cast", [rows], kind, to=kind.value)
    product = ir.node("Mul", [numbers, scales], name=names.unique(node_name(path, "Mul")))
    product.outputs[0].type, product.outputs[0].shape = out.type, out.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product], [out], [product.outputs[0]])


def _column(graph: ir.Graph, scale: ir.Value) -> ir.Value:
    """Scales (rows,) as (rows, 1), so that what is looked up of them stands beside its row."""
    tensor, name = scale.const_value, f"{scale.name}.column"
    assert tensor is not None
    if name in graph.initializers:
        return graph.initializers[name]

    def read() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy()[:, None]), dtype=tensor.dtype, name=name)

    shape = ir.Shape((tensor.shape.numpy()[0], 1))
    return add_initializer(graph, ir.LazyTensor(read, tensor.dtype, shape, name=name))


def _drop_unread(graph: ir.Graph) -> None:
    """Drops what makes numbers for nobody any more, and what only that read."""
    for node in reversed(list(graph)):
        if node.op_type == "DequantizeLinear" and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
